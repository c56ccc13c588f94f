"""Users that end with their test."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.embedded.helpers import User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def user() -> Iterator[Callable[..., User]]:
    """Return a maker of users; all of them are killed at the end."""
    users: list[User] = []

    def make(*args: str) -> User:
        users.append(User(*args))
        return users[-1]

    yield make
    for one in users:
        one.kill()
        assert one.process.stdin is not None
        assert one.process.stdout is not None
        with suppress(BrokenPipeError):
            one.process.stdin.close()
        one.process.stdout.close()
