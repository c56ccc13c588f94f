"""A lease that another process goes on with."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import LeaseLost, UsageError
from gridsync.locks import AsyncRWLock, AsyncSemaphore, RWLock, Semaphore
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.servers import RedisServer
    from tests.locks.conftest import Look
    from tests.wire.world import World

pytestmark = pytest.mark.any_server

RESUMER = """
import sys
from gridsync import Grid
with Grid(sys.argv[1], namespace="test") as grid:
    lease = grid.lock("job").resume(sys.stdin.read())
    lease.check()
    print(lease.fence, lease.release())
"""


async def test_a_detached_lease_is_resumed_in_another_process(world: World, look: Look):
    lease = await world.do(world.lock(world.io()).acquire)
    text = lease.detach()
    assert look.owner() == lease.owner, "nothing was released"
    command = [sys.executable, "-c", RESUMER, world.url]
    done = await asyncio.to_thread(
        subprocess.run, command, input=text, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == [str(lease.fence), "True"]
    assert look.free()


async def test_who_detached_it_renews_no_more_and_releases_nothing(world: World, look: Look):
    """Two processes that renew the same lease would both believe in it."""
    io = world.io()
    lease = await world.do(world.lock(io).acquire)
    lease.detach()
    assert io.stats().leases_kept == 0
    assert not lease.lost.is_set(), "it was not lost"
    assert lease.expires_in() == 0
    with pytest.raises(LeaseLost, match="was detached, for another process to resume it"):
        lease.check()
    assert await world.do(lease.release) is True
    assert look.owner() == lease.owner
    look.take_away()


async def test_a_block_that_detached_its_lease_ends_without_a_word(world: World, look: Look):
    lock = world.lock(world.io())
    if world.kind == "sync":
        with lock as lease:
            text = lease.detach()
    else:
        async with lock as lease:
            text = lease.detach()
    resumed = await world.do(world.lock(world.io()).resume, text)
    assert (resumed.owner, resumed.fence) == (lease.owner, lease.fence)
    assert await world.do(resumed.release) is True
    assert look.free()


async def test_a_resumed_lease_is_renewed_and_hears_of_its_revocation(world: World, look: Look):
    lease = await world.do(world.lock(world.io(), ttl=60).acquire)
    resumed = await world.do(world.lock(world.io(), ttl=3.0).resume, lease.detach())
    resumed.check()
    await soon(lambda: resumed._hold._heard)
    assert await world.do(world.lock(world.io()).force_release, "enough")
    await soon(resumed.lost.is_set)
    with pytest.raises(LeaseLost, match="it was revoked: enough"):
        resumed.check()
    assert look.free()


async def test_a_release_of_a_resumed_lease_serves_a_waiter_of_the_old_process(world: World, look: Look):
    """The script leaves the word for it to the releaser, who is another process now."""
    io = world.io()
    lease = await world.do(world.lock(io).acquire)
    waiting = world.start(world.lock(io).acquire, timeout=60)
    await soon(look.waiters)
    resumed = await world.do(world.lock(world.io()).resume, lease.detach())
    assert await world.do(resumed.release) is True
    heir = await world.ended(waiting)
    assert heir.fence > lease.fence
    await world.do(heir.release)


async def test_a_process_that_crashed_gets_its_lease_back(world: World, look: Look):
    """It wrote it down; whoever comes before it waits."""
    lease = await world.do(world.lock(world.io(), ttl=60).acquire)
    text = lease.serialize()
    lease.check()
    lease._io.unkeep(lease._hold)
    assert await world.do(world.lock(world.io()).try_acquire) is None
    resumed = await world.do(world.lock(world.io()).resume, text)
    assert await world.do(resumed.release) is True
    assert look.free()


async def test_a_lease_that_has_ended_cannot_be_resumed(world: World, look: Look):
    """Not even if nobody has taken the lock since: a resumed lease never rises from the dead."""
    lease = await world.do(world.lock(world.io()).acquire)
    text = lease.serialize()
    await world.do(lease.release)
    with pytest.raises(LeaseLost, match="cannot be resumed"):
        await world.do(world.lock(world.io()).resume, text)
    assert look.free()
    with pytest.raises(LeaseLost):
        lease.serialize()
    with pytest.raises(LeaseLost):
        lease.detach()


async def test_the_text_has_what_is_needed_and_no_secret(world: World):
    lease = await world.do(world.lock(world.io()).acquire)
    told = json.loads(lease.serialize())
    assert told == {
        "gridsync-lease": 1,
        "kind": "lock",
        "name": "job",
        "key": "{test:lock:job}",
        "owner": lease.owner,
        "fence": lease.fence,
        "ttl_ms": 10_000,
    }
    await world.do(lease.release)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _text: "", "this is no lease"),
        (lambda _text: "[]", "this is no lease"),
        (lambda _text: '"gridsync-lease"', "this is no lease"),
        (lambda text: text[:-3], "this is no lease"),
        (lambda _text: "[" * 4096, "this is no lease"),
        (lambda text: re.sub('"owner": ".', r'"owner": "\\ud800', text), "that this version"),
        (lambda text: text.replace('"fence": ', '"fence": 99999'), "that this version"),
        (lambda text: text.replace('"gridsync-lease": 1', '"gridsync-lease": 2'), "that this version"),
        (lambda text: text.replace('"fence": ', '"fence": -'), "that this version"),
        (lambda text: text.replace(":job}", ":other}"), "and not of lock 'job'"),
        (lambda text: text.replace('"kind": "lock"', '"kind": "semaphore"'), "and not of lock 'job'"),
        (lambda text: text.replace("{test:", "{prod:"), "and not of lock 'job'"),
    ],
)
async def test_another_text_is_refused_before_anything_is_sent(
    world: World, change: Callable[[str], str], message: str
):
    lock = world.lock(world.io())
    lease = await world.do(lock.acquire)
    with pytest.raises(UsageError, match=message):
        await world.do(lock.resume, change(lease.serialize()))
    await world.do(lease.release)


async def test_a_lease_of_any_kind_is_handed_on(world: World, flushed: RedisServer):
    def permit(io: Any) -> Any:  # noqa: ANN401 - either kind
        return (Semaphore if world.kind == "sync" else AsyncSemaphore)(io, NAMESPACE, "s", 2)

    def reader(io: Any) -> Any:  # noqa: ANN401 - either kind
        return (RWLock if world.kind == "sync" else AsyncRWLock)(io, NAMESPACE, "rw").read

    for make in (permit, reader):
        lease = await world.do(make(world.io()).acquire)
        resumed = await world.do(make(world.io()).resume, lease.detach())
        assert resumed.fence == lease.fence
        assert await world.do(resumed.release) is True
    assert all(flushed.command("TTL", key) > 0 for key in flushed.command("KEYS", "*"))
