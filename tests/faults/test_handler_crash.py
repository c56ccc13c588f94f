"""A consumer whose handlers fail is killed before and after each of its calls: nothing is lost or doubled."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from gridsync.streams import Park
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer

CHILD = """
import os, signal, sys
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.streams import EventStore, Park
from tests.streams.models import Order

class Dying(SyncIO):
    calls = 0

    def step(self):
        self.calls += 1
        if self.calls == int(sys.argv[2]):
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

store = EventStore(Dying(parse(sys.argv[1], connect_timeout=1.0), pool_size=2, timeout=3.0), "test", "orders", Order)

def handle(recorded):
    if recorded.position == 2:
        raise ValueError("never")

policy = Park(max_attempts=3, first_s=0.001, max_s=0.001)
store.group("billing").consume(handle, policy=policy, on_error=lambda _: None, idle_stop=0.05, claim_idle=0.1)
"""


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_consumer_killed_at_any_step_of_a_failure_loses_and_doubles_nothing(flushed: RedisServer):
    """Between any two calls, and between a call's effect and its answer."""
    step, survived = 0, False
    while not survived:
        step += 1
        flushed.command("FLUSHALL")
        with Grid(flushed.url, namespace="test") as grid:
            store = grid.events("orders", Order)
            store.append("a", [Placed(kwh=n + 1) for n in range(4)])
            words = [sys.executable, "-c", CHILD, flushed.url, str(step)]
            survived = subprocess.run(words, check=False, timeout=60).returncode == 0
            handled: list[int] = []

            def handle(recorded: object, handled: list[int] = handled) -> None:
                position = recorded.position  # type: ignore[attr-defined]
                handled.append(position)
                if position == 2:
                    raise ValueError("never")

            group = store.group("billing")
            policy = Park(max_attempts=3, first_s=0.001, max_s=0.001)
            group.consume(handle, policy=policy, on_error=lambda _: None, idle_stop=0.5, claim_idle=0.1)
            letters = list(group.dead_letters())
            assert [letter.position for letter in letters] == [2], f"killed at step {step}: {handled}"
            # A process that died in the middle of it used up an attempt, and no more than that.
            assert 2 <= letters[0].attempts <= 4, f"killed at step {step}"
            pending = grid.client.xpending("{test:events:orders}:log", "billing")["pending"]
            left = [f"{{test:events:orders}}:{name}:billing" for name in ("retry", "failed", "waiting")]
            assert (pending, grid.client.exists(*left)) == (0, 0), f"killed at step {step}"
    assert step > 20
