"""Backups where clocks, slots, manifests and lists of files are not what they should be."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from gridsync._io.wire.endpoint import parse
from gridsync.errors import Unavailable
from gridsync.ops.archive import MANIFEST, Manifest, Part, _text, backups_in, digest_of, read_manifest, seal
from gridsync.ops.snapshot import About
from gridsync.ops.taking import Wanted, _described, _opened_together, _Run, take
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.servers import RedisServer
from tests.command import called
from tests.ops.backing import AT_ONCE, backup_of, data_of, source

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.leaves_keys, pytest.mark.any_server]


def test_a_backup_that_was_just_taken_stays_though_the_clock_was_set_back(tmp_path: Path):
    """Else each night's backup is removed at once, until the clock is past the one from the future."""
    with RedisServer(options=AT_ONCE) as server:
        first = backup_of(server, tmp_path)
        ahead = tmp_path / ".ahead"
        shutil.copytree(first.path, ahead)
        manifest = read_manifest(ahead)
        manifest.id, manifest.taken_us = "20991231T000000Z-00000000", 4_102_444_800_000_000
        seal(ahead, manifest)
        last = backup_of(server, tmp_path, "--keep-last", "1")
    assert {each.path.name for each in backups_in(tmp_path)} == {manifest.id, last.path.name}


def test_an_old_backup_that_cannot_be_removed_is_said_beside_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with RedisServer(options=AT_ONCE) as server:
        old = backup_of(server, tmp_path)
        rename = type(tmp_path).rename

        def refuse(self: Path, target: Path) -> Path:
            if self == old.path:
                raise PermissionError(13, "Permission denied", str(self))
            return rename(self, target)

        monkeypatch.setattr(type(tmp_path), "rename", refuse)
        code, said, error = called("backup", "--to", str(tmp_path), "--url", server.url, "--keep-last", "1")
    assert (code, len(said.splitlines()), len(error.splitlines())) == (1, 1, 2)
    assert "cannot be removed (Permission denied)" in error
    assert len(backups_in(tmp_path)) == 2


def test_a_cluster_whose_slots_move_meanwhile_has_no_backup(tmp_path: Path):
    """A key that goes to a node whose snapshot is taken from one whose is not would be in neither."""
    with RedisCluster(options=AT_ONCE) as cluster:
        with cluster.migrating(5000, to=cluster.nodes[2]):
            code, _, error = called("backup", "--to", str(tmp_path), "--url", cluster.url)
            assert (code, "are being moved" in error, len(error.splitlines())) == (2, True, 2)
        moved = list[int]()

        def move(*_: Any) -> None:  # noqa: ANN401
            if not moved:
                moved.append(16_000)
                cluster.reshard(moved, to=cluster.nodes[0])

        with pytest.raises(Unavailable, match="slots moved to other servers"):
            take(cluster.url, Wanted(tmp_path, timeout=30), move)
    assert moved
    assert list(tmp_path.iterdir()) == []


def test_of_several_servers_the_clock_that_is_furthest_ahead_counts(tmp_path: Path):
    """Fences came of it, too, and after a restore all of them have one floor."""
    run = _Run(tmp_path, Manifest("x", 1), Wanted(tmp_path), lambda *_: None)
    server = parse("redis://127.0.0.1:1", connect_timeout=1)
    for number, clock_us in enumerate((1500, 4000, None, 900)):
        _described(run, f"part-{number}.rdb", server, About(clock_us=clock_us), asked=1000)
    assert run.manifest.clock_us == 3000


def test_an_append_log_that_is_rewritten_while_it_is_opened_is_opened_anew(tmp_path: Path):
    """Else an old base may stand beside a new log, and what is between them is in neither."""
    place = tmp_path / "appendonlydir"
    place.mkdir()
    for name in ("a.1.base.rdb", "a.2.base.rdb"):
        (place / name).write_text(name)

    def list_says(number: int) -> None:
        (place / "a.manifest").write_text(f"file a.{number}.base.rdb seq {number} type b\n")

    class Rewritten(type(tmp_path)):  # type: ignore[misc]
        """A directory whose list changes after it was read for the first time."""

        looks = 0

        def glob(self, pattern: str) -> Any:  # noqa: ANN401
            Rewritten.looks += 1
            list_says(min(Rewritten.looks, 2))
            return super().glob(pattern)

    with ExitStack() as stack:
        listed, files = _opened_together(stack, Rewritten(tmp_path))
        assert (listed.names, [name for name, _ in files]) == (["a.2.base.rdb"], ["a.2.base.rdb"])
        assert files[0][1].read() == b"a.2.base.rdb"


def sealed(path: Path, manifest: Manifest) -> Path:
    """Write a manifest whose checksum is right, whatever it says."""
    said: dict[str, Any] = {"gridsync-backup": 1, **asdict(manifest)}
    said["sha256"] = hashlib.sha256(_text(said)).hexdigest()
    (path / MANIFEST).write_bytes(_text(said))
    return path


LIES: list[dict[str, Any]] = [
    {"parts": []},
    {"taken_us": "yesterday"},
    {"taken_us": 10**19},
    {"taken_us": True},
    {"clock_us": "fast"},
    {"compression": "none"},
    {"encryption": "sh"},
    {"id": None},
    {"parts": [Part("part-0.rdb.zst", size=-1)]},
    {"parts": [Part("../../etc/passwd")]},
    {"parts": [Part("part-0.rdb.zst", wings={"lock": {"permanent": "many", "expiring": 0, "digest": "0"}})]},
]


def test_a_manifest_that_says_what_cannot_be_is_damaged_and_hides_no_other(tmp_path: Path):
    for number, lie in enumerate(LIES):
        path = tmp_path / f"20261124T000000Z-{number:08x}"
        path.mkdir()
        honest: dict[str, Any] = {"id": path.name, "taken_us": 1, "parts": [Part("part-0.rdb.zst")]}
        sealed(path, Manifest(**honest | lie))
        code, _, error = called("restore", str(path), "--drill")
        assert (code, "cannot be read" in error, len(error.splitlines())) == (2, True, 2), (lie, error)
    code, said, _ = called("backups", "--from", str(tmp_path), "--verify")
    assert (code, said.count("BROKEN")) == (1, len(LIES))


def test_a_file_that_unpacks_to_more_than_was_taken_is_given_up(tmp_path: Path):
    """A few kilobytes can hold a disk full of zeros."""
    path = tmp_path / "20261124T000000Z-00000000"
    path.mkdir()
    (path / "part-0.rdb.zst").write_bytes(zstandard.compress(bytes(50_000_000)))
    size, digest = digest_of(path / "part-0.rdb.zst")
    sealed(path, Manifest(path.name, 1, parts=[Part("part-0.rdb.zst", size=size, sha256=digest, raw_size=1000)]))
    code, _, error = called("restore", str(path), "--to", str(tmp_path / "to"))
    assert (code, "holds more than was taken" in error) == (2, True)
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("name", ["../secret", "link"])
def test_the_list_of_an_append_log_leads_to_no_other_file(tmp_path: Path, name: str):
    """The server's user writes it, and root may take the backup."""
    with source(appendonly="yes") as server:
        place = data_of(server) / "appendonlydir"
        (data_of(server) / "secret").write_text("what only root may read")
        (place / "link").symlink_to(data_of(server) / "secret")
        (listing,) = place.glob("*.manifest")
        listing.write_text(f"{listing.read_text()}file {name} seq 9 type i\n")
        words = ("backup", "--to", str(tmp_path), "--url", server.url, "--data", str(data_of(server)))
        code, _, error = called(*words)
    assert (code, "no plain file" in error, len(error.splitlines())) == (2, True, 2)
    assert list(tmp_path.iterdir()) == []
