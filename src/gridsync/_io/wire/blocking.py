"""The lean blocking wire: one socket, one parser, one request at a time.

The socket is left in blocking mode, and the kernel is told to wait for a moment only (``SO_RCVTIMEO``): a Python-level
timeout would cost one ``poll`` before every ``send`` and ``recv``.  What takes longer than that moment is waited for
with ``poll``, until the deadline.  The kernel could wait for all of it, but begins anew whenever a signal comes or the
process was stopped, and the deadline of who is signalled often would never come.  TLS sockets need the Python-level
timeout, since OpenSSL's "want read" would be retried for ever.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import hiredis

from gridsync._io import telemetry
from gridsync._io.wire.credentials import ask
from gridsync._io.wire.endpoint import (
    NO_REPLY,
    ProtocolError,
    certificate_ends,
    connect_failed,
    greeting_failed,
    hung_up,
    new_reader,
    not_tls,
    speaks_plain,
    tls_patience_s,
)
from gridsync._io.wire.faults import Fault

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.place import Place

_BUFFER_BYTES = 1 << 16
_BROKEN = (OSError, EOFError, ProtocolError, TypeError)
"""What reading may raise; the parser's ``TypeError`` is a map whose keys are lists."""
_LEAST_S = 0.001
"""The shortest time that a connection attempt is given once the server was found."""
MOMENT_US = 4000
"""How long one system call may wait for the server, in microseconds: longer than most replies take, so that they cost
no ``poll``, and shorter than the time between two signals of a profiler."""


class BlockingWire:
    """One connection.  Not thread-safe: a pool hands it to one thread at a time.

    After any failure in the middle of a request the wire is closed: an unread reply must never meet another request.
    """

    __slots__ = (
        *("_buffer", "_reader", "_secure", "_socket", "_timeout"),
        *("answered", "closed", "endpoint", "fault", "id", "idle_since", "unanswered_since"),
    )

    def __init__(self, endpoint: Endpoint, connection: socket.socket) -> None:
        """Wrap a connected socket; use `connect` instead."""
        self.endpoint = endpoint
        self.id = 0
        self.closed = False
        self.idle_since = 0.0
        self.answered = 0
        self.fault: Fault | None = None
        """Why it is closed, if a request got no reply."""
        self.unanswered_since = 0.0
        """When that request began."""
        self._socket = connection
        self._secure = endpoint.tls is not None
        self._reader = new_reader()
        self._buffer = bytearray(_BUFFER_BYTES)
        self._timeout = -1.0
        if not self._secure:
            moment = struct.pack("@ll", 0, MOMENT_US)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, moment)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, moment)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; safe to call twice."""
        self.closed = True
        self._socket.close()

    def peer(self) -> object:
        """Return the address of the other side; a tuple for TCP."""
        try:
            return self._socket.getpeername()
        except OSError:
            return None  # it is gone already

    def certificate_ends(self) -> float | None:
        """Return when the server's certificate ends; see `endpoint.certificate_ends`."""
        return certificate_ends(self._socket if self._secure else None)

    def shutdown(self) -> None:
        """End the connection from another thread: whoever reads from it gets an error."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _set_timeout(self, seconds: float) -> None:
        """Bound each read and write of a TLS socket."""
        if seconds != self._timeout:
            self._socket.settimeout(seconds)
            self._timeout = seconds

    def is_stale(self) -> bool:
        """Tell whether the server closed (or wrote to) an idle connection."""
        ready, _, _ = select.select([self._socket], [], [], 0) if self.fileno() < 1024 else _poll(self._socket)  # noqa: PLR2004 - FD_SETSIZE
        return bool(ready)

    def call(self, words: tuple[Any, ...], timeout: float) -> Any:  # noqa: ANN401
        """Send one request and return its reply.

        Raises:
            ReplyError: The server answered with an error; the wire is still good.
            Fault: No reply; the wire is closed.
        """
        reply = self.exchange(hiredis.pack_command(words), timeout)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def exchange(self, payload: bytes, timeout: float) -> Any:  # noqa: ANN401
        """Send *payload*, which holds one request, and return its reply; an error reply is returned, too."""
        if self._secure:
            self._set_timeout(timeout)
        sent = False
        deadline = time.monotonic() + timeout
        try:
            # `_send` and `read`, spelled out for the usual case: the whole request finds room, nothing is left over
            # from before, and the reply comes within a moment and is one piece.
            connection = self._socket
            try:
                count = connection.send(payload)
            except BlockingIOError:
                count = 0
            if count != len(payload):
                self._send_on(payload, count, deadline)
            sent = True
            buffer = self._buffer
            reader = self._reader
            try:
                count = connection.recv_into(buffer)
            except BlockingIOError:
                reply = NO_REPLY
            else:
                reader.feed(buffer, 0, count)  # type: ignore[arg-type] # as in `_read_on`
                reply = reader.gets()
            if reply is NO_REPLY or reply.__class__ is hiredis.PushNotification:
                reply = self._read_on(deadline, pushes=False)
            if reader.has_data():
                self.close()  # a push, or a reply that nobody asked for: it must not meet the next request
        except _BROKEN as error:
            self.close()
            raise self._fault(error, deadline, timeout, sent=sent) from error
        except BaseException:
            # An interrupt in the middle: nobody will read the reply.
            self.close()
            raise
        self.answered += 1
        return reply

    def exchange_many(self, requests: Sequence[tuple[Any, ...]], timeout: float) -> list[Any]:
        """Send all *requests* in one write and return their replies in order, error replies among them."""
        if self._secure:
            self._set_timeout(timeout)
        deadline = time.monotonic() + timeout
        try:
            self._send(b"".join([hiredis.pack_command(request) for request in requests]), deadline)
            replies = [self._read_on(deadline, pushes=False) for _ in requests]
        except _BROKEN as error:
            self.close()
            raise self._fault(error, deadline, timeout, sent=True) from error
        except BaseException:
            self.close()
            raise
        self.answered += len(replies)
        return replies

    def send(self, payload: bytes) -> None:
        """Send without waiting for a reply, for a subscriber's connection; in a connect timeout at most."""
        self._send(payload, time.monotonic() + self.endpoint.connect_timeout)

    def read(self, timeout: float | None = None) -> Any:  # noqa: ANN401
        """Return the next reply (or push), waiting for it at most *timeout* seconds in all."""
        return self._read_on(None if timeout is None else time.monotonic() + timeout, pushes=True)

    def _send(self, payload: bytes, deadline: float) -> None:
        try:
            count = self._socket.send(payload)
        except BlockingIOError:
            count = 0
        if count != len(payload):
            self._send_on(payload, count, deadline)

    def _send_on(self, payload: bytes, count: int, deadline: float) -> None:
        view = memoryview(payload)
        while count != len(payload):
            self._await(select.POLLOUT, deadline)
            with contextlib.suppress(BlockingIOError):
                count += self._socket.send(view[count:])

    def _await(self, event: int, deadline: float | None) -> None:
        descriptor = self._socket.fileno()
        if descriptor < 0:
            raise EOFError("the connection was closed")
        poll = select.poll()
        poll.register(descriptor, event)
        rest = None
        if deadline is not None:
            rest = deadline - time.monotonic()
            if rest <= 0:
                raise TimeoutError
        # A signal ends this wait, too, but then it begins anew with what is left and not with all of it.
        poll.poll(None if rest is None else math.ceil(rest * 1000))

    def _read_on(self, deadline: float | None, *, pushes: bool) -> Any:  # noqa: ANN401
        reader = self._reader
        buffer = self._buffer
        while True:
            while (reply := reader.gets()) is not NO_REPLY:
                if pushes or reply.__class__ is not hiredis.PushNotification:
                    return reply
            if not self._secure:
                self._await(select.POLLIN, deadline)
            elif deadline is not None:
                # A socket's timeout starts anew with each piece of a reply, ours does not.
                rest = deadline - time.monotonic()
                if rest <= 0:
                    raise TimeoutError
                self._set_timeout(rest)
            try:
                count = self._socket.recv_into(buffer)
            except BlockingIOError:
                continue
            if not count:
                raise EOFError("the server closed the connection")
            reader.feed(buffer, 0, count)  # type: ignore[arg-type] # takes any buffer; its stub says bytes

    def _fault(self, error: BaseException, deadline: float, timeout: float, *, sent: bool) -> Fault:
        if isinstance(error, TimeoutError):
            text = f"{self.endpoint} did not answer within {timeout:.3g} s"
        else:
            text = f"the connection to {self.endpoint} broke: {error}"
        # A send that failed may have sent a part, and a part of one request is never executed.
        self.unanswered_since = deadline - timeout
        self.fault = Fault(text, applied=sent)
        return self.fault


def _poll(connection: socket.socket) -> tuple[list[Any], list[Any], list[Any]]:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return (poll.poll(0), [], [])


def connect(place: Place, *, timeout: float, met_before: bool) -> BlockingWire:
    """Find the server, open a connection and greet it.

    Raises:
        Fault: A server that was met before cannot be reached now, or is not what it should be.
        GridsyncError: It cannot be reached, refuses the credentials or does not speak TLS or RESP3.
    """
    deadline = time.monotonic() + timeout
    endpoint = place.find(timeout)
    rest = max(deadline - time.monotonic(), _LEAST_S)
    try:
        return _connect(endpoint, timeout=rest, met_before=met_before or place.vouched)
    except Fault:
        place.doubt(endpoint)
        raise


def _connect(endpoint: Endpoint, *, timeout: float, met_before: bool) -> BlockingWire:
    connection: socket.socket | None = None
    started = time.monotonic()
    try:
        if endpoint.path is not None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(timeout)
            connection.connect(endpoint.path)
        else:
            connection = socket.create_connection((endpoint.host, endpoint.port), timeout)
            tune(connection)
        if endpoint.tls is not None:
            connection = endpoint.tls.wrap_socket(
                connection, server_hostname=endpoint.host, do_handshake_on_connect=False
            )
            _shake_hands(connection, endpoint, timeout)
        else:
            connection.setblocking(True)  # noqa: FBT003
        wire = BlockingWire(endpoint, connection)
        requests = endpoint.hello(*ask(endpoint, timeout, met_before=met_before))
        wire.send(b"".join([hiredis.pack_command(request) for request in requests]))
        replies = [wire.read(timeout) for _ in requests]
    except _BROKEN as error:
        _close(connection)
        raise connect_failed(endpoint, hung_up(endpoint, error), met_before=met_before, timeout=timeout) from error
    except BaseException:
        _close(connection)
        raise
    if failure := greeting_failed(endpoint, replies):
        wire.close()
        raise failure
    wire.id = int(replies[0][b"id"])
    spent = time.monotonic() - started
    telemetry.connected(endpoint, again=met_before, spent=spent, peer=wire.peer())
    return wire


def _shake_hands(connection: ssl.SSLSocket, endpoint: Endpoint, timeout: float) -> None:
    patience = tls_patience_s(timeout)
    connection.settimeout(patience)
    try:
        connection.do_handshake()
    except TimeoutError:
        if speaks_plain(endpoint, patience):
            raise not_tls(endpoint, "it answers in plain RESP") from None
        connection.settimeout(timeout)
        connection.do_handshake()
    connection.settimeout(timeout)


def _close(connection: socket.socket | None) -> None:
    if connection is not None:
        connection.close()


def tune(connection: socket.socket) -> None:
    """Set what every TCP connection needs: no delay, and a dead peer is noticed within about 30 s."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
