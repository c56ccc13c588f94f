"""A consumer is killed before and after each of its calls and within its handlers: nothing is lost or doubled."""

from __future__ import annotations

# ruff: noqa: ANN401 - handlers of either kind
import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync._io.keys import event_partitions, events
from gridsync.streams import AsyncEventStore, EventStore, Park
from tests.faults.dying import Nursery
from tests.faults.test_ordered import check_order
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from gridsync.testing.servers import RedisServer
    from tests.faults.dying import AsyncDying, Dying, Fate

BEHIND = Park(max_attempts=3, first_s=0.001, max_s=0.001)


def refuse_the_second(recorded: Any) -> None:
    """Fail whenever it comes."""
    if recorded.position == 2:
        raise ValueError("never")


def failing(fate: Fate) -> None:
    """Consume, and let one event fail until it is given up."""
    group = EventStore(fate.sync(), "test", "orders", Order).group("billing")
    group.consume(refuse_the_second, policy=BEHIND, on_error=lambda _: None, idle_stop=0.05)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_consumer_killed_at_any_step_of_a_failure_loses_and_doubles_nothing(flushed: RedisServer):
    """Between any two calls, and between a call's effect and its answer."""
    step, survived = 0, False
    with Nursery(flushed.url, failing) as nursery, Grid(flushed.url, namespace="test") as grid:
        while not survived:
            step += 1
            flushed.command("FLUSHALL")
            store = grid.events("orders", Order)
            store.append("a", [Placed(kwh=n + 1) for n in range(4)])
            survived = nursery.survives(step)
            pass_time(grid.client, [events("test", "orders")])
            group = store.group("billing")
            group.consume(refuse_the_second, policy=BEHIND, on_error=lambda _: None, idle_stop=0.05)
            letters = list(group.dead_letters())
            assert [letter.position for letter in letters] == [2], f"killed at step {step}"
            # A process that died in the middle of it used up an attempt, and no more than that.
            assert 2 <= letters[0].attempts <= 4, f"killed at step {step}"
            pending = grid.client.xpending("{test:events:orders}:log", "billing")["pending"]
            left = [f"{{test:events:orders}}:{name}:billing" for name in ("retry", "failed", "waiting")]
            assert (pending, grid.client.exists(*left)) == (0, 0), f"killed at step {step}"
    assert step > 20


STREAMS = ("anna", "bert")
EACH = 3
PARTITIONS = {"queue": 1, "ordered": 2}


class Noting:
    """A handler that notes at the server what it has handled; its process may die before and behind that."""

    def __init__(self, io: Dying | AsyncDying, notes: redis.Redis) -> None:
        self.io = io
        self.notes = notes

    def handle(self, recorded: Any) -> None:
        self.io.step()
        self.notes.rpush("notes", f"child {recorded.stream} {recorded.version}")
        self.io.step()

    async def handle_async(self, recorded: Any) -> None:
        self.io.step()
        await asyncio.sleep(0)
        self.handle(recorded)


def _succeed(fate: Fate, way: str) -> None:
    io = fate.sync()
    store: EventStore[Order] = EventStore(io, "test", "orders", Order, partitions=PARTITIONS[way])
    store.group("billing", ordered=way == "ordered").consume(Noting(io, fate.client()).handle, idle_stop=0)


def _succeed_async(fate: Fate, way: str) -> None:
    async def main() -> None:
        io = fate.asyncio()
        store: AsyncEventStore[Order] = AsyncEventStore(io, "test", "orders", Order, partitions=PARTITIONS[way])
        group = store.group("billing", ordered=way == "ordered")
        await group.consume(Noting(io, fate.client()).handle_async, idle_stop=0, concurrency=2)
        await io.close()

    asyncio.run(main())


def queue_sync(fate: Fate) -> None:
    _succeed(fate, "queue")


def queue_asyncio(fate: Fate) -> None:
    _succeed_async(fate, "queue")


def ordered_sync(fate: Fate) -> None:
    _succeed(fate, "ordered")


def ordered_asyncio(fate: Fate) -> None:
    _succeed_async(fate, "ordered")


def settled(raw: redis.Redis, logs: list[str]) -> set[tuple[str, int]]:
    """Return stream and version of what the group has had and is not pending."""
    found = set()
    for log in logs:
        for info in raw.xinfo_groups(log) if raw.exists(log) else ():
            pending = {row["message_id"] for row in raw.xpending_range(log, "billing", "-", "+", 100)}
            for entry_id, fields in raw.xrange(log, "-", info["last-delivered-id"]):
                if entry_id not in pending:
                    found.add((fields[b"s"].decode(), int(fields[b"v"])))
    return found


def pass_time(raw: redis.Redis, partitions: list[Any]) -> None:
    """Let an hour pass for everything that only time takes from the dead; nobody's patience decides about a test."""
    for keys in partitions:
        known = raw.exists(keys.log) and raw.xinfo_groups(keys.log)
        for row in raw.xpending_range(keys.log, "billing", "-", "+", 100) if known else ():
            consumer, entry_id = row["consumer"], row["message_id"]
            raw.xclaim(keys.log, "billing", consumer, 0, [entry_id], idle=3_600_000, justid=True)
        if raw.hexists(keys.lease("billing"), "t"):
            raw.hset(keys.lease("billing"), "t", "1")
    raw.delete(partitions[0].members("billing"))


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("work", [queue_sync, queue_asyncio, ordered_sync, ordered_asyncio])
def test_a_consumer_killed_at_any_step_of_its_success_loses_nothing_and_repeats_what_was_not_acknowledged(
    flushed: RedisServer, work: Callable[[Fate], None]
):
    """Between receiving, the handler and the acknowledgement, with more than one event taken ahead."""
    way = work.__name__.partition("_")[0]
    count, ordered = PARTITIONS[way], way == "ordered"
    partitions = list(event_partitions("test", "orders", count)) if count > 1 else [events("test", "orders")]
    everything = {(stream, n + 1) for stream in STREAMS for n in range(EACH)}
    step, survived = 0, False
    with Nursery(flushed.url, work) as nursery, Grid(flushed.url, namespace="test") as grid:
        raw = grid.client
        while not survived:
            step += 1
            flushed.command("FLUSHALL")
            store = grid.events("orders", Order, partitions=count)
            for n in range(EACH):
                for stream in STREAMS:
                    store.append(stream, Placed(kwh=n + 1))
            survived = nursery.survives(step)
            told = {(s, int(v)) for _, s, v in (note.decode().split() for note in raw.lrange("notes", 0, -1))}
            done = settled(raw, [keys.log for keys in partitions])
            assert done <= told, f"acknowledged and not handled, killed at step {step}"
            pass_time(raw, partitions)
            again: list[tuple[str, int]] = []

            def note(recorded: Any, again: list[tuple[str, int]] = again) -> None:
                again.append((recorded.stream, recorded.version))
                raw.rpush("notes", f"parent {recorded.stream} {recorded.version}")

            store.group("billing", ordered=ordered).consume(note, idle_stop=0)
            assert sorted(again) == sorted(everything - done), f"killed at step {step}"
            if ordered:
                check_order(raw.lrange("notes", 0, -1))
            pending = [raw.xpending(keys.log, "billing")["pending"] for keys in partitions]
            assert not any(pending), f"killed at step {step}"
        raw.delete("notes")
    assert step > 20
