"""Looking in, and taking away: who holds, who waits, and a holder that is told at once."""

# ruff: noqa: PT012 - a block is what is tested

from __future__ import annotations

import asyncio
import os
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import LeaseLost, Unavailable, UsageError
from gridsync.locks import AsyncLock, Lock, _hold
from gridsync.testing.proxy import FaultProxy
from tests.locks.conftest import KEYS
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.servers import RedisServer
    from tests.locks.conftest import Look
    from tests.wire.world import World


def make(world: World, **options: Any) -> Any:  # noqa: ANN401 - either kind
    kind: Callable[..., Any] = Lock if world.kind == "sync" else AsyncLock
    return kind(world.io(), NAMESPACE, "job", **options)


async def test_a_free_lock_has_no_holder(world: World):
    lock = make(world)
    info = await world.do(lock.info)
    assert (info.name, info.holder, info.waiters, info.waiting, info.fence) == ("job", None, (), 0, 0)
    lease = await world.do(lock.acquire)
    await world.do(lease.release)
    info = await world.do(lock.info)
    assert (info.holder, info.fence) == (None, lease.fence)


async def test_a_holder_is_told_with_all_that_helps_to_find_it(world: World):
    lease = await world.do(make(world, note="epoch 42").acquire)
    holder = (await world.do(make(world).info)).holder
    assert (holder.owner, holder.fence, holder.host) == (lease.owner, lease.fence, socket.gethostname())
    assert (holder.pid, holder.note) == (os.getpid(), "epoch 42")
    assert holder.task
    assert abs(datetime.now(UTC) - holder.since) < timedelta(seconds=60)
    assert 0 < holder.expires_in <= 10
    await world.do(lease.release)


async def test_waiters_are_told_in_order_and_not_all_of_them(world: World, look: Look):
    held = await world.do(make(world).acquire)
    waiting = []
    for n in range(4):
        waiting.append(world.start(make(world, note=f"waiter {n}").acquire, timeout=60))
        await soon(lambda n=n: len(look.waiters()) == n + 1)
    info = await world.do(make(world).info)
    assert [waiter.note for waiter in info.waiters] == [f"waiter {n}" for n in range(4)]
    assert [waiter.owner for waiter in info.waiters] == look.waiters()
    assert all(waiter.alive and waiter.pid == os.getpid() for waiter in info.waiters)
    assert info.waiting == 4
    few = await world.do(make(world).info, waiters_max=2)
    assert (few.waiters, few.waiting) == (info.waiters[:2], 4)
    none = await world.do(make(world).info, waiters_max=0)
    assert (none.waiters, none.waiting) == ((), 4)
    await world.do(held.release)
    for task in waiting:
        await world.do((await world.ended(task)).release)


@pytest.mark.parametrize("wrong", [-1, 1001, True, 2.0])
async def test_an_unbounded_look_is_refused(world: World, wrong: Any):  # noqa: ANN401
    with pytest.raises(UsageError, match="waiters_max must be a whole number from 0 to 1000"):
        await world.do(make(world).info, waiters_max=wrong)


async def test_a_revoked_holder_is_told_at_once_and_the_next_one_is_served(world: World, look: Look):
    """It would go on until its next renewal, here 20 s later, while the next one works."""
    lease = await world.do(make(world, ttl=60).acquire)
    await soon(lambda: lease._hold._heard)
    waiting = world.start(make(world).acquire, timeout=60)
    await soon(look.waiters)
    fence = await world.do(make(world).force_release, "the machine is on fire")
    await soon(lambda: lease._hold.why_lost, 5.0)
    with pytest.raises(LeaseLost, match="it was revoked: the machine is on fire"):
        lease.check()
    heir = await world.ended(waiting)
    assert lease.fence < fence < heir.fence
    assert await world.do(lease.release) is False
    assert look.owner() == heir.owner
    await world.do(heir.release)


async def test_a_revocation_that_came_too_early_to_be_heard_is_found_when_the_lease_begins_to_listen(world: World):
    lease = await world.do(make(world, ttl=60).acquire)
    assert not lease._hold._heard
    assert await world.do(make(world).force_release, "now")
    await soon(lambda: lease._hold.why_lost, 5.0)
    with pytest.raises(LeaseLost):
        lease.check()


async def test_after_a_failure_it_is_asked_what_was_said_meanwhile(world: World):
    """A revocation may have gone astray with the connection: the next renewal is not soon enough."""
    lease = await world.do(make(world, ttl=60).acquire)
    hold = lease._hold
    await soon(lambda: hold._heard)
    lease._io.unkeep(hold)
    now = lease._io.monotonic()
    assert hold.request(now) is None, "it hears, and there is time"
    assert hold.settle(Unavailable("cut"), now) is True
    assert hold.due < hold.renew_at
    assert hold.request(now) is not None
    await world.do(lease.release)


async def test_a_waiter_in_the_holders_own_process_is_served_as_well(world: World, look: Look):
    """A release leaves the word for it to the releaser, who is another here."""
    io = world.io()
    kind: Callable[..., Any] = Lock if world.kind == "sync" else AsyncLock
    lease = await world.do(kind(io, NAMESPACE, "job", ttl=60).acquire)
    waiting = world.start(kind(io, NAMESPACE, "job").acquire, timeout=60)
    await soon(look.waiters)
    with FaultProxy(world.url) as proxy:
        other = kind(world.io(proxy.url), NAMESPACE, "job")
        assert await world.do(other.force_release, "for the next one")
        assert proxy.requests("PUBLISH")
        heir = await world.ended(waiting)
        assert heir.owner != lease.owner
        await world.do(heir.release)
        await world.close()


async def test_a_block_ends_with_a_revocation(world: World):
    if world.kind == "sync":
        with pytest.raises(LeaseLost, match="it was revoked: stop"), make(world, ttl=60) as lease:
            await soon(lambda: lease._hold._heard)
            await world.do(make(world).force_release, "stop")
            assert await world.do(lease.lost.wait, 10)
        return
    with pytest.raises(LeaseLost, match="it was revoked: stop"):
        async with make(world, ttl=60) as lease:
            await soon(lambda: lease._hold._heard)
            await world.do(make(world).force_release, "stop")
            await asyncio.sleep(60)


async def test_only_the_named_holder_is_revoked(world: World, look: Look):
    """Between the look and the act another may have become the holder."""
    lock = make(world)
    first = await world.do(lock.acquire)
    await world.do(first.release)
    second = await world.do(lock.acquire)
    assert await world.do(lock.force_release, "late", owner=first.owner) is None
    assert look.owner() == second.owner
    second.check()
    assert await world.do(lock.force_release, "right", owner=second.owner) > second.fence
    assert await world.do(lock.force_release, "again", owner=second.owner) is None
    assert look.free()


async def test_any_reason_that_is_text_is_told(world: World):
    lease = await world.do(make(world, ttl=60).acquire)
    await soon(lambda: lease._hold._heard)
    assert await world.do(make(world).force_release, "fire \ud83d\n\x00")
    await soon(lambda: lease._hold.why_lost, 5.0)
    with pytest.raises(LeaseLost, match="it was revoked: fire"):
        lease.check()


@pytest.mark.parametrize("reason", [None, 7, b"bytes"])
async def test_a_reason_that_is_no_text_is_refused(world: World, reason: Any):  # noqa: ANN401
    with pytest.raises(UsageError, match="the reason why lock 'job' is taken away must be text"):
        await world.do(make(world).force_release, reason)


@pytest.mark.parametrize("owner", [7, b"bytes", "\ud800", "é"])
async def test_an_owner_that_cannot_be_one_is_refused(world: World, owner: Any):  # noqa: ANN401
    with pytest.raises(UsageError, match="must be an owner that info"):
        await world.do(make(world).force_release, "stop", owner=owner)


async def test_nobody_is_revoked_from_a_free_lock(world: World, look: Look):
    assert await world.do(make(world).force_release, "anyone?") is None
    assert look.free()


async def test_a_short_lease_costs_no_subscription(world: World, flushed: RedisServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_hold, "LISTEN_S", 60.0)  # however slow this machine is
    lease = await world.do(make(world).acquire)
    await world.do(lease.release)
    assert flushed.command("PUBSUB", "NUMSUB", f"{NAMESPACE}:wake:{lease.owner[:12]}")[1] == 0
    assert flushed.command("EXISTS", KEYS.state) == 0


async def test_a_lease_that_has_ended_listens_no_more(world: World):
    lock = make(world)
    lease = await world.do(lock.acquire)
    await soon(lambda: lease._hold._heard)
    ears = lock._io._hub.ears
    assert len(ears) == 1
    await world.do(lease.release)
    assert len(ears) == 0
