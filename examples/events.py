"""An event store and a consumer group: `python examples/events.py [url]`.

A stream is the history of one thing.  An append says at which version it decided; if the stream has moved on, nothing
is written.  A consumer group shares all events among its consumers, and each is acknowledged after its handler.
"""

from __future__ import annotations

import asyncio
import sys
from secrets import token_hex
from typing import TYPE_CHECKING

from pydantic import BaseModel

from gridsync import AsyncGrid, Grid, WrongVersion

if TYPE_CHECKING:
    from gridsync.streams import Recorded


class Charged(BaseModel):
    """A battery took in energy."""

    wh: int


class Discharged(BaseModel):
    """A battery gave energy back."""

    wh: int


Event = Charged | Discharged


def with_threads(url: str) -> None:
    """Write the history of a battery, and read it back."""
    with Grid(url, namespace=f"example-events-{token_hex(4)}") as grid:
        store = grid.events("batteries", Event)
        written = store.append("battery-1", [Charged(wh=900), Discharged(wh=250)], expected_version=0)
        print(f"battery-1 is at version {written.version}")
        try:
            store.append("battery-1", Charged(wh=1), expected_version=0)
        except WrongVersion as error:
            print(f"too late: {error}")
        left = sum(e.event.wh if isinstance(e.event, Charged) else -e.event.wh for e in store.read("battery-1"))
        print(f"it holds {left} Wh")
        # A store is permanent; its owner decides when it goes.
        for key in grid.client.scan_iter(f"{{{grid.namespace}:*"):
            grid.client.unlink(key)


async def with_asyncio(url: str) -> None:
    """Let two consumers share a hundred events."""
    async with AsyncGrid(url, namespace=f"example-events-{token_hex(4)}") as grid:
        store = grid.events("batteries", Event)
        async with asyncio.TaskGroup() as tasks:
            for number in range(100):
                tasks.create_task(store.append(f"battery-{number % 10}", Charged(wh=number)))
        seen: set[int] = set()
        group = store.group("display")

        async def show(recorded: Recorded[Event]) -> None:
            seen.add(recorded.position)
            if len(seen) == 100:  # noqa: PLR2004 - all of them
                group.stop()

        await asyncio.gather(group.consume(show), group.consume(show))
        print(f"two consumers handled positions {min(seen)} to {max(seen)}, {len(seen)} in all")
        # A store is permanent; its owner decides when it goes.
        async for key in grid.client.scan_iter(f"{{{grid.namespace}:*"):
            await grid.client.unlink(key)


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else "embedded://"
    with_threads(where)
    asyncio.run(with_asyncio(where))
