"""Subscribers of a channel while another server becomes the primary: they go on, or are told what was lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.fanout import Gap
from tests.sentinel.conftest import caught_up, follow, hand_over
from tests.sentinel.helpers import KINDS, FakeSentinel, do, opened
from tests.wire.fake import soon

if TYPE_CHECKING:
    from tests.sentinel.conftest import Pair

pytestmark = pytest.mark.parametrize("kind", KINDS)
LONG_S = 60.0


async def enter(subscription: Any) -> Any:  # noqa: ANN401 - either kind
    """Enter a subscription of either kind."""
    aenter = type(subscription).__dict__.get("__aenter__")
    return await (subscription.__aenter__() if aenter else asyncio.to_thread(subscription.__enter__))


async def following(subscription: Any) -> Any:  # noqa: ANN401
    """Return the next item."""
    return await do(subscription.next, LONG_S)


async def test_a_subscriber_goes_on_at_the_new_primary(kind: str, pair: Pair):
    """No message is left out and none comes twice."""
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            channel = grid.channel("prices")
            subscription = await enter(channel.subscribe())
            await do(channel.publish, "1")
            assert (await following(subscription)).data == b"1"
            follow(pair[1], pair[0])
            hand_over(pair[0], pair[1])
            sentinel.announce(pair[1])
            for text in ("2", "3"):
                await do(channel.publish, text)
            assert [(await following(subscription)).data for _ in range(2)] == [b"2", b"3"]
            await do(subscription.close)


async def test_a_subscriber_is_told_that_the_new_primary_lacks_what_it_read(kind: str, pair: Pair):
    """Replication is asynchronous: the replica is promoted without the last messages, and others take their offsets."""
    old, new = pair
    with FakeSentinel(old) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            channel = grid.channel("prices", secrets=["a secret of the tests"])
            subscription = await enter(channel.subscribe())
            await do(channel.publish, "1")
            follow(new, old)
            await soon(lambda: caught_up(old, new))
            new.command("REPLICAOF", "NO", "ONE")
            await do(channel.publish, "lost")
            read = [await following(subscription) for _ in range(2)]
            assert [message.data for message in read] == [b"1", b"lost"]
            token = subscription.token()
            old.command("REPLICAOF", new.host, str(new.port))
            sentinel.announce(new)
            for text in ("2", "3"):
                # The offsets of what was lost, and one more.
                await do(channel.publish, text)
            gap = await following(subscription)
            assert isinstance(gap, Gap)
            assert gap.why == "epoch"
            back = await enter(channel.subscribe(after=token))
            assert back.recovered is False
            for each in (subscription, back):
                await do(each.close)
