"""Sentinel: the URL, and routes that follow the primary.

``redis+sentinel://user:password@h1:26379,h2,h3/service/0?sentinel_password=…``: user and password are the servers',
those of the sentinels themselves are options.  `primary.py` finds out who the primary is.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.credentials import UsernamePasswordCredentialProvider

from gridsync._io.clock import monotonic
from gridsync._io.ears import pauses
from gridsync._io.route import AsyncStandalone, Standalone
from gridsync._io.route.lanes import open_lanes
from gridsync._io.route.primary import Primary
from gridsync._io.route.replica import Replica, replica_of
from gridsync._io.signals import call_in
from gridsync._io.wire.credentials import PasswordFile
from gridsync._io.wire.endpoint import Endpoint, parse, redacted
from gridsync._io.wire.faults import ROLE_CHANGED, Fault, ReplyError
from gridsync._io.wire.pool import Pool
from gridsync.errors import InvalidURL, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.credentials import CredentialProvider

    from gridsync._io.route.lanes import Lanes
    from gridsync._io.wire.node import Node
    from gridsync._io.wire.place import Place

PORT = 26379
ASK_S = 0.3
"""How long one sentinel may take to answer, unless the URL says otherwise: three that are silent take a second."""
_OPTIONS = ("sentinel_username", "sentinel_password", "sentinel_timeout")
_URL = re.compile(
    r"(?P<scheme>rediss?|valkeys?)\+sentinel://(?:(?P<login>.*)@)?(?P<hosts>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?"
)


def is_sentinel(url: str) -> bool:
    """Tell whether *url* names sentinels."""
    return url.partition("://")[0].endswith("+sentinel")


def parse_sentinel(
    url: str, *, connect_timeout: float, credentials: CredentialProvider | None = None, password_file: str | None = None
) -> Primary:
    """Read the URL of a service that sentinels watch; the password file is also that of a user whom they know.

    Raises:
        InvalidURL: A part of it cannot be used; the message says which.
        TLSFailed: A certificate or key file that it names cannot be loaded.
    """
    shown = redacted(url)
    parts = _URL.fullmatch(url)
    if parts is None:
        raise InvalidURL(f"{shown!r} cannot be read; write redis+sentinel://h1:26379,h2,h3/service/0")
    words = [unquote(word) for word in parts["path"].strip("/").split("/")]
    service, db = [*words, "0"][:2]
    if not service or len(words) > 2:  # noqa: PLR2004 - service and database
        text = "after the hosts come the name of the service and, if it is not 0, the database"
        raise InvalidURL(f"{shown!r}: {text}: redis+sentinel://h1:26379,h2,h3/service/0")
    hosts = [_host(text, shown) for text in parts["hosts"].split(",")]
    options = dict(parse_qsl(parts["query"] or "", keep_blank_values=True))
    ours = {name: options.pop(name) for name in _OPTIONS if name in options}
    before = f"{parts['login']}@" if parts["login"] else ""
    standalone = f"{parts['scheme']}://{before}{parts['hosts'].split(',')[0]}/{db}"
    standalone += f"?{urlencode(options)}" if options else ""
    try:
        server = parse(
            standalone, connect_timeout=connect_timeout, credentials=credentials, password_file=password_file
        )
    except InvalidURL as error:
        text = str(error).replace(repr(redacted(standalone)), repr(shown))
        raise InvalidURL(text.replace("allowed are", f"allowed are {', '.join(_OPTIONS)},")) from None
    user, password = ours.get("sentinel_username"), ours.get("sentinel_password")
    login: CredentialProvider | None = None
    if password:
        login = UsernamePasswordCredentialProvider(user, password)
    elif user and password_file is not None:
        login = PasswordFile(user, password_file)
    sentinel = Endpoint(
        host="",
        port=PORT,
        path=None,
        db=0,
        credentials=login,
        tls=server.tls,
        connect_timeout=min(_seconds(ours.get("sentinel_timeout", str(ASK_S)), shown), connect_timeout),
        client_name=server.client_name,
        shown=shown,
        tls_options=server.tls_options,
    )
    sentinels = [replace(sentinel, host=host, port=port) for host, port in hosts]
    return Primary(service, sentinels, replace(server, shown=shown))


def _host(text: str, shown: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidURL(f"{shown!r}: {text!r} is no host and port: {error}") from None
    if not host:
        raise InvalidURL(f"{shown!r}: a host is missing; write redis+sentinel://h1:26379,h2,h3/service/0")
    return host, port or PORT


def _seconds(text: str, shown: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 300:  # noqa: PLR2004 - as REDIS_CONNECTION_TIMEOUT
        raise InvalidURL(f"{shown!r}: sentinel_timeout must be seconds, more than 0 and at most 300, not {text!r}")
    return seconds


class SentinelTopology:
    """One primary, which moves: its routes hold connections to no other server for longer than a switch takes."""

    sharded = False
    turns = 0

    def __init__(self, primary: Primary) -> None:
        """Follow *primary*."""
        self._primary = primary
        self._replica = replica_of(primary)
        self._pools: list[Pool] = []
        self._lanes: list[tuple[asyncio.AbstractEventLoop, Node]] = []
        primary.on_move(self._move)

    def pools(self, size: int) -> Following:
        """Return a route for threads."""
        pool = Pool(self._primary, size=size)
        self._pools.append(pool)
        return Following(pool, self._primary)

    def nodes(self, *, lanes: int, inflight_max: int, stall_s: float) -> AsyncFollowing:
        """Return a route for asyncio."""
        opened = open_lanes(self._primary, count=lanes, inflight_max=inflight_max, stall_s=stall_s)
        loop = asyncio.get_running_loop()
        self._lanes += [(loop, lane) for lane in opened]
        return AsyncFollowing(opened, self._primary)

    def subscriber(self, channel: str) -> Place:  # noqa: ARG002 - whichever it is
        """Return the primary."""
        return self._primary

    def replica(self, keys: Sequence[object]) -> Replica:  # noqa: ARG002 - each of them has all keys
        """Return where a replica is found."""
        return self._replica

    def on_change(self, callback: Callable[[], None]) -> None:
        """Never call *callback*: there are no slots."""

    def on_move(self, callback: Callable[[Endpoint], None]) -> None:
        """Call *callback* when there is another primary."""
        self._primary.on_move(callback)

    def failed(self, keys: Sequence[object], error: Exception) -> None:  # noqa: ARG002 - whichever keys they are
        """Ask anew where the primary is, if *error* says that the server is none; a lost connection does so by itself.

        Connections that other requests are under way on end when those are answered: each gets its own verdict.
        """
        if isinstance(error, ReplyError) and error.code in ROLE_CHANGED:
            for pool in self._pools:
                pool.leave()
            for loop, lane in self._lanes:
                call_in(loop, lane.leave)

    def close(self) -> None:
        """Stop listening to the sentinels."""
        self._primary.close()

    def _move(self, endpoint: Endpoint) -> None:
        for pool in self._pools:
            pool.move(endpoint)
        for loop, lane in self._lanes:
            call_in(loop, lambda lane=lane: lane.move(endpoint))  # type: ignore[misc]


class Following(Standalone):
    """The primary, for threads."""

    def __init__(self, pool: Pool, primary: Primary) -> None:
        """Route everything to *pool*."""
        super().__init__(pool)
        self._primary = primary

    def connect(self, timeout: float) -> None:
        """Open one connection, waiting for the end of a failover that may be under way."""
        deadline = monotonic() + timeout
        for pause in pauses():
            try:
                self._pool.give(self._pool.take(max(deadline - monotonic(), pause)))
            except Fault as error:
                if not self._primary.vouched or monotonic() + pause >= deadline:
                    raise Unavailable(str(error)) from error
                time.sleep(pause)
            else:
                return


class AsyncFollowing(AsyncStandalone):
    """The primary, for asyncio."""

    def __init__(self, lanes: Lanes, primary: Primary) -> None:
        """Route everything to *lanes*."""
        super().__init__(lanes)
        self._primary = primary

    async def connect(self, deadline: float) -> None:
        """Open the first lane, waiting for the end of a failover that may be under way."""
        now = asyncio.get_running_loop().time
        for pause in pauses():
            try:
                await self._lanes[0].ready(deadline)
            except Fault as error:
                if not self._primary.vouched or now() + pause >= deadline:
                    raise Unavailable(str(error)) from error
                await asyncio.sleep(pause)
            else:
                return
