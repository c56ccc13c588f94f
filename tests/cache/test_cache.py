"""What is stored comes back as it was, for as long as it may, and goes when it is told to."""

# ruff: noqa: ANN401 - values of any type

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from gridsync.cache import Space
from gridsync.errors import InvalidValue, UsageError

if TYPE_CHECKING:
    import redis

    from tests.cache.conftest import Opened


class Profile(BaseModel):
    """A model."""

    name: str
    since: datetime
    balance: Decimal


@dataclass
class Meter:
    """A dataclass."""

    id: UUID
    readings: tuple[int, ...]


ANNA = Profile(name="Anna", since=datetime(2026, 1, 2, tzinfo=UTC), balance=Decimal("10.50"))
METER = Meter(UUID(int=7), (1, 2, 3))
PROFILES: Space[Profile] = Space("user:profile", Profile)
ANY: Space[Any] = Space("any", Any)


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (Profile, ANNA),
        (Meter, METER),
        (Decimal, Decimal("1.10")),
        (datetime, datetime(2026, 11, 23, 12, 0, 0, 7, tzinfo=UTC)),
        (dict[str, list[Decimal]], {"EUR": [Decimal("0.1"), Decimal(2)]}),
        (frozenset[int], frozenset({1, 2})),
        (str, "ünï\n%"),
        (Any, {"a": [1, 2.5, "x", None, True]}),
    ],
    ids=lambda value: getattr(value, "__name__", "") or "",
)
async def test_a_value_comes_back_with_its_type(grid: Opened, model: Any, value: Any):
    cache = grid.cache(Space("typed", model))
    assert await cache.set("k", value)
    found = await cache.get("k")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("model", "value"),
    [(Any, datetime(2026, 1, 1, tzinfo=UTC)), (Any, (1, 2)), (Any, {1, 2}), (Profile, {"name": "x"}), (int, "7")],
)
async def test_what_would_come_back_as_something_else_is_refused_and_not_stored(grid: Opened, model: Any, value: Any):
    cache = grid.cache(Space("typed", model))
    with pytest.raises(InvalidValue, match="nothing was stored"):
        await cache.set("k", value)
    assert await cache.get("k", "none") == "none"


async def test_none_is_a_value_with_a_ttl_of_its_own(grid: Opened, raw: redis.Redis):
    cache = grid.cache(Space("known", str, ttl=3600, none_ttl=5, jitter=0))
    await cache.set("nobody", None)
    assert await cache.get("nobody", "missing") is None
    assert await cache.get("somebody", "missing") == "missing"
    assert 0 < raw.pttl("{test:cache:known:nobody}") <= 5000


async def test_a_value_is_gone_when_its_ttl_is_over(grid: Opened, raw: redis.Redis):
    cache = grid.cache(Space("short", str, ttl=3600, jitter=0.2))
    await cache.set_many({str(n): "x" for n in range(50)})
    lives = sorted(raw.pttl(key) for key in raw.scan_iter())
    assert 0.8 * 3600_000 - 60_000 < lives[0] < lives[-1] <= 3600_000
    assert lives[-1] - lives[0] > 60_000, "what was stored together does not end together"
    await cache.set("soon", "x", ttl=0.001)
    while raw.exists("{test:cache:short:soon}"):
        pass
    assert await cache.get("soon") is None


async def test_many_are_read_and_written_at_once(grid: Opened):
    cache = grid.cache(Space("many", int))
    assert await cache.set_many({str(n): n for n in range(1200)})
    found = await cache.get_many([str(n) for n in range(0, 2400, 2)])
    assert found == {str(n): n for n in range(0, 1200, 2)}
    assert await cache.delete(*(str(n) for n in range(1100))) == 1100
    assert len(await cache.get_many([str(n) for n in range(1200)])) == 100
    assert await cache.get_many([]) == {}
    assert await cache.set_many({})
    assert await cache.delete() == 0


async def test_caches_and_keys_with_colons_never_meet(grid: Opened):
    await grid.cache(Space("a:b", str)).set("c", "one")
    await grid.cache(Space("a", str)).set("b:c", "two")
    await grid.cache(Space("a%3Ab", str)).set("c", "three")
    assert await grid.cache(Space("a:b", str)).get("c") == "one"
    assert await grid.cache(Space("a", str)).get("b:c") == "two"


async def test_another_version_has_other_entries(grid: Opened):
    await grid.cache(Space("v", str)).set("k", "old")
    assert await grid.cache(Space("v", int, version=2)).get("k") is None


async def test_what_another_program_wrote_counts_as_missing(grid: Opened, raw: redis.Redis):
    await grid.cache(Space("shared", str)).set("k", "text")
    numbers = grid.cache(Space("shared", int))
    assert await numbers.get("k") is None
    assert await numbers.get_many(["k"]) == {}
    assert await numbers.get_or_load("k", numbers.function(lambda: 7)) == 7
    assert await numbers.get("k") == 7
    raw.set("{test:cache:shared:k}", "something else", ex=60)
    assert await numbers.get("k") is None
    assert await numbers.get_or_load("k", numbers.function(lambda: 8)) == 8
    assert await numbers.get("k") == 8


async def test_tags_invalidate_what_was_stored_under_them_and_nothing_else(grid: Opened):
    cache = grid.cache(Space("tagged", str))
    await cache.set("a", "a", tags=["user 1", "de\n50%"])
    await cache.set("b", "b", tags=["user 2"])
    await cache.set("c", "c")
    keys = ["a", "b", "c"]
    assert await cache.get("a") == "a"
    assert await cache.get_many(keys) == {"a": "a", "b": "b", "c": "c"}
    await cache.invalidate("de\n50%")
    assert await cache.get("a") is None
    assert await cache.get_many(keys) == {"b": "b", "c": "c"}
    await cache.set("a", "a2", tags=["user 1", "de\n50%"])
    assert await cache.get_many(keys) == {"a": "a2", "b": "b", "c": "c"}
    await cache.invalidate("user 1", "user 2", "nobody")
    assert await cache.get_many(keys) == {"c": "c"}


async def test_a_tag_that_the_server_dropped_takes_its_values_along(grid: Opened, raw: redis.Redis):
    """A full server drops keys; a value whose tag is gone may have been invalidated."""
    cache = grid.cache(Space("tagged", str))
    await cache.set("a", "a", tags=["t"])
    await cache.invalidate("t")
    raw.delete("{test:cachetag:tagged:t}")
    assert await cache.get("a") is None
    await cache.set("b", "b", tags=["t"])
    assert await cache.get("a") is None
    assert await cache.get("b") == "b"


async def test_a_tag_lives_as_long_as_what_was_stored_under_it(grid: Opened, raw: redis.Redis):
    cache = grid.cache(Space("tagged", str, ttl=10, stale_for=20))
    await cache.set("a", "a", tags=["t"], ttl=500)
    await cache.set("b", "b", tags=["t"])
    assert min(raw.pttl("{test:cachetag:tagged:t}"), raw.pttl("{test:cache:tagged:a}")) > 400_000


async def test_every_key_expires(grid: Opened, raw: redis.Redis):
    cache = grid.cache(Space("k", str, stale_for=10))
    await cache.set("a", "a", tags=["t"])
    await cache.get_or_load("b", cache.function(lambda: "b"), tags=["u"])
    await cache.invalidate("v")
    assert all(raw.pttl(key) > 0 for key in raw.scan_iter())


async def test_a_cache_counts(grid: Opened):
    cache = grid.cache(PROFILES)
    assert cache.stats().hit_rate == 0
    await cache.get("anna")
    await cache.get_or_load("anna", cache.function(lambda: ANNA))
    await cache.get("anna")
    await cache.get_many(["anna", "otto"])
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.loads, stats.stale, stats.degraded) == (2, 3, 1, 0, 0)
    assert stats.hit_rate == 0.4


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"ttl": 0},
        {"ttl": "1h"},
        {"none_ttl": -1},
        {"stale_for": -1},
        {"early": -1},
        {"early": True},
        {"jitter": 0.6},
        {"version": 0},
        {"on_error": "wait"},
        {"timeout": 0},
    ],
    ids=str,
)
def test_a_space_that_cannot_be_used_is_refused(options: dict[str, Any]):
    with pytest.raises(UsageError):
        Space(**{"name": "n", "model": str, **options})


async def test_arguments_that_cannot_be_used_are_refused_before_anything_is_sent(grid: Opened, raw: redis.Redis):
    cache = grid.cache(ANY)
    load = cache.function(lambda: 1)
    for call in (
        lambda: cache.get(""),
        lambda: cache.get_many("abc"),
        lambda: cache.get_many([""]),
        lambda: cache.set("k", 1, tags="abc"),
        lambda: cache.set("k", 1, ttl=0),
        lambda: cache.delete("x" * 513),
        lambda: cache.invalidate(""),
        lambda: cache.get_or_load("k", load, tags="abc"),
        lambda: cache.get_or_load("k", load, ttl=-1),
        lambda: cache.warm(["k"], load, concurrency=0),
    ):
        with pytest.raises(UsageError):
            await call()
    assert raw.keys() == []


class Shouting:
    """A codec of somebody else's."""

    def dumps(self, value: str) -> bytes:
        return value.upper().encode()

    def loads(self, data: bytes) -> str:
        return data.decode()


class Packing:
    """A codec whose library raises what is no ValueError."""

    def dumps(self, value: str) -> bytes:
        return zlib.compress(value.encode())

    def loads(self, data: bytes) -> str:
        return zlib.decompress(data).decode()


async def test_what_another_codec_wrote_is_loaded_again(grid: Opened, caplog: pytest.LogCaptureFixture):
    """Each request for it would fail until its ttl is over, after an update that was only to save memory."""
    before, cache = grid.cache(Space("page", str)), grid.cache(Space("page", str, codec=Packing()))
    await before.set("k", "old")
    for _ in range(2):
        assert await cache.get("k") is None
        assert await cache.get_many(["k"]) == {}
    assert caplog.text.count("cache 'page': what cannot be read counts as missing: error(") == 1
    assert await cache.get_or_load("k", cache.function(lambda: "new")) == "new"
    assert await cache.get("k") == "new"


async def test_a_codec_of_ones_own_is_used(grid: Opened):
    cache = grid.cache(Space("loud", str, codec=Shouting()))
    await cache.set("k", "hello")
    assert await cache.get("k") == "HELLO"
