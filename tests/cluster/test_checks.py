"""On a cluster several limiters are asked in turn, and what was taken is given back when one denies."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import count
from typing import TYPE_CHECKING

import pytest

from gridsync._io.keys import limit
from gridsync._io.route.lanes import slot_of
from gridsync.errors import ServerError
from gridsync.limits import GCRA, AsyncLimits, Concurrency, FixedWindow
from gridsync.testing.servers import server_kinds
from tests.wire.fake import until
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from gridsync.limits import Rule
    from gridsync.testing.cluster import RedisCluster
    from tests.wire.world import World

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)


@pytest.fixture
def client(flushed: RedisCluster) -> Iterator[redis.RedisCluster]:
    with flushed.client(decode_responses=True) as client:
        yield client


async def test_nothing_is_taken_from_any_when_one_denies(world: World) -> None:
    io = world.io()
    rules: dict[str, str | Rule] = {
        "windows": "10/hour",
        "bucket": GCRA(10, 3600, burst=10),
        "fixed": FixedWindow(10, 3600),
        "slots": Concurrency(10, ttl_s=3600),
    }
    limiters = [world.named(io, name, rule) for name, rule in rules.items()]
    assert len({slot_of(limit(NAMESPACE, name, "ada")) for name in rules}) == 4
    check = world.limits(io).check
    first = await world.do(check, [(limiter, "ada", 3) for limiter in limiters])
    assert first
    assert not first.atomic
    assert [decision.remaining for decision in first.decisions] == [7] * 4
    for denying in range(4):
        denied = await world.do(
            check, [(limiter, "ada", 8 if index == denying else 2) for index, limiter in enumerate(limiters)]
        )
        assert not denied
        assert not denied.atomic
        assert [decision.allowed for decision in denied.decisions] == [index != denying for index in range(4)]
        assert [decision.remaining for decision in denied.decisions] == [7] * 4, "what was taken was given back"
        assert [decision.ticket for decision in denied.decisions] == [None] * 4
        assert denied.binding == denied.decisions[denying]
        assert denied.retry_after > 0
    assert await world.do(world.limits(io).refund, first) is True
    assert [(await world.do(limiter.peek, "ada")).remaining for limiter in limiters] == [10] * 4


async def test_limiters_in_one_slot_are_asked_in_one_step(world: World) -> None:
    io = world.io()
    slot = slot_of(limit(NAMESPACE, "one", "ada"))
    other = next(key for key in map(str, count()) if slot_of(limit(NAMESPACE, "two", key)) == slot)
    one, two = world.named(io, "one", "2/hour"), world.named(io, "two", GCRA(1, 3600, burst=1))
    answers = [await world.do(world.limits(io).check, [(one, "ada"), (two, other)]) for _ in range(2)]
    assert [(answer.allowed, answer.atomic) for answer in answers] == [(True, True), (False, True)]
    assert (await world.do(one.peek, "ada")).remaining == 1


async def test_an_error_on_the_way_gives_back_what_was_taken(world: World, client: redis.RedisCluster) -> None:
    io = world.io()
    limiters = [world.named(io, name, "10/hour") for name in ("a", "b", "c")]
    client.set(limit(NAMESPACE, "c", "ada"), "not a log", ex=60)
    with pytest.raises(ServerError, match="WRONGTYPE"):
        await world.do(world.limits(io).check, [(limiter, "ada", 4) for limiter in limiters])

    async def free() -> bool:
        return all([(await world.do(limiter.peek, "ada")).remaining == 10 for limiter in limiters[:2]])

    await until(free)


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_a_cancelled_check_gives_back_what_was_taken(world: World) -> None:
    """Wherever it is interrupted."""
    io = world.io()
    limiters = [world.named(io, name, "100/hour") for name in ("a", "b", "c")]
    for limiter in limiters:
        await limiter.peek("ada")
    for turns in range(0, 60, 3):
        task = asyncio.create_task(AsyncLimits(io).check([(limiter, "ada") for limiter in limiters]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await AsyncLimits(io).refund(await task)

    async def free() -> bool:
        return all([(await limiter.peek("ada")).remaining == 100 for limiter in limiters])

    await until(free)
