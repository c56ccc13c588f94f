"""Backups and restores that are killed, run out of room, or run while everything moves: what is listed is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from gridsync import Grid
from gridsync.errors import Diverged, GridsyncError, Unavailable
from gridsync.ops.archive import backups_in, check
from gridsync.ops.taking import Wanted, take
from gridsync.testing.servers import RedisServer
from tests.ops.backing import AT_ONCE, backup_of, data_of, drilled, fill, restored, source
from tests.streams.models import Order, Placed
from tests.wire.fake import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.leaves_keys, pytest.mark.any_server]

STEPS = """
import itertools, os, pathlib, signal, sys
from gridsync.ops import archive, packing
last, count = int(sys.argv.pop(1)), itertools.count(1)
def stepping(before):
    def step(*args, **options):
        if next(count) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return before(*args, **options)
    return step
for owner, name in ((os, 'fsync'), (os, 'mkdir'), (os, 'rename'), (os, 'unlink'), (packing.Packer, 'write')):
    setattr(owner, name, stepping(getattr(owner, name)))
from gridsync.cli import main
sys.argv[0] = 'gridsync'
main()
"""
"""Runs the command, and is gone before its so-many-th change of a directory or file."""


def killed_at(step: int, *words: str) -> bool:
    """Run the command until that step; tell whether it came so far."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(step), *words], capture_output=True, timeout=110, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with source() as running, Grid(running.url, audit=False) as grid:
        fill(grid)
        yield running


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_backup_that_is_killed_at_any_step_is_not_listed_unless_it_is_whole(server: RedisServer, tmp_path: Path):
    step, whole = 1, 0
    while killed_at(step, "backup", "--to", str(tmp_path), "--url", server.url):
        found = backups_in(tmp_path)
        assert all(each.manifest is not None and check(each.path, each.manifest) == [] for each in found)
        whole = max(whole, len(found))
        step += 1
    assert step > 8
    assert list(tmp_path.glob(".*")) == []  # what the killed ones left is gone


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_restore_that_is_killed_at_any_step_leaves_nothing_or_everything_and_can_be_repeated(
    server: RedisServer, tmp_path: Path
):
    backup = str(backup_of(server, tmp_path / "to").path)
    target = tmp_path / "target"
    step = 1
    while killed_at(step, "restore", backup, "--to", str(target), "--force"):
        there = sorted(each.name for each in target.glob("[!.b]*")) if target.exists() else []
        assert there in ([], ["appendonlydir"], ["dump.rdb"], ["appendonlydir", "dump.rdb"])
        if "dump.rdb" in there:
            assert loads(target)
        step += 1
    assert step > 8
    assert loads(target)


def loads(directory: Path) -> bool:
    with (
        RedisServer(options={"dir": str(directory), "appendonly": "no"}) as other,
        Grid(other.url, audit=False) as grid,
    ):
        return len(list(grid.events("orders", Order).read_all())) == 20


@pytest.mark.faults
def test_a_disk_that_is_full_leaves_no_backup_and_says_so(server: RedisServer, tmp_path: Path):
    """As a limit on the size of a file: the write fails in the middle."""
    limited = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700)); "
        "runpy.run_module('gridsync.cli', run_name='__main__')"
    )
    words = [sys.executable, "-c", limited, "backup", "--to", str(tmp_path), "--url", server.url]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 2), done.stderr
    assert "make room there" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_backup_of_much_data_takes_little_memory_and_a_drill_no_more(tmp_path: Path):
    """A sixth of the gigabyte that was measured by hand."""
    with RedisServer(options=AT_ONCE) as server:
        with server.client() as raw:
            for number in range(150):
                raw.mset({f"key-{number}-{part}": os.urandom(100_000) for part in range(10)})
        small = peak_kb("backups", "--from", str(tmp_path), code=1)
        assert peak_kb("backup", "--to", str(tmp_path), "--url", server.url) < small + 25_000
        (backup,) = backups_in(tmp_path)
        assert peak_kb("restore", str(backup.path), "--drill") < small + 25_000


def peak_kb(*words: str, code: int = 0) -> int:
    """Return the most memory that the command had, in kB."""
    child = subprocess.Popen([sys.executable, "-m", "gridsync.cli", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == code
    return used.ru_maxrss


def test_a_server_that_dies_in_the_middle_leaves_no_backup(tmp_path: Path):
    with RedisServer(options=AT_ONCE) as dying:
        with dying.client() as raw:
            # More than sockets hold, so that the server is still writing when it dies.
            raw.mset({f"key-{number}": os.urandom(1_000_000) for number in range(40)})
        pid = dying.pid

        def cut(*_: Any) -> None:  # noqa: ANN401
            os.kill(pid, signal.SIGKILL)

        with pytest.raises(Unavailable):
            take(dying.url, Wanted(tmp_path), cut)
    assert list(tmp_path.iterdir()) == []


class Load:
    """Appends, locks and limits, each in a thread, with a note of what was acknowledged."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self.appended: list[str] = []
        self.fences: list[int] = []
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in (self._append, self._lock)]

    def _run(self, work: Any) -> None:  # noqa: ANN401
        try:
            with Grid(self._url, audit=False) as grid:
                work(grid)
        except GridsyncError:
            if not self._over.is_set():
                raise
        except BaseException as error:  # noqa: BLE001 - told by `stop`
            self.errors.append(error)

    def _append(self, grid: Grid) -> None:
        orders, number = grid.events("load", Order), 0
        while not self._over.is_set():
            done = orders.append(f"order-{number % 7}", Placed(kwh=1), expected_version=number // 7)
            self.appended += [each.checkpoint for each in orders.read_all(after=done.position - 1, limit=1)]
            number += 1

    def _lock(self, grid: Grid) -> None:
        while not self._over.is_set():
            with grid.lock("load", ttl=30) as lease:
                self.fences.append(lease.fence)
            grid.limiter("load", "1000000/hour").hit("anna")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        eventually(lambda: len(self.appended) > 50 and len(self.fences) > 20, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        assert self.errors == []


@pytest.mark.parametrize("way", ["wire", pytest.param("log", marks=pytest.mark.faults)])
def test_under_load_everything_acknowledged_before_the_backup_survives_the_loss_of_the_server(tmp_path: Path, way: str):
    options = {"appendonly": "yes", "auto-aof-rewrite-min-size": "1kb", "auto-aof-rewrite-percentage": "1"}
    with source(**(options if way == "log" else {})) as server:
        with Load(server.url) as load:
            before, begun = len(load.appended), len(load.fences)
            words = ["--data", str(data_of(server))] if way == "log" else []
            backup = backup_of(server, tmp_path / "to", *words)
            after = len(load.appended)
            eventually(lambda: len(load.appended) > after + 20 and len(load.fences) > begun + 20, 60)
            load._over.set()
            server.kill()
        assert drilled(backup.path)[1]["wrong"] == []
        said = restored(backup.path, "--to", str(data_of(server)), "--force")
        server.start()
        with Grid(server.url, audit=False) as grid:
            orders = grid.events("load", Order)
            there = [each.checkpoint for each in orders.read_all()]
            assert there[:before] == load.appended[:before]
            assert there[: len(load.appended)] == load.appended[: len(there)]
            assert len(there) < len(load.appended)
            lost = load.appended[-1]
            with pytest.raises(Diverged):
                list(orders.read_all(after=lost))
            with grid.lock("load") as lease:
                assert lease.fence >= said["raised"]["floor"] > max(load.fences)
