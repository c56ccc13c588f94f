"""``/metrics`` inside an ASGI application, without a thread that listens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

    from gridsync.contrib._answer import Receive, Send
    from gridsync.contrib._scope import Scope
    from gridsync.contrib.asgi import ASGIApp


def metrics_app(registry: CollectorRegistry = REGISTRY) -> ASGIApp:
    """Return an ASGI application that answers every GET with the metrics of *registry*; mount it at ``/metrics``.

    Args:
        registry: What to show.

    It collects in a thread, one scrape at a time, so that a `StoreCollector`, which asks its server and waits, holds up
    no request: the application of `prometheus_client` collects on the event loop.  The metrics are not compressed, and
    nobody is asked who he is: let only Prometheus reach the path.

    Cost: what the collectors cost, and a thread of the loop's executor meanwhile.
    """
    turn = asyncio.Lock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - a GET has no body
        if scope["type"] != "http":
            return
        method = scope["method"]
        if method not in {"GET", "HEAD"}:
            await _answer(send, 405, [(b"allow", b"GET, HEAD")], b"")
            return
        accepted = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
        encode, kind = choose_encoder(accepted)
        async with turn:
            text = await asyncio.to_thread(encode, registry)
        head = [(b"content-type", kind.encode()), (b"content-length", str(len(text)).encode())]
        await _answer(send, 200, head, b"" if method == "HEAD" else text)

    return app


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
