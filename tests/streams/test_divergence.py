"""What never crossed is found, set aside in a file and taken off; then the old side follows the new one."""

# ruff: noqa: ANN401 - stores of either kind

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import Branch
from tests.streams.models import Order, Placed
from tests.streams.test_replication import content, filled, replication, sited

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.streams.conftest import Store, World

pytestmark = pytest.mark.any_server


async def parted(world: World, **options: Any) -> tuple[Store, Store]:
    """Return an old side with four events that never crossed, and the new one with three of its own."""
    old, new = await filled(world, **options), world.store(Order, "copy", **options)
    await replication(world, old, new).run(once=True)
    for stream in ("anna-0", "lost-1", "anna-0", "bert-1"):
        await old.append(stream, Placed(kwh=77), metadata={"late": True})
    await sited(world, new).promote()
    for stream in ("anna-0", "anna-0", "new-1"):
        await new.append(stream, Placed(kwh=88))
    await sited(world, old).fence(1)
    return old, new


@pytest.mark.parametrize("options", [{}, {"log": "link"}, {"partitions": 2, "partition_by": "category"}], ids=str)
async def test_the_old_side_follows_the_new_one_when_its_tail_is_set_aside(
    world: World, raw: redis.Redis, tmp_path: Path, options: dict[str, Any]
):
    old, new = await parted(world, **options)
    found = await sited(world, old).divergence(new.store)
    assert found.events == 4
    with pytest.raises(errors.Diverged, match="set aside"):
        await replication(world, new, old).run(once=True)
    before = content(raw, old)
    done = await sited(world, old).set_aside(new.store, tmp_path / "tail.jsonl")
    assert done.divergence == found
    assert content(raw, old) != before
    assert [e.event.kwh for e in await old.read_all() if e.event.kwh > 70] == []
    assert (await sited(world, old).divergence(new.store)).events == 0
    await replication(world, new, old).run(once=True)
    assert content(raw, old) == content(raw, new)
    assert raw.keys("*:cut:*") == []
    for file in done.files:
        again = await sited(world, new).reappend(file)
        assert (again.new, again.there) == (again.events, 0)
        again = await sited(world, new).reappend(file)
        assert (again.new, again.there) == (0, again.events), "by their ids"
    assert sum(e.event.kwh == 77 and e.metadata == {"late": True} for e in await new.read_all()) == 4
    await replication(world, new, old).run(once=True)
    assert content(raw, old) == content(raw, new)


async def test_where_two_sides_part_is_told(world: World):
    old, new = await parted(world)
    assert (await sited(world, old).divergence(new.store)).branches == (Branch(0, 30, 4, 3),)
    assert (await sited(world, new).divergence(old.store)).branches == (Branch(0, 30, 3, 4),)
    alone = world.store(Order, "alone")
    assert (await sited(world, old).divergence(alone.store)).branches == (Branch(0, 0, 34, 0),)
    other = world.store(Order, "other")
    await other.append("anna-0", Placed(kwh=1))
    assert (await sited(world, old).divergence(other.store)).branches == (Branch(0, 0, 34, 1),)
    await sited(world, new).trim(max_count=1)
    with pytest.raises(errors.Truncated, match="in common"):
        await sited(world, old).divergence(new.store)


async def test_nothing_is_taken_off_that_is_not_in_the_file(world: World, raw: redis.Redis, tmp_path: Path):
    old, new = await parted(world)
    before = content(raw, old)
    file = tmp_path / "tail.jsonl"
    for name, problem in (("taken.jsonl", errors.HistoryBroken), ("missing/tail.jsonl", OSError)):
        (tmp_path / "taken.jsonl").write_text("something else\n")
        with pytest.raises(problem):
            await sited(world, old).set_aside(new.store, tmp_path / name)
    with pytest.raises(errors.UsageError, match="fence it first"):
        await sited(world, new).set_aside(old.store, file)
    assert content(raw, old) == before
    assert not file.exists()


def killed_after(io: Any, calls: int, patched: pytest.MonkeyPatch) -> None:
    """Let a driver die at the call of those scripts that comes after so many."""
    run, left = type(io).run, [calls]

    async def until_killed(self: Any, operation: Any, *call: Any, **options: Any) -> Any:
        if operation.name in ("streams.cut", "streams.rewind"):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return await run(self, operation, *call, **options)

    patched.setattr(type(io), "run", until_killed)


@pytest.mark.parametrize("calls", range(5))
async def test_what_broke_off_is_to_be_repeated(
    world: World, raw: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
):
    old, new = await parted(world)
    file, killed = tmp_path / "tail.jsonl", False
    with monkeypatch.context() as patched:
        killed_after(old.store._core.io, calls, patched)
        try:
            await sited(world, old).set_aside(new.store, file)
        except KeyboardInterrupt:
            killed = True
    assert killed == (calls < 4), "three streams and the log"
    await sited(world, old).set_aside(new.store, file)
    await replication(world, new, old).run(once=True)
    assert content(raw, old) == content(raw, new)
    assert (await sited(world, new).reappend(file)).new == 4


async def test_a_group_goes_on_at_the_last_event_that_stays(world: World, raw: redis.Redis, tmp_path: Path):
    old, new = await parted(world)
    seen: list[float] = []
    handler: Any = lambda event: seen.append(event.event.kwh)  # noqa: E731
    if world.is_async:

        async def handler(event: Any) -> None:
            seen.append(event.event.kwh)

    await old.group("billing").consume(handler, idle_stop=0)
    assert seen.count(77) == 4
    await sited(world, old).set_aside(new.store, tmp_path / "tail.jsonl")
    await replication(world, new, old).run(once=True)
    await old.group("billing").consume(handler, idle_stop=0)
    assert seen[34:] == [88, 88, 88]
    assert raw.xlen(old.keys.log) == 33


async def test_a_long_stream_is_cut_in_steps(world: World, raw: redis.Redis, tmp_path: Path):
    old, new = world.store(Order), world.store(Order, "copy")
    for _ in range(2):
        await old.append("anna", [Placed(kwh=1)] * 600)
    await replication(world, old, new).run(once=True)
    await old.append("anna", Placed(kwh=77))
    await sited(world, new).promote()
    await sited(world, old).fence(1)
    await sited(world, old).set_aside(new.store, tmp_path / "tail.jsonl")
    assert content(raw, old) == content(raw, new)


async def test_what_was_erased_of_the_tail_stays_erased(world: World, raw: redis.Redis, tmp_path: Path):
    old, new = await parted(world)
    await sited(world, old).erase("lost-1")
    found = await sited(world, old).divergence(new.store)
    assert found.branches == (Branch(0, 30, 4, 3),)
    (file,) = (await sited(world, old).set_aside(new.store, tmp_path / "tail.jsonl")).files
    await replication(world, new, old).run(once=True)
    assert content(raw, old) == content(raw, new)
    assert raw.exists(old.keys.holes, old.keys.erased) == 0
    assert (await sited(world, new).reappend(file)).events == 3
