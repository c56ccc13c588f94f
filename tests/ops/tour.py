"""A little of every wing, for a user who may touch one namespace only."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from gridsync import Grid
from gridsync.cache import Space
from gridsync.fanout import Message
from tests.streams.models import Order, Placed
from tests.wire.fake import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridsync.testing.servers import RedisServer

PRICES = Space("prices", int, ttl=60)


def tour(url: str, namespace: str) -> None:
    """Use locks with a waiter, permits, a gate, a limiter, events, an order book, a cache and a channel."""
    with Grid(url, namespace=namespace, audit=False) as grid:
        with grid.lock("job") as lease:
            grid.fence_gate(f"{namespace}:balance").set(lease, "1")
            turns: list[Any] = []
            waiter = threading.Thread(target=lambda: turns.append(grid.lock("job").acquire(timeout=60)))
            waiter.start()
            eventually(lambda: grid.lock("job").info().waiting == 1)
        waiter.join()
        assert turns[0].release()
        with grid.semaphore("slots", 2), grid.rwlock("files").read:
            assert grid.limiter("api", "5/hour").hit("me").remaining == 4
        seen: list[str] = []
        store = grid.events("orders", Order)
        store.append("order-1", [Placed(kwh=1)])
        store.group("book").consume(lambda recorded: seen.append(recorded.stream), idle_stop=0)
        assert seen == ["order-1"]
        assert grid.orderbook("power", tick="0.01", lot="0.1").verify().ok
        assert grid.cache(PRICES).get_or_load("a", lambda: 1) == 1
        with grid.channel("news").subscribe() as news:
            grid.channel("news").publish("hello")
            message = news.next()
            assert isinstance(message, Message)
            assert message.text == "hello"
        assert [item.status for item in grid.health().items if item.name == "permissions"] == ["ok"]


def out_of_bounds(servers: Iterable[RedisServer]) -> list[Any]:
    """Return the keys and channels that *servers* have refused since their log of that was emptied."""
    entries = [dict(entry) for server in servers for entry in server.command("ACL", "LOG")]
    return [entry for entry in entries if entry[b"reason"] in (b"key", b"channel")]
