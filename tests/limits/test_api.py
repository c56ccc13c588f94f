"""What a user of a limiter sees."""

from __future__ import annotations

import asyncio
import threading
from enum import Enum
from typing import TYPE_CHECKING

import pytest

from gridsync._io.aio import AsyncIO
from gridsync._io.keys import limit
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.errors import InvalidLimit, RateLimited, ServerError, UsageError
from gridsync.limits import AsyncLimiter, Decision, Limiter, Rate
from tests.wire.world import KINDS, NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import redis

    from gridsync.testing.servers import RedisServer
    from tests.limits.conftest import PlainIO


@pytest.fixture
def driver(flushed: RedisServer) -> Iterator[SyncIO]:
    driver = SyncIO(parse(flushed.url, connect_timeout=5), pool_size=8, timeout=5)
    yield driver
    driver.close()


def test_a_decision_tells_what_is_left_and_when_to_come_back(driver: SyncIO) -> None:
    limiter = Limiter(driver, "t", "orders", "2 per 10 seconds")
    first = limiter.hit("ada")
    assert first.ticket is not None
    assert (first.ticket.key, first.ticket.cost) == ("ada", 1)
    assert first._replace(ticket=None) == Decision(
        allowed=True, limit=2, remaining=1, retry_after=0.0, reset_after=10.0, rule=Rate(2, 10)
    )
    assert limiter.hit("ada").remaining == 0
    denied = limiter.hit("ada")
    assert not denied
    assert denied.allowed is False
    assert denied.ticket is None
    assert denied.retry_after is not None
    assert 0 < denied.retry_after <= denied.reset_after <= 10.0
    assert limiter.hit("bob"), "each key has windows of its own"
    limiter.reset("ada")
    assert limiter.hit("ada").remaining == 1


def test_the_rule_that_binds_is_named(driver: SyncIO) -> None:
    limiter = Limiter(driver, "t", "orders", "3/minute", "5/hour")
    assert [limiter.hit("ada").rule for _ in range(3)] == [Rate(3, 60)] * 3
    denied = limiter.hit("ada")
    assert (denied.rule, denied.limit, denied.remaining) == (Rate(3, 60), 3, 0)
    denied = limiter.hit("ada", cost=3)
    assert (denied.rule, denied.limit, denied.remaining) == (Rate(5, 3600), 5, 2)
    assert limiter.hit("bob", cost=4).retry_after is None


def test_a_cost_above_the_limit_says_never_and_takes_nothing(driver: SyncIO) -> None:
    limiter = Limiter(driver, "t", "bytes", "1000/s")
    never = limiter.hit("ada", cost=1001)
    assert (never.allowed, never.retry_after, never.remaining, never.reset_after) == (False, None, 1000, 0.0)
    assert limiter.hit("ada", cost=1000)


def test_peek_takes_nothing(driver: SyncIO, client: redis.Redis) -> None:
    limiter = Limiter(driver, "t", "orders", "2/minute")
    assert limiter.peek("ada").remaining == 2
    assert client.dbsize() == 0
    limiter.hit("ada", cost=2)
    peeked = limiter.peek("ada")
    assert not peeked
    assert peeked.remaining == 0


def test_waiting_as_long_as_told_is_enough(driver: SyncIO) -> None:
    """One wait, one more hit, and it is admitted: a client that obeys is never denied twice."""
    limiter = Limiter(driver, "t", "orders", "2 per 50 ms")
    waited = threading.Event()
    for _ in range(10):
        while decision := limiter.hit("ada"):
            pass
        assert decision.retry_after is not None
        waited.wait(decision.retry_after)
        assert limiter.hit("ada")


def test_every_key_expires_after_every_call(driver: SyncIO, client: redis.Redis) -> None:
    limiter, both = Limiter(driver, "t", "a", "20/minute"), Limiter(driver, "t", "b", "20/s", "30/minute")
    for _ in range(40):
        for one in (limiter, both):
            one.hit("ada", 1)
            one.peek("ada")
            key = limit("t", one.name, "ada")
            assert 60_000 <= client.pttl(key) <= 75_001


def test_eight_threads_never_exceed_the_limit(driver: SyncIO, client: redis.Redis) -> None:
    """Not in any window, wherever it starts."""
    limiter = Limiter(driver, "t", "orders", "40 per 100 ms", "100 per 300 ms")
    decisions: list[Decision] = []

    def work() -> None:
        decisions.extend(limiter.hit("ada") for _ in range(250))

    threads = [threading.Thread(target=work) for _ in range(8)]
    log: dict[str, float] = {}
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        log |= dict(client.zrange(limit("t", "orders", "ada"), 0, -1, withscores=True))
    assert len(decisions) == 2000
    assert sum(map(bool, decisions)) >= 40
    times = sorted(int(score) for score in log.values())
    for most, window in ((40, 100_000), (100, 300_000)):
        assert all(sum(start <= at < start + window for at in times) <= most for start in times)


async def test_the_async_twin_says_the_same(flushed: RedisServer) -> None:
    io = AsyncIO(parse(flushed.url, connect_timeout=5), inflight_max=1000, timeout=5)
    try:
        limiter = AsyncLimiter(io, "t", "orders", "30/minute", "1000/hour")
        decisions = await asyncio.gather(*(limiter.hit("ada") for _ in range(50)))
        assert sum(map(bool, decisions)) == 30
        assert not await limiter.peek("ada")
        await limiter.reset("ada")
        assert (await limiter.hit("ada")).remaining == 29
    finally:
        await io.close()


def test_a_key_that_holds_something_else_is_a_server_error(driver: SyncIO, client: redis.Redis) -> None:
    client.set(limit("t", "orders", "ada"), "not a log", ex=60)
    limiter = Limiter(driver, "t", "orders", "2/minute")
    for call in (limiter.hit, limiter.peek):
        with pytest.raises(ServerError) as caught:
            call("ada")
        assert caught.value.code == "WRONGTYPE"
    assert client.get(limit("t", "orders", "ada")) == "not a log"


@pytest.mark.parametrize("subject", ["ada", "a:b", "{x}", "50%", "}", "größe", "a b\n"])
def test_a_key_is_one_subject_in_one_slot(io: PlainIO, client: redis.Redis, subject: str) -> None:
    Limiter(io, "n{s}", "lim:it%", "5/s").hit(subject)
    (key,) = client.keys()
    assert key == limit("n{s}", "lim:it%", subject)
    assert (key.count("{"), key.count("}"), key[0], key[-1]) == (1, 1, "{", "}")


class Tier(str, Enum):  # noqa: UP042 - that is the point
    """What many write who do not know `StrEnum`; a format string writes `Tier.FREE` for its member."""

    FREE = "free"


def test_a_member_of_an_enumeration_of_strings_is_limited_as_its_value(io: PlainIO, client: redis.Redis) -> None:
    """Else its limit would be another one than that of the same text, read from a request or given to the command."""
    limiter = Limiter(io, "n", "calls", "5/s")
    limiter.hit(Tier.FREE)
    limiter.hit("free")
    assert client.keys() == [limit("n", "calls", "free")]


def test_names_and_subjects_with_colons_do_not_meet() -> None:
    assert limit("n", "a:b", "c") != limit("n", "a", "b:c")


@pytest.mark.parametrize("key", ["", None, 7, b"ada", "\udc80"])
def test_a_key_must_be_a_string_that_says_something(io: PlainIO, key: object) -> None:
    limiter = Limiter(io, "t", "orders", "5/s")
    for call in (limiter.hit, limiter.peek, limiter.reset):
        with pytest.raises(UsageError, match="'orders'"):
            call(key)
    assert io.sent == 0


@pytest.mark.parametrize("cost", [0, -1, 1.0, "1", True, None, 10**14 + 1])
def test_a_cost_must_be_a_positive_whole_number(io: PlainIO, cost: object) -> None:
    with pytest.raises(UsageError, match="whole number from 1"):
        Limiter(io, "t", "orders", "5/s").hit("ada", cost)
    assert io.sent == 0


def test_a_limiter_needs_a_name_and_rules(io: PlainIO) -> None:
    with pytest.raises(UsageError, match="name"):
        Limiter(io, "t", "", "5/s")
    with pytest.raises(UsageError, match="a limiter's name must be valid Unicode"):
        Limiter(io, "t", "\ud800", "5/s")
    with pytest.raises(InvalidLimit, match="no rule"):
        Limiter(io, "t", "orders")
    with pytest.raises(InvalidLimit, match="at most 16"):
        Limiter(io, "t", "orders", *["5/s"] * 17)
    assert repr(Limiter(io, "t", "orders", "5/s", "10 per 30 s")) == "<Limiter 'orders' 5/second, 10 per 30 seconds>"


# -- raising ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[World]:
    world = World(request.param, flushed.url)
    yield world
    await world.close()


async def test_enforce_raises_where_a_hit_denies_and_takes_nothing_then(world: World, client: redis.Redis) -> None:
    limiter = world.limiter(world.io(), "3/minute")
    assert (await world.do(limiter.enforce, "ada", 2)).remaining == 1
    before = client.zrange(limit(NAMESPACE, "calls", "ada"), 0, -1, withscores=True)
    with pytest.raises(RateLimited, match="'calls' denies 'ada' by its rule 3/minute: 2 asked for, 1 left") as caught:
        await world.do(limiter.enforce, "ada", 2)
    assert (caught.value.name, caught.value.key) == ("calls", "ada")
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 60
    with pytest.raises(RateLimited, match="a cost of 4 is above the limit and never fits") as caught:
        await world.do(limiter.enforce, "ada", 4)
    assert caught.value.retry_after is None
    assert client.zrange(limit(NAMESPACE, "calls", "ada"), 0, -1, withscores=True) == before


async def test_a_decorated_function_is_not_called_when_its_caller_is_denied(world: World) -> None:
    """Others run the function all the same, and only wait before."""
    limiter = world.limiter(world.io(), "2/minute")
    called: list[str] = []

    def plain(member: str, *, amount: int) -> int:
        """Place an order."""
        called.append(member)
        return amount

    async def coroutine(member: str, *, amount: int) -> int:
        """Place an order."""
        return plain(member, amount=amount)

    function = plain if world.kind == "sync" else coroutine
    place = limiter.limited(key=lambda member, **_: member)(function)
    assert (place.__name__, place.__doc__) == (function.__name__, "Place an order.")
    assert [await world.do(place, "ada", amount=n) for n in (4, 7)] == [4, 7]
    with pytest.raises(RateLimited, match="'ada'"):
        await world.do(place, "ada", amount=9)
    assert await world.do(place, "bob", amount=9) == 9
    assert called == ["ada", "ada", "bob"]
    costly = limiter.limited("all", cost=2)(function)
    await world.do(costly, "ada", amount=1)
    with pytest.raises(RateLimited, match="'all'"):
        await world.do(costly, "ada", amount=1)


async def test_what_cannot_be_limited_is_not_decorated(world: World) -> None:
    limiter = world.limiter(world.io(), "2/minute")

    async def coroutine() -> None:
        """Do nothing."""

    def generator() -> Iterator[int]:
        yield 1

    with pytest.raises(UsageError, match="generator"):
        limiter.limited("all")(generator)
    with pytest.raises(UsageError, match="can only decorate"):
        limiter.limited("all")(coroutine if world.kind == "sync" else len)
    for key, cost in (("", 1), ("all", 0)):
        with pytest.raises(UsageError):
            limiter.limited(key, cost=cost)


async def test_a_decorator_without_its_brackets_is_noticed(world: World) -> None:
    """`@limiter.limited` takes the function for a key function, and calls would do nothing at all."""
    place = world.limiter(world.io(), "2/minute").limited(lambda order: order)
    with pytest.raises(UsageError, match=r"write @limiter\.limited\(key="):
        place("an order")
