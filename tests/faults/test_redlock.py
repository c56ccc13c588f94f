"""Several masters that are killed, frozen, cut off, emptied and set to another time, and the judgement on it."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync.testing.checkers import fences_in_order, permits_held
from gridsync.testing.proxy import FaultProxy
from gridsync.testing.servers import RedisServer, server_kinds
from tests.faults.holders import Holders
from tests.faults.test_clock import HOUR_S, LIBRARIES, ClockedServer, links_to
from tests.faults.test_lock_kinds import Other
from tests.locks.holder import WALLET
from tests.locks.redlocks import SURE, make_redlock, owners  # noqa: F401 - the second one is a fixture
from tests.wire.fake import soon, until
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync.testing.recorder import Recorder
    from tests.locks.redlocks import Maker

pytestmark = pytest.mark.faults
TTL_S = 2.0
MAX_TTL_S = 2.0
ROUNDS = 8


async def run(
    make: Maker, urls: Sequence[Sequence[str]], recorder: Recorder, breaks: Sequence[Callable[[], object]]
) -> None:
    """Let a process for each of *urls* take turns while things break, and judge what they wrote down."""
    sides = [await make(each, master_timeout=0.5, max_ttl=MAX_TTL_S) for each in urls]
    takers: list[tuple[Any, int]] = [(side.lock(ttl=TTL_S), 1) for side in sides]
    await Holders(sides[0].do, recorder, takers).run(breaks, 2)
    history = recorder.history()
    least = 2 * len(sides) * len(breaks)
    assert permits_held(history, 1) >= least
    assert fences_in_order(history) >= least


async def test_a_minority_that_is_killed_frozen_or_cut_off_costs_time_and_never_exclusion(
    make_redlock: Maker,  # noqa: F811
    recorder: Recorder,
    fresh_seed: int,
):
    """Anything happens to any one of three masters, and to the way there, one after the other."""
    chance = random.Random(f"redlock {fresh_seed}")
    with ExitStack() as stack:
        masters = [stack.enter_context(RedisServer(options=SURE)) for _ in range(3)]
        proxies = [[stack.enter_context(FaultProxy(server.url)) for server in masters] for _ in range(3)]
        ill: list[Callable[[], object]] = []

        def strike() -> None:
            while ill:
                ill.pop()()  # the one before is well again
            place = chance.randrange(3)
            server, ways = masters[place], [each[place] for each in proxies]
            match chance.choice(["kill", "kill and come back", "freeze", "cut", "black hole", "forget scripts"]):
                case "kill":
                    server.kill()
                    ill.append(server.start)
                case "kill and come back":
                    server.kill()
                    server.start()
                case "freeze":
                    server.pause()
                    ill.append(server.resume)
                case "cut":
                    for way in ways:
                        way.cut(reset=True)
                case "black hole":
                    way = chance.choice(ways)
                    way.blackhole()
                    ill.append(way.heal)
                case _:
                    server.command("SCRIPT", "FLUSH")

        try:
            await run(make_redlock, [[way.url for way in each] for each in proxies], recorder, [strike] * ROUNDS)
        finally:
            while ill:
                ill.pop()()


async def test_masters_that_come_back_empty_grant_nothing_that_is_held(
    make_redlock: Maker,  # noqa: F811
    recorder: Recorder,
    fresh_seed: int,
):
    """Each holder may be cut off from another master at that moment: with the empty one's vote there were two."""
    chance = random.Random(f"redlock {fresh_seed}")
    with ExitStack() as stack:
        masters = [stack.enter_context(RedisServer()) for _ in range(3)]
        proxies = [[stack.enter_context(FaultProxy(server.url)) for server in masters] for _ in range(3)]
        holes: list[FaultProxy] = []

        def grown_up() -> bool:
            return all(age(server) > MAX_TTL_S + 2 for server in masters)

        def restart() -> None:
            while holes:
                holes.pop().heal()
            asyncio.run(soon(grown_up, 30))
            empty, hidden = chance.sample(range(3), 2)
            holes.append(chance.choice(proxies)[hidden])
            holes[0].blackhole()
            masters[empty].kill()
            masters[empty].start()

        await soon(grown_up, 30)
        try:
            await run(make_redlock, [[way.url for way in each] for each in proxies], recorder, [restart] * 4)
        finally:
            while holes:
                holes.pop().heal()


def age(server: RedisServer) -> int:
    """Return for how long it has run, in seconds."""
    return int(server.command("INFO", "server")["uptime_in_seconds"])


async def test_a_master_whose_clock_is_set_disturbs_no_majority(
    make_redlock: Maker,  # noqa: F811
    recorder: Recorder,
    fresh_seed: int,
):
    """It ends its leases at once, or keeps them for an hour; its fences are ahead of all others, or far behind."""
    kinds = [kind for kind in server_kinds() if not links_to(kind, "jemalloc")]
    if not LIBRARIES or not kinds:
        pytest.skip("no server's clock can be set: libfaketime is missing, or every server is linked to jemalloc")
    chance = random.Random(f"redlock {fresh_seed}")
    with ExitStack() as stack:
        masters = [stack.enter_context(ClockedServer(kinds[0], LIBRARIES[0])) for _ in range(3)]
        steps = [
            lambda server=server, offset=offset: server.set_clock(offset)
            for server in chance.sample(masters, 3)
            for offset in (chance.choice([HOUR_S, -HOUR_S]), 0)
        ]
        await run(make_redlock, [[server.url for server in masters]] * 3, recorder, steps)


async def test_a_clock_that_is_set_forward_gives_a_restarted_master_no_vote(make_redlock: Maker):  # noqa: F811
    """It forgot the holder, and tells an uptime of an hour: with its vote, who waits would hold it as well."""
    kinds = [kind for kind in server_kinds() if not links_to(kind, "jemalloc")]
    if not LIBRARIES or not kinds:
        pytest.skip("no server's clock can be set: libfaketime is missing, or every server is linked to jemalloc")
    with ExitStack() as stack:
        forgetful = stack.enter_context(ClockedServer(kinds[0], LIBRARIES[0], durable=False))
        masters = [forgetful, *(stack.enter_context(RedisServer(options=SURE)) for _ in range(2))]
        hidden = stack.enter_context(FaultProxy(masters[2].url))
        forgetful.set_clock(HOUR_S)  # whoever meets it now believes that it is an hour old
        holder = await make_redlock([*masters[:2], hidden.url])
        rival = await make_redlock(masters)
        hidden.blackhole()
        lease = await holder.do(holder.lock(ttl=60).acquire, timeout=60)
        forgetful.kill()
        forgetful.start()
        forgetful.set_clock(2 * HOUR_S)
        assert age(forgetful) >= HOUR_S - 60
        name = f"{forgetful.host}:{forgetful.port}"

        async def refused() -> bool:
            # The holder asks for the lost vote anew, but only in twenty seconds.
            assert await rival.do(rival.lock(ttl=60).try_acquire) is None
            young: int = rival.redlock.stats()[name].votes_young
            return young > 0

        await until(refused)
        lease.check()
        hidden.heal()
        assert await holder.do(lease.release) is True


async def test_a_holder_that_stood_still_past_its_ttl_cannot_write(make_redlock: Maker):  # noqa: F811
    """It believes in its lease when it wakes up, and the resource does not: its fence is the smaller one."""
    with ExitStack() as stack:
        *masters, resource = [stack.enter_context(RedisServer(options=SURE)) for _ in range(4)]
        holder = Other("tests.locks.redlock_holder", resource.url, "1.0", *(server.url for server in masters))
        stack.callback(holder.end)
        first = int(await holder.says())
        assert await holder.do("write") == "None"
        holder.process.send_signal(signal.SIGSTOP)
        side = await make_redlock(masters)
        lease = await side.do(side.lock().acquire, timeout=60)
        assert lease.fence > first
        grid = stack.enter_context(Grid(resource.url, namespace=NAMESPACE))
        await asyncio.to_thread(grid.fence_gate(WALLET).set, lease, "yours", ttl=60)
        holder.process.send_signal(signal.SIGCONT)
        assert await holder.do("write") == "StaleFence"
        assert await holder.do("check") == "LeaseLost"
        assert await holder.do("release") == "False"
        assert resource.command("GET", WALLET) == b"yours"
        lease.check()
        await side.do(lease.release)
