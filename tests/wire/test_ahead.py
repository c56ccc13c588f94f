"""A command line that goes ahead of a blocking one, on the same connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import Category, Command, run_sync
from gridsync.errors import ServerError
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gridsync.testing.servers import RedisServer

NAME = Command("CLIENT GETNAME", Category.READ, ("CLIENT", "GETNAME"), keyed=False)
POP = Command("BLPOP", Category.NEVER, ("BLPOP",))


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[World]:
    made = World(request.param, flushed.url)
    yield made
    await made.close()


async def block(world: World, operation: Command, args: tuple[str, ...], ahead: tuple[str, ...]) -> Any:  # noqa: ANN401
    io = world.io()
    call = io.block(operation, ("list",), args, wait=5, stop=io.signal(), ahead=ahead)
    return await (call if world.kind == "asyncio" else asyncio.to_thread(run_sync, call))


async def test_it_runs_first_and_on_the_same_connection(world: World):
    """WAIT speaks of what its own connection wrote: a write on another one would be waited for by nobody."""
    assert await block(world, NAME, (), ("CLIENT", "SETNAME", "ahead")) == b"ahead"
    assert await block(world, POP, ("5",), ("RPUSH", "list", "x")) == [b"list", b"x"]


async def test_its_error_is_the_callers(world: World, flushed: RedisServer):
    flushed.command("SET", "text", "no number", "PX", 60_000)
    with pytest.raises(ServerError, match="not an integer"):
        await block(world, NAME, (), ("INCR", "text"))
