"""The middleware on a cluster, where the keys of its policies lie in different slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from gridsync import AsyncGrid
from gridsync.contrib.asgi import Policy, RateLimitMiddleware
from gridsync.contrib.keys import ClientAddress, join
from gridsync.testing.servers import server_kinds

if TYPE_CHECKING:
    from gridsync.contrib._answer import Receive, Send
    from gridsync.contrib._scope import Scope
    from gridsync.testing.cluster import RedisCluster

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)


async def empty(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})


async def test_a_request_that_one_policy_denies_takes_nothing_from_the_others(flushed: RedisCluster):
    address = ClientAddress()
    wide, narrow = Policy("wide", "9/minute", key=join("all")), Policy("narrow", "2/minute", key=address)
    last = Policy("last", "9/minute", key=address)
    async with AsyncGrid(flushed.url) as grid:
        app = RateLimitMiddleware(empty, grid=grid, policies=[wide, narrow, last])
        transport = httpx.ASGITransport(app, client=("192.0.2.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
            answers = [await client.get("/") for _ in range(6)]
        assert [answer.status_code for answer in answers] == [204, 204, 429, 429, 429, 429]
        assert {answer.headers["ratelimit"].split(";t=")[0] for answer in answers[2:]} == {'"wide";r=7'}
        for policy, key in ((wide, "all"), (last, "192.0.2.1")):
            assert (await policy.limiter(grid).peek(key)).remaining == 7
