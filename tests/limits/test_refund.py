"""A hit that is given back was never counted; what is given back twice is given back once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from gridsync._io import run_sync
from gridsync._io.keys import limit
from gridsync.errors import ServerError, UsageError
from gridsync.limits import Limiter, Ticket
from gridsync.limits._core import Windows
from tests.limits.conftest import ask
from tests.limits.oracle import Oracle
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from gridsync.testing.servers import RedisServer
    from tests.limits.conftest import PlainIO

HOUR = 3_600_000_000
START = 60_000_000_000_000
RING = 2**52


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[World]:
    world = World(request.param, flushed.url)
    yield world
    await world.close()


async def test_a_refund_frees_what_the_hit_took_and_nothing_else(world: World) -> None:
    limiter = world.limiter(world.io(), "10/minute", "15/hour")
    hits = [await world.do(limiter.hit, "ada", cost) for cost in (2, 3, 5)]
    assert not await world.do(limiter.hit, "ada")
    assert await world.do(limiter.refund, hits[1].ticket) is True
    assert await world.do(limiter.refund, hits[1].ticket) is False, "given back before"
    assert (await world.do(limiter.peek, "ada")).remaining == 3
    assert (await world.do(limiter.hit, "ada", 3)).remaining == 0
    assert not await world.do(limiter.hit, "ada")


async def test_what_was_never_taken_cannot_be_given_back(world: World) -> None:
    limiter = world.limiter(world.io(), "2/minute")
    await world.do(limiter.hit, "ada", 2)
    denied = await world.do(limiter.hit, "ada")
    assert denied.ticket is None
    assert (await world.do(limiter.peek, "ada")).ticket is None
    assert await world.do(limiter.refund, denied.ticket) is False
    assert await world.do(limiter.refund, Ticket("ada", "0123456789", 1)) is False
    assert await world.do(limiter.refund, Ticket("bob", "0123456789", 1)) is False
    assert not await world.do(limiter.hit, "ada")


async def test_after_a_reset_nothing_is_given_back(world: World) -> None:
    limiter = world.limiter(world.io(), "5/minute")
    decision = await world.do(limiter.hit, "ada", 5)
    await world.do(limiter.reset, "ada")
    await world.do(limiter.hit, "ada", 2)
    assert await world.do(limiter.refund, decision.ticket) is False
    assert (await world.do(limiter.peek, "ada")).remaining == 3


def test_the_last_hit_that_is_given_back_leaves_no_key(io: PlainIO, client: redis.Redis) -> None:
    limiter = Limiter(io, "t", "orders", "5/minute")
    assert limiter.refund(limiter.hit("ada").ticket) is True
    assert client.dbsize() == 0


def test_a_hit_that_leaves_its_window_in_this_microsecond_is_not_given_back(io: PlainIO) -> None:
    """It is not counted any more; a microsecond before it is."""
    windows = Windows(io, "t", "w", [(10, HOUR)])
    io.set_clock(START)
    (_, early), (_, late) = run_sync(windows.hit("k", 1)), run_sync(windows.hit("k", 1))
    io.set_clock(START + HOUR)
    assert not run_sync(windows.refund("k", early, 1))
    assert run_sync(windows.refund("k", late, 1))


def test_a_refund_leaves_no_key_without_a_ttl(io: PlainIO, client: redis.Redis) -> None:
    """Not even if the log was empty for a moment."""
    limiter = Limiter(io, "t", "orders", "5/minute")
    first, _ = limiter.hit("ada"), limiter.hit("ada")
    assert limiter.refund(first.ticket) is True
    assert client.ttl(limit("t", "orders", "ada")) > 0


def test_a_refund_keeps_a_hit_that_a_late_copy_made_two(io: PlainIO, client: redis.Redis) -> None:
    """Too strict is the worst that a late copy may make a limit."""
    windows = Windows(io, "t", "w", [(10, HOUR)])
    _, first = run_sync(windows.hit("k", 1))
    token, io.token = io.token, lambda: "aaaaaaaaaaaaaa"
    for _ in range(2):
        ask(windows.hit("k", 1))
    io.token = token
    assert run_sync(windows.refund("k", first, 1)) is True
    assert client.zcard(limit("t", "w", "k")) == 2
    assert ask(windows.peek("k", 1)).remaining == 8
    for left in (9, 10):
        assert run_sync(windows.refund("k", "aaaaaaaaaa", 1)) is True
        assert ask(windows.peek("k", 1)).remaining == left


def test_a_refund_is_bounded(io: PlainIO, client: redis.Redis) -> None:
    """It rewrites what came after it; a thousand entries take a server some milliseconds."""
    limiter = Limiter(io, "t", "orders", "5000/hour", resolution=0)
    tickets = [limiter.hit("ada", 2).ticket for _ in range(1_100)]
    before = client.zrange(limit("t", "orders", "ada"), 0, -1, withscores=True)
    assert limiter.refund(tickets[1_099 - 1_024]) is False
    assert client.zrange(limit("t", "orders", "ada"), 0, -1, withscores=True) == before
    for index in (1_099 - 1_023, 1_099 - 100, 1_099 - 20, 1_099):
        assert limiter.refund(tickets[index]) is True
    assert limiter.peek("ada").remaining == 5_000 - 2 * (1_100 - 4)
    assert client.ttl(limit("t", "orders", "ada")) > 0


@pytest.mark.parametrize("ticket", ["ada", 7, ("ada", "0123456789", 1), Ticket("", "0", 1), Ticket("ada", "0", 0)])
def test_only_a_ticket_is_given_back(io: PlainIO, ticket: object) -> None:
    with pytest.raises(UsageError, match="'orders'"):
        Limiter(io, "t", "orders", "5/s").refund(ticket)
    assert io.sent == 0


def test_a_key_that_holds_something_else_is_a_server_error(io: PlainIO, client: redis.Redis) -> None:
    client.set(limit("t", "orders", "ada"), "not a log", ex=60)
    with pytest.raises(ServerError, match="WRONGTYPE"):
        Limiter(io, "t", "orders", "5/s").refund(Ticket("ada", "0123456789", 1))


@pytest.mark.parametrize("total", [0, RING - 40], ids=["fresh", "about to wrap"])
@pytest.mark.parametrize("rules", [[(30, HOUR)], [(8, HOUR), (30, 5 * HOUR)]], ids=["one rule", "two rules"])
def test_after_refunds_every_answer_is_that_of_brute_force(
    io: PlainIO, client: redis.Redis, rules: list[tuple[int, int]], total: int
) -> None:
    """As if the hit had never been: whichever it was, and whatever came after it."""
    rng, oracle, windows = random.Random(f"{rules} {total}"), Oracle(rules), Windows(io, "t", "w", rules)
    longest, key = rules[-1][1], limit("t", "w", "k")
    hits: dict[str, tuple[int, int]] = {}
    now = START
    if total:
        oracle.hit(1, now - HOUR // 2)
        client.zadd(key, {f"{total}+0000000000": now - 2 * longest, f"{total + 1}+0000000001": now - HOUR // 2})
        client.pexpire(key, 10**9)
    for _ in range(500):
        now += rng.choice((0, 1, HOUR // 50, HOUR // 20, HOUR // 8, HOUR // 3))
        io.set_clock(now)
        if hits and rng.random() < 0.4:
            hit = rng.choice(list(hits)[-12:])
            at, cost = hits[hit]
            counted = at > now - longest and any(then == at for then, _ in oracle.admitted)
            assert run_sync(windows.refund("k", hit, cost)) == counted
            oracle.refund(at)
            assert client.pttl(key) != -1
            hits[hit] = 0, cost  # the next one may have its microsecond
        cost = rng.choice((1, 1, 2, 5))
        assert ask(windows.peek("k", cost)).retry_us == oracle.retry(cost, now)
        verdict, hit = run_sync(windows.hit("k", cost))
        assert verdict[0] == oracle.retry(cost, now)
        if not verdict[0]:
            assert verdict[1] == min(oracle.remaining(now)) - cost
            hits[hit] = oracle.clock(now), cost
            oracle.hit(cost, now)
        assert client.pttl(key) > 0 or not oracle.admitted
