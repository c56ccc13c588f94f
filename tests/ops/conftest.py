"""What `gridsync setup` has written, and servers that run on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync.ops.acl import unknown
from gridsync.ops.setup import Plan, setup
from gridsync.testing.servers import ServerKind, server_kinds
from tests.ops.helpers import Configured, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module", params=server_kinds(), ids=str)
def configured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    """A server of each kind with the users, certificates and configuration that setup writes for it."""
    kind: ServerKind = request.param
    plan = Plan(server=(named := kind_of(kind)), without=tuple(sorted(unknown(named))))
    made = tmp_path_factory.mktemp("made") / "gridsync"
    setup(made, plan)
    with Configured(kind, made) as running:
        yield running


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A directory that setup has written."""
    setup(tmp_path / "made", Plan())
    return tmp_path / "made"
