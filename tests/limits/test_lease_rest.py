"""What goes back of a lease, and when: beside other leases, late, and after a fork."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid
from gridsync._io import load, run_sync
from gridsync._io.keys import limit
from gridsync.limits._core import Windows
from tests.limits.conftest import PlainIO, ask
from tests.limits.test_leased import comes_to, used
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from gridsync.testing.servers import RedisServer

SECOND = 1_000_000
START = 10_000 * SECOND
KEY = limit("t", "w", "k")
_LEASE, _GIVE_BACK = load("gridsync.limits", "lease"), load("gridsync.limits", "give_back")


class Client:
    """Leases by hand, on the test's clock."""

    def __init__(self, io: PlainIO, rules: Sequence[tuple[int, int]]) -> None:
        self.io, self.windows = io, Windows(io, "t", "w", rules)
        self.longest = str(max(window for _, window in rules))
        self.rules = [str(number) for rule in rules for number in rule]

    def lease(self, name: str, permits: int, ttl: int) -> int:
        args = (name, "0", str(permits), str(permits), str(ttl), str(self.windows.tick_us), self.longest, *self.rules)
        granted: int = run_sync(self.io.run(_LEASE, (KEY,), args))[0]
        return granted

    def give_back(self, name: str, used: int, granted: int) -> int:
        args = (name, str(used), str(granted), self.longest)
        given: int = run_sync(self.io.run(_GIVE_BACK, (KEY,), args))
        return given

    def hit(self) -> bool:
        return ask(self.windows.hit("k", 1)).retry_us == 0

    def left(self) -> int:
        return ask(self.windows.peek("k", 1)).remaining


def test_what_goes_back_behind_another_lease_leaves_the_window_where_it_is(io: PlainIO) -> None:
    """Else whoever comes next would be judged by a window that lies ahead, and find what is used now forgotten."""
    client = Client(io, [(10, 10 * SECOND)])
    for step in range(8):
        io.set_clock(START + step)
        assert client.hit()
    io.set_clock(START + 9_600_000)
    assert client.lease("Laaaa00001", 1, SECOND // 2) == 1
    io.set_clock(START + 9_700_000)
    assert client.lease("Lbbbb00001", 1, SECOND // 2) == 1
    assert client.give_back("Lbbbb00001", 0, 1) == 1
    assert client.left() == 1
    assert client.hit()
    assert client.left() == 0
    assert not client.hit()
    assert client.give_back("Lbbbb00001", 0, 1) == 0


def test_a_lease_that_leaves_its_window_in_this_microsecond_is_not_given_back(io: PlainIO) -> None:
    clients = Client(io, [(10, 10 * SECOND)])
    io.set_clock(START)
    assert clients.lease("Laaaa00001", 2, SECOND) == 2
    assert clients.lease("Lbbbb00001", 2, SECOND) == 2
    io.set_clock(START + 11 * SECOND)
    assert clients.give_back("Laaaa00001", 0, 2) == 0
    assert clients.give_back("Lbbbb00001", 0, 2) == 2


def test_no_other_lease_is_given_back(io: PlainIO, client: redis.Redis) -> None:
    """Neither one that came later nor an older one, though they be of the same size."""
    clients = Client(io, [(10, 10 * SECOND)])
    names = ["Laaaa00001", "Lbbbb00001", "Laaaa00002"]
    for step, name in enumerate(names):
        io.set_clock(START + step)
        assert clients.lease(name, 2, SECOND) == 2
    assert clients.give_back(names[1], 1, 2) == 1
    assert clients.give_back("Lcccc00001", 0, 2) == 0
    assert clients.give_back("Laaaa00002", 0, 5) == 0, "nor more than was granted"
    assert client.zrange(KEY, 0, -1) == ["2:Laaaa00001", "3:Albbbb00001", "5:Laaaa00002"]
    assert clients.left() == 5
    assert clients.give_back(names[2], 0, 2) == 2
    assert client.zrange(KEY, 0, -1) == ["2:Laaaa00001", "3:Albbbb00001"], "what costs nothing leaves nothing behind"


@pytest.mark.parametrize("granted", [4, 0], ids=["granted", "nobody heard what was granted"])
def test_a_lease_that_goes_back_late_takes_nothing_of_others_with_it(io: PlainIO, granted: int) -> None:
    """A process that was stopped gives back when it goes on; by then older hits may have been merged into its entry."""
    rules = [(10, SECOND), (1000, 3600 * SECOND)]
    client = Client(io, rules)
    stretch = 90 * SECOND
    end = (START // stretch + 2) * stretch
    for step in range(5):
        io.set_clock(end - 70_000 + step)
        assert client.hit()
    assert client.lease("Laaaa00001", 4, 50_000) == 4
    for later in (SECOND, 4 * SECOND):
        io.set_clock(end + later)
        assert client.hit()
    io.set_clock(end + 6 * SECOND)
    assert client.give_back("Laaaa00001", 0, granted) == granted
    whole = Windows(io, "t", "w", [(1000, 3600 * SECOND)])
    assert ask(whole.peek("k", 1)).remaining == 1000 - 5 - 2 - (4 - granted)


async def test_a_batch_that_comes_too_late_is_not_used(flushed: RedisServer) -> None:
    """What the server counts until its time has passed must not be used after that; the hit is counted by itself."""
    async with AsyncGrid(flushed.url) as grid:
        limiter = grid.limiter("calls", "1000/hour")
        permits = limiter.leased("k", ttl=0.05)
        assert await used(limiter, 1000) == 0
        flushed.pause()
        asking = asyncio.create_task(permits.hit())
        await soon(lambda: bool(permits._leasing.permits.gate))
        late = grid._io.monotonic() + 0.05
        await soon(lambda: grid._io.monotonic() > late)
        flushed.resume()
        assert (await asking).source == "server"
        await comes_to(limiter, 1000, 1)
        await permits.close()


async def test_a_batch_that_comes_after_it_was_closed_goes_back(flushed: RedisServer) -> None:
    async with AsyncGrid(flushed.url) as grid:
        limiter = grid.limiter("calls", "1000/hour")
        permits = limiter.leased("k", ttl=1800)
        admitted = 0
        while admitted < 20 or permits._leasing.permits._left:
            admitted += bool(await permits.hit())
        flushed.pause()
        asking = asyncio.create_task(permits.hit())
        await soon(lambda: bool(permits._leasing.permits.gate))
        await permits.close()
        flushed.resume()
        assert await asking
        assert await used(limiter, 1000) == admitted + 1


def test_the_leases_of_a_child_are_not_called_as_its_parents_are(flushed: RedisServer) -> None:
    """Else what one gives back would be what the other uses."""
    with Grid(flushed.url) as grid:
        limiter = grid.limiter("calls", "1000/hour")
        permits = limiter.leased("k", batch=100)
        permits.hit()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            named = _names(permits, 3)
            os.write(writer, " ".join(named).encode())
            os._exit(0)
        os.close(writer)
        named = _names(permits, 3)
        with os.fdopen(reader) as answer:
            childs = answer.read().split()
        os.waitpid(child, 0)
        assert len({name[:5] for name in childs}) == 1
        assert {name[:5] for name in childs}.isdisjoint(name[:5] for name in named)
        permits.close()


def _names(permits: Any, count: int) -> list[str]:  # noqa: ANN401 - of either world
    return [permits._leasing._name() for _ in range(count)]
