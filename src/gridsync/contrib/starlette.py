"""A fan-out channel on WebSockets and server-sent events, for Starlette and FastAPI; needs the extra ``starlette``.

::

    live = Live(lambda connection: grid.channel(f"book:{connection.path_params['market']}", secrets=SECRETS))

    @app.websocket("/book/{market}")
    async def book(websocket: WebSocket) -> None:
        await live.websocket(websocket)

    @app.get("/book/{market}/events")
    async def events(request: Request) -> Response:
        return live.events(request)

A WebSocket is sent JSON texts, each with a token to resume with (``?token=…``)::

    {"type": "subscribed", "recovered": null, "token": "…"}      first; true or false after a resume
    {"type": "message", "offset": 7, "key": "bid", "data": "…", "token": "…"}
    {"type": "gap", "missed": 3, "why": "slow", "token": "…"}    read the state anew
    {"type": "here", "token": "…"}                               now and then in a silence

An event source is sent the same as events: messages as they are with the token as id, ``subscribed`` and ``gap`` as
events of those names, and a new id in a silence.  It comes back with its last id by itself.  A payload that is no
UTF-8 is sent as ``base64`` in the place of ``data``, and as an event of that name.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from gridsync import _units
from gridsync.contrib._extra import extra
from gridsync.errors import OutcomeUnknown, TooSlow, Unavailable, UsageError
from gridsync.fanout import AsyncChannel, Gap, Message

with extra("starlette"):
    from starlette.responses import Response
    from starlette.websockets import WebSocketDisconnect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine

    from starlette.requests import HTTPConnection, Request
    from starlette.types import Receive, Scope, Send
    from starlette.websockets import WebSocket

    from gridsync.fanout import AsyncSubscription, Item, OnFull

__all__ = ["Live"]

_POLICY_VIOLATION: Final = 1008
_TRY_AGAIN_LATER: Final = 1013
_FORBIDDEN: Final = 403
_UNAVAILABLE: Final = 503
_RETRY_MS: Final = 1000
"""How long an event source waits before it comes back."""
_CLOSE_S: Final = 1.0
"""How long a close frame, or the end of an event stream, may take; whoever does not read does not get it."""
_LINE_END: Final = re.compile("\r\n|\r|\n")
_EVENT_HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}


class Live:
    """Serves clients of a channel, however many and however slow.

    Args:
        channel: The channel, or what finds it for a connection; it must have secrets.
        authorize: Called with each connection before anything is sent; whoever is not let in is told 403.  May be
            asynchronous.
        origins: Where the pages come from that may open a WebSocket, such as ``"https://example.org"``; by default any.
            A browser lets every page open one, with the cookies of its user: so whoever goes by cookies in *authorize*
            says which pages are its own.  What is no browser says no origin, and is not asked for one.
        member: What a connection is present as; see `AsyncChannel.presence`.  Not present if it returns ``None``.
        queue: How many messages may wait for one client.
        on_full: What happens when it does not read fast enough: ``disconnect_with_resume`` ends its connection with
            1013, and it comes back with its last token.
        token_ttl: How long a token counts, in seconds.
        heartbeat: How long a silence may last before something is sent, in seconds, so that proxies keep the
            connection and clients notice that it is dead.
        send_timeout: How long the sending of one message may take, in seconds; then the client is given up.

    Raises:
        UsageError: An option cannot be used.

    Guarantee: a client holds at most *queue* messages of memory, and for twice *send_timeout* if it reads nothing.
    Cost: each message is encoded and signed once, however many clients there are; two tasks for each of them.
    """

    def __init__(
        self,
        channel: AsyncChannel | Callable[[HTTPConnection], AsyncChannel],
        *,
        authorize: Callable[[HTTPConnection], bool | Awaitable[bool]] | None = None,
        origins: Collection[str] | None = None,
        member: Callable[[HTTPConnection], str | None] | None = None,
        queue: int = 256,
        on_full: OnFull = "disconnect_with_resume",
        token_ttl: _units.Seconds = 3600.0,
        heartbeat: _units.Seconds = 15.0,
        send_timeout: _units.Seconds = 10.0,
    ) -> None:
        self._channel = channel
        self._authorize = authorize
        if isinstance(origins, str):
            raise UsageError(f"origins={origins!r:.100}: give a collection of origins")
        self._origins = origins
        self._member = member
        self._queue = queue
        self._on_full: OnFull = on_full
        token_s = _units.seconds(token_ttl, "token_ttl", least=1.0)
        # One for all clients, so that what it makes of a message is made once.
        self._json, self._events = _Json(token_s), _Events(token_s)
        self._heartbeat_s = _units.seconds(heartbeat, "heartbeat", least=0.1)
        self._send_s = _units.seconds(send_timeout, "send_timeout", least=0.1)

    async def websocket(self, websocket: WebSocket) -> None:
        """Accept *websocket* and serve it until it is gone; a client resumes with its last token in ``?token=…``."""
        if self._is_foreign(websocket) or not await self._allowed(websocket):
            await websocket.close(_POLICY_VIOLATION)
            return
        await websocket.accept()
        why = "closed"
        try:
            async with self._subscribe(websocket, websocket.query_params.get("token")) as subscription:
                if not await self._serve(subscription, self._json, websocket.send_text, _left(websocket)):
                    return
        except TooSlow:
            why = "too slow: come back with your token"
        except (Unavailable, OutcomeUnknown):
            why = "the server is away: come back later"
        # It may have gone meanwhile, or not read.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await websocket.close(_TRY_AGAIN_LATER, why)

    def events(self, request: Request) -> Response:
        """Return the response that serves an event source until it is gone; it resumes by its ``Last-Event-ID``."""
        return _EventStream(self, request)

    async def stream(
        self, request: Request, send: Callable[[str], Awaitable[None]], left: Callable[[], Coroutine[Any, Any, None]]
    ) -> int:
        """Send events until the client has *left*; returns the status of the refusal if nothing was sent, or 0.

        For `events`, or a response of another kind.
        """
        if not await self._allowed(request):
            return _FORBIDDEN
        token = request.headers.get("last-event-id") or request.query_params.get("token")
        try:
            async with self._subscribe(request, token) as subscription:
                await self._serve(subscription, self._events, send, left())
        except TooSlow:
            return 0  # it comes back by itself
        except (Unavailable, OutcomeUnknown):
            return _UNAVAILABLE
        return 0

    def _is_foreign(self, websocket: WebSocket) -> bool:
        origin = websocket.headers.get("origin")
        return self._origins is not None and origin is not None and origin not in self._origins

    async def _allowed(self, connection: HTTPConnection) -> bool:
        if self._authorize is None:
            return True
        answer = self._authorize(connection)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    def _subscribe(self, connection: HTTPConnection, token: str | None) -> AsyncSubscription:
        channel = self._channel if isinstance(self._channel, AsyncChannel) else self._channel(connection)
        member = None if self._member is None else self._member(connection)
        return channel.subscribe(after=token, queue=self._queue, on_full=self._on_full, member=member)

    async def _serve(
        self,
        subscription: AsyncSubscription,
        frames: _Frames,
        send: Callable[[str], Awaitable[None]],
        left: Coroutine[Any, Any, None],
    ) -> bool:
        """Send until the client has *left* or is given up; false then.

        Raises:
            TooSlow: Its queue was full.
        """
        loop = asyncio.get_running_loop()
        feed = _Feed(subscription, frames, send, self._heartbeat_s)
        sending, leaving = loop.create_task(feed.run()), loop.create_task(left)
        tasks = {sending, leaving}
        try:
            while True:
                done, _ = await asyncio.wait(tasks, timeout=self._send_s, return_when=asyncio.FIRST_COMPLETED)
                if done or feed.since + self._send_s < loop.time():
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if sending not in done:
            return False
        with contextlib.suppress(WebSocketDisconnect):
            sending.result()
            return True
        return False


class _Feed:
    """What sends one client its messages."""

    def __init__(
        self,
        subscription: AsyncSubscription,
        frames: _Frames,
        send: Callable[[str], Awaitable[None]],
        heartbeat_s: float,
    ) -> None:
        self._subscription, self._frames, self._send_it = subscription, frames, send
        self._heartbeat_s = heartbeat_s
        self.since = float("inf")
        """When the sending began that has not ended, on the loop's clock."""
        self._time = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Send whatever comes."""
        subscription, frames = self._subscription, self._frames
        await self._send(frames.first(subscription))
        while not subscription.closed:
            item = await subscription.next(self._heartbeat_s)
            if isinstance(item, Message):
                await self._send(item.once(frames.message, subscription))
            elif item is not None:
                await self._send(frames.gap(item, subscription))
            else:
                await self._send(frames.here(subscription))

    async def _send(self, text: str) -> None:
        self.since = self._time()
        await self._send_it(text)
        self.since = float("inf")


class _Frames(Protocol):
    """How things are written for one kind of client."""

    def first(self, subscription: AsyncSubscription) -> str: ...
    def message(self, message: Message, subscription: AsyncSubscription) -> str: ...
    def gap(self, gap: Gap, subscription: AsyncSubscription) -> str: ...
    def here(self, subscription: AsyncSubscription) -> str: ...


class _Json:
    """The texts of a WebSocket."""

    def __init__(self, token_s: float) -> None:
        self._token_s = token_s

    def _text(self, kind: str, subscription: AsyncSubscription, item: Item | None = None, **facts: object) -> str:
        token = subscription.token(item, expires=self._token_s)
        return json.dumps({"type": kind, **facts, "token": token}, separators=(",", ":"))

    def first(self, subscription: AsyncSubscription) -> str:
        return self._text("subscribed", subscription, recovered=subscription.recovered)

    def message(self, message: Message, subscription: AsyncSubscription) -> str:
        name, text = _payload(message)
        about = {"offset": message.offset, "key": message.key, name: text}
        return self._text("message", subscription, message, **about)

    def gap(self, gap: Gap, subscription: AsyncSubscription) -> str:
        return self._text("gap", subscription, gap, missed=gap.missed, why=gap.why)

    def here(self, subscription: AsyncSubscription) -> str:
        return self._text("here", subscription)


class _Events:
    """The lines of an event stream."""

    def __init__(self, token_s: float) -> None:
        self._token_s = token_s

    def _event(self, kind: str, subscription: AsyncSubscription, item: Item | None, text: str) -> str:
        named = f"event: {kind}\n" if kind else ""
        lines = "".join(f"data: {line}\n" for line in _LINE_END.split(text))
        return f"{named}id: {subscription.token(item, expires=self._token_s)}\n{lines}\n"

    def first(self, subscription: AsyncSubscription) -> str:
        told = json.dumps({"recovered": subscription.recovered})
        return f"retry: {_RETRY_MS}\n{self._event('subscribed', subscription, None, told)}"

    def message(self, message: Message, subscription: AsyncSubscription) -> str:
        name, text = _payload(message)
        return self._event("" if name == "data" else name, subscription, message, text)

    def gap(self, gap: Gap, subscription: AsyncSubscription) -> str:
        return self._event("gap", subscription, gap, json.dumps({"missed": gap.missed, "why": gap.why}))

    def here(self, subscription: AsyncSubscription) -> str:
        # Without data it is no event, but browsers remember the id: in a long silence the last one would expire.
        return f": here\nid: {subscription.token(expires=self._token_s)}\n\n"


class _EventStream(Response):
    """A response that ends when its client leaves, or was too slow."""

    def __init__(self, live: Live, request: Request) -> None:
        super().__init__(headers=_EVENT_HEADERS)
        del self.headers["content-length"]
        self._live, self._request = live, request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it."""
        begun = False

        async def say(text: str) -> None:
            nonlocal begun
            if not begun:
                begun = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        refused = await self._live.stream(self._request, say, left)
        if refused and not begun:
            headers = {"retry-after": "1"} if refused == _UNAVAILABLE else None
            await Response(status_code=refused, headers=headers)(scope, receive, send)
        elif begun:
            # Whoever does not read does not get it: the server closes the connection then.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(websocket: WebSocket) -> None:
    """Return when *websocket* is gone; what it says until then is read and forgotten."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _payload(message: Message) -> tuple[str, str]:
    try:
        return "data", message.text
    except UnicodeDecodeError:
        return "base64", base64.b64encode(message.data).decode()
