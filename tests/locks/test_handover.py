"""How a lock goes from one holder to the next: what it costs, who may overtake, what the state tells."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.keys import wake_channel, wake_prefix
from gridsync.errors import OutcomeUnknown, UsageError
from gridsync.locks import AsyncLock, Lock, _core, _spec
from gridsync.locks._about import BYTES_MAX, read, tell
from gridsync.locks._core import GRANTS_MAX
from gridsync.locks._spec import ACQUIRE, CLAIM_MS, RELEASE
from gridsync.testing.proxy import Break, FaultProxy
from tests.locks.conftest import KEYS
from tests.locks.ways import renew_now
from tests.wire.fake import soon
from tests.wire.world import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.servers import RedisServer
    from tests.locks.conftest import Look
    from tests.wire.world import World


@pytest.fixture
def claim_s(monkeypatch: pytest.MonkeyPatch) -> float:
    """How long a lease runs that was handed over: longer than any machine stands still; the heir has a third of it."""
    for module in (_core, _spec):
        monkeypatch.setattr(module, "CLAIM_MS", 9_000)
    return 9.0


@pytest.mark.usefixtures("claim_s")
@pytest.mark.parametrize("fair", [True, False])
async def test_a_contended_cycle_costs_two_commands(world: World, flushed: RedisServer, fair: bool):  # noqa: FBT001
    """The one who waits begins by the word it was sent; a claim would be a round trip more."""
    with FaultProxy(flushed.url) as proxy:
        io = world.io(proxy.url)
        lock = world.locks("Lock", io, "job", fair=fair)
        held = await world.do(lock.acquire)
        first = world.start(lock.acquire)
        await soon(lambda: flushed.command("ZCARD", KEYS.queue) == 1)
        await world.do(held.release)
        held = await world.ended(first)
        # On a slow machine a lease lives long enough to be renewed and to listen; the cycle is what is counted.
        scripts = {ACQUIRE.sha.encode(), RELEASE.sha.encode()}
        before = len(proxy.requests())
        for _ in range(5):
            waiting = world.start(lock.acquire)
            await soon(lambda: flushed.command("ZCARD", KEYS.queue) == 1)
            await world.do(held.release)
            held = await world.ended(waiting)
        # Where order does not matter the one who is woken asks, since another may have been faster.
        asked = [words for words in proxy.requests()[before:] if words[0] == b"EVALSHA" and words[1] in scripts]
        assert len(asked) == 5 * (2 if fair else 3)
        await world.do(held.release)
        await world.close()


async def test_what_was_handed_over_is_renewed_to_a_whole_lease(world: World, flushed: RedisServer, claim_s: float):
    """The claim would end under a body that takes longer."""
    lock = world.lock(world.io(), ttl=20)
    held = await world.do(lock.acquire)
    waiting = world.start(lock.acquire)
    await soon(lambda: flushed.command("ZCARD", KEYS.queue) == 1)
    await world.do(held.release)
    lease = await world.ended(waiting)
    assert lease.expires_in() < claim_s
    assert lease._hold.renew_at < lease._hold.since + claim_s / 3
    await soon(renew_now(lease))
    assert lease.expires_in() > 15
    assert flushed.command("PTTL", KEYS.state) > 15_000
    await world.do(lease.release)


async def test_a_newcomer_may_take_a_free_lock_where_order_does_not_matter(world: World, look: Look):
    """With ``fair=False`` a lock is not kept for a waiter that has yet to wake up."""
    io = world.io()
    lock = world.locks("Lock", io, "job", fair=False)
    with FaultProxy(world.url) as proxy:
        held = await world.do(lock.acquire)
        far = world.start(world.locks("Lock", world.io(proxy.url), "job", fair=False).acquire, timeout=60)
        await soon(look.waiters)
        proxy.blackhole()
        await world.do(held.release)
        assert look.owner() is None
        lease = await world.do(lock.try_acquire)
        assert lease is not None
        proxy.heal()
        await world.do(lease.release)
        await world.do((await world.ended(far, 60)).release)
    await soon(look.free)


async def test_who_has_waited_for_a_second_is_not_overtaken(world: World, look: Look, flushed: RedisServer):
    io = world.io()
    lock = world.locks("Lock", io, "job", fair=False)
    held = await world.do(lock.acquire)
    waiting = world.start(lock.acquire, timeout=60)
    await soon(look.waiters)
    (heir,) = look.waiters()
    flushed.command("ZINCRBY", KEYS.queue, -1_000_000, heir)
    await world.do(held.release)
    assert await world.do(lock.try_acquire) is None
    assert look.owner() == heir
    await world.do((await world.ended(waiting)).release)


@pytest.mark.usefixtures("claim_s")
async def test_the_state_tells_who_holds_also_after_a_hand_over(world: World, look: Look, flushed: RedisServer):
    """Whoever is called at night wants to know which machine, process and task has the lock."""
    lock = world.locks("Lock", world.io(), "job", note="epoch 42")
    held = await world.do(lock.acquire)

    def about() -> Any:  # noqa: ANN401 - an About
        return read(flushed.command("HGET", KEYS.state, "m"))

    assert about()[:2] == (socket.gethostname(), os.getpid())
    assert about().task
    assert about().note == "epoch 42"
    waiting = world.start(world.locks("Lock", world.io(), "job", note="epoch 43").acquire)
    await soon(look.waiters)
    since = int(flushed.command("HGET", KEYS.state, "s"))
    await world.do(held.release)
    lease = await world.ended(waiting)
    assert about().note == "epoch 43"
    assert int(flushed.command("HGET", KEYS.state, "s")) >= since
    await world.do(lease.release)


async def test_a_request_that_comes_after_its_caller_gave_up_is_refused(world: World, look: Look, flushed: RedisServer):
    """It was still in a buffer when its caller gave up; it would hold the lock for nobody, for a whole ttl."""
    with FaultProxy(world.url) as proxy:
        io = world.io(proxy.url)
        lock = world.lock(io, ttl=60)
        await world.do((await world.do(lock.acquire)).release)
        io._timeout = 0.3
        proxy.on(Break.REQUEST, ACQUIRE.sha, times=1000)
        with pytest.raises(OutcomeUnknown):
            await world.do(lock.acquire)
        await soon(lambda: flushed.command("ZCARD", KEYS.gone) == 1)
        late = [words for words in proxy.requests("EVALSHA") if words[1] == ACQUIRE.sha.encode()][-1]
        assert flushed.command(*late)[0] == 0
        assert look.free()
        assert flushed.command("PTTL", KEYS.gone) > 0
        await world.do((await world.do(world.lock(world.io()).acquire)).release)
        await world.close()


def test_what_is_told_has_a_limit():
    """Every waiter stores it and every hand-over copies it."""
    told = tell("host\t17\ttask", "é" * 300)
    assert len(told.encode()) <= BYTES_MAX
    assert read(told)[:3] == ("host", 17, "task")
    assert read(b"\xff\xfe") == ("��", 0, "", "")


@pytest.mark.parametrize("task", ["x" * 1000, "é" * 1000])
def test_a_long_name_of_a_task_leaves_room_for_the_note(task: str):
    """The note of a candidate is its address, of up to 128 bytes."""
    address = "é" * 64
    told = tell(f"{'h' * 64}\t1234567\t{task}", address)
    assert len(told.encode()) <= BYTES_MAX
    assert (read(told).host, read(told).pid, read(told).note) == ("h" * 64, 1234567, address)
    assert 40 <= len(read(told).task.encode()) < 60
    assert len(tell(f"host\t17\t{task}", "").encode()) >= BYTES_MAX - 1


def test_what_is_no_unicode_is_told_as_a_question_mark():
    """A task is named after a file whose name the system could not decode, and wants a lock."""
    assert read(tell("host\t17\treport-\udce9", "\ud800")) == ("host", 17, "report-?", "?")


@pytest.mark.parametrize("kind", [Lock, AsyncLock])
def test_a_note_that_is_no_text_is_refused(kind: Callable[..., Any]):
    with pytest.raises(UsageError, match="the note of lock 'job' must be text, not 7"):
        kind(NOWHERE, "test", "job", note=7)


@pytest.mark.parametrize(
    ("fence", "claim_ms"),
    [(1, 100_000_000), (1, CLAIM_MS + 1), (2**62, CLAIM_MS), (GRANTS_MAX, CLAIM_MS)],
)
async def test_a_word_that_no_script_says_is_not_believed(
    world: World, look: Look, flushed: RedisServer, fence: int, claim_ms: int
):
    """Whoever may publish could hand out leases of a day, and fences after which a resource refuses everybody."""
    held = await world.do(world.lock(world.io(), ttl=60).acquire)
    waiting = world.start(world.lock(world.io(), ttl=60).acquire, timeout=60)
    await soon(lambda: look.waiters() and look.hears(look.waiters()[0]))
    (waiter,) = look.waiters()
    channel = wake_channel(wake_prefix(KEYS.state), waiter)
    seconds, micros = map(int, flushed.command("TIME"))
    us = seconds * 1_000_000 + micros
    looked = flushed.command("HGET", KEYS.alive, waiter)
    flushed.command("PUBLISH", channel, f"{waiter} {us + fence} {us} {claim_ms}")
    await soon(lambda: flushed.command("HGET", KEYS.alive, waiter) != looked)  # it asked
    held.check()
    await world.do(held.release)
    lease = await world.ended(waiting)
    assert (lease.fence == us + fence, lease.owner == look.owner()) == (False, True)
    await world.do(lease.release)
