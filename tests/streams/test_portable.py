"""Export and import: a log goes through a file and is the same again."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.streams import Retry
from tests.command import Command
from tests.streams.models import Order, Placed
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from gridsync import Grid
    from gridsync.streams import EventStore
    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

command = Command("streams")
run, asked = command.run, command.asked


def filled(grid: Grid, count: int = 450) -> EventStore[Any]:
    store = grid.events("orders", Order)
    for n in range(count // 3):
        stream = f"{['anna', 'bert', 'ümläut'][n % 3]}-{n % 7}"
        store.append(stream, [Placed(kwh=n + 1, buyer="Jörg \x7f")] * 2, metadata={"n": n})
        store.append(stream, Placed(kwh=n + 1))
    return store


def digest(raw: redis.Redis, name: str = "orders") -> str:
    """Return a digest of all that a store holds of its events."""
    base, seen = f"{{{NAMESPACE}:events:{name}}}", hashlib.sha256()
    for key in sorted(raw.scan_iter(f"{base}:*")):
        suffix = key.decode()[len(base) :]
        if raw.type(key) == b"stream":
            seen.update(repr((suffix, raw.xrange(key))).encode())
        elif raw.type(key) == b"hash":
            seen.update(repr((suffix, sorted(raw.hgetall(key).items()))).encode())
        else:
            seen.update(repr((suffix, raw.zrange(key, 0, -1, withscores=True))).encode())
    return seen.hexdigest()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_store_is_the_same_when_it_went_through_a_file(
    grid: Grid, flushed: RedisServer, raw: redis.Redis, tmp_path: Path, suffix: str
):
    filled(grid)
    before, file = digest(raw), tmp_path / f"orders.jsonl{suffix}"
    code, told = asked(flushed, "export", "orders", str(file))
    assert (code, told["events"], told["first"], told["last"]) == (0, 450, 1, 450)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    raw.flushall()
    code, told = asked(flushed, "import", "orders", str(file), "--dry-run")
    assert (code, told["events"], told["new"], told["there"]) == (0, 450, 450, 0)
    assert raw.dbsize() == 0
    assert asked(flushed, "import", "orders", str(file))[1]["new"] == 450
    assert digest(raw) == before
    code, told = asked(flushed, "import", "orders", str(file))
    assert (code, told["new"], told["there"]) == (1, 0, 450), "a second time changes nothing"
    assert digest(raw) == before
    store = grid.events("orders", Order)
    assert store.append("anna-0", Placed(kwh=1)).position == 451
    assert next(store.read_all(after=1)).metadata == {"n": 0}


def test_a_log_of_links_is_one_again_when_it_went_through_a_file(
    grid: Grid, flushed: RedisServer, raw: redis.Redis, tmp_path: Path
):
    """Its program would be refused if it came back as a log of copies; the file has the payloads."""
    store, file = grid.events("orders", Order, log="link"), tmp_path / "orders.jsonl"
    for n in range(30):
        store.append(f"anna-{n % 3}", [Placed(kwh=n + 1)] * 10, metadata={"n": n})
    events, before = list(store.read_all()), digest(raw)
    assert asked(flushed, "export", "orders", str(file))[1]["events"] == 300
    raw.flushall()
    assert asked(flushed, "import", "orders", str(file), "--dry-run")[1]["new"] == 300
    assert raw.dbsize() == 0
    assert asked(flushed, "import", "orders", str(file))[1]["new"] == 300
    assert digest(raw) == before
    again = grid.events("orders", Order, log="link")
    assert list(again.read_all()) == events
    assert again.append("anna-0", Placed(kwh=99), expected_version=100).position == 301
    assert asked(flushed, "import", "orders", str(file))[1]["there"] == 300


def test_an_import_that_broke_off_goes_on_and_the_log_may_have_been_trimmed_meanwhile(
    grid: Grid, flushed: RedisServer, raw: redis.Redis, tmp_path: Path
):
    store, file = filled(grid), tmp_path / "orders.jsonl"
    run(flushed, "export", "orders", str(file))
    raw.flushall()
    part = grid.events("orders", Order)
    lines = file.read_bytes().splitlines(keepends=True)
    some = lines[1:101]
    ending = json.dumps({"end": 100, "sha256": hashlib.sha256(b"".join(some)).hexdigest()}, separators=(",", ":"))
    (tmp_path / "part.jsonl").write_bytes(b"".join([lines[0], *some, ending.encode() + b"\n"]))
    assert asked(flushed, "import", "orders", str(tmp_path / "part.jsonl"))[1]["new"] == 100
    part.trim(max_count=10)
    assert asked(flushed, "import", "orders", str(file))[1] | {"file": ""} == {
        "store": "orders", "file": "", "dry_run": False, "events": 450, "new": 350, "there": 100,
    }  # fmt: skip
    assert [e.version for e in store.read("anna-0")] == list(range(1, 25))


def test_other_events_are_never_mixed_in(grid: Grid, flushed: RedisServer, raw: redis.Redis, tmp_path: Path):
    filled(grid, 9)
    file = tmp_path / "orders.jsonl"
    run(flushed, "export", "orders", str(file))
    run(flushed, "export", "orders", str(tmp_path / "late.jsonl"), "--after", "3")
    raw.flushall()
    code, _, problem = run(flushed, "import", "orders", str(tmp_path / "late.jsonl"))
    assert (code, raw.dbsize()) == (2, 0)
    assert "position 4" in problem
    filled(grid, 3)
    before = digest(raw)
    code, _, problem = run(flushed, "import", "orders", str(file))
    assert code == 2
    assert "position 1 cannot be in 'orders'" in problem
    assert digest(raw) == before


@pytest.mark.parametrize("harm", ["torn line", "no end", "changed", "no file", "no events", "text behind", "gap"])
def test_a_file_that_is_not_as_it_was_written_is_refused_as_a_whole(
    grid: Grid, flushed: RedisServer, raw: redis.Redis, tmp_path: Path, harm: str
):
    filled(grid, 9)
    file = tmp_path / "orders.jsonl"
    run(flushed, "export", "orders", str(file))
    raw.flushall()
    text = file.read_bytes()
    lines = text.splitlines(keepends=True)
    if harm == "no file":
        file.unlink()
    else:
        file.write_bytes(
            {
                "torn line": text[: -len(lines[-1]) - 10],
                "no end": b"".join(lines[:-1]),
                "changed": text.replace(b"anna-0", b"anna-1", 1),
                "no events": b'{"something":"else"}\n',
                "text behind": text + b"\n",
                "gap": b"".join([*lines[:3], *lines[4:]]),
            }[harm]
        )
    code, _, problem = run(flushed, "import", "orders", str(file))
    assert (code, raw.dbsize()) == (2, 0)
    assert problem.startswith("gridsync: ")
    assert str(file) in problem


def test_a_compressed_file_that_is_torn_is_refused(grid: Grid, flushed: RedisServer, raw: redis.Redis, tmp_path: Path):
    filled(grid, 9)
    for suffix in (".gz", ".zst"):
        file = tmp_path / f"orders.jsonl{suffix}"
        run(flushed, "export", "orders", str(file))
        file.write_bytes(file.read_bytes()[:-20])
    raw.flushall()
    for suffix in (".gz", ".zst"):
        code, _, problem = run(flushed, "import", "orders", str(tmp_path / f"orders.jsonl{suffix}"))
        assert (code, raw.dbsize()) == (2, 0), problem
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"nonsense\n"))
    assert run(flushed, "import", "orders", str(tmp_path / "x.gz"))[0] == 2


def test_a_log_that_was_trimmed_cannot_be_exported_from_its_beginning(grid: Grid, flushed: RedisServer, tmp_path: Path):
    filled(grid, 9)
    assert asked(flushed, "trim", "orders", "--max-count", "4") == (
        0, {"store": "orders", "removed": 5, "left": 4, "kept": 0, "held_by": None, "expired": []},
    )  # fmt: skip
    code, _, problem = run(flushed, "export", "orders", str(tmp_path / "orders.jsonl"))
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "is 6" in problem
    assert asked(flushed, "export", "orders", str(tmp_path / "orders.jsonl"), "--after", "5")[1]["events"] == 4
    assert asked(flushed, "export", "nobody", str(tmp_path / "empty.jsonl"))[0] == 1


def test_an_operator_sees_who_holds_the_floor(grid: Grid, flushed: RedisServer):
    store = filled(grid, 9)
    assert run(flushed, "floor", "orders")[0] == 1
    store.group("billing\x1b[2J").consume(
        lambda e: 1 / (e.position - 4), idle_stop=0, on_error=lambda _: None, policy=Retry(first_s=3600, max_s=3600)
    )
    code, told = asked(flushed, "floor", "orders")
    assert (code, told["events"], told["free"]) == (0, 9, 3)
    (holder,) = told["holders"]
    assert (holder["kind"], holder["position"], holder["held"]) == ("group", 3, 6)
    output = run(flushed, "floor", "orders")[1]
    assert "at position 3, holds 6 events" in output
    assert "\x1b" not in output
    code, output, _ = run(flushed, "trim", "orders", "--max-count", "1")
    assert code == 0
    assert output.startswith("3 events were removed from the log of orders; 6 are left\n5 more had to stay for group")
    assert run(flushed, "trim", "orders", "--max-count", "1")[0] == 1
    assert run(flushed, "trim", "orders")[0] == 2


def test_each_partition_goes_through_a_file_of_its_own(
    grid: Grid, flushed: RedisServer, raw: redis.Redis, tmp_path: Path
):
    store = grid.events("orders", Order, partitions=2)
    for n in range(20):
        store.append(f"stream {n}", Placed(kwh=n + 1))
    before = sorted((e.partition, e.position, e.stream) for e in store.read_all())
    assert run(flushed, "export", "orders", str(tmp_path / "all"))[0] == 2
    for k in (0, 1):
        assert run(flushed, "export", "orders", str(tmp_path / str(k)), "--partition", str(k))[0] == 0
    raw.flushall()
    assert run(flushed, "import", "orders", str(tmp_path / "0"))[0] == 2, "it is no partition of a store in one"
    again = grid.events("orders", Order, partitions=2)
    again.append(next(stream for _, position, stream in before if position == 1), Placed(kwh=99), event_ids="other")
    home = again.partition_of(next(stream for _, position, stream in before if position == 1))
    assert run(flushed, "import", "orders", str(tmp_path / str(home)), "--partition", str(home))[0] == 2
    assert run(flushed, "import", "orders", str(tmp_path / str(home)), "--partition", str(1 - home))[0] == 2
    other = str(1 - home)
    assert run(flushed, "import", "orders", str(tmp_path / other), "--partition", other)[0] == 0
    found = sorted((e.partition, e.position, e.stream) for e in again.read_all(partition=1 - home))
    assert found == [each for each in before if each[0] == 1 - home]


def test_the_log_is_archived_from_a_shell(grid: Grid, flushed: RedisServer, tmp_path: Path):
    filled(grid, 9)
    code, told = asked(flushed, "archive", "orders", str(tmp_path / "new"))
    assert (code, told["events"], told["files"]) == (0, 9, 1)
    assert run(flushed, "archive", "orders", str(tmp_path / "new"))[0] == 1
    assert run(flushed, "trim", "orders", "--max-count", "1")[0] == 0
    assert [e.version for e in grid.events("orders", Order, archive=tmp_path / "new").read_all(limit=3)] == [1, 2, 3]
    (tmp_path / "file").touch()
    assert run(flushed, "archive", "orders", str(tmp_path / "file"))[0] == 2
