"""The row about fan-out: one publication to a thousand local receivers, as so many WebSockets of one process have.

One publication at a time: the next one leaves when every receiver has had the last one and has compared it.  No socket
is written, on neither side: what that takes is the web server's, and the same for all.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Bench, Peer, Row, WrongReplyError, aio, expect, pace_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from gridsync.fanout import AsyncSubscription

RECEIVERS = 1000
PADDING = "x" * 190


class Crowd:
    """Who waits for the publication that is under way."""

    def __init__(self) -> None:
        self._number = 0
        self._text = ""
        self._missing = 0
        self._all = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def come(self, receive: Callable[[Callable[[str], None]], Coroutine[Any, Any, None]]) -> None:
        """Start one receiver, which hands on what it gets."""
        self._tasks.append(asyncio.create_task(receive(self._got)))

    def _got(self, text: str) -> None:
        expect(text, self._text)
        self._missing -= 1
        if not self._missing:
            self._all.set()

    async def measure(self, bench: Bench, publish: Callable[[str], Awaitable[Any]]) -> float:
        """Return publications a second that have reached everybody."""

        async def operation() -> None:
            self._number += 1
            self._text = f"{self._number:010}{PADDING}"
            self._missing = RECEIVERS
            self._all.clear()
            await publish(self._text)
            await asyncio.wait_for(self._all.wait(), 30)

        try:
            return await pace_tasks(bench, [operation])
        finally:
            pending = set(self._tasks)
            while pending:
                # Again and again: a receiver of channels_redis may swallow it.
                for task in pending:
                    task.cancel()
                done, pending = await asyncio.wait(pending, timeout=0.5)
                for task in done:
                    if not task.cancelled():
                        task.result()


async def _ours(bench: Bench) -> float:
    from gridsync import AsyncGrid
    from gridsync.fanout import Message

    async with AsyncGrid(bench.url) as grid, AsyncExitStack() as stack:
        channel = grid.channel("prices")
        crowd = Crowd()
        for _ in range(RECEIVERS):
            subscription = await stack.enter_async_context(channel.subscribe())

            async def receive(got: Callable[[str], None], subscription: AsyncSubscription = subscription) -> None:
                async for item in subscription:
                    if not isinstance(item, Message):
                        raise WrongReplyError(f"got {item!r}")
                    got(item.text)

            crowd.come(receive)
        return await crowd.measure(bench, channel.publish)


async def _channels(bench: Bench, layer: Any) -> float:  # noqa: ANN401 - either layer, none is typed
    crowd = Crowd()
    names = [await layer.new_channel() for _ in range(RECEIVERS)]
    for name in names:
        # One after the other: a thousand at once are more than it has connections for.
        await layer.group_add("prices", name)
    for each in names:

        async def receive(got: Callable[[str], None], name: str = each) -> None:
            while True:
                got((await layer.receive(name))["text"])

        crowd.come(receive)

    async def publish(text: str) -> None:
        await layer.group_send("prices", {"type": "price", "text": text})

    try:
        return await crowd.measure(bench, publish)
    finally:
        await layer.flush()


def _host(bench: Bench) -> dict[str, Any]:
    # It waits for five seconds at a time, and redis-py 8 by itself gives a reply just as long.
    return {"address": bench.url, "socket_timeout": 30}


async def _mailboxes(bench: Bench) -> float:
    from channels_redis.core import RedisChannelLayer

    return await _channels(bench, RedisChannelLayer(hosts=[_host(bench)]))


async def _pubsub(bench: Bench) -> float:
    from channels_redis.pubsub import RedisPubSubChannelLayer

    return await _channels(bench, RedisPubSubChannelLayer(hosts=[_host(bench)]))


ROWS = (
    Row(
        "fanout-1000",
        "publications/s",
        aio(_ours),
        (
            Peer("channels-redis", aio(_mailboxes), target=5.0),
            Peer("channels-redis, pub/sub", aio(_pubsub)),
        ),
    ),
)
