"""One caller loads; what was invalidated meanwhile is not stored; nobody waits for the dead."""

# ruff: noqa: ANN401 - loaders of two kinds

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid
from gridsync.cache import Space, Warmed
from gridsync.errors import OutcomeUnknown, Unavailable, UsageError
from gridsync.testing.proxy import FaultProxy
from tests.cache.conftest import in_a_thread
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from gridsync.testing.servers import RedisServer
    from tests.cache.conftest import Cached, Opened, OpenGrid

PRICES: Space[int] = Space("price", int)
KEY = "{test:cache:price:k}"
PATIENCE_S = 30


class Source:
    """What is behind a cache: counts who asks, and answers when it is told to."""

    def __init__(self, *, held: bool = False) -> None:
        self.value = 1
        self.asked = 0
        self.begun = threading.Event()
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, *_: object) -> int:
        self.asked += 1
        value = self.value
        self.begun.set()
        assert self.go.wait(PATIENCE_S)
        return value


def load(cache: Cached, source: Callable[..., int], **options: Any) -> asyncio.Task[int]:
    return asyncio.ensure_future(cache.get_or_load("k", cache.function(source), **options))


async def test_many_callers_of_several_processes_make_one_load(open_grid: OpenGrid, raw: redis.Redis):
    source = Source(held=True)
    caches = [(await open_grid()).cache(PRICES) for _ in range(3)]
    callers = [load(cache, source) for cache in caches for _ in range(5)]
    await soon(lambda: raw.hlen(f"{KEY}:load") == 3)
    source.go.set()
    assert await asyncio.gather(*callers) == [1] * 15
    assert source.asked == 1
    assert raw.exists(f"{KEY}:load") == 0


async def test_waiters_are_told_and_do_not_look_again_and_again(open_grid: OpenGrid, flushed: RedisServer):
    source = Source(held=True)
    one, other = (await open_grid()).cache(PRICES), (await open_grid()).cache(PRICES)
    first = load(one, source)
    await soon(source.begun.is_set)
    with flushed.client() as raw:
        second = load(other, source)
        await soon(lambda: raw.hlen(f"{KEY}:load") == 2)
        raw.config_resetstat()
        source.go.set()
        assert await asyncio.gather(first, second) == [1, 1]
        scripts = raw.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert scripts <= 3, "the load is stored, and the waiter looks once or twice"


async def test_a_loader_that_raises_is_heard_by_all_who_wait_here_and_the_next_one_loads(
    grid: Opened, raw: redis.Redis
):
    cache, source = grid.cache(PRICES), Source(held=True)

    def fail() -> int:
        source()
        raise ZeroDivisionError

    callers = [load(cache, fail) for _ in range(3)]
    await soon(source.begun.is_set)
    source.go.set()
    done = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(each, ZeroDivisionError) for each in done)
    await soon(lambda: not raw.exists(f"{KEY}:load"))
    assert await load(cache, source) == 1


@pytest.mark.parametrize("how", ["delete", "set", "invalidate"])
async def test_an_invalidation_beats_a_load_that_is_under_way(open_grid: OpenGrid, how: str):
    """The value was read before; stored after the invalidation it would stay for its whole ttl."""
    source = Source(held=True)
    cache, other = (await open_grid()).cache(PRICES), (await open_grid()).cache(PRICES)
    early = load(cache, source, tags=["t"])
    await soon(source.begun.is_set)
    source.value = 2
    await (other.set("k", 2) if how == "set" else getattr(other, how)("t" if how == "invalidate" else "k"))
    late = load(cache, source, tags=["t"])
    source.go.set()
    assert await early == 1, "it asked before"
    assert await late == 2, "it asked after the invalidation"
    assert await cache.get("k", 2) == 2
    assert await other.get_or_load("k", other.function(source)) == 2


async def test_a_load_whose_process_died_is_taken_over_when_its_lease_ends(grid: Opened, raw: redis.Redis):
    raw.hset(f"{KEY}:load", "o", "somebody-dead")
    raw.pexpire(f"{KEY}:load", 300)
    cache = grid.cache(PRICES)
    assert await cache.get_or_load("k", cache.function(Source())) == 1


async def test_a_slow_load_keeps_its_lease(grid: Opened, raw: redis.Redis):
    cache, source = grid.cache(PRICES), Source(held=True)
    caller = load(cache, source)
    await soon(source.begun.is_set)
    raw.pexpire(f"{KEY}:load", 2500)
    await soon(lambda: raw.pttl(f"{KEY}:load") > 2600)
    source.go.set()
    assert await caller == 1


async def test_a_value_past_its_ttl_is_served_while_one_caller_loads_it_again(open_grid: OpenGrid, raw: redis.Redis):
    space: Space[int] = Space("price", int, ttl=600, stale_for=60, jitter=0)
    one, other = (await open_grid()).cache(space), (await open_grid()).cache(space)
    await one.set("k", 1)
    raw.pexpire(KEY, 30_000)
    source = Source(held=True)
    source.value = 2
    first = load(one, source)
    await soon(source.begun.is_set)
    assert await load(other, source) == 1, "another one loads it"
    assert await other.get("k") == 1
    assert other.stats().stale == 2
    source.go.set()
    assert await first in {1, 2}
    await soon(lambda: raw.pttl(KEY) > 600_000)
    assert await load(other, source) == 2
    assert source.asked == 1


async def test_a_refresh_that_fails_leaves_what_is_there(
    open_grid: OpenGrid, raw: redis.Redis, caplog: pytest.LogCaptureFixture
):
    space: Space[int] = Space("price", int, ttl=600, stale_for=60, jitter=0)
    cache = (await open_grid()).cache(space)
    await cache.set("k", 1)
    raw.pexpire(KEY, 30_000)

    def fail() -> int:
        raise ZeroDivisionError

    assert await load(cache, fail) == 1
    await soon(lambda: not raw.exists(f"{KEY}:load") and "loading 'k' again failed" in caplog.text)
    assert await cache.get("k") == 1


async def test_a_value_that_is_dear_is_loaded_before_its_end(open_grid: OpenGrid, raw: redis.Redis):
    space: Space[int] = Space("price", int, ttl=600, early=100.0, jitter=0)
    cache = (await open_grid()).cache(space)
    source = Source()
    assert await load(cache, source) == 1
    stored = raw.get(KEY)
    head, _, value = stored.partition(b"\n")
    words = head.split(b" ")
    words[2] = b"600000"
    raw.set(KEY, b" ".join(words) + b"\n" + value, px=1000)
    await load(cache, source)
    await soon(lambda: source.asked == 2)
    await soon(lambda: raw.pttl(KEY) > 1000)


async def test_a_loader_that_asks_for_its_own_value_is_told_so(grid: Opened):
    cache = grid.cache(PRICES)

    if type(cache.cache).__name__ == "Cache":

        def again() -> int:
            value: int = cache.cache.get_or_load("k", again)
            return value
    else:

        async def again() -> int:
            value: int = await cache.cache.get_or_load("k", again)
            return value

    with pytest.raises(UsageError, match="asks for that very value"):
        await cache.get_or_load("k", again)


@pytest.mark.any_server
async def test_loaders_that_ask_for_each_other_are_told_so(grid: Opened):
    """They would wait for each other for ever, and hold up whoever asks for one of the two values."""
    cache = grid.cache(PRICES)

    async def ask(key: str, other: str) -> int:
        if type(cache.cache).__name__ == "Cache":
            return await cache.get_or_load(key, lambda: cache.cache.get_or_load(other, lambda: cache.cache.get_or_load(
                key, lambda: 1)))  # fmt: skip

        async def here() -> int:
            value: int = await cache.cache.get_or_load(key, there)
            return value

        async def there() -> int:
            value: int = await cache.cache.get_or_load(other, here)
            return value

        return await here()

    with pytest.raises(UsageError, match="asks for that very value"):
        await ask("a", "b")


@pytest.mark.any_server
def test_threads_whose_loaders_wait_for_each_other_are_told_so(flushed: RedisServer):
    with Grid(flushed.url, namespace="test", audit=False) as grid:
        cache, both, outcomes = grid.cache(PRICES), threading.Barrier(2), []

        def ask(key: str, other: str) -> None:
            def loader() -> int:
                both.wait(PATIENCE_S)
                return cache.get_or_load(other, lambda: 1)

            try:
                outcomes.append(cache.get_or_load(key, loader))
            except UsageError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=ask, args=keys) for keys in (("a", "b"), ("b", "a"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert any("asks for that very value" in str(each) for each in outcomes)


async def test_who_waited_for_a_load_may_change_what_it_got(grid: Opened):
    """Whoever was there at the same moment would see the change: wrong data, and only under load."""
    source, cache = Source(held=True), grid.cache(Space("draft", list[int]))
    callers = [asyncio.ensure_future(cache.get_or_load("k", cache.function(lambda: [source()]))) for _ in range(5)]
    await in_a_thread(source.begun.wait, PATIENCE_S)
    source.go.set()
    for number, found in enumerate(await asyncio.gather(*callers)):
        assert found == [1]
        found.append(number)
    assert await cache.get("k") == [1]


async def test_a_cancelled_caller_does_not_end_the_load_for_the_others(flushed: RedisServer):
    async with AsyncGrid(flushed.url, namespace="test", audit=False) as grid:
        cache, go, begun = grid.cache(PRICES), asyncio.Event(), asyncio.Event()

        async def slow() -> int:
            begun.set()
            await go.wait()
            return 1

        first = asyncio.ensure_future(cache.get_or_load("k", slow))
        await begun.wait()
        second = asyncio.ensure_future(cache.get_or_load("k", slow))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        assert await second == 1
        assert await cache.get("k") == 1
        assert cache.stats().loads == 1


async def test_a_fleet_that_warms_loads_each_key_once(open_grid: OpenGrid):
    source, told = Source(), []
    keys = [str(n) for n in range(60)]
    caches = [(await open_grid()).cache(PRICES) for _ in range(2)]
    await caches[0].set("0", 7)
    done = await asyncio.gather(
        *(cache.warm(keys, cache.function(source), concurrency=5, on_progress=told.append) for cache in caches)
    )
    assert source.asked == 59
    assert sum(each.loaded for each in done) == 59
    assert all(each.loaded + each.present == 60 and not each.failed for each in done)
    assert len(told) == 120
    assert set(done) <= set(told)


async def test_a_generator_of_keys_is_gone_through_by_one_at_a_time(grid: Opened):
    """It may read them from a database, row by row; no generator runs in two threads at once."""
    cache, inside = grid.cache(PRICES), threading.Semaphore(1)

    def keys() -> Iterator[str]:
        for number in range(100):
            assert inside.acquire(blocking=False)
            threading.Event().wait(0.001)  # lets go of the interpreter, as any input does
            inside.release()
            yield str(number)

    assert await cache.warm(keys(), cache.function(lambda _: 1), concurrency=8) == Warmed(loaded=100)


async def test_warming_goes_on_after_a_loader_that_raises(grid: Opened):
    cache = grid.cache(PRICES)

    def load_one(key: str) -> int:
        return 100 // int(key)

    assert await cache.warm(["1", "0", "2"], cache.function(load_one), concurrency=1) == Warmed(loaded=2, failed=1)


async def test_without_its_server_a_cache_computes(open_grid: OpenGrid, flushed: RedisServer):
    with FaultProxy(flushed.url) as proxy:
        cache = (await open_grid(proxy.url, redis_command_timeout=0.5)).cache(PRICES)
        assert await cache.set("k", 5)
        proxy.refuse()
        proxy.cut()
        source = Source()
        assert await load(cache, source) == 1
        assert await cache.get("k") is None
        assert await cache.get_many(["k"]) == {}
        assert not await cache.set("k", 6)
        with pytest.raises(Unavailable):
            await cache.delete("k")
        with pytest.raises(Unavailable):
            await cache.invalidate("t")
        assert cache.stats().degraded >= 4


@pytest.mark.any_server
async def test_a_server_that_froze_costs_a_call_what_the_cache_was_told_and_no_more(
    open_grid: OpenGrid, flushed: RedisServer
):
    """A page that reads from a cache would be gone for as long as the server; or, request after request, for longer."""
    with FaultProxy(flushed.url) as proxy:
        grid = await open_grid(proxy.url, redis_command_timeout=200)
        cache, patient = grid.cache(Space("price", int, timeout=0.2)), grid.cache(PRICES)
        await patient.set("k", 5)
        source = Source()
        calls: dict[str, tuple[Callable[[], Any], object]] = {
            "get": (lambda: cache.get("k"), None),
            "get_many": (lambda: cache.get_many(["k"]), {}),
            "set": (lambda: cache.set("k", 6, tags=["t"]), False),
            "load": (lambda: load(cache, source), 1),
            "load with tags": (lambda: load(cache, source, tags=["t"]), 1),
        }
        proxy.blackhole()
        async with asyncio.timeout(100):
            for number, (call, wanted) in enumerate(calls.values(), 1):
                assert await call() == wanted
                assert cache.stats().degraded == number, "it asked again"
        proxy.heal()


@pytest.mark.any_server
async def test_a_server_that_froze_during_a_load_is_asked_no_more(open_grid: OpenGrid, flushed: RedisServer):
    with FaultProxy(flushed.url) as proxy:
        grid = await open_grid(proxy.url, redis_command_timeout=200)
        cache = grid.cache(Space("price", int, timeout=3))
        await grid.cache(PRICES).set("other", 5)

        def last_words() -> int:
            proxy.blackhole()
            return 7

        async with asyncio.timeout(100):
            assert await load(cache, last_words, tags=["t"]) == 7
        assert cache.stats().degraded <= 1
        proxy.heal()


async def test_without_its_server_a_cache_raises_if_it_was_told_to(open_grid: OpenGrid, flushed: RedisServer):
    with FaultProxy(flushed.url) as proxy:
        grid = await open_grid(proxy.url, redis_command_timeout=0.5)
        cache = grid.cache(Space("price", int, on_error="raise"))
        await cache.get("k")
        proxy.refuse()
        proxy.cut()
        for call in (lambda: cache.get("k"), lambda: cache.set("k", 1), lambda: load(cache, Source())):
            with pytest.raises((Unavailable, OutcomeUnknown)):
                await call()


def test_a_function_is_answered_from_the_cache(flushed: RedisServer):
    with Grid(flushed.url, namespace="test", audit=False) as grid:
        calls = []
        cache = grid.cache(PRICES)

        @cache.cached("{market}:{hour}", tags=["prices"])
        def price(market: str, hour: int, *, scale: int = 1) -> int:
            calls.append(market)
            return hour * scale

        @cache.cached()
        def other(a: int, *more: int, b: int = 2) -> int:
            calls.append("other")
            return a + b + sum(more)

        assert [price("de", 7), price("de", hour=7), price("fr", 7)] == [7, 7, 7]
        assert cache.get("de:7") == 7
        cache.invalidate("prices")
        assert price("de", 7) == 7
        assert calls == ["de", "fr", "de"]
        assert [other(1), other(1, b=2), other(a=1), other(1, 2)] == [3, 3, 3, 5]
        assert calls[3:] == ["other", "other"]
        with pytest.raises(UsageError, match="make no key"):
            other(object())  # type: ignore[arg-type]
        for key in ("{nobody}", "{market}{hour}", "{market"):
            with pytest.raises(UsageError, match="name its parameters"):
                cache.cached(key)(price)

        async def coroutine() -> int:
            return 1

        with pytest.raises(UsageError, match="AsyncCache"):
            cache.cached()(coroutine)  # type: ignore[arg-type]


@pytest.mark.any_server
def test_other_arguments_never_make_the_same_key(flushed: RedisServer):
    """One tenant would read the values of another, whose name he chose."""
    with Grid(flushed.url, namespace="test", audit=False) as grid:
        cache = grid.cache(Space("document", str))

        @cache.cached("{tenant}:{name}")
        def document(tenant: str, name: str) -> str:
            return f"{tenant} | {name}"

        asked = [("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("a%3A", "b:c"), ("a", "b%c"), ("{name}", "{tenant}")]
        for _ in range(2):
            assert [document(*arguments) for arguments in asked] == [" | ".join(arguments) for arguments in asked]
        assert cache.stats().loads == len(asked)

        @cache.cached("of {tenant}")
        def tenant_of(tenant: str) -> str:
            return tenant

        assert tenant_of("a:b%c d") == "a:b%c d"
        assert cache.get("of a:b%c d") == "a:b%c d"


async def test_a_coroutine_function_is_answered_from_the_cache(flushed: RedisServer):
    async with AsyncGrid(flushed.url, namespace="test", audit=False) as grid:
        calls = []
        cache = grid.cache(PRICES)

        @cache.cached(key=lambda market, hour: f"{market}/{hour}")
        async def price(market: str, hour: int) -> int:
            calls.append(market)
            return hour

        assert await asyncio.gather(*(price("de", 7) for _ in range(10))) == [7] * 10
        assert calls == ["de"]
        assert await cache.get("de/7") == 7
        with pytest.raises(UsageError, match="no coroutine function"):
            cache.cached()(len)  # type: ignore[arg-type]
