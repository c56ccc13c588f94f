"""A chain of two groups is killed before and after each of its calls: what comes of each event comes of it once."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from tests.streams.models import Cancelled, Order, Placed

if TYPE_CHECKING:
    from gridsync.streams import Delivery, EventStore
    from gridsync.testing.servers import RedisServer

CHILD = """
import os, signal, sys
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.streams import EventStore
from tests.faults.test_commit_crash import chain
from tests.streams.models import Order

class Dying(SyncIO):
    calls = last = 0

    def step(self):
        self.calls += 1
        if self.calls == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    async def run(self, *args, **options):
        self.step()
        reply = await super().run(*args, **options)
        self.step()
        return reply

    async def block(self, *args, **options):
        self.step()
        reply = await super().block(*args, **options)
        self.step()
        return reply

for line in sys.stdin:
    Dying.last = int(line)
    pid = os.fork()
    if pid == 0:
        io = Dying(parse(sys.argv[1], connect_timeout=1.0), pool_size=2, timeout=3.0)
        chain(EventStore(io, "test", "orders", Order), EventStore(io, "test", "bills", Order))
        os._exit(0)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


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


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_chain_killed_at_any_step_has_each_effect_once(flushed: RedisServer):
    """Between any two calls, and between a call's effect and its answer."""
    words = [sys.executable, "-c", CHILD, flushed.url]
    step, survived = 0, False
    with (
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery,
        Grid(flushed.url, namespace="test") as grid,
    ):
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        while not survived:
            step += 1
            flushed.command("FLUSHALL")
            store, bills = grid.events("orders", Order), grid.events("bills", Order)
            store.append("a", [Placed(kwh=1), Placed(kwh=2)])
            print(step, file=nursery.stdin, flush=True)
            survived = nursery.stdout.readline().strip() == "0"
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
        nursery.stdin.close()
    assert step > 30
