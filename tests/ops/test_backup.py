"""`gridsync backup`, `backups` and `restore`: what comes back, what is refused, what is found broken."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync.errors import UsageError
from gridsync.ops import restoring
from gridsync.ops.archive import backups_in
from gridsync.ops.restoring import MARK, WORK
from gridsync.ops.roles import ROLES
from gridsync.testing.servers import RedisServer, ServerKind, server_kinds
from tests.command import called
from tests.ops.backing import AT_ONCE, PRICES, backup_of, data_of, drilled, fill, is_told, restored, source
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from gridsync.ops.fences import Raised

pytestmark = pytest.mark.leaves_keys
KINDS = server_kinds()
FORMATS = {("redis", "7"): 10, ("valkey", "8"): 11, ("redis", "8"): 12}
"""The versions of their snapshots, of which each reads its own and older ones."""


@pytest.fixture(scope="module", params=KINDS, ids=str)
def full(request: pytest.FixtureRequest) -> Iterator[tuple[RedisServer, dict[str, Any]]]:
    """A server of each kind, with data of every wing."""
    with source(request.param, appendonly="yes") as server, Grid(server.url, audit=False) as grid:
        yield server, fill(grid)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A backup of the first kind of server; tests copy it before they break it."""
    place = tmp_path_factory.mktemp("backups")
    with source() as server, Grid(server.url, audit=False) as grid:
        fill(grid)
        yield backup_of(server, place).path


@pytest.fixture
def copied(taken: Path, tmp_path: Path) -> Path:
    path = tmp_path / "backups" / taken.name
    shutil.copytree(taken, path)
    return path


@pytest.mark.parametrize("way", ["wire", "log"])
def test_what_was_taken_comes_back_and_a_drill_finds_it_so(
    full: tuple[RedisServer, dict[str, Any]], tmp_path: Path, way: str
):
    server, there = full
    backup = backup_of(server, tmp_path / "to", *(["--data", str(data_of(server))] if way == "log" else []))
    code, found = drilled(backup.path)
    assert (code, found["wrong"], found["stores"], found["events"] > 20, found["books"]) == (0, [], 2, True, 1)
    # What nobody has counted is said to be so, and not passed off as well.
    assert any("number of keys" in what for what in found["compared"]) == (way == "wire")
    assert [what for what in found["unknown"] if "its keys were not counted" in what] == found["unknown"]
    assert len(found["unknown"]) == (way == "log")
    _, output, _ = called("restore", str(backup.path), "--drill")
    assert ("all is well" in output, "NOT compared: keys: " in output) == (way == "wire", way == "log")
    with source(server.kind, appendonly="yes") as other:
        other.stop()
        shutil.rmtree(data_of(other))
        said = restored(backup.path, "--to", str(data_of(other)))
        other.start()
        with Grid(other.url, audit=False) as grid:
            assert [each.id for each in grid.events("orders", Order).read_all()] == there["events"]
            assert grid.orderbook("power", tick="0.01", lot="0.1").verify().ok
            with grid.lock("settlement") as lease, grid.semaphore("workers", limit=2).acquire() as slot:
                assert min(lease.fence, slot.fence) >= said["raised"]["floor"] > max(there["fence"], there["share"])
            if way == "wire":
                assert backup.manifest is not None
                assert backup.manifest.fence >= there["share"]
                assert said["keys"] <= sum(part.keys or 0 for part in backup.manifest.parts)


@pytest.mark.any_server
def test_a_server_that_reads_snapshots_finds_the_same_as_one_that_reads_its_append_log(taken: Path):
    for appendonly in ("yes", "no"):
        with source(appendonly=appendonly) as server:
            server.stop()
            shutil.rmtree(data_of(server))
            restored(taken, "--to", str(data_of(server)))
            server.start()
            with Grid(server.url, audit=False) as grid:
                assert len(list(grid.events("orders", Order).read_all())) == 20


@pytest.mark.any_server
def test_a_running_server_gets_every_key_with_its_time_to_live(taken: Path):
    with source() as server:
        said = restored(taken, "--url", server.url)
        with Grid(server.url, audit=False) as grid, server.client() as raw:
            assert raw.dbsize() == said["keys"]
            ends = [raw.pttl(name) for name in raw.scan_iter()]
            assert -1 in ends
            assert 0 < max(ends) < 10 * 24 * 3600 * 1000  # fences last longest
            assert raw.get(MARK) is None
            assert len(list(grid.events("orders", Order).read_all())) == 20
            assert grid.orderbook("power", tick="0.01", lot="0.1").verify().ok
            assert grid.cache(PRICES).get("gas") == 7
            with grid.lock("settlement") as lease:
                assert lease.fence >= said["raised"]["floor"]


@pytest.mark.any_server
def test_a_server_or_directory_that_is_not_empty_is_refused_without_force(taken: Path, tmp_path: Path):
    with source() as server:
        server.command("SET", "mine", "1")
        code, output, error = called("restore", str(taken), "--url", server.url)
        assert (code, output) == (2, "")
        assert error == (
            "gridsync: the server holds 1 keys\n"
            "  name an empty one, or say --force, which removes everything it holds\n"
        )
        assert server.command("GET", "mine") == b"1"
        restored(taken, "--url", server.url, "--force")
        assert server.command("GET", "mine") is None
    (tmp_path / "dump.rdb").write_bytes(b"mine")
    code, output, error = called("restore", str(taken), "--to", str(tmp_path))
    assert (code, output, len(error.splitlines())) == (2, "", 2)
    assert [each.name for each in tmp_path.iterdir()] == ["dump.rdb"]
    said = restored(taken, "--to", str(tmp_path), "--force")
    assert (Path(said["aside"]) / "dump.rdb").read_bytes() == b"mine"
    assert (tmp_path / "dump.rdb").read_bytes()[:5] in (b"REDIS", b"VALKE")


@pytest.mark.any_server
def test_a_restore_that_was_cut_off_goes_on_when_it_is_run_again(taken: Path):
    with source() as server:
        server.command("SET", MARK, taken.name)
        server.command("SET", "{gridsync:events:orders}:meta", "of another restore")
        restored(taken, "--url", server.url)
        assert server.command("TYPE", "{gridsync:events:orders}:meta") == b"hash"
        assert server.command("GET", MARK) is None


@pytest.mark.any_server
def test_readers_of_what_was_lost_are_told_before_and_after_new_events_stand_there(tmp_path: Path):
    with source() as server, Grid(server.url, audit=False) as grid:
        fill(grid)
        backup = backup_of(server, tmp_path / "to")
        orders = grid.events("orders", Order)
        for number in range(5):
            orders.append("order-late", Placed(kwh=1), expected_version=number)
        kept, lost = [each.checkpoint for each in orders.read_all() if each.position in (20, 24)]
        restored(backup.path, "--url", server.url, "--force")
        assert is_told(grid, lost)
        assert not is_told(grid, kept)
        for number in range(8):
            orders.append("order-later", Placed(kwh=2), expected_version=number)
        assert is_told(grid, lost)
        assert not is_told(grid, kept)


@pytest.mark.any_server
@pytest.mark.parametrize("name", ["manifest.json", "part-0.rdb.zst"])
def test_one_changed_byte_in_any_file_is_found_before_anything_is_written(copied: Path, tmp_path: Path, name: str):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    code, output, _ = called("backups", "--from", str(copied.parent), "--verify", "--json")
    assert code == 1
    assert json.loads(output)["backups"][0]["wrong"]
    target = tmp_path / "target"
    code, output, error = called("restore", str(copied), "--to", str(target))
    assert (code, output, len(error.splitlines())) == (2, "", 2)
    assert not target.exists()
    assert called("restore", str(copied), "--drill")[0] == 2


@pytest.mark.any_server
def test_a_missing_or_short_file_is_found(copied: Path):
    part = copied / "part-0.rdb.zst"
    part.write_bytes(part.read_bytes()[:-1])
    assert called("backups", "--from", str(copied.parent), "--verify")[0] == 1
    part.unlink()
    assert called("backups", "--from", str(copied.parent), "--verify")[0] == 1


@pytest.mark.any_server
def test_the_drill_finds_keys_that_are_missing_others_and_too_many(copied: Path):
    """As if the server had left something out, with all checksums right."""
    from gridsync.ops.archive import MANIFEST, read_manifest, seal  # noqa: PLC0415

    manifest = read_manifest(copied)
    assert manifest.parts[0].wings is not None
    wings = manifest.parts[0].wings
    wings["events"]["permanent"] += 1
    wings["market"]["digest"] = f"{int(wings['market']['digest'], 16) ^ 1:032x}"
    wings["limit"]["expiring"] -= 1
    (copied / MANIFEST).unlink()
    seal(copied, manifest)
    code, found = drilled(copied)
    assert code == 1
    events, limit, market = found["wrong"]
    assert events.startswith("events: ")
    assert events.endswith(f" and {wings['events']['permanent']} were taken")
    assert limit.startswith("limit: ")
    assert "keys that expire" in limit
    assert market == "market: other permanent keys than were taken"


@pytest.mark.any_server
@pytest.mark.parametrize("what", ["versions", "log", "end", "book"])
def test_the_drill_finds_a_history_that_does_not_fit_together(tmp_path: Path, what: str):
    with source() as server, Grid(server.url, audit=False) as grid:
        fill(grid)
        with server.client() as raw:
            if what == "versions":
                raw.hset("{gridsync:events:orders}:versions", "order-0", "9")
            elif what == "log":
                raw.xdel("{gridsync:events:orders}:log", "7-0")
            elif what == "end":
                raw.hset("{gridsync:events:orders}:meta", "pos", "21")
            else:
                raw.delete(
                    "{gridsync:events:orderbook%3Apower}:orderbook:power:sell", *raw.keys("*:orderbook:power:sell")
                )
        code, found = drilled(backup_of(server, tmp_path / "to").path)
        assert code == 1
        assert found["wrong"]


@pytest.mark.any_server
def test_a_link_where_a_restore_is_made_is_not_followed(tmp_path: Path, taken: Path):
    """The user of the server owns the directory, and root restores into it."""
    theirs, to = tmp_path / "theirs", tmp_path / "to"
    theirs.mkdir()
    to.mkdir()
    (theirs / "precious").write_text("x")
    (to / WORK).symlink_to(theirs)
    code, _, error = called("restore", str(taken), "--to", str(to))
    assert (code, "is in the way" in error, len(error.splitlines())) == (2, True, 2)
    assert [each.name for each in theirs.iterdir()] == ["precious"]


@pytest.mark.any_server
@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_a_server_that_keeps_less_than_it_was_given_is_not_called_restored(
    policy: str, taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One that evicts takes every key, and drops those that came first."""
    backup = taken
    if policy == "noeviction":
        monkeypatch.setattr(restoring, "copy", lambda *_: 1)
    else:
        with source() as server, server.client() as raw:
            raw.mset({f"key-{number}": os.urandom(100_000) for number in range(100)})
            backup = backup_of(server, tmp_path).path
    with RedisServer(options={"maxmemory": "6mb", "maxmemory-policy": policy}) as target:
        code, _, error = called("restore", str(backup), "--url", target.url)
        assert (code, "server evicts" in error, len(error.splitlines())) == (2, True, 2), error


@pytest.mark.any_server
def test_an_append_log_that_cannot_be_written_ends_the_restore(
    taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A disk that is full: the server would try for ever, and so would whoever waits for it."""
    real = restoring.raise_fences

    def in_the_way(client: redis.Redis, floor: int) -> Raised:
        # Where the log would be, so that every rewrite fails.
        (tmp_path / "to" / WORK / "appendonlydir").write_text("")
        return real(client, floor)

    monkeypatch.setattr(restoring, "raise_fences", in_the_way)
    code, _, error = called("restore", str(taken), "--to", str(tmp_path / "to"))
    assert (code, "make room there" in error, len(error.splitlines())) == (2, True, 2), error
    assert list((tmp_path / "to").iterdir()) == []

    class Full:
        """What a server says whose child has failed, and begins anew."""

        def config_get(self, _: str) -> dict[str, str]:
            return {"appendonly": "yes"}

        def bgrewriteaof(self) -> None:
            pass

        def info(self, _: str) -> dict[str, Any]:
            return {"aof_last_bgrewrite_status": "err", "aof_rewrite_in_progress": 1}

    with pytest.raises(UsageError, match="make room there"):
        restoring._save(Full(), tmp_path)  # type: ignore[arg-type]


@pytest.mark.any_server
def test_files_belong_to_whoever_the_directory_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Root restores; the server has a user of its own."""
    given = list[str]()
    monkeypatch.setattr(restoring.os, "geteuid", lambda: 0)
    monkeypatch.setattr(restoring.os, "chown", lambda path, *_, **__: given.append(path.name))
    owner = restoring.os.stat_result((0o700, 0, 0, 0, 4711, 4711, 0, 0, 0, 0))
    work = tmp_path / WORK
    (work / "appendonlydir").mkdir(parents=True)
    for name in ("dump.rdb", "appendonlydir/a.rdb"):
        (work / name).write_text("")
    monkeypatch.setattr(type(tmp_path), "stat", lambda *_, **__: owner)
    restoring._flush(work)
    assert sorted(given) == ["a.rdb", "appendonlydir", "dump.rdb"]


@pytest.mark.any_server
def test_a_restore_that_finds_anothers_mark_stops_and_leaves_it(taken: Path, monkeypatch: pytest.MonkeyPatch):
    """It was slow, not dead, and somebody ran the same again: when that has ended, services write."""
    real = restoring.copy
    with RedisServer() as target:

        def overtaken(source: redis.Redis, into: redis.Redis, told: Callable[[int], None]) -> int:
            into.set(MARK, f"{taken.name} another")
            return real(source, into, told)

        monkeypatch.setattr(restoring, "copy", overtaken)
        code, _, error = called("restore", str(taken), "--url", target.url)
        assert (code, "another one runs" in error, len(error.splitlines())) == (2, True, 2)
        assert target.command("GET", MARK) == f"{taken.name} another".encode()


@pytest.mark.any_server
def test_what_was_written_while_a_backup_was_loaded_is_not_overwritten(taken: Path, monkeypatch: pytest.MonkeyPatch):
    real = restoring.raise_fences
    with RedisServer() as target:

        def slow(client: redis.Redis, floor: int) -> Raised:
            target.command("SET", "mine", "1")
            return real(client, floor)

        monkeypatch.setattr(restoring, "raise_fences", slow)
        code, _, error = called("restore", str(taken), "--url", target.url)
        assert (code, "holds 1 keys" in error) == (2, True)
        assert target.command("DBSIZE") == 1


@pytest.mark.any_server
@pytest.mark.parametrize("way", ["wire", "log"])
def test_half_a_restore_is_not_taken_for_a_backup_nor_lets_others_in(way: str, tmp_path: Path):
    """Else it would be the newest one, and those that are whole would go."""
    with source(appendonly="yes" if way == "log" else "no") as server:
        server.command("SET", MARK, "20261124T000000Z-00000000 somebody")
        if way == "wire":
            code, _, error = called("backup", "--to", str(tmp_path / "to"), "--url", server.url)
            assert (code, "is being restored" in error, len(error.splitlines())) == (2, True, 2)
            assert list((tmp_path / "to").iterdir()) == []
        else:
            backup = backup_of(server, tmp_path / "to", "--data", str(data_of(server)))
            server.command("FLUSHALL")
            assert restored(backup.path, "--url", server.url)["keys"] == 0
            assert server.command("DBSIZE") == 0


@pytest.mark.any_server
def test_every_bad_word_is_answered_by_one_line_of_what_and_one_of_what_to_do(tmp_path: Path, taken: Path):
    wrong = [
        ("backup", "--to", str(tmp_path / "a"), "--url", "redis://127.0.0.1:1/0"),
        ("backup", "--to", "/proc/nowhere", "--url", "redis://127.0.0.1:1/0"),
        (
            "backup",
            "--to",
            str(tmp_path / "a"),
            "--url",
            "redis://127.0.0.1:1",
            "--recipient",
            "age1x",
            "--recipient",
            "X",
        ),
        ("backups", "--from", str(tmp_path / "missing")),
        ("restore", str(tmp_path), "--drill"),
        ("restore", str(taken)),
        ("restore", str(taken), "--drill", "--to", str(tmp_path / "b")),
    ]
    for words in wrong:
        code, output, error = called(*words)
        assert (code, output, len(error.splitlines())) == (2, "", 2), (words, output, error)
    assert not (tmp_path / "b").exists()
    assert list((tmp_path / "a").glob("*")) == []


@pytest.mark.any_server
def test_the_role_of_a_backup_may_take_one_and_read_no_key(tmp_path: Path):
    rules = " ".join(rule for rule in ROLES["backup"].server if rule != "+client|setinfo")  # newer than some servers
    with RedisServer(users=[f"user backup on >secret {rules}"], options=AT_ONCE) as server:
        server.command("SET", "mine", "1")
        backup = backup_of(server.url_for("backup", "secret"), tmp_path)
        assert backup.manifest is not None
        assert backup.manifest.parts[0].keys == 1
        with (
            server.client(username="backup", password="secret") as raw,
            pytest.raises(Exception, match="permission"),
        ):
            raw.get("mine")


@pytest.mark.any_server
def test_a_user_that_may_not_copy_is_told_which_rights_it_lacks(tmp_path: Path):
    with RedisServer(users=["user app on >secret ~* +@read +@connection"]) as server:
        code, _, error = called("backup", "--to", str(tmp_path), "--url", server.url_for("app", "secret"))
    assert code == 2
    assert "+psync and +replconf" in error


def test_a_directory_of_somebody_else_is_refused_in_two_lines(
    taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make = Path.mkdir

    def refuse(self: Path, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False) -> None:
        if self.name == WORK:
            raise PermissionError(13, "Permission denied", str(self))
        make(self, mode, parents, exist_ok)

    monkeypatch.setattr(Path, "mkdir", refuse)
    code, output, error = called("restore", str(taken), "--to", str(tmp_path))
    assert (code, output, len(error.splitlines())) == (2, "", 2), error
    assert "Permission denied" in error
    assert "whoever owns" in error


@pytest.mark.any_server
def test_a_restore_as_a_user_that_may_not_is_two_lines_and_changes_nothing(taken: Path):
    with RedisServer(users=["user app on >secret ~* +@connection +time"]) as server:
        code, _, error = called("restore", str(taken), "--url", server.url_for("app", "secret"))
        assert (code, len(error.splitlines())) == (2, 2), error
        assert "the server's ACL refuses" in error
        assert server.command("DBSIZE") == 0


@pytest.mark.any_server
def test_a_backup_over_tls_is_the_same(tmp_path: Path):
    kind = next(kind for kind in KINDS if kind.tls)
    with RedisServer(kind, tls=True, options=AT_ONCE) as server:
        server.command("SET", "mine", "1" * 300_000)
        assert drilled(backup_of(server, tmp_path).path)[0] == 0


@pytest.mark.any_server
@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_a_snapshot_from_the_servers_disk_or_its_socket_is_the_same(tmp_path: Path, diskless: str):
    with RedisServer(options=AT_ONCE | {"repl-diskless-sync": diskless}) as server:
        with server.client() as raw:
            raw.mset({f"key-{number}": os.urandom(20_000) for number in range(50)})
        code, found = drilled(backup_of(server, tmp_path).path)
        assert (code, found["keys"]) == (0, 50)


@pytest.mark.any_server
def test_what_keeps_saying_how_many_removes_the_others(tmp_path: Path):
    with RedisServer(options=AT_ONCE) as server:
        for _ in range(4):
            last = backup_of(server, tmp_path, "--keep-last", "2")
    assert len(backups_in(tmp_path)) == 2
    assert backups_in(tmp_path)[-1].path == last.path


@pytest.mark.any_server
def test_the_last_good_backup_stays_if_those_after_it_are_broken(tmp_path: Path):
    from gridsync.ops.retention import Keep  # noqa: PLC0415
    from gridsync.ops.taking import prune  # noqa: PLC0415

    with RedisServer(options=AT_ONCE) as server:
        good, *broken = [backup_of(server, tmp_path) for _ in range(3)]
    for each in broken:
        (each.path / "part-0.rdb.zst").write_bytes(b"")
    prune(tmp_path, Keep(last=1))
    assert good.path.exists()


@pytest.mark.parametrize(("of", "into"), [(of, into) for of in KINDS for into in KINDS if of != into], ids=str)
@pytest.mark.any_server
def test_a_server_of_another_kind_or_version_takes_a_backup_or_says_why_not(
    of: ServerKind, into: ServerKind, tmp_path: Path
):
    """Older formats are read by newer servers of both kinds; nothing is left behind where one is not."""
    with source(of) as server, source(into) as other, Grid(server.url, audit=False) as grid:
        fill(grid)
        backup = backup_of(server, tmp_path / "to")
        code, _, error = called("restore", str(backup.path), "--url", other.url)
        newer = FORMATS[of.product, of.version[0]] > FORMATS[into.product, into.version[0]]
        assert code == (2 if newer else 0), error
        if newer:
            assert "did not take a value" in error


def test_a_server_program_that_cannot_read_a_backup_is_named_with_what_would(
    taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from gridsync.ops import throwaway  # noqa: PLC0415

    program = tmp_path / "redis-server"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=7.0.0" && exit\n'
        'echo "1:M # Can\'t handle RDB format version 99"\nexit 1\n'
    )
    program.chmod(0o700)
    monkeypatch.setenv("GRIDSYNC_REDIS_SERVER", str(program))
    monkeypatch.setattr(throwaway, "candidates", list)
    code, _, error = called("restore", str(taken), "--to", str(tmp_path / "target"))
    assert code == 2
    assert "Can't handle RDB format version 99" in error
    assert list((tmp_path / "target").iterdir()) == []


def test_lines_of_json_say_how_far_it_is_and_the_last_one_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gridsync.cli.backup._STEP_S", 0)
    with RedisServer(options=AT_ONCE) as server:
        _, output, _ = called("backup", "--to", str(tmp_path), "--url", server.url, "--json")
    *steps, last = [json.loads(line) for line in output.splitlines()]
    assert steps
    assert [set(step) for step in steps] == [{"step", "done", "of"}] * len(steps)
    assert last["parts"][0]["raw_size"] == steps[-1]["done"]
