"""A middleware for any ASGI application that admits no more than its policies promise; it needs no other package.

::

    grid = AsyncGrid("redis://…")        # open it in the application's lifespan
    address = ClientAddress(trusted=["10.0.0.0/8"])
    app = RateLimitMiddleware(
        app,
        grid=grid,
        policies=[
            Policy("client", "20/second", "300/minute", key=address),
            Policy("orders", "10/minute", key=join(address, endpoint), paths=["/orders*"], methods=["POST"]),
        ],
    )

A request that is denied is answered with 429, ``Retry-After`` and a problem of type ``quota-exceeded``; every answer
says in ``RateLimit-Policy`` and ``RateLimit`` what there is and what is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from gridsync.contrib._answer import Receive, Send, refuse, with_headers
from gridsync.contrib._gate import Gate, GridOf
from gridsync.contrib._policy import Counts, Policy
from gridsync.contrib._scope import Scope
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


__all__ = ["ASGIApp", "Counts", "Policy", "RateLimitMiddleware"]

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI 3 application."""


class RateLimitMiddleware:
    """Let in what every policy admits, and answer the rest.

    Args:
        app: The application.
        grid: An `AsyncGrid` that is open while requests come, or a function that finds it in their scope; always the
            same one.
        policies: One or more, which must all admit a request.
        websockets: ``"pass"`` lets them through, ``"limit"`` counts the opening of each as a request.

    Raises:
        UsageError: There is no policy, or two have the same name.

    Streams are not touched: bodies pass as they come, in both directions.  A request that is denied, or cancelled while
    several policies are asked, takes nothing; slots of `Concurrency` are given back when the application has ended.

    While the server is away, a policy with ``on_error="raise"`` or ``"deny"`` is answered with 503, ``Retry-After`` and
    a problem of type ``temporary-reduced-capacity``.  ``RateLimit`` tells nothing that was decided without it.

    Not guaranteed: on a Cluster, that several policies decide in one step; see `AsyncLimits.check`.
    Cost: one round trip, however many policies there are, and one more if shadows look at what is admitted, or if a
    request takes the last unit of a policy: then it is asked when there is more.  On a Cluster one for each policy, and
    two more for what is denied.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        grid: GridOf,
        policies: Iterable[Policy],
        websockets: Literal["pass", "limit"] = "pass",
    ) -> None:
        if websockets not in {"pass", "limit"}:
            raise UsageError(f"websockets must be 'pass' or 'limit', not {websockets!r}")
        self._app = app
        self._gate = Gate(grid, policies)
        self._types = frozenset({"http", "websocket"} if websockets == "limit" else {"http"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in self._types:
            await self._app(scope, receive, send)
            return
        # Key functions may ask for the routes, and Starlette names itself only when it is called.
        verdict = await self._gate.judge(scope if "app" in scope else {**scope, "app": self._app})
        if verdict.problem is not None:
            await refuse(verdict.problem, verdict.headers, scope, receive, send)
            return
        try:
            await self._app(scope, receive, with_headers(send, verdict.headers))
        finally:
            if verdict.held:
                await self._gate.give_back(verdict.held)
