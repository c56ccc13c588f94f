"""A chain of two groups is killed before and after each of its calls: what comes of each event comes of it once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from gridsync.streams import EventStore
from tests.faults.dying import Nursery
from tests.streams.models import Cancelled, Order, Placed

if TYPE_CHECKING:
    from gridsync.streams import Delivery
    from gridsync.testing.servers import RedisServer
    from tests.faults.dying import Fate


def answer(delivery: Delivery[Order]) -> None:
    """Answer each order once, and count it in two ways."""
    if isinstance(delivery.event, Placed):
        seen = delivery.state("seen", int, 0)
        with delivery.commit() as tx:
            tx.append("answers", Cancelled(reason=str(delivery.position)))
            tx.state("seen", seen + 1)
            tx.add("orders", 1)


def chain(store: EventStore[Order], bills: EventStore[Order]) -> None:
    """Run both groups and the relay until nothing is left."""
    outbox = store.outbox(bills)

    def note(delivery: Delivery[Order]) -> None:
        """Count each answer, and send it to the other store."""
        if isinstance(delivery.event, Cancelled):
            with delivery.commit() as tx:
                tx.add("answers", 1)
                tx.send(outbox, "bills", delivery.event)

    for group, handler in (("answering", answer), ("noting", note)):
        store.group(group).consume(handler, idle_stop=0.05, claim_idle=0.1)
    outbox.relay(once=True)


def dying(fate: Fate) -> None:
    """Run it in a process that dies."""
    io = fate.sync()
    chain(EventStore(io, "test", "orders", Order), EventStore(io, "test", "bills", Order))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_chain_killed_at_any_step_has_each_effect_once(flushed: RedisServer):
    """Between any two calls, and between a call's effect and its answer."""
    step, survived = 0, False
    with Nursery(flushed.url, dying) as nursery, Grid(flushed.url, namespace="test") as grid:
        while not survived:
            step += 1
            flushed.command("FLUSHALL")
            store, bills = grid.events("orders", Order), grid.events("bills", Order)
            store.append("a", [Placed(kwh=1), Placed(kwh=2)])
            survived = nursery.survives(step)
            key, groups = "{test:events:orders}:", ("answering", "noting")
            chain(store, bills)
            deadline = time.monotonic() + 60
            while any(grid.client.xpending(f"{key}log", group)["pending"] for group in groups):
                assert time.monotonic() < deadline, f"pending for ever, killed at step {step}"
                chain(store, bills)
            answers = sorted(recorded.event.reason for recorded in store.read("answers"))
            assert answers == ["1", "2"], f"killed at step {step}"
            billed = sorted(recorded.event.reason for recorded in bills.read_all())
            assert (billed, store.outbox(bills).count()) == (answers, 0), f"killed at step {step}"
            counted = [grid.client.hgetall(f"{key}state:{group}") for group in groups]
            assert counted == [{b"seen": b"2", b"orders": b"2"}, {b"answers": b"2"}], f"killed at step {step}"
    assert step > 30
