"""Archives: what was removed from the log is read in files, each event once, whatever broke off where."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import Changes, _archive, _lines
from gridsync.streams._archive import MANIFEST
from tests.streams.conftest import Both
from tests.streams.models import Cancelled, Order, Placed

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import Store, World

pytestmark = pytest.mark.any_server


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def segments(directory: Path) -> list[Path]:
    return [path for path in files(directory) if ".jsonl" in path.name]


def listed(directory: Path) -> list[str]:
    return [segment["file"] for segment in json.loads((directory / MANIFEST).read_text())["segments"]]


def kept(store: Store) -> Any:  # noqa: ANN401 - the calls of either kind, awaited for both
    return Both(store.store, is_async=store.is_async)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few events make several files; a page of the log brings 500."""
    monkeypatch.setattr("gridsync.streams._retention.SEGMENT", 500)


async def filled(store: Store, count: int) -> None:
    """Append to two streams by turns."""
    for n in range(count // 10):
        await store.append(("anna", "bert-ü")[n % 2], [Placed(kwh=n + 1)] * 9, metadata={"n": n})
        await store.append(("anna", "bert-ü")[n % 2], Cancelled(reason="x"))


async def archived(world: World, raw: redis.Redis, directory: Path, *, keep: int = 300) -> tuple[Store, list[Any]]:
    """Return a store whose older events are only in files, and all events as they were."""
    store = world.store(Order, archive=directory)
    await filled(store, 1800)
    before = await store.read_all()
    done = await kept(store).archive(directory)
    assert (done.events, done.files) == (1800, 4)
    assert (await kept(store).trim(max_count=keep)).left == keep
    for stream in ("anna", "bert-ü"):
        raw.xtrim(store.keys.stream(stream), minid="850-0", approximate=False)
    return store, before


async def test_readers_go_on_from_files_into_the_log(world: World, raw: redis.Redis, tmp_path: Path):
    store, before = await archived(world, raw, tmp_path)
    assert await store.read_all() == before
    assert await store.read_all(reverse=True) == before[::-1]
    assert await store.read_all(after=before[777].checkpoint, limit=700) == before[778:1478]
    assert await store.read_all(after=10, before=20) == before[10:19]
    assert await store.read_all(before=701, reverse=True, limit=600) == before[700 - 600 : 700][::-1]
    assert await store.read_all(types=[Cancelled], category="bert") == [
        e for e in before if e.type == "Cancelled" and e.stream == "bert-ü"
    ]
    subscription = store.subscribe(after=before[400].checkpoint)
    assert await subscription.take(1399) == before[401:]
    subscription.stop()
    view = store.projection("totals")

    def count(changes: Changes, recorded: Any) -> None:  # noqa: ANN401
        changes.add(recorded.stream, 1)

    assert (await view.run(count, once=True)).events == 1800
    assert await view.get("anna") == "900"


async def test_a_stream_is_read_from_files_where_it_was_removed(world: World, raw: redis.Redis, tmp_path: Path):
    store, before = await archived(world, raw, tmp_path)
    anna = [e for e in before if e.stream == "anna"]
    assert await store.read("anna") == anna
    assert await store.read("anna", reverse=True) == anna[::-1]
    assert await store.read("anna", from_version=10, to_version=860) == anna[9:860]
    assert await store.read("anna", from_version=10, to_version=20, reverse=True) == anna[9:20][::-1]
    assert (await store.append("anna", Placed(kwh=1), expected_version=900)).version == 901
    totals = store.aggregate(0.0, lambda total, event: total + getattr(event, "kwh", 0))
    assert (await totals.load("anna")).version == 901


async def test_without_the_archive_what_was_removed_is_truncated(world: World, raw: redis.Redis, tmp_path: Path):
    await archived(world, raw, tmp_path)
    with pytest.raises(errors.Truncated):
        await world.store(Order).read_all()
    with pytest.raises(errors.Truncated):
        await world.store(Order).read("anna")


async def test_what_is_not_archived_stays_in_the_log(world: World, tmp_path: Path):
    store = world.store(Order)
    await filled(store, 20)
    await kept(store).archive(tmp_path)
    await filled(store, 20)
    done = await kept(store).trim(max_count=1)
    assert (done.removed, done.held_by) == (20, ("archive", ""))
    assert (await kept(store).archive(tmp_path, at_least=100)).events == 0
    assert (await kept(store).archive(tmp_path, at_least=20)).events == 20
    assert (await kept(store).trim(max_count=1)).left == 1
    await filled(store, 20)
    assert (await kept(store).trim(max_count=1)).removed == 1
    assert await kept(store).release("archive")
    assert (await kept(store).trim(max_count=1)).removed == 19


class Killed(BaseException):
    """The process ends here: nothing behind it is run, no cleaning up either."""


class Killer:
    """Kills at the n-th step that changes a file or the server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.left = at
        self.dead = False
        for place, name in ((_lines, "_synchronise"), (Path, "replace"), (Path, "unlink")):
            monkeypatch.setattr(place, name, self.step(getattr(place, name)))

    def step(self, act: Any) -> Any:  # noqa: ANN401 - a function
        def stepped(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            if self.dead:
                raise Killed
            if self.left == 0:
                self.dead = True
                raise Killed
            self.left -= 1
            return act(*args, **options)

        return stepped


async def test_a_run_that_is_killed_anywhere_leaves_each_event_once(world: World, tmp_path: Path):
    store = world.store(Order)
    await filled(store, 1000)
    before, at = await store.read_all(), 0
    while True:
        directory = tmp_path / str(at)
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(patch, at)
            try:
                done = await kept(store).archive(directory)
            except Killed:
                pass
            else:
                assert (done.events, killer.dead) == (1000, False)
                break
        # Whatever the dead one noted at the server, nothing goes that is in no file.
        await kept(store).release("archive")
        await kept(store).archive(directory)
        found = _archive.Archive(directory, "orders")
        assert [entry[0] for low in (1, 501) for entry in found.page(low, 500)] == [
            b"%d-0" % e.position for e in before
        ]
        named = {segment["file"] for segment in json.loads((directory / MANIFEST).read_text())["segments"]}
        assert {path.name for path in directory.iterdir()} == {".lock", MANIFEST, *named}
        await kept(store).release("archive")
        at += 1
    assert at > 10


async def test_a_run_that_died_before_it_told_the_server_is_told_by_the_next(
    world: World, raw: redis.Redis, tmp_path: Path
):
    store = world.store(Order)
    await filled(store, 100)
    await kept(store).archive(tmp_path)
    raw.hset(store.keys.meta, "archived", 0)
    assert (await kept(store).trim(max_count=1)).removed == 0
    assert (await kept(store).archive(tmp_path)).events == 0
    assert (await kept(store).trim(max_count=1)).left == 1


@pytest.mark.parametrize("harm", ["changed", "torn", "gone", "manifest", "gap"])
async def test_a_file_that_was_changed_is_noticed(world: World, raw: redis.Redis, tmp_path: Path, harm: str):
    await archived(world, raw, tmp_path)
    path = segments(tmp_path)[1]
    text = path.read_bytes()
    if harm == "changed":
        path.write_bytes(text[:500] + bytes([text[500] ^ 1]) + text[501:])
    elif harm == "torn":
        path.write_bytes(text[:-10])
    elif harm == "gone":
        path.unlink()
    elif harm == "gap":
        said = json.loads((tmp_path / MANIFEST).read_text())
        del said["segments"][1]
        (tmp_path / MANIFEST).write_text(json.dumps(said))
    else:
        (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(errors.Damaged) as caught:
        await world.store(Order, archive=tmp_path).read_all()
    assert str(tmp_path) in caught.value.name


async def test_two_that_archive_at_once_write_each_event_once(world: World, tmp_path: Path):
    store = world.store(Order)
    await filled(store, 1000)
    done = await asyncio.gather(*(kept(store).archive(tmp_path) for _ in range(3)))
    assert sum(each.events for each in done) == 1000
    assert len(segments(tmp_path)) == 2


async def test_a_directory_of_another_store_or_another_directory_is_refused(world: World, tmp_path: Path):
    store, other = world.store(Order), world.store(Order, name="others")
    await filled(store, 20)
    await filled(other, 20)
    await kept(store).archive(tmp_path / "one")
    with pytest.raises(errors.UsageError, match="directory of its own"):
        await kept(other).archive(tmp_path / "one")
    with pytest.raises(errors.UsageError, match="up to position 20 are archived"):
        await kept(store).archive(tmp_path / "two")


async def test_an_archive_of_another_history_is_told(world: World, raw: redis.Redis, tmp_path: Path):
    store = world.store(Order)
    await filled(store, 20)
    await kept(store).archive(tmp_path)
    raw.flushall()
    await filled(store, 30)
    with pytest.raises(errors.Diverged):
        await kept(store).archive(tmp_path)


async def test_each_partition_has_its_own_files(world: World, tmp_path: Path):
    store = world.store(Order, partitions=2, archive=tmp_path)
    for n in range(40):
        await store.append(f"stream {n}", Placed(kwh=n + 1))
    before = sorted((e.partition, e.position) for e in await store.read_all())
    assert (await kept(store).archive(tmp_path)).events == 40
    assert {path.name for path in files(tmp_path)} == {"partition-0", "partition-1"}
    assert (await kept(store).trim(max_count=2)).left == 2
    assert sorted((e.partition, e.position) for e in await store.read_all()) == before


async def test_without_zstd_files_are_compressed_by_gzip(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def missing() -> Any:  # noqa: ANN401 - never returns
        raise ModuleNotFoundError("zstandard")

    monkeypatch.setattr(_lines, "_zstd", missing)
    store = world.store(Order, archive=tmp_path)
    await filled(store, 30)
    before = await store.read_all()
    await kept(store).archive(tmp_path)
    await kept(store).trim(max_count=1)
    assert [path.suffix for path in segments(tmp_path)] == [".gz"]
    assert await store.read_all() == before


async def test_files_hold_the_payloads_that_a_log_of_links_has_not(world: World, tmp_path: Path):
    store = world.store(Order, log="link", archive=tmp_path)
    await filled(store, 30)
    before = await store.read_all()
    await kept(store).archive(tmp_path)
    assert (await kept(store).trim(max_count=10)).left == 10
    assert await store.read_all() == before
    assert await store.read_all(reverse=True) == before[::-1]


@pytest.mark.parametrize(
    "options",
    [{"partitions": 3}, {"log": "link"}, {"partitions": 3, "log": "link"}],
    ids=str,
)
async def test_an_archive_reads_the_same_whatever_the_log_and_the_partitions(
    world: World,
    raw: redis.Redis,
    tmp_path: Path,
    options: Any,  # noqa: ANN401
):
    """Each pair of page and file boundary differs by partition, and links are resolved once they are archived."""
    store = world.store(Order, archive=tmp_path, **options)
    for n in range(60):
        await store.append(f"s{n % 7}", [Placed(kwh=n + 1)] * 3, metadata={"n": n})
    before = {(e.partition, e.position): e for e in await store.read_all()}
    retention = store.store.retention(max_count=6, archive=tmp_path)
    assert await Both(retention, is_async=store.is_async).run(once=True) == 174
    for n in range(60, 70):
        await store.append(f"s{n % 7}", [Placed(kwh=n + 1)] * 3)
    assert await Both(retention, is_async=store.is_async).run(once=True) == 30
    after = await store.read_all()
    assert {(e.partition, e.position): e for e in after if e.event.kwh <= 60} == before
    assert len(after) == 210
    for core in store.store._core.partitions:
        its = await store.read_all(partition=core.partition)
        assert [e.position for e in its] == list(range(1, len(its) + 1))
        assert await store.read_all(partition=core.partition, reverse=True) == its[::-1]
        middle = its[len(its) // 2]
        assert await store.read_all(partition=core.partition, after=middle.checkpoint) == its[middle.position :]
        for stream in {e.stream for e in its}:
            raw.xtrim(core.keys.stream(stream), maxlen=1, approximate=False)
            assert await store.read(stream) == [e for e in its if e.stream == stream]
