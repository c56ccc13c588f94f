"""Several limiters are asked together: all admit, or nothing is taken from any."""

# ruff: noqa: ANN401 - whatever an operation takes and answers

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync._io.keys import limit
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.errors import ServerError, Unavailable, UsageError
from gridsync.limits import (
    GCRA,
    ApproxWindow,
    Concurrency,
    FixedWindow,
    Limiter,
    Limits,
)
from tests.limits.oracle import steps
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from gridsync.limits import Decision, Rule
    from gridsync.testing.servers import RedisServer
    from tests.limits.conftest import PlainIO

HOUR = 3_600_000_000
START = 60_000_000_000_000
EVERY: dict[str, tuple[str | Rule, ...]] = {
    "one": ("10/hour",),
    "two": ("5/hour", "30 per 4 hours"),
    "large": ("60/hour",),
    "bucket": (GCRA(8, 3600, burst=6),),
    "fixed": (FixedWindow(12, 3600),),
    "approx": (ApproxWindow(15, 3600),),
    "slots": (Concurrency(9, ttl_s=3600),),
}


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[World]:
    world = World(request.param, flushed.url)
    yield world
    await world.close()


async def test_all_admit_or_nothing_is_taken(world: World) -> None:
    io = world.io()
    member, address = world.named(io, "member", "3/minute"), world.named(io, "address", GCRA(1, 60, burst=5))
    check = world.limits(io).check
    first = await world.do(check, [(member, "ada"), (address, "192.0.2.7", 4)])
    assert first
    assert [(d.remaining, d.ticket.key, d.ticket.cost) for d in first.decisions] == [
        (2, "ada", 1),
        (1, "192.0.2.7", 4),
    ]
    assert (first.binding, first.retry_after) == (first.decisions[1], 0.0)
    denied = await world.do(check, [(member, "bob", 2), (address, "192.0.2.7", 2)])
    assert not denied
    assert [d.allowed for d in denied.decisions] == [True, False], "each says what it would say alone"
    assert [d.ticket for d in denied.decisions] == [None, None]
    assert denied.binding == denied.decisions[1]
    assert 0 < denied.retry_after <= 60
    assert (await world.do(member.peek, "bob")).remaining == 3
    assert (await world.do(address.peek, "192.0.2.7")).remaining == 1
    never = await world.do(check, [(member, "bob", 2), (address, "192.0.2.7", 6)])
    assert (never.allowed, never.retry_after) == (False, None)
    assert await world.do(world.limits(io).refund, first) is True
    assert await world.do(world.limits(io).refund, first) is False
    assert await world.do(world.limits(io).refund, denied) is False
    assert (await world.do(member.peek, "ada")).remaining == 3
    assert (await world.do(address.peek, "192.0.2.7")).remaining == 5


def test_a_grid_asks_its_limiters_together(flushed: RedisServer) -> None:
    with Grid(flushed.url) as grid:
        one, two = grid.limiter("one", "2/minute"), grid.limiter("two", "1/minute", "5/hour")
        answer = grid.limits.check([(one, "ada"), (two, "ada")])
        assert answer
        assert answer.atomic
        assert [str(d.rule) for d in answer.decisions] == ["2/minute", "1/minute"]
        assert not grid.limits.check([(one, "ada"), (two, "ada")])
        assert one.peek("ada").remaining == 1


def _stored(client: redis.Redis, namespace: str) -> dict[str, list[object]]:
    """Everything that the limiters of a namespace keep."""
    found: dict[str, list[object]] = {}
    for name in EVERY:
        for suffix in ("", ":bucket", ":fixed", ":approx", ":slots"):
            key = limit(namespace, name, "k") + suffix
            what: Any = client.get(key) if client.type(key) == "string" else client.zrange(key, 0, -1, withscores=True)
            found[name + suffix] = [what, client.pexpiretime(key)]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_check_is_a_look_at_all_and_a_hit_on_all(io: PlainIO, client: redis.Redis, seed: int) -> None:
    """To the last byte that is stored: of limiters of every kind, in any order, with any costs."""
    rng, now = random.Random(seed), START
    checked = {name: Limiter(io, "c", name, *rules) for name, rules in EVERY.items()}
    alone = {name: Limiter(io, "a", name, *rules) for name, rules in EVERY.items()}
    outcomes, latest = set[bool](), now
    for number in range(150):
        latest = max(now, latest)
        now += steps(rng, HOUR) // 3
        io.set_clock(now)
        names = rng.sample(sorted(EVERY), rng.randrange(1, len(EVERY) + 1))
        costs = {name: rng.choice((1, 1, 1, 2, 4, 16, 16)) for name in names}
        looks = [alone[name].peek("k", costs[name]) for name in names]
        before = _stored(client, "c")
        token = io.token
        io.token = iter(f"aaaa{number:06}{index:04}" for index in range(9)).__next__
        answer = Limits(io).check([(checked[name], "k", costs[name]) for name in names])
        io.token = token
        assert answer.allowed == all(looks)
        outcomes.add(answer.allowed)
        assert answer.atomic
        if answer:
            io.token = iter(f"aaaa{number:06}{index:04}" for index in range(9)).__next__
            hits: list[Decision] = [alone[name].hit("k", costs[name]) for name in names]
            io.token = token
            assert list(answer.decisions) == hits
        else:
            assert list(answer.decisions) == looks
            assert now < latest or _stored(client, "c") == before, "a denied check wrote"
            for name, look in zip(names, looks, strict=True):
                assert look or not alone[name].hit("k", costs[name]), "so that it sees a clock that was set back"
            assert answer.retry_after == (
                None if None in [look.retry_after for look in looks] else max(look.retry_after or 0 for look in looks)
            )
        values = [{key: what[0] for key, what in _stored(client, n).items()} for n in ("c", "a")]
        assert values[0] == values[1]
    assert outcomes == {True, False}


def _three(io: PlainIO) -> list[tuple[Limiter, str, int]]:
    return [
        (Limiter(io, "t", "one", "10/hour"), "ada", 2),
        (Limiter(io, "t", "two", "10/hour", "20/day"), "ada", 3),
        (Limiter(io, "t", "bucket", GCRA(10, 3600, burst=10)), "ada", 4),
    ]


def _check(io: PlainIO, asks: list[tuple[Limiter, str, int]], token: str, repeat_us: int = 0) -> Any:
    tokens, io.token, io.repeat_us = io.token, iter(f"{token}{index}" for index in range(9)).__next__, repeat_us
    try:
        return Limits(io).check(asks)
    finally:
        io.token, io.repeat_us = tokens, 0


def test_a_repeat_is_admitted_again_and_takes_nothing(io: PlainIO) -> None:
    """Also when others took the rest meanwhile, or one of the keys was forgotten."""
    io.set_clock(START)
    asks = _three(io)
    assert _check(io, asks, "aaaaaaaaaaaa")
    assert _check(io, asks, "aaaaaaaaaaaa", repeat_us=100)
    assert [limiter.peek("ada").remaining for limiter, *_ in asks] == [8, 7, 6]
    for limiter, *_ in asks:
        limiter.hit("ada", limiter.peek("ada").remaining)
    again = _check(io, asks, "aaaaaaaaaaaa", repeat_us=100)
    assert [(d.allowed, d.remaining) for d in again.decisions] == [(True, 0)] * 3
    asks[1][0].reset("ada")
    assert _check(io, asks, "aaaaaaaaaaaa", repeat_us=100)
    assert [limiter.peek("ada").remaining for limiter, *_ in asks] == [0, 10, 0]
    assert asks[1][0].hit("ada", 10)
    assert _check(io, asks, "aaaaaaaaaaaa", repeat_us=100), "one that forgot it, and is used up, keeps nobody out"


def test_a_repeat_whose_first_attempt_never_arrived_is_decided_anew(io: PlainIO) -> None:
    io.set_clock(START)
    asks = _three(io)
    assert _check(io, asks, "aaaaaaaaaaaa", repeat_us=100)
    assert [limiter.peek("ada").remaining for limiter, *_ in asks] == [8, 7, 6]
    asks[2][0].hit("ada", 6)
    assert not _check(io, asks, "aaaaaaaaaaab", repeat_us=100)
    assert [limiter.peek("ada").remaining for limiter, *_ in asks] == [8, 7, 0]


@pytest.mark.parametrize("wrong", range(3))
def test_a_key_that_holds_something_else_costs_the_others_nothing(io: PlainIO, client: redis.Redis, wrong: int) -> None:
    asks = _three(io)
    keys = [limit("t", "one", "ada"), limit("t", "two", "ada"), limit("t", "bucket", "ada") + ":bucket"]
    client.hset(keys[wrong], "a", "b")
    client.expire(keys[wrong], 60)
    with pytest.raises(ServerError, match="WRONGTYPE"):
        Limits(io).check(asks)
    assert client.dbsize() == 1


def test_what_one_node_cannot_be_given_back_goes_back_to_the_others(
    io: PlainIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster, where limiters are asked in turn: one node that is away leaves nothing taken on another one."""
    away, well, strict = Limiter(io, "t", "away", "5/hour"), Limiter(io, "t", "well", "5/hour"), _full(io)  # type: ignore[arg-type]

    async def gather(*coroutines: Any) -> list[Any]:
        """As asyncio does: what one raises ends the others."""
        waiting = list(coroutines)
        try:
            return [await waiting.pop(0) for _ in coroutines]
        finally:
            for coroutine in waiting:
                coroutine.close()

    run = io.run

    async def refuse(operation: Any, keys: Any, args: Any = (), **options: Any) -> Any:
        if operation.name == "limits.refund" and "away" in keys[0]:
            raise Unavailable("it is away")
        return await run(operation, keys, args, **options)

    monkeypatch.setattr(io, "together", lambda _: False)
    monkeypatch.setattr(io, "gather", gather, raising=False)
    monkeypatch.setattr(io, "run", refuse)
    assert not Limits(io).check([(away, "k", 2), (well, "k", 2), (strict, "k")])  # type: ignore[arg-type]
    assert (away.peek("k").remaining, well.peek("k").remaining) == (3, 5)


def _full(io: PlainIO) -> Limiter:
    limiter = Limiter(io, "t", "full", "1/hour")  # type: ignore[arg-type]
    assert limiter.hit("k")
    return limiter


def test_what_cannot_be_asked_is_refused(io: PlainIO, client: redis.Redis) -> None:
    limiter, twin = Limiter(io, "t", "one", "10/hour"), Limiter(io, "t", "one", "20/hour")
    elsewhere = Limiter(type(io)(client), "t", "one", "10/hour")
    for asks, why in (
        ([], "1 to 64 limiters at once, not 0"),
        ([(limiter, f"k{number}") for number in range(65)], "not 65"),
        ([(limiter, "ada"), (twin, "ada", 2)], "twice for the same key"),
        ([(elsewhere, "ada")], "its own grid"),
        ([("10/hour", "ada")], "asks limiters, not '10/hour'"),
        ([(limiter, "")], "needs the key"),
        ([(limiter, "ada", 0)], "whole number from 1"),
        ([limiter], r"asks \(limiter, key\) or \(limiter, key, cost\), not <Limiter"),
        ((limiter, "ada"), r"asks \(limiter, key\)"),
        ([(limiter,)], r"asks \(limiter, key\)"),
        ([(limiter, "ada", 1, 5)], r"asks \(limiter, key\)"),
    ):
        with pytest.raises(UsageError, match=why):
            Limits(io).check(asks)
    with pytest.raises(UsageError, match="gives back what check"):
        Limits(io).refund(limiter.hit("ada"))
    assert io.sent == 1


async def test_what_a_check_says_is_counted_and_remembered_as_of_hits(world: World) -> None:
    """And what it gives back is known at once where denials are remembered."""
    io = world.io()
    one, two = world.named(io, "one", "3/minute", deny_cache=10), world.named(io, "two", "9/minute")
    taken = await world.do(world.limits(io).check, [(one, "ada", 3), (two, "ada")])
    assert not await world.do(one.hit, "ada")
    assert not await world.do(world.limits(io).check, [(one, "ada"), (two, "ada")])
    assert await world.do(world.limits(io).refund, taken) is True
    assert await world.do(one.hit, "ada"), "the denial is forgotten"
    assert io.stats().decisions["one"] == {"server.admitted": 2, "server.denied": 2}
    assert io.stats().decisions["two"] == {"server.admitted": 1}, "it had room, and was not asked to take"


def test_eight_threads_never_take_more_than_there_is_nor_leave_any(flushed: RedisServer) -> None:
    """Who was denied by one of two limiters took nothing from the other, not even for a moment."""
    driver = SyncIO(parse(flushed.url, connect_timeout=5), pool_size=8, timeout=5)
    try:
        both, left, right = (Limiter(driver, "t", name, "100/hour") for name in ("both", "left", "right"))
        admitted: list[str] = []

        def work(side: Limiter) -> None:
            answers = (Limits(driver).check([(both, "ada"), (side, "ada")]) for _ in range(60))
            admitted.extend(side.name for answer in answers if answer)

        threads = [threading.Thread(target=work, args=(side,)) for side in (left, right) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(admitted) == 100
        assert both.peek("ada").remaining == 0
        assert left.peek("ada").remaining == 100 - admitted.count("left")
        assert right.peek("ada").remaining == 100 - admitted.count("right")
    finally:
        driver.close()


async def test_an_outage_is_answered_as_chosen(world: World) -> None:
    """If one of them raises, so does the check; else all policies must admit, and then all of them count."""
    io = world.io("redis://127.0.0.1:1", timeout=0.5)
    check = world.limits(io).check
    one = world.named(io, "one", "3/minute", on_error="local")
    two = world.named(io, "two", "9/minute", on_error="local")
    allow, deny = (world.named(io, policy, "9/minute", on_error=policy) for policy in ("allow", "deny"))
    strict = world.named(io, "strict", "9/minute")
    with pytest.raises(Unavailable):
        await world.do(check, [(one, "ada"), (strict, "ada")])
    answers = [await world.do(check, [(one, "ada"), (two, "ada"), (allow, "ada")]) for _ in range(4)]
    assert [bool(answer) for answer in answers] == [True] * 3 + [False]
    assert all(answer.degraded for answer in answers)
    assert not await world.do(check, [(two, "ada"), (deny, "ada")])
    assert (await world.do(two.peek, "ada")).remaining == 6, "counted when all admitted, and only then"
