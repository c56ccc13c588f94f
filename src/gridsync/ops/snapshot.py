"""A server's data over the wire, as a replica gets it: one consistent snapshot, streamed, with no access to its disk.

The server forks and writes all that it held at one moment.  With ``REPLCONF rdb-only`` it keeps nothing of what is
written meanwhile for us, so however slow we are, its memory does not grow on our behalf beyond what the fork costs.

States: greeted → asked (it answers with blank lines while it waits for a fork) → streaming → whole.  What ends in any
state but the last has raised, and nobody takes it for a snapshot.

Source: https://redis.io/docs/latest/operate/oss_and_stack/management/replication/, ``redis-cli --rdb``
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import hiredis

from gridsync._io.route.open import open_place
from gridsync._io.route.primary import Primary
from gridsync._io.route.replica import replica_of
from gridsync._io.wire.blocking import connect
from gridsync._io.wire.faults import Fault, ReplyError
from gridsync.errors import Misconfigured, PermissionDenied, Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync._io.wire.blocking import BlockingWire
    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.place import Place

__all__ = ["About", "Snapshot", "ask", "servers_of"]

PATIENCE_S: Final = 120.0
"""How long the server may be silent, in seconds: twice what it allows its replicas by default."""
PIECE: Final = 1 << 18
"""Bytes that are read at once."""
_ASK_S: Final = 10.0
_MARK: Final = 40
"""Bytes that end a snapshot whose length was not known when it began."""
_SETTLE: Final = "run it again when that is done (`redis-cli --cluster check`)"
_REFUSED: Final = "give the user +psync and +replconf at the server, as gridsync's role `backup` has them"


@dataclass(frozen=True, slots=True)
class About:
    """Which server a snapshot is of, as far as it tells."""

    kind: str = "unknown"
    """``redis`` or ``valkey``."""
    version: str = "unknown"
    run_id: str = "unknown"
    role: str = "unknown"
    """``master`` or ``slave``."""
    lag_s: float | None = None
    """Of a replica: how long ago it heard of its primary, in seconds."""
    used_bytes: int | None = None
    """What its data takes in memory: about how much a snapshot unpacks to."""
    clock_us: int | None = None
    """Its clock when it was asked."""


class Snapshot:
    """One snapshot that is on its way; iterate over it once, to the end.

    Attributes:
        about: Which server it is of.
        replication_id: Which history of writes it belongs to.
        offset: How far into that history, in bytes.
        size: How long it will be, where the server says so beforehand.
    """

    def __init__(self, server: Endpoint) -> None:
        """Connect to *server*, ask, and return when the snapshot begins.

        Raises:
            Unavailable: It cannot be reached, or is a replica without its primary.
            PermissionDenied: The user may not copy the data.
            Misconfigured: It is not a server that can be copied.
        """
        self._wire = connect(replace(server, db=0), timeout=server.connect_timeout, met_before=False)
        self._socket = self._wire._socket  # noqa: SLF001
        self._rest = b""
        try:
            self.about: About = _about(self._wire)
            self._socket.settimeout(PATIENCE_S)
            self.replication_id: str
            self.offset: int
            self.replication_id, self.offset = self._ask(server)
            self.size: int | None
            self.size, self._mark = self._header(server)
        except BaseException:
            self.close()
            raise
        self.whole: bool = False

    def _ask(self, server: Endpoint) -> tuple[str, int]:
        for words in (("REPLCONF", "capa", "eof"), ("REPLCONF", "rdb-only", "1")):
            line = self._request(words)
            if line.startswith(b"-NOPERM"):
                raise PermissionDenied(
                    f"{server} does not let this user copy its data: {line.decode()[1:]}; {_REFUSED}"
                )
            if line != b"+OK":
                raise Misconfigured(f"{server} answered REPLCONF with {line!r:.200}; it takes Redis or Valkey 7")
        line = self._request(("PSYNC", "?", "-1"))
        if line.startswith(b"-NOPERM"):
            raise PermissionDenied(f"{server} does not let this user copy its data: {line.decode()[1:]}; {_REFUSED}")
        found = re.fullmatch(rb"\+FULLRESYNC ([0-9a-f]{40}) ([0-9]+)", line)
        if found is None:
            raise Unavailable(
                f"{server} gives no snapshot now: {line.decode(errors='replace')[:200]}; try again when it has its "
                "primary, and is done with what it does"
            )
        return found[1].decode(), int(found[2])

    def _request(self, words: tuple[Any, ...]) -> bytes:
        self._socket.sendall(hiredis.pack_command(words))
        return self._line()

    def _header(self, server: Endpoint) -> tuple[int | None, bytes]:
        line = self._line()
        if line.startswith(b"$EOF:") and len(line) == _MARK + 5:
            return None, line[5:]
        if re.fullmatch(rb"\$[0-9]+", line):
            return int(line[1:]), b""
        raise Unavailable(f"{server} broke off before the snapshot: {line!r:.200}; its log says why")

    def _line(self) -> bytes:
        """Return the next line that is not blank: blank ones say that the server is still there."""
        while True:
            while b"\n" not in self._rest:
                self._rest += self._receive()
            line, _, self._rest = self._rest.partition(b"\n")
            if line.strip():
                return line.rstrip(b"\r")

    def _receive(self) -> bytes:
        try:
            piece = self._socket.recv(PIECE)
        except TimeoutError:
            raise Unavailable(f"{self._wire.endpoint} was silent for {PATIENCE_S:.0f} s; its log says why") from None
        except OSError as error:
            raise Unavailable(f"the connection to {self._wire.endpoint} broke: {error}; run it again") from error
        if not piece:
            raise Unavailable(
                f"{self._wire.endpoint} ended the connection in the middle of a snapshot; its log says why"
            )
        return piece

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces; ends when it is whole.

        Raises:
            Unavailable: The server broke off, or the connection did.
        """
        yield from self._counted(self.size) if self.size is not None else self._marked()
        self.whole = True
        self.close()

    def _counted(self, left: int) -> Iterator[bytes]:
        piece, self._rest = self._rest[:left], b""
        while True:
            if piece:
                left -= len(piece)
                yield piece
            if not left:
                return
            piece = self._receive()[:left]

    def _marked(self) -> Iterator[bytes]:
        held = self._rest
        while not held.endswith(self._mark):
            if len(held) > _MARK:
                yield held[:-_MARK]
                held = held[-_MARK:]
            held += self._receive()
        if len(held) > _MARK:
            yield held[:-_MARK]

    def close(self) -> None:
        """Hang up; safe to call twice."""
        self._wire.close()


def _about(wire: BlockingWire) -> About:
    """Ask the server who it is; a user who may not ask still gets its data."""
    try:
        said = dict(
            line.split(":", 1)
            for line in wire.call(("INFO",), _ASK_S).decode(errors="replace").splitlines()
            if ":" in line
        )
    except ReplyError:
        return About()
    clock: int | None = int(said["server_time_usec"]) if said.get("server_time_usec", "").isdigit() else None
    valkey = said.get("server_name") == "valkey"
    lag = said.get("master_last_io_seconds_ago")
    used = said.get("used_memory_dataset", "")
    return About(
        kind="valkey" if valkey else "redis",
        version=said["valkey_version"] if valkey else said.get("redis_version", "unknown"),
        run_id=said.get("run_id", "unknown"),
        role=said.get("role", "unknown"),
        lag_s=float(lag) if lag is not None else None,
        used_bytes=int(used) if used.isdigit() else None,
        clock_us=clock,
    )


def ask(server: Endpoint) -> About:
    """Ask a server who it is.

    Raises:
        GridsyncError: It cannot be reached.
    """
    wire = connect(replace(server, db=0), timeout=server.connect_timeout, met_before=False)
    try:
        return _about(wire)
    finally:
        wire.close()


def servers_of(url: str, *, timeout: float, password_file: str | None = None) -> list[tuple[Endpoint, str]]:
    """Return which servers hold the data that *url* names, and the slots of each: one, or a cluster's primaries.

    Of a service that sentinels watch it is a replica in touch with its primary, or the primary if there is none.

    Raises:
        GridsyncError: Nobody could tell.
    """
    place: Place = open_place(url, connect_timeout=timeout, password_file=password_file)
    if isinstance(place, Primary):
        try:
            return [(replace(replica_of(place).find(timeout), role="slave"), "")]
        except Fault:
            pass
        try:
            return [(place.find(timeout), "")]
        except Fault as error:
            raise Unavailable(f"no sentinel names a primary: {error}; see whether they run") from error
    if place.server.topology == "cluster":
        return _primaries(place.server, timeout)
    return [(place.server, "")]


def _primaries(server: Endpoint, timeout: float) -> list[tuple[Endpoint, str]]:
    wire, error = None, None
    for host, port in server.seeds:
        try:
            wire = connect(replace(server, host=host, port=port), timeout=timeout, met_before=False)
            break
        except Unavailable as unreachable:
            error = unreachable
    if wire is None:
        raise error or UsageError("the URL names no node of the cluster")
    try:
        text: str = wire.call(("CLUSTER", "NODES"), _ASK_S).decode()
    except ReplyError as refused:
        raise PermissionDenied(f"{wire.endpoint}: {refused}; the role `backup` of gridsync may ask this") from refused
    finally:
        wire.close()
    found = [
        (_node(server, wire.endpoint.host, words[1]), " ".join(word for word in words[8:] if word[0] != "["))
        for words in map(str.split, text.splitlines())
        if "master" in words[2].split(",") and any(word[0] != "[" for word in words[8:])
    ]
    if sum(_count(slots) for _, slots in found) != 1 << 14:
        raise Unavailable("the cluster does not serve all slots now; `redis-cli --cluster check` says which")
    for node, _ in found:
        _see_settled(node)
    return sorted(found, key=lambda one: int(re.split("[- ]", one[1])[0]))


def _see_settled(node: Endpoint) -> None:
    """See that no slot is on its way from or to *node*: only itself tells, in brackets.

    Raises:
        Unavailable: One is.  A key may leave a node before its snapshot, and come to another one after that one's.
    """
    wire = connect(node, timeout=node.connect_timeout, met_before=False)
    try:
        text: str = wire.call(("CLUSTER", "NODES"), _ASK_S).decode()
    finally:
        wire.close()
    if any(word[0] == "[" for line in text.splitlines() for word in line.split()[8:]):
        raise Unavailable(f"slots of {node} are being moved, and keys on their way are in no snapshot; {_SETTLE}")


def _node(server: Endpoint, asked: str, address: str) -> Endpoint:
    host, _, port = address.partition("@")[0].rpartition(":")
    return replace(server, host=host.strip("[]") or asked, port=int(port), role="master")


def _count(slots: str) -> int:
    pairs: list[Any] = [word.split("-") for word in slots.split()]
    return sum(int(pair[-1]) - int(pair[0]) + 1 for pair in pairs)
