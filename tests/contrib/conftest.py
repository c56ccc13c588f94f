"""A grid on the server under test, requests to an application in the same process, and outages."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import httpx
import pytest

from gridsync import AsyncGrid, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gridsync.contrib._answer import Message
    from gridsync.contrib.asgi import ASGIApp
    from gridsync.testing.servers import RedisServer


@pytest.fixture
async def grid(flushed: RedisServer) -> AsyncIterator[AsyncGrid]:
    async with AsyncGrid(flushed.url, namespace="rate_limit") as opened:
        yield opened


@contextlib.asynccontextmanager
async def browser(app: ASGIApp, peer: str = "192.0.2.1") -> AsyncIterator[httpx.AsyncClient]:
    """A client of *app* whose connections come from *peer*."""
    transport = httpx.ASGITransport(app=app, client=(peer, 50_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        yield client


@contextlib.asynccontextmanager
async def grid_without_server(flushed: RedisServer) -> AsyncIterator[AsyncGrid]:
    """A grid whose server was stopped after it had been opened; it is running again afterwards."""
    settings = Settings(redis_url=flushed.url, redis_command_timeout=0.2, redis_connection_timeout=30)
    async with AsyncGrid(settings=settings) as opened:
        flushed.stop()
        try:
            yield opened
        finally:
            flushed.start()


async def talk(app: ASGIApp, **scope: object) -> list[Message]:
    """Return what *app* sends on one connection."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"client": ("192.0.2.1", 1), "headers": [], "path": "/", **scope}, receive, send)
    return sent
