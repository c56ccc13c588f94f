"""Limits for FastAPI, route by route; needs the extra ``fastapi``.

::

    grid = AsyncGrid("redis://…")        # open it in the application's lifespan
    app = FastAPI(lifespan=…)
    install(app)
    orders = limited(grid, Policy("orders", "10/minute", key=join(subject, endpoint)), subject=current_user)

    @app.post("/orders", dependencies=[Depends(orders)])
    async def place(order: Order) -> Placed: ...

`gridsync.contrib.asgi.RateLimitMiddleware` is for what concerns all routes; both may be used together.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from gridsync.contrib._answer import POLICY_VIOLATION, PROBLEM_JSON, as_json, with_headers
from gridsync.contrib._extra import extra
from gridsync.contrib._gate import AWAY, TITLES, TOO_MANY, TYPES, Gate, GridOf
from gridsync.contrib._policy import Policy
from gridsync.contrib._scope import HEADERS, SUBJECT

with extra("fastapi"):
    from fastapi import Depends, FastAPI, HTTPException, Request, Response, WebSocketException
    from fastapi.requests import HTTPConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gridsync.contrib._answer import Receive, Send
    from gridsync.contrib._gate import Problem
    from gridsync.contrib._scope import Scope
    from gridsync.contrib.asgi import ASGIApp
    from gridsync.limits import Decision

__all__ = ["RESPONSES", "Policy", "Refused", "install", "limited"]

_REASON_CHARS_MAX = 120
"""A close frame has room for 123 bytes."""


def _header(description: str, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


_TOLD = {
    "RateLimit-Policy": _header("The quotas that concern the request."),
    "RateLimit": _header("What is left of the one that binds, and when there is more."),
    "Retry-After": _header("When the same request would be admitted, in seconds; not told if never.", "integer"),
}


def _response(description: str, kind: str, status: int) -> dict[str, Any]:
    fields = {
        "type": {"type": "string", "const": TYPES + kind},
        "title": {"type": "string", "const": TITLES[kind]},
        "status": {"type": "integer", "const": status},
        "detail": {"type": "string"},
    }
    if status == TOO_MANY:
        fields["violated-policies"] = {"type": "array", "items": {"type": "string"}}
    schema = {"type": "object", "required": list(fields), "properties": fields}
    return {"description": description, "headers": _TOLD, "content": {PROBLEM_JSON: {"schema": schema}}}


RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    TOO_MANY: _response("A quota is used up.", "quota-exceeded", TOO_MANY),
    AWAY: _response("A quota cannot be checked at the moment.", "temporary-reduced-capacity", AWAY),
}
"""How requests are refused where `install` answers, or the middleware; for OpenAPI: ``FastAPI(responses=RESPONSES)``,
or the *responses* of a router or a route."""


class Refused(HTTPException):
    """A request that a policy does not admit; an application may handle it as it likes.

    Attributes:
        status_code: 429; or 503 if the limiter's server is away.
        detail: The problem (RFC 9457): ``type``, ``title``, ``status``, ``detail`` and ``violated-policies``.
        headers: ``RateLimit-Policy``, ``RateLimit`` and ``Retry-After``.
    """

    def __init__(self, problem: Problem, headers: dict[str, str]) -> None:
        super().__init__(problem.status, problem.body, headers)


def limited(
    grid: GridOf, *policies: Policy, subject: Callable[..., Any] | None = None
) -> Callable[..., AsyncIterator[list[Decision]]]:
    """Return a dependency, for ``Depends``: a request is let in if every policy admits it.

    Args:
        grid: An `AsyncGrid` that is open while requests come, or a function that finds it in their scope; always the
            same one.
        *policies: One or more, which must all admit a request; see `RateLimitMiddleware`.
        subject: A dependency that tells who it is, such as the one that returns the current user's name, for the key
            function `gridsync.contrib.keys.subject`; ``None`` is nobody, whom policies with that key do not concern.

    Returns:
        A dependency, whose value is the decisions of the policies that concern the request.

    Raises:
        UsageError: There is no policy, or two have the same name.
        Refused: By the dependency.  Handled by `install`, it is the answer that the middleware would give; without
            that, FastAPI puts the problem under ``detail``.  A websocket is closed with code 1008 instead.

    A refused request takes nothing from these policies.  What another `limited` of the same route took stays taken.
    Slots of `Concurrency` are held until FastAPI ends its dependencies: since 0.118, when the response has been sent.
    Cost: as `RateLimitMiddleware`.
    """
    gate = Gate(grid, policies)

    async def dependency(
        connection: HTTPConnection, response: Response, who: object = None
    ) -> AsyncIterator[list[Decision]]:
        scope = connection.scope
        if subject is not None:
            scope[SUBJECT] = who
        verdict = await gate.judge(scope)
        if verdict.problem is not None:
            if scope["type"] == "websocket":
                raise WebSocketException(POLICY_VIOLATION, str(verdict.problem.body["detail"])[:_REASON_CHARS_MAX])
            raise Refused(verdict.problem, dict(verdict.headers))
        collected = scope.get(HEADERS)
        if collected is not None:
            collected.extend(verdict.headers)
        else:
            for name, value in verdict.headers:
                response.headers.append(name, value)
        try:
            yield verdict.decisions
        finally:
            if verdict.held:
                await gate.give_back(verdict.held)

    # FastAPI asks the signature what to pass.
    asks = [_parameter("connection", HTTPConnection), _parameter("response", Response)]
    if subject is not None:
        asks.append(_parameter("who", Any, Depends(subject)))
    dependency.__signature__ = inspect.Signature(asks)  # type: ignore[attr-defined]
    return dependency


def _parameter(name: str, annotation: object, default: object = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def install(app: FastAPI) -> None:
    """Let *app* answer as the middleware does: `Refused` as a problem, and headers on whatever a route returns.

    Without it, FastAPI shows a problem as the ``detail`` of an error, and keeps headers only on answers that it makes
    itself, not on a `Response` that a route returns.
    """
    app.add_middleware(_Collector)
    app.exception_handler(Refused)(_answer)


class _Collector:
    """Adds what the dependencies of a route collected to its response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            scope[HEADERS] = headers = list[tuple[str, str]]()
            send = with_headers(send, headers)
        await self._app(scope, receive, send)


async def _answer(request: Request, refused: Refused) -> Response:
    del request
    return Response(as_json(refused.detail), refused.status_code, refused.headers, media_type=PROBLEM_JSON)
