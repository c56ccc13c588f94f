"""How a verdict reaches the client, in ASGI's words."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gridsync.contrib._gate import Problem
    from gridsync.contrib._scope import Scope

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PROBLEM_JSON = "application/problem+json"
STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
POLICY_VIOLATION = 1008


def with_headers(send: Send, headers: list[tuple[str, str]]) -> Send:
    """Return a `Send` that adds *headers*, as they are when the response starts."""

    async def sending(message: Message) -> None:
        if headers and message["type"] in STARTS:
            message = {**message, "headers": [*message.get("headers", ()), *encoded(headers)]}
        await send(message)

    return sending


def as_json(problem: object) -> bytes:
    """Return the body of a problem."""
    return json.dumps(problem).encode()


def encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI wants them."""
    return [(name.encode(), value.encode()) for name, value in headers]


async def refuse(problem: Problem, about: list[tuple[str, str]], scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in place of the application."""
    body = as_json(problem.body)
    headers = encoded([("content-type", PROBLEM_JSON), ("content-length", str(len(body))), *about])
    prefix = ""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})  # which servers answer with 403
            return
        prefix = "websocket."
    await send({"type": f"{prefix}http.response.start", "status": problem.status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})
