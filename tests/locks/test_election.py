"""Elections, sync and asyncio, on real servers."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.keys import lock as lock_keys
from gridsync._io.keys import watchers
from gridsync.errors import UsageError
from gridsync.testing.proxy import FaultProxy
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync.testing.servers import RedisServer

KEYS = lock_keys(NAMESPACE, "auctioneer", "election")
WATCHERS = watchers(NAMESPACE, "auctioneer")


def election(world: World, value: str = "", *, ttl: float = 10.0) -> Any:  # noqa: ANN401
    return world.locks("Election", world.io(), "auctioneer", ttl=ttl, value=value)


async def led(world: World, campaign: Any, body: Callable[[Any], Any], terms: int = 1) -> None:  # noqa: ANN401
    """Lead *terms* times, each time running *body*, which must be of the world's kind."""
    if world.kind == "sync":

        def lead() -> None:
            with closing(campaign.lead()) as leading:
                for number, term in enumerate(leading, 1):
                    with term:
                        body(term)
                    if number == terms:
                        break

        await asyncio.to_thread(lead)
        return
    async with aclosing(campaign.lead()) as leading:
        number = 0
        async for term in leading:
            number += 1
            async with term:
                await asyncio.to_thread(body, term)
            if number == terms:
                break


async def test_one_leads_and_the_next_takes_over_at_once(world: World, flushed: RedisServer):
    order: list[tuple[str, int]] = []
    go = {name: threading.Event() for name in "abc"}

    def lead(name: str) -> Awaitable[None]:
        def body(term: Any) -> None:  # noqa: ANN401
            term.check()
            assert term.expires_in() > 5
            order.append((name, term.term))
            assert go[name].wait(20)

        return asyncio.create_task(led(world, election(world, name), body))

    tasks = []
    for waiting, name in enumerate("abc"):
        tasks.append(lead(name))
        await soon(lambda waiting=waiting: flushed.command("ZCARD", KEYS.queue) == waiting)
        await soon(lambda: len(order) == 1)
    assert [name for name, _ in order] == ["a"]
    for event in go.values():
        event.set()
    await world.ended(asyncio.gather(*tasks))
    assert sorted(name for name, _ in order) == ["a", "b", "c"]
    terms = [term for _, term in order]
    assert terms == sorted(set(terms))
    assert await world.do(election(world).leader) is None


async def test_everybody_can_ask_who_leads(world: World):
    told: list[Any] = []
    observer = election(world)
    loop = asyncio.get_running_loop()

    def body(term: Any) -> None:  # noqa: ANN401
        leader = asyncio.run_coroutine_threadsafe(world.do(observer.leader), loop).result(20)
        told.append((leader, term.term))

    await world.ended(asyncio.create_task(led(world, election(world, "10.0.0.7:80"), body)))
    ((leader, term),) = told
    assert (leader.term, leader.value, leader.pid) == (term, "10.0.0.7:80", os.getpid())
    assert leader.host
    assert leader.since_ms > 1_600_000_000_000


async def test_who_watches_is_told_of_each_change(world: World, flushed: RedisServer):
    seen: list[str | None] = []

    def note(leader: Any) -> bool:  # noqa: ANN401
        seen.append(leader and leader.value)
        return len(seen) == 3

    async def watch() -> None:
        watching = election(world).watch()
        if world.kind == "sync":

            def run() -> None:
                with closing(watching):
                    next(leader for leader in watching if note(leader))

            await asyncio.to_thread(run)
            return
        async with aclosing(watching):
            async for leader in watching:
                if note(leader):
                    return

    task = asyncio.create_task(watch())
    await soon(lambda: flushed.command("ZCARD", WATCHERS) == 1)
    go = threading.Event()
    leading = asyncio.create_task(led(world, election(world, "first"), lambda _: go.wait(20)))
    await soon(lambda: len(seen) == 2)
    go.set()
    await world.ended(leading)
    await world.ended(task)
    assert seen == [None, "first", None]


async def test_who_died_while_it_watched_is_forgotten_with_the_next_change(world: World, flushed: RedisServer):
    """Where many watch and some die, each change would be told to more and more of the dead."""
    flushed.command("ZADD", WATCHERS, 1, "dead")
    flushed.command("PEXPIRE", WATCHERS, 60_000)
    await world.ended(asyncio.create_task(led(world, election(world), lambda _: None)))
    assert flushed.command("EXISTS", WATCHERS) == 0


async def test_a_deposed_leader_stops_and_campaigns_again(world: World, flushed: RedisServer):
    """The block ends without an error: to be deposed is an event of every election, and no failure of the program."""
    terms: list[int] = []

    def body(term: Any) -> None:  # noqa: ANN401
        terms.append(term.term)
        if len(terms) == 1:
            flushed.command("DEL", KEYS.state)
            while True:
                term.check()  # raises when the watchdog has noticed
                threading.Event().wait(0.01)

    await world.ended(asyncio.create_task(led(world, election(world, ttl=3.0), body, terms=2)), 30)
    assert len(terms) == 2
    assert terms[1] > terms[0]


async def test_a_deposed_task_is_cancelled(flushed: RedisServer):
    tasks = World("asyncio", flushed.url)
    terms: list[int] = []
    async with aclosing(election(tasks, ttl=3.0).lead()) as leading:
        async for term in leading:
            terms.append(term.term)
            async with term:
                if len(terms) == 2:
                    break
                flushed.command("DEL", KEYS.state)
                await asyncio.Event().wait()
    assert len(terms) == 2
    await tasks.close()


async def test_an_error_of_the_body_goes_on_and_the_leader_has_resigned(world: World, flushed: RedisServer):
    def body(_term: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await world.ended(asyncio.create_task(led(world, election(world), body)))
    await soon(lambda: flushed.command("EXISTS", KEYS.state) == 0)


async def test_a_candidate_outlives_an_outage(world: World, flushed: RedisServer):
    """A server that is away for a while is no reason to give up for good."""
    with FaultProxy(flushed.url) as proxy:
        io = world.io(proxy.url)
        candidate = world.locks("Election", io, "auctioneer", value="patient")
        proxy.refuse()
        led_at_last = threading.Event()
        leading = asyncio.create_task(led(world, candidate, lambda _: led_at_last.set()))
        await soon(lambda: io.stats().failures)
        proxy.heal()
        await world.ended(leading, 30)
    assert led_at_last.is_set()


async def test_a_leader_whose_work_ends_in_an_outage_campaigns_again(world: World, flushed: RedisServer):
    """It cannot resign, so the term ends with its lease; the loop goes on, for a server that is away is no end."""
    with FaultProxy(flushed.url) as proxy:
        io = world.io(proxy.url)
        candidate = world.locks("Election", io, "auctioneer", ttl=2.0)
        terms: list[Any] = []

        def body(term: Any) -> None:  # noqa: ANN401
            terms.append(term)
            if len(terms) == 1:
                io._timeout = 0.3
                proxy.refuse()
                proxy.cut()

        leading = asyncio.create_task(led(world, candidate, body, terms=2))
        await soon(lambda: leading.done() or (terms and terms[0].lease._hold.asked > 1))
        io._timeout = 5.0
        proxy.heal()
        await world.ended(leading, 30)
        assert terms[0].term < terms[1].term
        await world.close()


async def test_a_leader_may_resign_in_the_middle(world: World):
    def body(term: Any) -> None:  # noqa: ANN401
        if world.kind == "sync":
            assert term.resign() is True
            assert term.resign() is True

    await world.ended(asyncio.create_task(led(world, election(world), body, terms=2)))


@pytest.mark.parametrize("value", ["x" * 129, None, 7, b"x"])
async def test_what_a_candidate_tells_is_text_and_short(world: World, value: Any):  # noqa: ANN401
    with pytest.raises(UsageError, match="text of at most 128 bytes"):
        election(world, value)
    assert repr(election(world)).endswith("Election 'auctioneer' ttl=10s>")
