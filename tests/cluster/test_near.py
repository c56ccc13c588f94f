"""Near caches on a cluster: each node tells of its own keys, also of those that come and go."""

# ruff: noqa: F401, F811 - pytest collects what is imported
from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from gridsync._io.route.lanes import slot_of
from gridsync.testing.servers import server_kinds
from tests.cache.conftest import grid, open_grid, raw
from tests.cache.test_near import (
    KEY,
    PRICES,
    hits,
    kept,
    near,
    test_no_reader_goes_back_while_others_write,
    test_what_others_change_is_served_no_more,
    test_what_this_process_changes_is_seen_by_it_at_once,
)
from tests.cluster.test_reshard import next_after
from tests.wire.fake import soon, until

if TYPE_CHECKING:
    from gridsync.testing.cluster import RedisCluster
    from tests.cache.conftest import Cached, OpenGrid

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)


async def test_a_value_whose_slot_moves_is_read_anew_and_told_of_by_its_new_node(
    open_grid: OpenGrid, flushed: RedisCluster
):
    """Its old node has nothing to tell of it any more."""
    cache, other = near(await open_grid()), (await open_grid()).cache(PRICES)
    slot = slot_of(KEY)
    await other.set("k", 0)
    for version in range(1, 4):
        await kept(cache)
        await asyncio.to_thread(flushed.reshard, [slot], next_after(flushed, flushed.owner(slot)))
        await until(lambda version=version: _set(other, version))

        async def seen(version: int = version) -> bool:
            return bool(await cache.get("k") == version)

        await until(seen)
    assert await kept(cache) == 3


async def test_no_reader_goes_back_while_slots_move(open_grid: OpenGrid, flushed: RedisCluster):
    cache, writer = near(await open_grid()), (await open_grid()).cache(PRICES)
    slot, over = slot_of(KEY), asyncio.Event()

    async def read() -> None:
        seen = 0
        while not over.is_set():
            found = await cache.get("k", seen)
            assert found >= seen
            seen = found
            await asyncio.sleep(0)  # what is served from a copy gives way to nobody, not even to the writer

    async def write() -> int:
        version = 0
        while not over.is_set():
            version += 1
            await until(partial(_set, writer, version))
        return version

    readers = [asyncio.create_task(read()) for _ in range(3)]
    writing = asyncio.create_task(write())
    for _ in range(3):
        before = hits(cache)
        await soon(lambda before=before: hits(cache) > before)
        await asyncio.to_thread(flushed.reshard, [slot], next_after(flushed, flushed.owner(slot)))
    over.set()
    last = await writing
    await asyncio.gather(*readers)

    async def seen() -> bool:
        return bool(await cache.get("k") == last)

    await until(seen)


async def _set(cache: Cached, version: int) -> bool:
    return bool(await cache.set("k", version))


async def test_a_tag_on_another_node_takes_its_copies_along(open_grid: OpenGrid):
    cache, other = near(await open_grid()), (await open_grid()).cache(PRICES)
    keys = [str(number) for number in range(12)]
    tags = [f"tag {number}" for number in range(6)]
    for number, key in enumerate(keys):
        await other.set(key, number, tags=[tags[number % 6]])
    for key in keys:
        await kept(cache, key)
    for number, tag in enumerate(tags):
        await other.invalidate(tag)

        async def gone(number: int = number) -> bool:
            return not await cache.get_many([keys[number], keys[number + 6]])

        await until(gone)
    assert cache.stats().near.invalidations >= 12
