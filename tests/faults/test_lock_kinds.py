"""Whatever is held, and however: killed, frozen, cut off, forgotten by the server, refused by it.

Each claim is made for every way of holding: the next one gets it, with a larger fence, and the old holder knows.
"""

# ruff: noqa: ANN401 - many kinds of everything

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.keys import wake_channel, wake_prefix
from gridsync.errors import LeaseLost, ServerError
from gridsync.testing.servers import RedisServer
from tests.faults.test_clock import HOUR_S, ClockedServer
from tests.faults.test_clock import server as clocked  # noqa: F401 - a fixture
from tests.locks.holder import WALLET
from tests.locks.ways import FAIR, WAYS, each, fence, held_key, keys, lost, rival, taker
from tests.wire.fake import soon
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gridsync.testing.proxy import FaultProxy

LONG_S = 60.0
"""How long a test waits for what only a bug can prevent."""

PAIRS = [
    # In a quick run each way is taken by one kind of caller: the scripts are the same for both.
    pytest.param(kind, way, id=f"{kind}-{way.replace(' ', '-')}", marks=[pytest.mark.faults] * ((row + column) % 2))
    for row, kind in enumerate(KINDS)
    for column, way in enumerate(WAYS)
]
pytestmark = pytest.mark.parametrize(("kind", "way"), PAIRS)


@pytest.fixture
async def world(kind: str, server: RedisServer) -> AsyncIterator[World]:
    made = World(kind, server.url)
    yield made
    await made.close()


class Other:
    """A process that takes something and does what it is told."""

    def __init__(self, program: str, *arguments: str) -> None:
        command = [sys.executable, "-m", program, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    async def says(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return (await asyncio.to_thread(self.process.stdout.readline)).strip()

    async def do(self, what: str) -> str:
        """Tell it to do something, and return what came of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return await self.says()

    def end(self) -> None:
        """Kill it, whatever state it is in."""
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def other(url: str, way: str, *, ttl: float) -> Iterator[Other]:
    process = Other("tests.locks.holder", url, way, str(ttl))
    try:
        yield process
    finally:
        process.end()


async def waits(world: World, server: RedisServer, way: str, place: int = 1, **options: Any) -> asyncio.Task[Any]:
    """Start to wait for what is held in this *way*, and return when the queue has *place* waiters."""
    turn = world.start(taker(world, rival(way), **options).acquire, timeout=LONG_S)
    await soon(lambda: server.command("ZCARD", keys(way).queue) == place)
    return turn


def holders(server: RedisServer, way: str) -> list[bytes]:
    """Return who holds it, as the server knows."""
    found: list[bytes] = (
        server.command("ZRANGE", held_key(way), 0, -1)
        if hasattr(keys(way), "held")
        else server.command("HMGET", held_key(way), "o")
    )
    return found


async def is_free(server: RedisServer, way: str) -> None:
    """Return when nobody holds it and nobody waits."""
    await soon(lambda: server.command("EXISTS", held_key(way), keys(way).queue) == 0)


# -- processes that die or stand still -------------------------------------------------------------------------------


async def test_a_killed_holder_is_followed_when_its_lease_ends(server: RedisServer, world: World, way: str):
    with other(server.url, way, ttl=1.0) as holder:
        first = int(await holder.says())
        turn = await waits(world, server, way)
        holder.end()
        lease = await world.ended(turn)
    assert fence(lease) > first
    lease.check()
    await world.do(lease.release)
    await is_free(server, way)


async def test_a_killed_head_of_the_queue_is_passed_over(server: RedisServer, world: World, way: str):
    """It has no connection any more, so nothing is handed to it: that would cost the one behind it a claim's time."""
    held = await world.do(taker(world, way).acquire)
    with other(server.url, rival(way), ttl=10.0) as head:
        await soon(lambda: server.command("ZCARD", keys(way).queue) == 1)
        behind = await waits(world, server, way, 2)
        dead, living = server.command("ZRANGE", keys(way).queue, 0, -1)
        head.end()
        channel = wake_channel(wake_prefix(keys(way).state), dead.decode())
        await soon(lambda: server.command("PUBSUB", "NUMSUB", channel)[1] == 0)
        await world.do(held.release)
        if rival(way) in FAIR:
            assert holders(server, way) == [living]
        lease = await world.ended(behind)
    lease.check()
    await world.do(lease.release)
    # Where order does not matter the dead one stays in the queue until its keys end, and is in nobody's way.
    await soon(lambda: server.command("EXISTS", held_key(way)) == 0)


async def test_a_holder_that_stood_still_past_its_ttl_cannot_write(server: RedisServer, world: World, way: str):
    """It believes in its lease when it wakes up, and the resource does not: its fence is the smaller one."""
    with other(server.url, way, ttl=0.5) as holder:
        first = int(await holder.says())
        assert await holder.do("write") == "None"
        holder.process.send_signal(signal.SIGSTOP)
        turn = await waits(world, server, way)
        lease = await world.ended(turn)
        assert fence(lease) > first
        gate = world.locks("FenceGate", world.io(), WALLET)
        await world.do(gate.set, each(lease)[0], "yours", ttl=60)
        holder.process.send_signal(signal.SIGCONT)
        assert await holder.do("write") == "StaleFence"
        assert await holder.do("check") == "LeaseLost"
        assert await holder.do("release") == "False"
    assert server.command("GET", WALLET) == b"yours"
    lease.check()
    await world.do(lease.release)


# -- the network -----------------------------------------------------------------------------------------------------


async def test_a_waiter_that_is_cut_off_keeps_its_place(server: RedisServer, proxy: FaultProxy, world: World, way: str):
    """The one behind it does not overtake it, where order is promised."""
    held = await world.do(taker(world, way).acquire)
    io = world.io(proxy.url, timeout=LONG_S)
    channel = wake_channel(wake_prefix(keys(way).state), io.token())
    turn = await waits(world, server, way, io=io)
    behind = await waits(world, server, way, 2)
    for _ in range(3):
        seen = proxy.accepted
        await asyncio.to_thread(proxy.cut)
        # Its own channel alone: whoever holds may listen by now, too.
        await soon(lambda seen=seen: proxy.accepted > seen and server.command("PUBSUB", "NUMSUB", channel)[1] == 1)
    assert await world.do(held.release) is True
    if rival(way) not in FAIR:
        done, _ = await asyncio.wait({turn, behind}, return_when=asyncio.FIRST_COMPLETED, timeout=LONG_S)
        turn, behind = (turn, behind) if turn in done else (behind, turn)
    lease = await world.ended(turn)
    assert not behind.done()
    await world.do(lease.release)
    await world.do((await world.ended(behind)).release)
    await is_free(server, way)


# -- a server that forgets -------------------------------------------------------------------------------------------


async def test_a_server_that_was_killed_and_kept_its_data_knows_who_holds_and_who_waits(
    server: RedisServer, world: World, way: str
):
    held = await world.do(taker(world, way, io=world.io(timeout=LONG_S)).acquire)
    turn = await waits(world, server, way, io=world.io(timeout=LONG_S))
    await asyncio.to_thread(lambda: (server.kill(), server.start()))
    held.check()
    await world.do(held.extend)
    assert not turn.done()
    assert await world.do(held.release) is True
    lease = await world.ended(turn)
    assert fence(lease) > fence(held)
    await world.do(lease.release)
    await is_free(server, way)


@pytest.fixture
async def forgetful(kind: str) -> AsyncIterator[tuple[RedisServer, World]]:
    """A server without an append log, and a world on it."""
    with RedisServer() as server:
        world = World(kind, server.url)
        yield server, world
        await world.close()


@pytest.mark.parametrize("fate", ["killed", "flushed"])
async def test_a_holder_learns_that_the_server_forgot_it_and_the_next_one_has_a_larger_fence(
    forgetful: tuple[RedisServer, World], way: str, fate: str
):
    server, world = forgetful
    held = await world.do(taker(world, way, io=world.io(timeout=LONG_S), ttl=1.5).acquire)
    if fate == "killed":
        await asyncio.to_thread(lambda: (server.kill(), server.start()))
    else:
        server.command("FLUSHALL")
    lease = await world.do(taker(world, rival(way), io=world.io(timeout=LONG_S)).acquire, timeout=LONG_S)
    assert fence(lease) > fence(held)
    await soon(lambda: lost(held))
    with pytest.raises(LeaseLost):
        held.check()
    assert await world.do(held.release) is False
    lease.check()
    assert await world.do(lease.release) is True
    await is_free(server, way)


async def test_those_who_wait_are_served_though_the_server_forgot_all_of_them(
    forgetful: tuple[RedisServer, World], way: str
):
    """Nobody is left who would tell them: they look by themselves."""
    server, world = forgetful
    held = await world.do(taker(world, way, ttl=1.5).acquire)
    turns = [await waits(world, server, way, place) for place in (1, 2)]
    server.command("FLUSHALL")
    for turn in asyncio.as_completed(turns):
        lease = await turn
        assert fence(lease) > fence(held)
        await world.do(lease.release)
    await soon(lambda: lost(held))
    await is_free(server, way)


async def test_scripts_that_were_flushed_are_missed_by_nobody(server: RedisServer, world: World, way: str):
    held = await world.do(taker(world, way).acquire)
    turn = await waits(world, server, way)
    server.command("SCRIPT", "FLUSH")
    await world.do(held.extend)
    server.command("SCRIPT", "FLUSH")
    assert await world.do(held.release) is True
    lease = await world.ended(turn)
    server.command("SCRIPT", "FLUSH")
    assert await world.do(lease.release) is True
    await is_free(server, way)


# -- a server that refuses -------------------------------------------------------------------------------------------


async def test_on_a_full_server_what_is_held_is_renewed_given_back_and_handed_over(
    server: RedisServer, world: World, way: str
):
    """And what is not held is refused with the reason."""
    held = await world.do(taker(world, way).acquire)
    late = taker(world, rival(way))
    server.command("CONFIG", "SET", "maxmemory", 1)
    await world.do(held.extend)
    with pytest.raises(ServerError, match="OOM"):
        await world.do(late.acquire, timeout=LONG_S)
    server.command("CONFIG", "SET", "maxmemory", 0)
    turn = await waits(world, server, way)
    server.command("CONFIG", "SET", "maxmemory", 1)
    assert await world.do(held.release) is True
    if way in ("multi-lock", "unfair lock", "election"):
        # It was handed the first of several, or told to run for it: so it must ask, and that takes memory.
        with pytest.raises(ServerError, match="OOM"):
            await world.ended(turn)
    else:
        lease = await world.ended(turn)
        await world.do(lease.extend)
        assert await world.do(lease.release) is True
    await is_free(server, way)
    server.command("CONFIG", "SET", "maxmemory", 0)


async def test_who_may_not_publish_hands_over_all_the_same(kind: str, way: str):
    """A message is a hint.  Without the right to send it the next one finds its turn by looking, a little later."""
    with RedisServer(users=["user app on >secret ~* &* +@all -publish"]) as server:
        world = World(kind, server.url_for("app", "secret"))
        held = await world.do(taker(world, way).acquire)
        turn = await waits(world, server, way)
        assert await world.do(held.release) is True
        lease = await world.ended(turn)
        assert fence(lease) > fence(held)
        assert await world.do(lease.release) is True
        await is_free(server, way)
        await world.close()


async def test_a_waiter_that_is_refused_leaves_the_queue(server: RedisServer, world: World, way: str):
    """Else the next release would hand it over to nobody."""
    held = await world.do(taker(world, way).acquire)
    turn = await waits(world, server, way)
    server.command("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(ServerError, match="OOM"):
        await world.ended(turn)
    await soon(lambda: server.command("ZCARD", keys(way).queue) == 0)
    server.command("CONFIG", "SET", "maxmemory", 0)
    assert await world.do(held.release) is True
    await is_free(server, way)


# -- the server's clock ----------------------------------------------------------------------------------------------


async def test_fences_rise_while_the_server_s_clock_is_set_by_hours(clocked: ClockedServer, kind: str, way: str):  # noqa: F811
    """Set forward it ends leases, and their holders hear of it; set back it keeps nobody waiting."""
    world = World(kind, clocked.url)
    old = await world.do(taker(world, way, ttl=1.5).acquire)
    clocked.set_clock(HOUR_S)
    new = await world.do(taker(world, rival(way), ttl=60).acquire, timeout=LONG_S)
    assert fence(new) > fence(old)
    await soon(lambda: lost(old))
    clocked.set_clock(-HOUR_S)
    turn = await waits(world, clocked, rival(way), ttl=60)
    for lease in each(new):
        lease.check()
    assert await world.do(new.release) is True
    last = await world.ended(turn)
    assert fence(last) > fence(new)
    assert await world.do(last.release) is True
    await is_free(clocked, way)
    await world.close()
