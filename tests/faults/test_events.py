"""Events through restarts of the server, and consumers that are killed or stand still."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid, Settings
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.streams import ANY, Write
from gridsync.streams._core import RECENT
from gridsync.testing.servers import RedisServer
from tests.streams.models import Order, Placed
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.streams import AsyncEventStore

WRITERS = 8
PATIENCE_S = 60.0
MILLION_S = 600.0
BEHIND_S = 3.0
"""With everysec the server holds writes back while the disk is busy: until its clock, read in whole seconds, has
moved on by two."""
KWH = Placed(kwh=1.0)

OWNER = """
import sys
from gridsync import Grid
from tests.streams.models import Order

def handle(recorded):
    print("begun", recorded.position, flush=True)
    sys.stdin.readline()

with Grid(sys.argv[1], namespace="test", audit=False) as grid:
    group = grid.events("orders", Order).group("billing")
    done = group.consume(handle, claim_idle=30.0, idle_stop=0)
    print("stolen", done.stolen, "handled", done.handled, flush=True)
"""


def test_an_owner_that_stood_still_past_its_claim_time_settles_nothing(server: RedisServer):
    """SIGSTOP, as a suspended machine: another consumer has its event, and the late acknowledgement does nothing."""
    with Grid(server.url, namespace="test", audit=False) as grid:
        store = grid.events("orders", Order)
        store.append("a", KWH)
        log = "{test:events:orders}:log"
        begun, gate, done = threading.Event(), threading.Event(), []

        def handle(_recorded: object) -> None:
            begun.set()
            assert gate.wait(PATIENCE_S)

        group = store.group("billing")

        def take_over() -> None:
            done.append(group.consume(handle, claim_idle=2.0))

        words = [sys.executable, "-c", OWNER, server.url]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            assert owner.stdin is not None
            try:
                assert owner.stdout.readline() == "begun 1\n"
                owner.send_signal(signal.SIGSTOP)
                other = threading.Thread(target=take_over)
                other.start()
                assert begun.wait(PATIENCE_S)
                owner.send_signal(signal.SIGCONT)
                owner.stdin.write("go on\n")
                owner.stdin.flush()
                assert owner.stdout.readline() == "stolen 1 handled 0\n"
                # It has ended, and the event is still the other's.
                (pending,) = grid.client.xpending_range(log, "billing", "-", "+", 5)
                assert pending["times_delivered"] == 2
            finally:
                gate.set()
                group.stop()
                owner.kill()
        other.join(PATIENCE_S)
        assert (done[0].handled, done[0].stolen) == (1, 0)
        assert grid.client.xpending(log, "billing")["pending"] == 0


class Writers:
    """Tasks that append in commits, each with ids of its own, and remember what was acknowledged.

    Args:
        store: Where to.
        total: How many events at least.
        known: Whether they say at which versions, which nobody but they can change: then a repeat is recognised
            however late it comes.  Else it is among the newest ``RECENT``, and the other writers may be fast.
    """

    def __init__(self, store: AsyncEventStore[Any], total: int, *, known: bool) -> None:
        self._store, self._total, self._known = store, total, known
        self.acknowledged: dict[str, float] = {}
        """Event id → when the answer came."""
        self.sent: set[str] = set()

    async def run(self) -> None:
        await asyncio.gather(*(self._write(n) for n in range(WRITERS)))

    async def _write(self, writer: int) -> None:
        number, written = 0, Counter[str]()
        while len(self.sent) < self._total:
            number += 1
            size = 10 + (number * 7 + writer) % 91
            ids = [f"{writer}.{number}.{k}" for k in range(size)]
            self.sent.update(ids)
            shares = (
                {f"s{writer}": ids} if number % 5 else {f"s{writer}": ids[: size // 2], f"t{writer}": ids[size // 2 :]}
            )
            parts = [
                Write(name, [KWH] * len(each), event_ids=each, expected_version=written[name] if self._known else ANY)
                for name, each in shares.items()
            ]
            await self._until_told(partial(self._send, parts))
            written.update({name: len(each) for name, each in shares.items()})
            self.acknowledged.update(dict.fromkeys(ids, time.monotonic()))

    async def _send(self, parts: list[Write[Any]]) -> None:
        if len(parts) > 1:
            await self._store.commit(parts)
            return
        (one,) = parts
        await self._store.append(one.stream, one.events, event_ids=one.event_ids, expected_version=one.expected_version)

    @staticmethod
    async def _until_told(send: Callable[[], Any]) -> None:
        while True:
            try:
                await send()
            except (OutcomeUnknown, Unavailable):
                # The same ids again, until it is known; a server that is away says so at once.
                await asyncio.sleep(0.02)
            else:
                return


async def through_a_restart(
    total: int, fsync: str, restart: Callable[[RedisServer], None], patience_s: float
) -> list[float]:
    """Append *total* events and consume them while the server restarts; returns how old what it lost was, in s."""
    with RedisServer(options={"appendonly": "yes", "appendfsync": fsync}) as server:
        settings = Settings(redis_url=server.url, redis_command_timeout=30.0)
        async with AsyncGrid(settings=settings, namespace="test", audit=False) as grid:
            store = grid.events("orders", Order)
            # Where acknowledged events may be lost, so is the version after them.
            known = (fsync, restart) != ("everysec", killed)
            writers = Writers(store, total, known=known)
            group, handled = store.group("billing"), Counter[str]()
            consuming = asyncio.create_task(
                group.consume(lambda e: handled.update((e.id,)), batch=1000, on_error=lambda _: None)
            )
            writing = asyncio.create_task(writers.run())
            try:
                await soon(lambda: len(writers.acknowledged) > total / 2 or writing.done(), patience_s)
                at = time.monotonic()
                await asyncio.to_thread(restart, server)
                await asyncio.wait_for(writing, patience_s)
                positions, there = 0, dict[str, int]()
                async for recorded in store.read_all():
                    positions += 1
                    assert recorded.position == positions
                    before = there.setdefault(recorded.id, positions)
                    assert before == positions or (not known and positions - before > RECENT), "written twice"
                assert there.keys() <= writers.sent
                await soon(lambda: there.keys() <= handled.keys() or consuming.done(), patience_s)
                group.stop()
                done = await asyncio.wait_for(consuming, patience_s)
                assert there.keys() <= handled.keys(), "an event was passed over"
                assert done.dead == 0
            finally:
                for task in (writing, consuming):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
            return [at - then for event_id, then in writers.acknowledged.items() if event_id not in there]


def killed(server: RedisServer) -> None:
    server.kill()
    server.start()


def restarted(server: RedisServer) -> None:
    server.stop()
    server.start()


MODES = [
    pytest.param("always", killed, id="always-killed"),
    pytest.param("everysec", killed, id="everysec-killed"),
    pytest.param("everysec", restarted, id="everysec-restarted"),
]


@pytest.mark.parametrize(("fsync", "restart"), MODES[:1])
async def test_events_come_through_a_restart_of_the_server(fsync: str, restart: Callable[[RedisServer], None]):
    """What was acknowledged is there, once and without a gap, and the group gets each."""
    assert not await through_a_restart(5_000, fsync, restart, PATIENCE_S)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("fsync", "restart"), MODES)
async def test_a_million_events_come_through_a_restart_of_the_server(
    fsync: str, restart: Callable[[RedisServer], None]
):
    """With everysec a kill may cost what the server had not written yet, and nothing older."""
    lost = await through_a_restart(1_000_000, fsync, restart, MILLION_S)
    assert not lost or (fsync == "everysec" and restart is killed and max(lost) < BEHIND_S)
