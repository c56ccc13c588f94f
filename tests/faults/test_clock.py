"""Clocks that are set, the server's and this machine's: they decide nothing that they should not."""

from __future__ import annotations

import asyncio
import subprocess
import time
from dataclasses import replace
from operator import ge
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gridsync.errors import LeaseLost
from gridsync.testing.servers import RedisServer, ServerKind, server_kinds
from tests.faults.traffic import Traffic
from tests.locks.ways import made
from tests.wire.fake import soon
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.recorder import Recorder

HOUR_S = 3600
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


class ClockedServer(RedisServer):
    """A server whose wall clock can be set while it runs; its monotonic one goes on as it is."""

    def __init__(self, kind: ServerKind, library: Path, *, durable: bool = True) -> None:
        super().__init__(kind, options=DURABLE if durable else None)
        self._offset = self.directory / "offset"
        self.set_clock(0)
        program = self.directory / "server"
        program.write_text(
            f"#!/bin/sh\nexport LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={self._offset} FAKETIME_NO_CACHE=1 "
            f'FAKETIME_DONT_FAKE_MONOTONIC=1\nexec {kind.path} "$@"\n'
        )
        program.chmod(0o700)
        self.kind = replace(kind, path=str(program))

    def set_clock(self, offset_s: int) -> None:
        """Let it be *offset_s* seconds ahead of true time."""
        written = self._offset.with_suffix(".new")
        written.write_text(f"{offset_s:+d}\n")
        written.replace(self._offset)

    def time(self) -> int:
        """Return its time, in seconds."""
        return int(self.command("TIME")[0])


def links_to(kind: ServerKind, library: str) -> bool:
    return library in subprocess.run(["/usr/bin/ldd", kind.path], capture_output=True, text=True, check=False).stdout


@pytest.fixture
def server() -> Iterator[ClockedServer]:
    if not LIBRARIES:
        pytest.skip("the server's clock cannot be set: libfaketime is missing (Debian: apt install faketime)")
    # jemalloc asks for the time before libfaketime is ready for the question.
    kinds = [kind for kind in server_kinds() if not links_to(kind, "jemalloc")]
    if not kinds:
        pytest.skip("the server's clock cannot be set: every server found is linked to jemalloc")
    with ClockedServer(kinds[0], LIBRARIES[0]) as running:
        yield running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    made: str = request.param
    return made


def test_the_clock_of_the_server_can_be_set(server: ClockedServer):
    """Otherwise the tests below would show nothing."""
    for offset in (HOUR_S, -HOUR_S, 0):
        server.set_clock(offset)
        assert abs(server.time() - time.time() - offset) < 60


async def test_a_server_whose_clock_is_set_back_and_forth_keeps_every_promise_but_the_length_of_a_lease(
    server: ClockedServer, kind: str, recorder: Recorder
):
    """Set forward by an hour it ends every lease; the fences tell the old holders from the new ones."""
    world = World(kind, server.url)
    async with Traffic(world, recorder, server.url) as traffic:
        for offset in (HOUR_S, 0, -HOUR_S, 0):
            server.set_clock(offset)
            await traffic.flows(2)
    await traffic.judge(server, exclusive=False)
    await world.close()


async def test_a_holder_learns_that_the_server_ended_its_lease_by_a_leap_forward(server: ClockedServer, kind: str):
    world = World(kind, server.url)
    old = await world.do(world.lock(world.io(), ttl=1.0).acquire)
    server.set_clock(HOUR_S)
    new = await world.do(world.lock(world.io(), ttl=60).acquire, timeout=20)
    assert new.fence > old.fence + (HOUR_S - 60) * 1_000_000
    await soon(old.lost.is_set)
    with pytest.raises(LeaseLost):
        old.check()
    server.set_clock(0)
    assert await world.do(new.release) is True
    last = await world.do(world.lock(world.io(), ttl=60).acquire, timeout=20)
    assert last.fence > new.fence
    assert await world.do(last.release) is True
    await world.close()


async def test_a_lease_that_lives_across_a_clock_set_back_is_renewed_and_handed_on(server: ClockedServer, kind: str):
    """Nobody waits an hour: the holder gives it back, and the next one in line gets it."""
    world = World(kind, server.url)
    held = await world.do(world.lock(world.io(), ttl=1.0).acquire)
    server.set_clock(-HOUR_S)
    waiting = world.start(world.lock(world.io(), ttl=60).acquire, timeout=60)
    held.check()
    assert await world.do(held.release) is True
    lease = await world.ended(waiting)
    assert lease.fence > held.fence
    assert await world.do(lease.release) is True
    await world.close()


async def test_what_writers_send_through_a_gate_stays_in_order_while_the_server_s_clock_is_set_by_hours(
    server: ClockedServer,
):
    """Writers of one book, each under a fence of its own: none is held up, and no earlier one writes after a later."""
    world, key, over, rounds = World("asyncio", server.url), "{book}:log", False, [0, 0, 0]

    async def write(number: int) -> None:
        io = world.io()
        side, gate = made("asyncio", io, "write lock", ttl=1.0), world.locks("FenceGate", io, key)
        while not over:
            try:
                async with side as lease:
                    await gate.write(lease, ("RPUSH", key, f"{lease.fence:016} {lease.owner}"))
            except LeaseLost:
                continue  # the clock ended it, or a later one wrote
            rounds[number] += 1

    writers = [asyncio.create_task(write(number)) for number in range(3)]
    for offset in (HOUR_S, 0, -HOUR_S, HOUR_S, 0):
        server.set_clock(offset)
        goal = [done + 2 for done in rounds]
        await soon(lambda goal=goal: all(map(ge, rounds, goal)), 60)  # type: ignore[misc]
    over = True
    await asyncio.gather(*writers)
    log = server.command("LRANGE", key, 0, -1)
    assert len(log) >= 2 * 3 * 5
    assert log == sorted(log)
    assert len(set(log)) == len(log)
    server.command("DEL", key)
    await world.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_clock_of_this_machine_decides_nothing(
    kind: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
):
    """NTP, a person or a virtual machine sets it by hours, all the time."""
    true, looks = time.time, 0

    def leaping() -> float:
        nonlocal looks
        looks += 1
        return true() + (HOUR_S if looks % 2 else -HOUR_S)

    monkeypatch.setattr(time, "time", leaping)
    with RedisServer(options=DURABLE) as server:
        world = World(kind, server.url)
        async with Traffic(world, recorder, server.url) as traffic:
            await traffic.flows(5)
            assert traffic.unsure == traffic.refused == 0
        await traffic.judge(server)
        await world.close()
