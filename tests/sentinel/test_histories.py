"""Partitions, views and decisions while another server becomes the primary, which lacks the last events."""

from __future__ import annotations

# ruff: noqa: ANN401 - either kind of everything
import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Diverged
from tests.sentinel.conftest import caught_up, follow
from tests.sentinel.helpers import KINDS, FakeSentinel, Traded, do, opened
from tests.wire.fake import soon

if TYPE_CHECKING:
    from tests.sentinel.conftest import Pair

pytestmark = pytest.mark.parametrize("kind", KINDS)
LIMIT_S = 60.0
KEPT, LOST = "bert", "anna"
"""Two streams in two partitions: in the second one events are lost."""


async def split(pair: Pair) -> None:
    """Let the second server know what the first one knows, and nothing that comes."""
    old, new = pair
    follow(new, old)
    await soon(lambda: caught_up(old, new), LIMIT_S)
    new.command("REPLICAOF", "NO", "ONE")


def fail_over(pair: Pair, sentinel: FakeSentinel) -> None:
    """Make the second server the primary of both."""
    old, new = pair
    old.command("REPLICAOF", new.host, str(new.port))
    sentinel.announce(new)


async def test_a_view_is_told_which_partition_has_lost_events_and_goes_on_from_what_is_there(kind: str, pair: Pair):
    """Its runner has counted what the new primary lacks; the view there has not, for it came with its checkpoint."""
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            store = grid.events("orders", Traded, partitions=2)
            assert [store.partition_of(stream) for stream in (KEPT, LOST)] == [0, 1]
            view, seen = store.projection("totals"), list[int]()

            def count(changes: Any, recorded: Any) -> None:
                seen.append(recorded.event.kwh)
                changes.add("kwh", recorded.event.kwh)

            for stream in (KEPT, LOST):
                await do(store.append, stream, Traded(kwh=1))
            running = asyncio.create_task(do(view.run, count))
            await soon(lambda: seen == [1, 1], LIMIT_S)
            await split(pair)
            await do(store.append, LOST, Traded(kwh=100))
            await soon(lambda: 100 in seen, LIMIT_S)
            fail_over(pair, sentinel)
            await do(store.append, KEPT, Traded(kwh=7))
            await do(store.append, LOST, [Traded(kwh=8), Traded(kwh=9)])
            with pytest.raises(Diverged) as caught:
                await asyncio.wait_for(running, LIMIT_S)
            assert caught.value.name == "the log of partition 1 of 'orders'"
            await do(store.projection("totals").run, count, once=True)
            assert await do(store.projection("totals").total, "kwh") == 26


async def test_an_ordered_group_over_partitions_is_told_of_the_loss_and_skips_nothing(kind: str, pair: Pair):
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            store, handled, told = grid.events("orders", Traded, partitions=2), list[tuple[str, int]](), list[Any]()
            group = store.group("billing", ordered=True)

            def handle(recorded: Any) -> None:
                handled.append((recorded.stream, recorded.event.kwh))

            for stream in (KEPT, LOST):
                await do(store.append, stream, Traded(kwh=1))
            consuming = asyncio.create_task(do(group.consume, handle, on_error=told.append, claim_idle=1.0))
            await soon(lambda: len(handled) == 2, LIMIT_S)
            await split(pair)
            await do(store.append, LOST, Traded(kwh=100))
            await soon(lambda: (LOST, 100) in handled, LIMIT_S)
            fail_over(pair, sentinel)
            await do(store.append, KEPT, Traded(kwh=7))
            await do(store.append, LOST, [Traded(kwh=8), Traded(kwh=9)])
            wanted = {(KEPT, 7), (LOST, 8), (LOST, 9)}
            await soon(lambda: wanted <= set(handled) and told, LIMIT_S)
            group.stop()
            await asyncio.wait_for(consuming, LIMIT_S)
    assert {(type(each.error), each.decided, each.partition, each.position) for each in told} == {
        (Diverged, "diverged", 1, 2)
    }
    begun = [kwh for stream, kwh in handled if stream == LOST]
    assert list(dict.fromkeys(begun)) == [1, 100, 8, 9]


async def test_a_decision_made_on_events_that_were_lost_is_not_appended(kind: str, pair: Pair):
    """The stream stands where it stood before them; appended there, the decision would rest on nothing."""
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            store = grid.events("orders", Traded, partitions=2)
            await do(store.append, KEPT, Traded(kwh=1))
            await split(pair)
            await do(store.append, KEPT, Traded(kwh=100))
            totals, decided = store.aggregate(0, lambda total, event: total + event.kwh), list[int]()

            def decide(total: int) -> Traded:
                if not decided:
                    fail_over(pair, sentinel)
                decided.append(total)
                return Traded(kwh=-total)

            with pytest.raises(Diverged):
                await do(totals.execute, KEPT, decide)
            assert decided == [101]
            assert (await do(totals.execute, KEPT, decide)).version == 2
            assert (await do(totals.load, KEPT)).state == 0
