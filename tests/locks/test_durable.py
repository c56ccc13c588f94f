"""``min_replicas`` and ``fsync``: a grant that others have as well, or that is taken back because they have not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import LeaseLost, NotDurable, ServerError, UsageError
from gridsync.locks import AsyncLock, Lock, _durable
from gridsync.locks._hold import Hold
from gridsync.testing.proxy import FaultProxy
from gridsync.testing.servers import RedisServer
from tests.locks.conftest import KEYS
from tests.wire.fake import eventually, soon
from tests.wire.world import NAMESPACE, NOWHERE, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.locks.conftest import Look


@pytest.fixture
def replica(flushed: RedisServer) -> Iterator[RedisServer]:
    with RedisServer(flushed.kind) as running:
        yield running


def make(world: World, **options: Any) -> Any:  # noqa: ANN401 - either kind
    kind: Callable[..., Any] = Lock if world.kind == "sync" else AsyncLock
    url = options.pop("url", None)
    return kind(world.io(url), NAMESPACE, "job", **{"min_replicas": 1, "ttl": 1.5, **options})


def follow(replica: RedisServer, primary: RedisServer) -> None:
    replica.command("REPLICAOF", primary.host, str(primary.port))
    eventually(lambda: replica.command("ROLE")[3:4] == [b"connected"])
    eventually(lambda: primary.command("WAIT", 1, 100) == 1)


async def test_without_replicas_the_grant_is_taken_back_and_said_so(world: World, look: Look):
    """The lock must not stay held by somebody who was told that it is not."""
    with pytest.raises(NotDurable, match=r"only 0 of 1 replicas have it after 0\.5 s; it was given back") as raised:
        await world.do(make(world).acquire)
    assert (raised.value.name, raised.value.confirmed) == ("job", 0)
    assert look.free()
    with pytest.raises(NotDurable):
        await world.do(make(world).try_acquire)
    assert look.free()


async def test_with_a_replica_it_has_the_lease_when_acquire_returns(
    world: World, replica: RedisServer, flushed: RedisServer
):
    await asyncio.to_thread(follow, replica, flushed)
    lease = await world.do(make(world, ttl=30).acquire)
    assert replica.command("HGET", KEYS.state, "o") == lease.owner.encode()
    assert await world.do(lease.release) is True


async def test_a_refused_attempt_asks_no_replica_and_deletes_nobodys_lock(world: World, look: Look):
    """A client that runs WAIT whatever the answer was, and cleans up when that fails, frees another's lock."""
    held = await world.do(make(world, min_replicas=0, ttl=30).acquire)
    with FaultProxy(world.url) as proxy:
        lock = make(world, url=proxy.url)
        assert await world.do(lock.try_acquire) is None
        with pytest.raises(TimeoutError):
            await world.do(lock.acquire, timeout=0.05)
        assert not proxy.requests("WAIT")
        assert look.owner() == held.owner
        await world.close()
    held.check()


async def test_a_waiter_whose_grant_is_not_durable_hands_it_on(world: World, look: Look):
    held = await world.do(make(world, min_replicas=0, ttl=30).acquire)
    first = world.start(make(world).acquire, timeout=60)
    await soon(lambda: len(look.waiters()) == 1)
    second = world.start(make(world, min_replicas=0).acquire, timeout=60)
    await soon(lambda: len(look.waiters()) == 2)
    await world.do(held.release)
    with pytest.raises(NotDurable):
        await world.ended(first)
    lease = await world.ended(second)
    assert await world.do(lease.release) is True


async def test_a_caller_that_is_cancelled_while_replicas_are_asked_holds_nothing(flushed: RedisServer, look: Look):
    world = World("asyncio", flushed.url)
    task = asyncio.create_task(make(world, ttl=60).acquire())
    await soon(look.owner)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(look.free)
    await world.close()


async def test_what_was_lost_while_replicas_were_asked_is_not_handed_out(
    world: World, look: Look, monkeypatch: pytest.MonkeyPatch
):
    async def asked(io: Any, _spec: object) -> tuple[int, int]:  # noqa: ANN401 - either driver
        look.take_away()
        for hold in [each for each in io._keeper._items.values() if isinstance(each, Hold)]:
            await hold.extend()
        return 1, 1

    monkeypatch.setattr(_durable, "_ask", asked)
    with pytest.raises(LeaseLost, match="it ended on the server, or was taken away"):
        await world.do(make(world, ttl=60).acquire)
    assert look.free()


async def test_a_grant_may_have_to_be_on_disk(world: World, look: Look, flushed: RedisServer):
    if flushed.kind.product == "redis" and flushed.kind.version.startswith("7.0"):
        with pytest.raises(ServerError, match="unknown command"):
            await world.do(make(world, min_replicas=0, fsync=True).acquire)
        assert look.free()
        return
    with pytest.raises(ServerError, match="appendonly is disabled"):
        await world.do(make(world, min_replicas=0, fsync=True).acquire)
    assert look.free()
    flushed.command("CONFIG", "SET", "appendonly", "yes")
    await soon(lambda: flushed.command("INFO", "persistence")["aof_rewrite_in_progress"] == 0)
    try:
        lease = await world.do(make(world, min_replicas=0, fsync=True, ttl=30).acquire)
        assert await world.do(lease.release) is True
        with pytest.raises(NotDurable, match="only 0 of 1 replicas have it on disk"):
            await world.do(make(world, fsync=True).acquire)
        assert look.free()
    finally:
        flushed.command("CONFIG", "SET", "appendonly", "no")


async def test_what_was_entered_again_is_not_confirmed_again(world: World):
    with FaultProxy(world.url) as proxy:
        io = world.io(proxy.url)
        kind: Callable[..., Any] = Lock if world.kind == "sync" else AsyncLock
        outer = kind(io, NAMESPACE, "job", reentrant=True)
        inner = kind(io, NAMESPACE, "job", reentrant=True, min_replicas=1)
        if world.kind == "sync":
            with outer, inner:
                pass
        else:
            async with outer, inner:
                pass
        assert not proxy.requests("WAIT")
        await world.close()


@pytest.mark.parametrize("wrong", [-1, 101, True, 1.5])
def test_a_bad_number_of_replicas_is_refused(wrong: Any):  # noqa: ANN401
    with pytest.raises(UsageError, match="min_replicas of lock 'job' must be a whole number"):
        Lock(NOWHERE, NAMESPACE, "job", min_replicas=wrong)
