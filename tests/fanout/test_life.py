"""Subscriptions that come, go, and are cancelled; a thousand of them; and servers that go away."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid
from gridsync.fanout import Gap, Message
from tests.fanout.conftest import NAMESPACE, Fan
from tests.wire.fake import soon, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis

    from gridsync.testing.servers import RedisServer

    OpenFan = Callable[..., Awaitable[Fan]]

LIVE = f"{NAMESPACE}:wake:live:*"


async def test_a_channel_is_left_and_entered_again(open_fan: OpenFan) -> None:
    """The first page of a process would be the last one that is told anything."""
    fan, other = await open_fan(), await open_fan()
    for count in range(5):
        async with fan.reading() as reader:
            await other.publish(f"{count}")
            assert await reader.take(1) == [b"%d" % count]


async def test_a_server_that_was_killed_and_came_back_is_read_on(open_fan: OpenFan, flushed: RedisServer) -> None:
    """All pages would have to be loaded anew; without persistence they are told that the channel began anew."""
    fan = await open_fan()
    async with fan.reading() as reader:
        await fan.publish("before")
        await reader.take(1)
        flushed.kill()
        flushed.start()
        at = await fan.publish("after")
        assert at.offset == 1
        item = await reader.next()
        assert isinstance(item, Gap)
        assert item.why == "epoch"
        if not item.position.offset:
            assert await reader.take(1) == [b"after"]
        await fan.publish("later")
        assert await reader.take(1) == [b"later"]


async def test_who_waits_is_told_when_it_is_closed(fan: Fan) -> None:
    """A thread that serves a client would never end."""
    async with fan.reading() as reader:
        waiting = asyncio.ensure_future(reader.next())
        await soon(lambda: reader.subscription._subscriber._waiting)
        await reader.close()
        assert await waiting is None


@pytest.mark.any_server
async def test_a_subscription_can_be_cancelled_at_each_of_its_steps(flushed: RedisServer, raw: redis.Redis) -> None:
    """A client that hangs up at a bad moment would leave a member, a subscription, or a message unread."""
    async with AsyncGrid(flushed.url, namespace=NAMESPACE, audit=False) as grid:
        channel = grid.channel("prices")
        first = await channel.publish("0")
        for count in range(1, 4):
            await channel.publish(f"{count}")
        for steps in range(40):
            got: list[bytes] = []

            async def client(got: list[bytes]) -> None:
                async with channel.subscribe(after=first, member="ann") as subscription:
                    async for item in subscription:
                        assert isinstance(item, Message)
                        got.append(item.data)

            task = asyncio.create_task(client(got))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert got == [b"1", b"2", b"3"][: len(got)]

        async def nobody() -> bool:
            return not raw.pubsub_channels(LIVE) and await channel.count() == 0

        await until(nobody, 60)


@pytest.mark.any_server
async def test_a_read_that_was_cancelled_has_taken_nothing(flushed: RedisServer) -> None:
    """A timeout around a read would lose a message now and then."""
    async with AsyncGrid(flushed.url, namespace=NAMESPACE, audit=False) as grid:
        channel = grid.channel("prices")
        async with channel.subscribe() as subscription:
            got: list[int] = []
            for steps in range(60):
                task = asyncio.create_task(subscription.next())
                await channel.publish(f"{steps}")
                for _ in range(steps % 7):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled() and (item := task.result()) is not None:
                    got.append(item.position.offset)
            while not got or got[-1] < 60:
                item = await subscription.next(60)
                assert isinstance(item, Message)
                got.append(item.offset)
            assert got == list(range(1, 61))


@pytest.mark.any_server
async def test_a_thousand_clients_that_never_read_cost_what_their_queues_hold(flushed: RedisServer) -> None:
    """One publisher and some closed laptops would fill the memory of the gateway."""
    gc.collect()
    others = sum(isinstance(each, Message) for each in gc.get_objects())
    async with AsyncGrid(flushed.url, namespace=NAMESPACE, audit=False) as grid, AsyncExitStack() as stack:
        channel = grid.channel("prices")
        async with channel.subscribe() as reader:
            clients = [await stack.enter_async_context(channel.subscribe(queue=10)) for _ in range(1000)]
            for count in range(500):
                await channel.publish(f"{count}")
            for _ in range(500):
                assert isinstance(await reader.next(60), Message | Gap)
                if reader.position.offset == 500:
                    break
            # All clients share the ten newest, and a hundred are remembered for those who come back.
            kept = sum(isinstance(each, Message) for each in gc.get_objects()) - others
            assert kept < 400, kept
            for client in clients[::100]:
                gap = await client.next(60)
                assert isinstance(gap, Gap)
                assert (gap.why, gap.missed) == ("slow", 490)
                last: Any = [await client.next(60) for _ in range(10)]
                assert [message.offset for message in last] == list(range(491, 501))


@pytest.mark.any_server
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # 3.12 and later: fork with threads
def test_the_child_of_a_fork_hears_the_channel_by_itself(flushed: RedisServer) -> None:
    """A worker that was forked would wait for messages that its parent gets."""
    import multiprocessing  # noqa: PLC0415 - only here

    with Grid(flushed.url, namespace=NAMESPACE, audit=False) as grid:
        channel = grid.channel("prices")
        with channel.subscribe() as mine:
            context: Any = multiprocessing.get_context("fork")
            ready, told = context.Event(), context.Queue()

            def child() -> None:
                with channel.subscribe() as subscription:
                    ready.set()
                    item = subscription.next(60)
                    told.put(None if item is None else item.data)  # type: ignore[union-attr]

            process = context.Process(target=child)
            process.start()
            assert ready.wait(60)
            channel.publish("both")
            item = mine.next(60)
            assert isinstance(item, Message)
            assert (item.data, told.get(timeout=60)) == (b"both", b"both")
            process.join(60)


@pytest.mark.any_server
def test_threads_that_come_and_go_at_once_all_hear_the_channel(flushed: RedisServer) -> None:
    """One that leaves as the last would take the next one's subscription along."""
    with Grid(flushed.url, namespace=NAMESPACE, audit=False) as grid:
        channel = grid.channel("prices")

        def come_and_go(count: int) -> int:
            for number in range(25):
                with channel.subscribe() as subscription:
                    at = channel.publish(f"{count} {number}")
                    while subscription.position.offset < at.offset:
                        item = subscription.next(60)
                        assert isinstance(item, Message)
            return count

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(come_and_go, range(8))) == list(range(8))
