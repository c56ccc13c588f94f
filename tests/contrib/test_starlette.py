"""A channel on WebSockets and server-sent events: real sockets, a real server in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gridsync import Grid
from gridsync.contrib.starlette import Live
from gridsync.errors import UsageError
from tests.wire.fake import soon, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gridsync import AsyncGrid
    from gridsync.testing.servers import RedisServer

SECRETS = ["a secret of the tests"]
LONG_S = 60.0
pytestmark = pytest.mark.any_server


class Site:
    """An application that serves one channel, and where it is."""

    def __init__(self, grid: AsyncGrid, **options: Any) -> None:  # noqa: ANN401 - those of Live
        self.channel = grid.channel("prices", secrets=SECRETS)
        self.served = 0
        self.port = 0
        live = Live(lambda _connection: grid.channel("prices", secrets=SECRETS), **options)
        self.app = FastAPI()

        @self.app.websocket("/live")
        async def live_(websocket: WebSocket) -> None:
            await live.websocket(websocket)

        @self.app.get("/events")
        async def events(request: Request) -> Response:
            return live.events(request)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Site]:
        """Serve on a port of this machine."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            self.port = listening.getsockname()[1]
            config = uvicorn.Config(
                self._serve, interface="asgi3", log_level="critical", lifespan="off", timeout_graceful_shutdown=1
            )
            server = uvicorn.Server(config)
            with contextlib.ExitStack() as stack:
                # It would take over the signals of the test run.
                server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
                task = asyncio.create_task(server.serve(sockets=[listening]))
                stack.callback(task.cancel)
                await soon(lambda: server.started, LONG_S)
                try:
                    yield self
                finally:
                    server.should_exit = True
                    ended, _ = await asyncio.wait([task], timeout=LONG_S)
                    assert ended, "whoever is still connected holds it up"

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        self.served += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.served -= 1

    def socket(self, query: str = "", origin: Any = None) -> connect:  # noqa: ANN401 - a typed string
        """Return a connection to the WebSocket."""
        return connect(f"ws://127.0.0.1:{self.port}/live{query}", proxy=None, ping_interval=None, origin=origin)


async def heard(websocket: Any, kind: str = "message") -> dict[str, Any]:  # noqa: ANN401 - a connection
    """Return the next text of that kind."""
    while True:
        found: dict[str, Any] = json.loads(await asyncio.wait_for(websocket.recv(), LONG_S))
        if found["type"] == kind:
            return found
        assert found["type"] == "here", found


async def test_a_browser_gets_what_it_missed_while_it_was_away(grid: AsyncGrid) -> None:
    """A page would show a hole after each tunnel."""
    async with Site(grid).running() as site:
        async with site.socket() as one, site.socket() as two:
            assert (await heard(one, "subscribed"))["recovered"] is None
            await heard(two, "subscribed")
            await site.channel.publish('{"bid": 1}', key="bid")
            seen = await heard(one)
            assert (seen["offset"], seen["key"], seen["data"]) == (1, "bid", '{"bid": 1}')
            assert await heard(two) == seen, "written once for both"
        for count in range(3):
            await site.channel.publish(f"{count}")
        async with site.socket(f"?token={seen['token']}") as back:
            assert (await heard(back, "subscribed"))["recovered"] is True
            assert [(await heard(back))["data"] for _ in range(3)] == ["0", "1", "2"]
        async with site.socket("?token=forged") as back:
            assert (await heard(back, "subscribed"))["recovered"] is False
            assert (await heard(back, "gap"))["why"] == "token"
        await soon(lambda: site.served == 0, LONG_S)


async def test_bytes_that_are_no_text_are_told_as_such(grid: AsyncGrid) -> None:
    """One such payload would end every connection."""
    async with Site(grid).running() as site, site.socket() as websocket:
        await heard(websocket, "subscribed")
        await site.channel.publish(b"\xff\x00")
        assert (await heard(websocket))["base64"] == "/wA="


async def test_nobody_is_served_who_is_not_let_in(grid: AsyncGrid) -> None:
    async def authorize(connection: Any) -> bool:  # noqa: ANN401 - a request or a WebSocket
        return bool(connection.query_params.get("user") == "ann")

    async with Site(grid, authorize=authorize, member=lambda c: c.query_params.get("user")).running() as site:
        with pytest.raises(InvalidStatus) as refused:
            async with site.socket():
                pass
        assert refused.value.response.status_code == 403
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{site.port}/events")
            assert answer.status_code == 403
        async with site.socket("?user=ann") as websocket:
            await heard(websocket, "subscribed")
            assert [member.name for member in await site.channel.presence()] == ["ann"]

        async def nobody() -> bool:
            return await site.channel.count() == 0

        await until(nobody, LONG_S)


async def test_a_silence_is_broken_now_and_then(grid: AsyncGrid) -> None:
    """A proxy would cut the connection, and a client never know that it is dead."""
    async with Site(grid, heartbeat=0.1).running() as site, site.socket() as websocket:
        await heard(websocket, "subscribed")
        first = await heard(websocket, "here")
        assert first["token"]


UPGRADE = b"""Upgrade: websocket\r
Connection: Upgrade\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
"""


@pytest.mark.parametrize(("path", "headers", "status"), [("live", UPGRADE, b"101"), ("events", b"", b"200")])
async def test_a_client_that_never_reads_is_given_up_and_costs_no_memory(
    grid: AsyncGrid, path: str, headers: bytes, status: bytes
) -> None:
    """One laptop that was closed would fill the memory of the gateway."""
    async with Site(grid, queue=10, send_timeout=0.5).running() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1024)
        writer.write(f"GET /{path} HTTP/1.1\r\nHost: x\r\n".encode() + headers + b"\r\n")
        assert status in await asyncio.wait_for(reader.readline(), LONG_S)
        await soon(lambda: site.served == 1, LONG_S)
        payload = "x" * 200_000

        async def flooded() -> bool:
            await site.channel.publish(payload)
            return site.served == 0

        await until(flooded, LONG_S)
        writer.close()


async def test_a_client_that_is_too_slow_is_told_to_come_back(grid: AsyncGrid, flushed: RedisServer) -> None:
    """It would lose what did not fit."""
    async with Site(grid, queue=2).running() as site:
        async with site.socket() as websocket:
            first = await heard(websocket, "subscribed")
            # Nothing of this loop gets a turn meanwhile, so that many messages arrive at once.
            with Grid(flushed.url, namespace=grid.namespace) as other:
                for count in range(300):
                    other.channel("prices").publish(f"{count}")

            async def read_on() -> None:
                nonlocal first
                while True:
                    first = await heard(websocket)

            with pytest.raises(ConnectionClosed) as closed:
                await read_on()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013
        rest: list[dict[str, Any]] = []
        while not rest or rest[-1]["offset"] < 300:
            token = (rest[-1] if rest else first)["token"]
            async with site.socket(f"?token={token}") as back:
                assert (await heard(back, "subscribed"))["recovered"] is True
                with contextlib.suppress(ConnectionClosed):
                    while not rest or rest[-1]["offset"] < 300:
                        rest.append(await heard(back))
        offsets = [message["offset"] for message in rest]
        assert offsets == list(range(offsets[0], 301))
        assert offsets[0] == first.get("offset", 0) + 1


class Source:
    """An event source, as a browser has one."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.last_id = ""
        """What it comes back with."""

    async def event(self) -> dict[str, str]:
        """Return the fields of the next event."""
        async with asyncio.timeout(LONG_S):
            while "data" not in (fields := await self.block()):
                pass
        return fields

    async def block(self) -> dict[str, str]:
        """Return the next fields up to an empty line; without data they are no event."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(LONG_S):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if not line:
                    self.last_id = fields.get("id", self.last_id)
                    return fields
                if name == "data" and "data" in fields:
                    value = f"{fields['data']}\n{value}"
                fields[name] = value
        raise AssertionError("the stream has ended")


@contextlib.asynccontextmanager
async def event_source(site: Site, last: str = "") -> AsyncIterator[Source]:
    headers = {"last-event-id": last} if last else {}
    url = f"http://127.0.0.1:{site.port}/events"
    async with (
        httpx.AsyncClient(trust_env=False, timeout=LONG_S) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield Source(response)


async def test_an_event_source_gets_what_it_missed_by_its_last_id(grid: AsyncGrid) -> None:
    async with Site(grid, heartbeat=0.2).running() as site:
        async with event_source(site) as source:
            first = await source.event()
            assert (first["event"], json.loads(first["data"])) == ("subscribed", {"recovered": None})
            assert int(first["retry"]) > 0
            await site.channel.publish("two\nlines")
            seen = await source.event()
            assert seen["data"] == "two\nlines"
        await site.channel.publish("missed")
        async with event_source(site, seen["id"]) as source:
            assert json.loads((await source.event())["data"]) == {"recovered": True}
            assert (await source.event())["data"] == "missed"
        async with event_source(site, "forged") as source:
            assert json.loads((await source.event())["data"]) == {"recovered": False}
            assert (await source.event())["event"] == "gap"


async def test_an_event_source_can_come_back_after_a_long_silence(grid: AsyncGrid) -> None:
    """Its last token would have expired: told that everything may be missing, though nothing was."""
    async with Site(grid, heartbeat=0.1).running() as site:
        async with event_source(site) as source:
            first = await source.event()
            while source.last_id == first["id"]:
                assert "data" not in await source.block()
        await site.channel.publish("missed")
        async with event_source(site, source.last_id) as source:
            assert json.loads((await source.event())["data"]) == {"recovered": True}
            assert (await source.event())["data"] == "missed"


async def test_a_page_from_elsewhere_is_not_served(grid: AsyncGrid) -> None:
    """It would read what the user of another page may, with her cookies."""
    ours = "https://example.org"
    with pytest.raises(UsageError):
        Site(grid, origins=ours)
    async with Site(grid, origins=[ours]).running() as site:
        for origin in ("https://example.com", "http://example.org", "null", "https://example.org.example.com"):
            with pytest.raises(InvalidStatus) as refused:
                async with site.socket(origin=origin):
                    pass
            assert refused.value.response.status_code == 403
        for origin in (ours, None):
            async with site.socket(origin=origin) as websocket:
                await heard(websocket, "subscribed")


async def test_a_client_that_comes_while_the_server_is_away_is_told_to_come_again(
    grid: AsyncGrid, flushed: RedisServer
) -> None:
    """An error page would be shown, and nothing come again by itself."""
    async with Site(grid).running() as site:
        flushed.stop()
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=LONG_S) as client:
                answer = await client.get(f"http://127.0.0.1:{site.port}/events")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            with pytest.raises(ConnectionClosed) as closed:
                async with site.socket() as websocket:
                    await heard(websocket)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013
        finally:
            flushed.start()
