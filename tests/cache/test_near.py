"""Copies in the process: served without the server, and never once they may be wrong."""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ConfigDict

from gridsync import AsyncGrid, Grid
from gridsync._io.copies import MISSING
from gridsync.cache import Near, Space
from gridsync.cache._core import READ
from gridsync.errors import OutcomeUnknown, Unavailable, UsageError
from gridsync.testing.proxy import FaultProxy
from tests.cache.conftest import Cached
from tests.wire.fake import eventually, soon, until

if TYPE_CHECKING:
    import redis

    from gridsync.testing.servers import RedisServer
    from tests.cache.conftest import Opened, OpenGrid

PRICES: Space[int] = Space("price", int)
STRICT: Space[int] = Space("price", int, on_error="raise")
KEY = "{test:cache:price:k}"
NEAR = Near()


class Tariff(BaseModel):
    """A model that nobody can change."""

    model_config = ConfigDict(frozen=True)
    name: str
    steps: tuple[Decimal, ...]


class Draft(BaseModel):
    """One that anybody can."""

    steps: list[int]


def near(grid: Opened, space: Space[Any] = PRICES, how: Near = NEAR) -> Cached:
    return Cached(grid.grid.cache(space, near=how))


def hits(cache: Cached) -> int:
    told: int = cache.stats().near.hits
    return told


async def kept(cache: Cached, key: str = "k") -> Any:  # noqa: ANN401 - the value
    """Return the value of *key* once it is served from a copy."""
    found: list[Any] = []

    async def served() -> bool:
        before = hits(cache)
        found[:] = [await cache.get(key)]
        return hits(cache) > before

    await until(served)
    return found[0]


def requests(raw: redis.Redis) -> int:
    stats: Any = raw.info("commandstats")
    return sum(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"] for command in ("evalsha", "get", "mget"))


async def test_a_copy_is_served_without_asking_the_server(grid: Opened, raw: redis.Redis):
    cache = near(grid)
    await cache.set("k", 7)
    await cache.set("none", None)
    assert await kept(cache) == 7
    assert await kept(cache, "none") is None
    asked = requests(raw)
    before = hits(cache)
    assert [await cache.get("k") for _ in range(20)] == [7] * 20
    assert await cache.get("none", "missing") is None
    assert await cache.get_or_load("k", cache.function(lambda: 8)) == 7
    assert await cache.get_many(["k", "none"]) == {"k": 7, "none": None}
    assert hits(cache) == before + 24
    assert requests(raw) == asked
    assert cache.stats().near.entries == 2


async def test_what_is_read_at_once_is_kept_too(grid: Opened, raw: redis.Redis):
    cache = near(grid)
    await cache.set("k", 1)
    await kept(cache)
    assert await cache.set_many({str(n): n for n in range(600)}, tags=["t"])
    raw.delete(KEY)
    await soon(lambda: cache.cache._near("k") is MISSING)  # it was told of all that came before
    keys = [str(n) for n in range(601)]
    assert len(await cache.get_many(keys)) == 600
    await until(lambda: _all_near(cache, keys[:600]))
    asked = requests(raw)
    assert await cache.get_many(keys[:600]) == {str(n): n for n in range(600)}
    assert requests(raw) == asked


async def _all_near(cache: Cached, keys: list[str]) -> bool:
    before = hits(cache)
    await cache.get_many(keys)
    return hits(cache) == before + len(keys)


@pytest.mark.parametrize("how", ["set", "delete", "invalidate", "load", "expire", "flush"])
async def test_what_others_change_is_served_no_more(open_grid: OpenGrid, raw: redis.Redis, how: str):
    cache, other = near(await open_grid()), (await open_grid()).cache(PRICES)
    await other.set("k", 7, tags=["t"])
    assert await kept(cache) == 7
    if how == "set":
        await other.set("k", 8)
    elif how == "delete":
        await other.delete("k")
    elif how == "invalidate":
        await other.invalidate("t")
    elif how == "load":
        raw.delete(KEY)
        await other.get_or_load("k", other.function(lambda: 8))
    elif how == "expire":
        raw.pexpire(KEY, 1)
    else:
        raw.flushall()
    wanted = 8 if how in {"set", "load"} else None

    async def seen() -> bool:
        return bool(await cache.get("k") == wanted)

    await until(seen)
    assert cache.stats().near.invalidations


async def test_what_this_process_changes_is_seen_by_it_at_once(grid: Opened):
    cache, beside = near(grid), grid.cache(PRICES)
    for number in range(20):
        await (cache if number % 2 else beside).set("k", number, tags=["t"])
        assert await cache.get("k") == number
        if number > 10:
            await kept(cache)
    await beside.invalidate("t")
    assert await cache.get("k") is None
    await cache.set("k", 1)
    await kept(cache)
    await beside.delete("k")
    assert await cache.get("k") is None


@pytest.mark.any_server
async def test_an_invalidation_that_overtakes_the_reply_wins(open_grid: OpenGrid, flushed: RedisServer):
    """The old value would stay until its ttl ends: no other message would come."""
    with FaultProxy(flushed.url) as proxy:
        cache = near(await open_grid(proxy.url))
        copies = cache.cache._core.copies
        await cache.set("other", 1)
        await cache.set("k", 1, tags=["t"])
        await kept(cache, "other")

        def changed(*words: str) -> None:
            flushed.command(*words)
            eventually(lambda: not copies._marks)

        for key, command in ((KEY, READ.sha), ("{test:cachetag:price:t}", "MGET")):
            await cache.set("k", 1, tags=["t"])
            rule = proxy.on(partial(changed, "DEL", key), command)
            assert await cache.get("k") in {1, None}, "it asked before"
            rule.wait()
            assert await cache.get("k") is None
        proxy.heal()


@pytest.mark.any_server
async def test_nothing_is_served_once_the_connection_is_lost(open_grid: OpenGrid, flushed: RedisServer):
    with FaultProxy(flushed.url) as proxy:
        cache = near(await open_grid(proxy.url, redis_command_timeout=2), STRICT)
        await cache.set("k", 7)
        assert await kept(cache) == 7
        proxy.refuse()
        proxy.cut()
        await soon(lambda: cache.stats().near.drops)
        assert cache.cache._near("k") is MISSING
        flushed.command("DEL", KEY)
        proxy.heal()
        await until(lambda: _is(cache, None))
        await cache.set("k", 8)
        assert await kept(cache) == 8


async def _is(cache: Cached, value: object) -> bool:
    try:
        return bool(await cache.get("k") == value)
    except (Unavailable, OutcomeUnknown):
        return False


@pytest.mark.any_server
async def test_nothing_is_served_that_a_silent_connection_cannot_vouch_for(open_grid: OpenGrid, flushed: RedisServer):
    """A half-open connection tells of no change, and nobody is told that it does not."""
    with FaultProxy(flushed.url) as proxy:
        cache = near(await open_grid(proxy.url, redis_command_timeout=2), STRICT, Near(staleness=0.5))
        await cache.set("k", 7)
        assert await kept(cache) == 7
        proxy.blackhole()
        flushed.command("DEL", KEY)
        await soon(lambda: cache.cache._near("k") is MISSING)
        proxy.heal()
        await until(lambda: _is(cache, None))


async def test_a_server_that_was_started_anew_is_listened_to_again(open_grid: OpenGrid, flushed: RedisServer):
    cache = near(await open_grid())
    await cache.set("k", 7)
    assert await kept(cache) == 7
    flushed.kill()
    flushed.start()
    await until(lambda: _is(cache, None))
    await until(lambda: _set(cache, 8))
    assert await kept(cache) == 8
    flushed.command("DEL", KEY)
    await until(lambda: _is(cache, None))


async def _set(cache: Cached, value: int) -> bool:
    return bool(await cache.set("k", value))


async def test_without_leave_to_ask_for_changes_a_cache_goes_on_without_copies(
    open_grid: OpenGrid, flushed: RedisServer, caplog: pytest.LogCaptureFixture
):
    flushed.command("ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    try:
        cache = near(await open_grid(flushed.url_for("plain", "pw")))
        await cache.set("k", 7)
        await until(lambda: _refusal(cache))
        assert await cache.get("k") == 7
        assert hits(cache) == 0
        assert "+client|tracking" in caplog.text
        assert "client|tracking" in cache.stats().near.refused
    finally:
        flushed.command("ACL", "DELUSER", "plain")


async def _refusal(cache: Cached) -> bool:
    assert await cache.get("k") == 7
    return bool(cache.stats().near.refused)


@pytest.mark.any_server
async def test_without_its_server_a_cache_serves_the_last_copy_if_it_was_told_to(
    open_grid: OpenGrid, flushed: RedisServer
):
    with FaultProxy(flushed.url) as proxy:
        space: Space[int] = Space("price", int, on_error="stale")
        one = near(await open_grid(proxy.url, redis_command_timeout=1), space, Near(away_for=3600))
        other = near(await open_grid(proxy.url, redis_command_timeout=1), space, Near(away_for=0))
        await until(lambda: _set(one, 7))
        assert [await kept(one), await kept(other)] == [7, 7]
        proxy.refuse()
        proxy.cut()
        await soon(lambda: one.stats().near.drops and other.stats().near.drops)
        assert await one.get("k") == 7
        assert await one.get_many(["k", "x"]) == {"k": 7}
        assert await one.get_or_load("k", one.function(lambda: 8)) == 7
        assert one.stats().kept >= 3
        assert await one.get_or_load("x", one.function(lambda: 9)) == 9
        assert await other.get("k") is None, "its copy is too old for it"
        assert await other.get_or_load("k", other.function(lambda: 8)) == 8
        assert not await one.set("k", 9)
        assert await one.get("k") is None, "it may have been changed"


async def test_what_can_be_changed_is_not_shared(grid: Opened):
    drafts = near(grid, Space("draft", Draft))
    await drafts.set("k", Draft(steps=[1]))
    first = await kept(drafts)
    first.steps.append(2)
    assert await kept(drafts) == Draft(steps=[1])
    tariffs = near(grid, Space("tariff", Tariff))
    await tariffs.set("k", Tariff(name="a", steps=(Decimal(1),)))
    assert await kept(tariffs) is await kept(tariffs)
    given = near(grid, Space("given", Draft), Near(share=True))
    await given.set("k", Draft(steps=[1]))
    assert await kept(given) is await kept(given)
    apart = near(grid, Space("apart", Tariff), Near(share=False))
    await apart.set("k", Tariff(name="a", steps=()))
    assert await kept(apart) is not await kept(apart)


def test_a_near_cache_is_declared_once_for_a_grid(flushed: RedisServer):
    with Grid(flushed.url, namespace="test", audit=False) as grid:
        one = grid.cache(PRICES, near=Near())
        assert grid.cache(PRICES, near=Near())._core.copies is one._core.copies
        for space, how in ((PRICES, Near(entries_max=7)), (Space("price", str), Near())):
            with pytest.raises(UsageError, match="has a near cache for 'price' already"):
                grid.cache(space, near=how)  # type: ignore[type-var]
        with pytest.raises(UsageError, match="pass near="):
            grid.cache(Space("x", int, on_error="stale"))
        with pytest.raises(UsageError):
            one.get([])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "options",
    [{"entries_max": 0}, {"bytes_max": 0}, {"ttl": 0}, {"staleness": 0.01}, {"away_for": -1}, {"share": 2}],
    ids=str,
)
def test_a_near_cache_that_cannot_be_used_is_refused(options: dict[str, Any]):
    with pytest.raises(UsageError):
        Near(**options)


async def test_no_reader_goes_back_while_others_write(open_grid: OpenGrid):
    """A reader that has seen a version is never served an older one, and the last one is seen by all."""
    caches = [near(await open_grid()) for _ in range(2)]
    writer = (await open_grid()).cache(PRICES)
    versions = iter(range(1, 100_000))
    last = None

    async def read(cache: Cached) -> None:
        seen = 0
        while seen != last:
            found = await cache.get("k", seen)
            assert found >= seen
            seen = found
            await asyncio.sleep(0)  # what is served from a copy gives way to nobody, not even to the writer

    async def write() -> None:
        nonlocal last
        while (version := next(versions)) < 300 or not all(hits(cache) > 20 for cache in caches):
            await writer.set("k", version)
        await writer.set("k", version)
        last = version

    async with asyncio.timeout(120):
        await asyncio.gather(write(), *(read(cache) for cache in caches for _ in range(4)))


@pytest.mark.any_server
def test_the_child_of_a_fork_listens_by_itself(flushed: RedisServer):
    """The connection of its parent tells the parent, and the thread that reads from it is not there."""
    with Grid(flushed.url, namespace="test", audit=False) as grid:
        cache = grid.cache(PRICES, near=NEAR)

        def served() -> bool:
            before = cache.stats().near.hits  # type: ignore[union-attr]
            assert cache.get("k") == 1
            return cache.stats().near.hits > before  # type: ignore[union-attr]

        cache.set("k", 1)
        eventually(served)
        child = os.fork()
        if not child:
            try:
                first = served()
                eventually(served)
                cache.set("k", 2)
                os._exit(0 if not first and cache.get("k") == 2 else 1)
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert status == 0
        eventually(lambda: cache.get("k") == 2)


@pytest.mark.any_server
async def test_a_cancelled_read_leaves_nothing_behind(flushed: RedisServer):
    with FaultProxy(flushed.url) as proxy:
        async with AsyncGrid(proxy.url, namespace="test", audit=False) as grid:
            cache = grid.cache(PRICES, near=NEAR)
            copies = cache._core.copies
            assert copies is not None
            await cache.set("k", 1)
            await kept(Cached(cache))
            proxy.blackhole()
            reads = [asyncio.ensure_future(cache.get("other")), asyncio.ensure_future(cache.get_many(["other", "x"]))]
            await soon(lambda: len(copies._marks) == 2)
            for read in reads:
                read.cancel()
            await asyncio.wait(reads)
            assert all(read.cancelled() for read in reads)
            assert not copies._marks
            proxy.heal()
