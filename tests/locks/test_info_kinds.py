"""Looking in, and taking away: semaphores, reader-writer locks, elections, and what runs once per period."""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import run_sync, watch
from gridsync._io.keys import lock as lock_keys
from gridsync._io.keys import share as share_keys
from gridsync._io.keys import watchers
from gridsync.errors import LeaseLost, UsageError
from tests.locks.ways import AsyncCandidate, Candidate
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World

SLOTS = share_keys(NAMESPACE, "semaphore", "slots")
BOOK = share_keys(NAMESPACE, "rwlock", "book")
AUCTION = lock_keys(NAMESPACE, "auctioneer", "election")


def slots(world: World, limit: int = 3, **options: Any) -> Any:  # noqa: ANN401 - either kind
    return world.locks("Semaphore", world.io(), "slots", limit, **options)


def book(world: World, **options: Any) -> Any:  # noqa: ANN401 - either kind
    return world.locks("RWLock", world.io(), "book", **options)


async def waits(server: RedisServer, keys: Any, number: int = 1) -> None:  # noqa: ANN401 - keys of a kind
    await soon(lambda: server.command("ZCARD", keys.queue) == number)


async def test_a_semaphore_that_was_never_used_has_its_own_limit_and_nobody(world: World):
    info = await world.do(slots(world).info)
    assert (info.name, info.limit, info.taken, info.holders, info.holding) == ("slots", 3, 0, (), 0)
    assert (info.waiters, info.waiting, info.fence) == ((), 0, 0)


async def test_a_semaphore_tells_who_holds_how_many_permits_and_who_waits_for_how_many(
    world: World, flushed: RedisServer
):
    first = await world.do(slots(world).acquire)
    second = await world.do(slots(world, permits=2, ttl=5).acquire)
    waiting = world.start(slots(world, permits=3).acquire, timeout=60)
    await waits(flushed, SLOTS)
    info = await world.do(slots(world).info)
    assert (info.limit, info.taken, info.holding, info.waiting, info.fence) == (3, 3, 2, 1, second.fence)
    assert [(one.owner, one.fence, one.permits, one.mode) for one in info.holders] == [
        (first.owner, first.fence, 1, ""),
        (second.owner, second.fence, 2, ""),
    ]
    for one in info.holders:
        assert (one.host, one.pid) == (socket.gethostname(), os.getpid())
        assert abs(datetime.now(UTC) - one.since) < timedelta(seconds=60)
    assert 0 < info.holders[0].expires_in <= 10
    assert 0 < info.holders[1].expires_in <= 5
    (waiter,) = info.waiters
    assert (waiter.permits, waiter.pid, waiter.alive) == (3, os.getpid(), True)
    few = await world.do(slots(world).info, holders_max=1, waiters_max=0)
    assert [one.owner for one in few.holders] == [second.owner], "its lease ends first"
    assert (few.holding, few.waiters, few.waiting) == (2, (), 1)
    for lease in (first, second):
        await world.do(lease.release)
    await world.do((await world.ended(waiting)).release)


async def test_permits_whose_lease_has_ended_are_told_as_free(world: World, flushed: RedisServer):
    """Nobody counts them out before the next one asks; who looks in must not see them taken."""
    kept = await world.do(slots(world).acquire)
    dead = await world.do(slots(world, permits=2).acquire)
    flushed.command("ZADD", SLOTS.held, "XX", 1, dead.owner)
    info = await world.do(slots(world).info)
    assert (info.taken, info.holding, [one.owner for one in info.holders]) == (1, 1, [kept.owner])
    await world.do(kept.release)
    info = await world.do(slots(world).info)
    assert (info.taken, info.holding, info.limit) == (0, 0, 3)


async def test_a_resize_is_told(world: World):
    lease = await world.do(slots(world).acquire)
    await world.do(slots(world).resize, 7)
    info = await world.do(slots(world).info)
    assert (info.limit, info.taken) == (7, 1)
    await world.do(lease.release)


async def test_a_reader_writer_lock_tells_who_reads_who_writes_and_who_waits_for_which(
    world: World, flushed: RedisServer
):
    readers = [await world.do(book(world).read.acquire) for _ in range(2)]
    writer = world.start(book(world).write.acquire, timeout=60)
    await waits(flushed, BOOK)
    info = await world.do(book(world).info)
    assert [(one.owner, one.mode, one.permits) for one in info.holders] == [
        (lease.owner, "read", 1) for lease in readers
    ]
    assert (info.writer, info.holding, info.waiting) == (None, 2, 1)
    assert [(one.mode, one.permits) for one in info.waiters] == [("write", 1)]
    late = world.start(book(world).read.acquire, timeout=60)
    await waits(flushed, BOOK, 2)
    for lease in readers:
        await world.do(lease.release)
    written = await world.ended(writer)
    info = await world.do(book(world).info)
    assert info.writer.owner == written.owner
    assert (info.holding, [one.mode for one in info.waiters]) == (1, ["read"])
    await world.do(written.release)
    await world.do((await world.ended(late)).release)


@pytest.mark.parametrize("wrong", [-1, 1001, True, 2.0])
@pytest.mark.parametrize("what", ["holders_max", "waiters_max"])
async def test_an_unbounded_look_is_refused(world: World, what: str, wrong: Any):  # noqa: ANN401
    for one in (slots(world), book(world)):
        with pytest.raises(UsageError, match=f"{what} must be a whole number from 0 to 1000"):
            await world.do(one.info, **{what: wrong})


async def test_one_holder_of_permits_is_told_at_once_and_whoever_fits_is_served(world: World, flushed: RedisServer):
    """The others go on; the revoked one would have gone on until its next renewal, here 20 s later."""
    kept = await world.do(slots(world, ttl=60).acquire)
    lease = await world.do(slots(world, permits=2, ttl=60).acquire)
    await soon(lambda: lease._hold._heard)
    waiting = world.start(slots(world, permits=2).acquire, timeout=60)
    await waits(flushed, SLOTS)
    fence = await world.do(slots(world).force_release, "the machine is on fire", owner=lease.owner)
    await soon(lambda: lease._hold.why_lost, 5.0)
    with pytest.raises(LeaseLost, match="it was revoked: the machine is on fire"):
        lease.check()
    heir = await world.ended(waiting)
    assert kept.fence < lease.fence < fence < heir.fence
    assert await world.do(lease.release) is False
    kept.check()
    assert await world.do(slots(world).force_release, "again", owner=lease.owner) is None
    assert (await world.do(slots(world).info)).taken == 3
    assert await world.do(kept.release) is True
    assert await world.do(heir.release) is True


async def test_a_revoked_writer_lets_the_readers_in(world: World, flushed: RedisServer):
    lease = await world.do(book(world, ttl=60).write.acquire)
    await soon(lambda: lease._hold._heard)
    waiting = [world.start(book(world).read.acquire, timeout=60) for _ in range(2)]
    await waits(flushed, BOOK, 2)
    fence = await world.do(book(world).force_release, "it hangs", owner=lease.owner)
    readers = [await world.ended(one) for one in waiting]
    assert all(lease.fence < fence < reader.fence for reader in readers)
    await soon(lambda: lease._hold.why_lost, 5.0)
    for reader in readers:
        assert await world.do(reader.release) is True


async def test_nobody_is_revoked_who_holds_nothing(world: World):
    for one in (slots(world), book(world)):
        assert await world.do(one.force_release, "anyone?", owner="nobody") is None


def auction(world: World, value: str = "") -> Any:  # noqa: ANN401 - either kind
    return world.locks("Election", world.io(), "auctioneer", ttl=60, value=value)


def candidate(world: World, value: str) -> Any:  # noqa: ANN401 - either kind
    election = auction(world, value)
    return (Candidate if world.kind == "sync" else AsyncCandidate)(election._campaign.io, election)


async def test_a_leader_is_deposed_and_told_why_and_a_candidate_takes_over(world: World, flushed: RedisServer):
    first = await world.do(candidate(world, "first").acquire)
    await soon(lambda: first._hold._heard)
    second = world.start(candidate(world, "second").acquire)
    await waits(flushed, AUCTION)
    info = await world.do(auction(world).info)
    assert (info.name, info.holder.note, info.holder.fence) == ("auctioneer", "first", first.fence)
    assert ([one.note for one in info.waiters], info.waiting) == (["second"], 1)
    assert await world.do(auction(world).force_release, "by mistake", owner="somebody else") is None
    raised = await world.do(auction(world).force_release, "it hangs")
    heir = await world.ended(second)
    assert first.fence < raised < heir.fence
    await soon(lambda: first._hold.why_lost, 5.0)
    with pytest.raises(LeaseLost, match="it was revoked: it hangs"):
        first.check()
    assert (await world.do(auction(world).leader)).value == "second"
    await world.do(heir.release)
    assert await world.do(auction(world).force_release, "anyone?") is None


async def test_who_watches_an_election_is_told_of_a_deposition(
    world: World, flushed: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    """It would see it with its next look by itself, here minutes later."""
    monkeypatch.setattr(watch, "LOOKS", 0.05)
    await world.do(candidate(world, "first").acquire)
    campaign = auction(world)._campaign
    leader = await world.do(auction(world).leader)

    def change() -> Any:  # noqa: ANN401 - the leader, in a tuple
        return run_sync(campaign.change(leader.term, None))

    watching = asyncio.create_task(
        asyncio.to_thread(change) if world.kind == "sync" else campaign.change(leader.term, None)
    )
    await soon(lambda: flushed.command("ZCARD", watchers(NAMESPACE, "auctioneer")) == 1)
    await world.do(auction(world).force_release, "it hangs")
    assert await world.ended(watching) == (None,)


async def test_the_last_turn_is_told_to_anybody(world: World):
    def hourly() -> Any:  # noqa: ANN401 - either kind
        return world.locks("OncePer", world.io(), "close", 3600)

    assert await world.do(hourly().last) is None
    turn = await world.do(hourly().claim)
    assert await world.do(hourly().claim) is None
    assert await world.do(hourly().last) == turn
