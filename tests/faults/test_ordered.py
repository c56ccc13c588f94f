"""Members of an ordered group, in processes of their own, are killed and stopped: each stream stays in order."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid
from gridsync._io.keys import event_partitions
from tests.streams.conftest import until
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer

PARTITIONS = 6
STREAMS = [f"meter-{n}" for n in range(15)]
EACH = 40
CHILD = """
import asyncio, sys, time
from redis import Redis
from gridsync import AsyncGrid, Grid
from gridsync._io.keys import event_partitions
from tests.streams.models import Order

url, name, kind = sys.argv[1:]
leases = [keys.lease("billing") for keys in event_partitions("test", "orders", 6)]
written = Redis.from_url(url).register_script('''
  local late = redis.call('HGET', KEYS[2], 'm') ~= ARGV[1] and ' late' or ''
  redis.call('RPUSH', KEYS[1], ARGV[1] .. ' ' .. ARGV[2] .. late)
''')

def note(recorded):
    written(keys=["notes", leases[recorded.partition]], args=[name, f"{recorded.stream} {recorded.version}"])

def handle(recorded):
    note(recorded)
    time.sleep(0.003)

async def handle_async(recorded):
    note(recorded)
    await asyncio.sleep(0.003)

async def main():
    async with AsyncGrid(url, namespace="test") as grid:
        group = grid.events("orders", Order, partitions=6).group("billing", ordered=True)
        await group.consume(handle_async, consumer=name, claim_idle=1.0, concurrency=4, batch=10)

if kind == "asyncio":
    asyncio.run(main())
else:
    with Grid(url, namespace="test") as grid:
        group = grid.events("orders", Order, partitions=6).group("billing", ordered=True)
        group.consume(handle, consumer=name, claim_idle=1.0, batch=10)
"""


def check_order(notes: list[bytes]) -> dict[str, int]:
    """Check that each stream went on by one, or went back to repeat; returns how far each has got.

    Who is stopped between the look at its lease and its note writes it when another has gone on: that one is late, and
    says nothing about the order.  But it is the only one of its stream, for nothing more may begin.
    """
    begun: dict[str, list[int]] = defaultdict(list)
    was_late: dict[tuple[str, str], bool] = {}
    for note in notes:
        name, stream, version, *late = note.decode().split(" ")
        assert not (late and was_late.get((name, stream))), f"{stream}: {name} began {version} after it was late"
        was_late[name, stream] = bool(late)
        if not late:
            begun[stream].append(int(version))
    for stream, versions in begun.items():
        for before, after in itertools.pairwise([0, *versions]):
            assert after <= before + 1, f"{stream}: {after} began after {before}: {versions}"
    return {stream: max(versions) for stream, versions in begun.items()}


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["sync", "asyncio"])
async def test_order_survives_members_that_are_killed_and_stopped(flushed: RedisServer, kind: str):
    """Stopped for longer than its lease, a member wakes up, believes that all is as it was, and begins nothing."""
    leases = [keys.lease("billing") for keys in event_partitions("test", "orders", PARTITIONS)]
    children: dict[str, subprocess.Popen[bytes]] = {}
    with flushed.client() as raw:

        def owners() -> set[Any]:
            return {raw.hget(lease, "m") for lease in leases}

        def start(name: str) -> None:
            words = [sys.executable, "-c", CHILD, flushed.url, name, kind]
            children[name] = subprocess.Popen(words)

        async def feed() -> None:
            async with AsyncGrid(flushed.url, namespace="test") as grid:
                store = grid.events("orders", Order, partitions=PARTITIONS)
                for _ in range(EACH):
                    for stream in STREAMS:
                        await store.append(stream, Placed(kwh=1))

        try:
            for name in "abc":
                start(name)
            await until(lambda: owners() == {b"a", b"b", b"c"}, 60)
            feeding = asyncio.create_task(feed())
            await until(lambda: raw.llen("notes") > 50, 60)
            children["a"].kill()
            await until(lambda: owners() <= {b"b", b"c"}, 60)
            os.kill(children["b"].pid, signal.SIGSTOP)
            await until(lambda: owners() == {b"c"}, 60)
            os.kill(children["b"].pid, signal.SIGCONT)
            await until(lambda: owners() == {b"b", b"c"}, 60)
            await feeding
            await until(lambda: set(check_order(raw.lrange("notes", 0, -1)).values()) == {EACH}, 120)
            assert len(check_order(raw.lrange("notes", 0, -1))) == len(STREAMS)
        finally:
            for child in children.values():
                child.kill()
                child.wait(30)
            raw.delete("notes")
