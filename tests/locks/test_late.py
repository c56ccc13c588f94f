"""A request that comes when nobody wants it any more: its caller gave up, and another may hold what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync._io import load
from gridsync.errors import OutcomeUnknown
from gridsync.testing.proxy import Break, FaultProxy
from tests.locks.ways import WAYS, held_key, keys, taker
from tests.wire.fake import soon

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World

pytestmark = pytest.mark.any_server

SCRIPTS = {
    "lock": "acquire",
    "unfair lock": "acquire",
    "write lock": "share",
    "read lock": "share",
    "permits": "share",
    "multi-lock": "acquire_all",
}


@pytest.mark.parametrize("way", SCRIPTS, ids=lambda way: way.replace(" ", "-"))
async def test_a_request_that_comes_after_its_caller_gave_up_holds_nothing(
    world: World, flushed: RedisServer, way: str
):
    """It was stuck in some buffer: whatever it took would be held by nobody, for a whole ttl.

    The mark that refuses it takes those along whose time is over: where callers give up all the time there are few.
    """
    flushed.command("ZADD", keys(way).gone, 1, "long ago")
    script = load("gridsync.locks", SCRIPTS[way])
    flushed.command("SCRIPT", "LOAD", script.source)
    with FaultProxy(flushed.url) as proxy:
        proxy.on(Break.REQUEST, script.sha, times=1000)
        with pytest.raises(OutcomeUnknown):
            await world.do(taker(world, way, await world.hasty(proxy.url, 1.0)).acquire, timeout=5)
        await soon(lambda: flushed.command("PTTL", keys(way).gone) > 0)
        assert flushed.command("ZCARD", keys(way).gone) == 1
        late = [words for words in proxy.requests("EVALSHA") if words[1] == script.sha.encode()]
        assert late
        for words in late:
            assert flushed.command(*words)[0] == 0
        assert not flushed.command("EXISTS", held_key(way), held_key(way, "job too"))
        lease = await world.do(taker(world, way).acquire, timeout=0)
        assert await world.do(lease.release) is True
        await world.close()


def test_every_way_of_taking_is_tried():
    """But that of a candidate, which never gives up."""
    assert {*SCRIPTS, "election"} == set(WAYS)
