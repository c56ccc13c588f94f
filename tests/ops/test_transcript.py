"""One day of an operator: setup, doctor, demo, backup, the server lost, restore, doctor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync.testing.servers import server_kinds
from tests.command import called
from tests.ops.backing import backup_of, drilled, fill, restored
from tests.ops.helpers import Configured, kind_of
from tests.streams.models import Order

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.leaves_keys, pytest.mark.any_server]


def examined(url: str) -> dict[str, str]:
    """Return how bad each thing is that the doctor looked at."""
    code, output, error = called("doctor", "--url", url, "--json")
    assert output, (code, error)
    said: dict[str, Any] = json.loads(output)
    return {each["what"]: each["severity"] for each in said["findings"]}


def failing(found: dict[str, str]) -> set[str]:
    return {what for what, severity in found.items() if severity == "fail"}


@pytest.mark.parametrize("kind", server_kinds()[:1], ids=str)
@pytest.mark.timeout(300)
def test_setup_doctor_demo_backup_kill_restore_doctor(kind: Any, tmp_path: Path):  # noqa: ANN401
    made, data, backups = tmp_path / "gridsync", tmp_path / "data", tmp_path / "backups"
    data.mkdir()
    code, _, error = called("setup", str(made), "--server", kind_of(kind), "--host", "127.0.0.1")
    assert code == 0, error

    more = [("dir", str(data)), ("repl-diskless-sync-delay", "0")]
    with Configured(kind, made, more) as server:
        before = examined(server.url)
        assert before["append log"] == before["user"] == "ok"

        words = ["demo", "--url", server.url_of("app"), "--seconds", "2", "--no-kill", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "gridsync.cli", *words], capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        with Grid(server.url_of("app"), audit=False) as grid:
            there = fill(grid)

        backup = backup_of(server.url_of("backup"), backups, "--keep-last", "7")
        assert called("backups", "--from", str(backups), "--verify")[0] == 0
        assert drilled(backup.path)[1]["wrong"] == []

        server.kill()
        shutil.rmtree(data)

        said = restored(backup.path, "--to", str(data))
        server.start()

        after = examined(server.url)
        assert failing(after) <= failing(before)
        assert after["append log"] == after["user"] == "ok"
        with Grid(server.url_of("app"), audit=False) as grid:
            assert [each.id for each in grid.events("orders", Order).read_all()] == there["events"]
            assert grid.orderbook("power", tick="0.01", lot="0.1").verify().ok
            with grid.lock("settlement") as lease:
                assert lease.fence >= said["raised"]["floor"] > there["fence"]
