"""The watchdog: what is kept is renewed in time, or its owner is told before the server lets it go."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import Category, Command
from gridsync._io.clock import monotonic
from gridsync._io.keys import lock as lock_keys
from gridsync.errors import LeaseLost
from gridsync.locks._spec import RENEW
from gridsync.testing.proxy import Break
from tests.wire.fake import eventually, soon
from tests.wire.world import KINDS, NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from gridsync._io.scripts import Operation
    from gridsync._io.sync import SyncIO
    from gridsync.testing.proxy import FaultProxy
    from gridsync.testing.servers import RedisServer

KEYS = lock_keys(NAMESPACE, "job")


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[World]:
    made = World(request.param, flushed.url)
    yield made
    await made.close()


class Item:
    """Something to keep, whose every step the test decides."""

    def __init__(self, key: str, *, every_s: float = 0.02) -> None:
        self.due = monotonic()
        self.deadline = monotonic() + 60
        self.replies: list[Any] = []
        self._key = key
        self._every_s = every_s

    def request(self, now: float) -> tuple[Operation, Sequence[str], Sequence[Any]] | None:
        assert now >= self.due
        return RENEW, [self._key], ["me", 60_000]

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401 - the protocol's
        assert sent <= monotonic()
        self.replies.append(reply)
        self.due = monotonic() + self._every_s
        return True


async def test_a_lease_outlives_its_ttl_while_the_loop_is_blocked(world: World, flushed: RedisServer):
    """A handler that computes for longer than the ttl must not lose the lock to it."""
    lease = await world.do(world.lock(world.io(), ttl=3.0).acquire)
    until = time.monotonic() + 3.6
    while time.monotonic() < until:
        pass  # nothing else runs in this thread, which is the loop's
    lease.check()
    assert flushed.command("HGET", KEYS.state, "o") == lease.owner.encode()
    assert await world.do(lease.release) is True


async def test_a_lease_that_was_taken_away_is_lost_for_good(world: World, flushed: RedisServer):
    lease = await world.do(world.lock(world.io(), ttl=3.0).acquire)
    told: list[int] = []
    lease.lost.on_set(lambda: told.append(lease.fence))
    flushed.command("DEL", KEYS.state)
    await soon(lease.lost.is_set)
    flushed.command("HSET", KEYS.state, "o", lease.owner, "t", lease.fence)
    flushed.command("PEXPIRE", KEYS.state, 5000)
    with pytest.raises(LeaseLost, match="is lost: it ended on the server, or was taken away"):
        lease.check()
    assert told == [lease.fence]
    assert lease.expires_in() == 0
    flushed.command("DEL", KEYS.state)


async def test_a_frozen_server_means_that_the_loss_is_known_while_it_is_frozen(world: World, flushed: RedisServer):
    """The holder must stop before the server, back again, lets somebody else in."""
    lease = await world.do(world.lock(world.io(), ttl=0.6).acquire)
    flushed.pause()
    try:
        await soon(lease.lost.is_set)
        assert not lease.expires_in()
        with pytest.raises(LeaseLost, match="it was not renewed in time"):
            lease.check()
    finally:
        flushed.resume()


@pytest.mark.parametrize("direction", ["requests", "replies"])
async def test_a_black_hole_means_that_the_loss_is_known(
    world: World, flushed: RedisServer, proxy: FaultProxy, direction: str
):
    lease = await world.do(world.lock(world.io(proxy.url), ttl=0.6).acquire)
    proxy.blackhole(requests=direction == "requests", replies=direction == "replies")
    await soon(lease.lost.is_set)
    with pytest.raises(LeaseLost):
        lease.check()
    proxy.heal()
    await soon(lambda: flushed.command("EXISTS", KEYS.state) == 0)


async def test_a_renewal_that_fails_once_is_tried_again_in_time(world: World, proxy: FaultProxy):
    lease = await world.do(world.lock(world.io(proxy.url), ttl=3.0).acquire)
    rule = proxy.on(Break.REQUEST, RENEW.sha, times=2)
    await soon(lambda: rule.hits == 2)
    seen = len(proxy.requests(RENEW.sha))
    await soon(lambda: len(proxy.requests(RENEW.sha)) >= seen + 2)
    lease.check()
    assert await world.do(lease.release) is True


def test_a_batch_whose_script_is_unknown_is_loaded_and_renewed(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    io = sync_io(flushed.url)
    items = [Item(f"k{n}") for n in range(3)]
    for item in items:
        flushed.command("HSET", item._key, "o", "me")
        flushed.command("SCRIPT", "FLUSH")
    for item in items:
        io.keep(item)
    for item in items:
        eventually(lambda item=item: item.replies)
        assert set(item.replies) == {1}
        io.unkeep(item)


class Slow(Item):
    """Something whose renewal takes the server a while."""

    def request(self, now: float) -> tuple[Operation, Sequence[str], Sequence[Any]] | None:  # noqa: ARG002 - a Keep's
        return Command("BLPOP", Category.READ, ("BLPOP",)), [self._key], ["0.2"]


class Hasty(Item):
    """Something that is always about to be lost."""

    @property
    def deadline(self) -> float:
        return monotonic() + 0.03

    @deadline.setter
    def deadline(self, _value: float) -> None:
        pass


def test_a_lease_that_is_about_to_end_leaves_the_others_time_for_their_answers(
    flushed: RedisServer, sync_io: Callable[..., SyncIO]
):
    """One lease of 30 ms would let the renewals of all others fail, whenever the server takes longer than that."""
    io = sync_io(flushed.url)
    hasty, slow = Hasty("hasty"), Slow("slow")
    flushed.command("HSET", "hasty", "o", "me")
    io.keep(hasty)
    eventually(lambda: 1 in hasty.replies)
    io.keep(slow)
    assert io.stats().leases_kept == 2
    eventually(lambda: len(slow.replies) == 3)
    assert slow.replies == [None] * 3, "answered, each time"
    seen = hasty.replies.count(1)
    eventually(lambda: hasty.replies.count(1) > seen)
    for item in (hasty, slow):
        io.unkeep(item)
    assert io.stats().leases_kept == 0
    assert io.alive()
    io.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "gridsync-keeper"]


def test_a_lease_that_is_about_to_end_starts_no_thread_after_the_stop(
    flushed: RedisServer, sync_io: Callable[..., SyncIO]
):
    """The stop looks for the second thread once: one that came later would go on for ever."""
    io = sync_io(flushed.url)

    class Stops(Item):
        @property
        def deadline(self) -> float:
            if not io._keeper._closed:
                io._keeper.stop()  # between the thread's look at this and what it does about it
            return monotonic() + 0.03

        @deadline.setter
        def deadline(self, _value: float) -> None:
            pass

    io.keep(Stops("k"))
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "gridsync-keeper"])


def test_one_item_that_stumbles_costs_no_other_its_renewal(
    flushed: RedisServer, sync_io: Callable[..., SyncIO], caplog: pytest.LogCaptureFixture
):
    """A bug in one wing must not lose the leases of another."""

    class BadRequest(Item):
        def request(self, now: float) -> None:
            raise ZeroDivisionError(now)

    class BadSettle(Item):
        def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401 - the protocol's
            raise ZeroDivisionError(reply, sent)

    io = sync_io(flushed.url)
    good, bad = Item("k"), [BadRequest("k"), BadSettle("k")]
    with caplog.at_level(logging.CRITICAL, logger="gridsync"):
        for item in (*bad, good):
            io.keep(item)
        eventually(lambda: len(good.replies) >= 5)
    for item in (*bad, good):
        io.unkeep(item)
    assert set(good.replies) == {0}


def test_a_server_that_is_away_is_told_to_the_item(sync_io: Callable[..., SyncIO], flushed: RedisServer):
    io = sync_io(flushed.url)
    flushed.stop()
    item = Item("k")
    io.keep(item)
    eventually(lambda: len(item.replies) >= 2)
    assert all(isinstance(reply, Exception) for reply in item.replies)
    flushed.start()
    eventually(lambda: item.replies[-1] == 0)
    io.unkeep(item)


def test_no_request_blocks_past_the_earliest_deadline(sync_io: Callable[..., SyncIO], flushed: RedisServer):
    """Connect, send, load and send again share one bound."""
    io = sync_io(flushed.url)
    item = Item("k")
    flushed.pause()
    try:
        item.deadline = monotonic() + 0.1
        io.keep(item)
        eventually(lambda: item.replies)
        assert isinstance(item.replies[0], Exception)
    finally:
        flushed.resume()
    io.unkeep(item)


@pytest.mark.usefixtures("nothing_left")
async def test_closing_ends_the_thread_and_its_connection(world: World, proxy: FaultProxy):
    io = world.io(proxy.url)
    lease = await world.do(world.lock(io, ttl=1.5).acquire)
    await soon(lambda: proxy.requests(RENEW.sha))
    await soon(lambda: proxy.connections == 3)  # for commands, for renewals, for what a long-held lease is told
    await world.do(io.close)
    await soon(lambda: proxy.connections == 0)
    assert not [t for t in threading.enumerate() if t.name == "gridsync-keeper"]
    del lease


def test_the_child_of_a_fork_renews_nothing_of_its_parent(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    io = sync_io(flushed.url)
    item = Item("k")
    io.keep(item)
    eventually(lambda: item.replies)
    child = os.fork()
    if child == 0:
        alive = [t.name for t in threading.enumerate()]
        own = Item("k")
        io.keep(own)
        try:
            eventually(lambda: len(own.replies) > 2)
            os._exit(1 if "gridsync-keeper" in alive or id(item) in io._keeper._items else 0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    seen = len(item.replies)
    eventually(lambda: len(item.replies) > seen + 2)
    io.unkeep(item)
