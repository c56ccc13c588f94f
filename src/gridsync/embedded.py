"""A private Redis or Valkey server: what ``embedded://`` means.

``embedded://`` starts a server for this caller alone, in a temporary directory that is removed with it.
``embedded:///directory`` starts or joins the one server of that directory, whichever process comes first.
``embedded:///directory?appendonly=yes`` keeps the data there between runs.  Nothing is installed and nothing stays:
a server is gone with its last user, however that user ended.

Who is who
    A *user* is one `EmbeddedServer`: one open connection to the supervisor, closed by the kernel if nobody else does.
    The *supervisor* (`gridsync._embedded.supervisor`) is a detached process that owns the server and counts the
    connections; about a thousand are its limit (descriptors).
    The *lock* is ``gridsync.lock`` in the directory, held with ``flock`` by starter, supervisor and server together.

Invariant
    The lock is held exactly as long as a starter, a supervisor or a server of the directory lives.  The kernel keeps
    it, no process has to: so a directory never has two servers, and a free lock means that nothing is left.

States of a directory, as an opener sees them
    1. *free*: the lock can be had.  Take it, listen on ``users.sock``, connect to it, hand listener and lock to a new
       supervisor, which greets each user once its server answers PING.
    2. *served*: ``users.sock`` accepts.  Connect, wait for the greeting.
    3. *in between* (a rival between lock and listen, or a server on its way out): neither.  Look again, until the
       caller's timeout ends.

Where it can fail
    * A user dies: its connection ends.  The last one starts the grace of `GRACE_S`, then the supervisor leaves.
    * The starter dies: before the hand-over the lock is free again; after it, it is a user that died.
    * A user comes while the supervisor leaves: the connection ends without a greeting; the opener is back in state 3,
      and state 1 follows when server and supervisor are both gone.
    * The server dies: the supervisor ends too, every connection with it; the next open starts anew.
    * The supervisor dies, even by SIGKILL: the kernel kills the server (parent-death signal on Linux; elsewhere a shell
      that waits on a pipe).  Sockets, log and a private directory stay until the next open or `EmbeddedServer.close`.
    * A user forks: the child drops the connection at once, so it keeps nothing alive.  A child that wants the server
      for itself opens the URL again.

Not guaranteed: that data of ``embedded://`` or of ``appendonly=no`` outlives its last user (it never does); that
several machines, or containers that see it under different names, can share a directory (unix sockets and ``flock``
are local); anything on systems that are not POSIX.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from gridsync._embedded import supervisor
from gridsync._embedded.binary import ServerBinary, find_server
from gridsync._embedded.descriptors import close, held, hold, spawn
from gridsync.errors import InvalidURL, Misconfigured, Unavailable, UsageError

__all__ = ["EmbeddedServer", "ServerBinary", "find_server", "open_embedded"]

LOCK = "gridsync.lock"
"""The file that is locked; its content is the directory of the sockets."""
GRACE_S = 0.2
"""How long a shared server waits for the next user after its last one has left, in seconds."""
CONNECT_S = 1.0
"""How long a connection to a supervisor may take, in seconds; the kernel makes it, so it takes microseconds."""
RETRY_S = 0.005
"""How often an opener looks again while the directory is in between, in seconds."""
OPTIONS = {
    "appendonly": ("no", "yes or no", re.compile(r"yes|no")),
    "appendfsync": ("everysec", "always, everysec or no", re.compile(r"always|everysec|no")),
    "maxmemory": ("0", "bytes, such as 64mb; 0 for no limit", re.compile(r"[0-9]+([kmg]b?|b)?", re.IGNORECASE)),
}
"""Name → default, what is allowed in words, and as a pattern."""


class EmbeddedServer:
    """One user of an embedded server: it keeps the server alive until it is closed or its process ends.

    Attributes:
        url: Where clients connect: ``unix:///…``.
        directory: Where the server's log, sockets and data are.
        binary: Which program it runs.
        pid: The server's process id.
        supervisor_pid: The process id of its supervisor.
        private: True for ``embedded://``: nobody else's, and the directory goes with it.
    """

    def __init__(self, directory: Path, hello: dict[str, Any], link: socket.socket) -> None:
        """Take over the connection; `open_embedded` is the way to get one."""
        self.directory = directory
        self.url: str = hello["url"]
        self.binary: ServerBinary = ServerBinary(**hello["binary"])
        self.pid: int = hello["pid"]
        self.supervisor_pid: int = hello["supervisor_pid"]
        self.private: bool = hello["private"]
        self._link = link

    @property
    def running(self) -> bool:
        """Whether this is still a user of a live server; false after `close`, a crash, and in a forked child."""
        try:
            return self._link.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Stop using the server; safe to call twice, and harmless in a forked child.

        The last user's close ends the server, a private one at once and a shared one after 0.2 s without a user.
        Returns before it has ended; an open that comes meanwhile waits for the end and starts anew.
        """
        forked = self._link.fileno() < 0
        orphaned = not forked and not self.running
        close(self._link)
        # A supervisor that was killed could not remove it; a child of ours may have started another one there.
        if self.private and orphaned and not _served(self.directory):
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Show what runs where: ``<EmbeddedServer redis 8.2.3 (PATH) in /srv/grid, pid 42>``."""
        state = f"pid {self.pid}" if self.running else "closed or ended"
        return f"<EmbeddedServer {self.binary} in {self.directory}, {state}>"


def open_embedded(url: str, *, timeout: float = 5.0, binary: ServerBinary | None = None) -> EmbeddedServer:
    """Start the server that *url* names, or join it, and return when it answers.

    Args:
        url: ``embedded://`` or ``embedded:///absolute/directory``, with options as in ``?appendonly=yes``:
            ``appendonly`` (yes or no; keep the data between runs), ``appendfsync`` (always, everysec or no) and
            ``maxmemory`` (such as ``64mb``).  A directory is made, readable for its owner only, if it is missing.
        timeout: Longest time to wait for an answer, in seconds: a server that loads much data needs more.
        binary: Which program is started, unless one runs there; the one that `find_server` finds by default.

    Returns:
        A user of the server; close it, or leave that to the end of the process.

    Raises:
        InvalidURL: The URL is not of this form, or names an option that is not known.
        UsageError: No server program was found, the directory cannot be used, or its server runs already with other
            options than those asked for.
        Misconfigured: The server ended at once; the message has the end of its log.
        Unavailable: It did not answer in time.

    Guarantee: one server per directory, gone with its last user (tests/embedded).
    Not guaranteed: persistence, unless ``appendonly=yes`` is asked for by whoever starts the server.
    Cost: about 60 ms to start, 1 ms to join; 10 MB for the supervisor.  Blocks; not for an event loop.
    """
    place, options = _parse(url)
    if not (math.isfinite(timeout) and timeout > 0):
        message = f"timeout must be a positive number of seconds, not {timeout!r}"
        raise UsageError(message)
    deadline = time.monotonic() + timeout
    directory = Path(place or tempfile.mkdtemp(prefix="gridsync-"))
    try:
        link, hello = _enter(directory, options, deadline, binary, private=not place)
        return _checked(directory, hello, link, options)
    except BaseException as error:
        tail = supervisor.log_tail(str(directory))
        if not place:
            shutil.rmtree(directory, ignore_errors=True)
        if not isinstance(error, TimeoutError):
            raise
        message = (
            f"the embedded server in {directory} did not answer within {timeout} s; pass timeout=… if it has much to"
            f" load; its log says:\n{tail}"
        )
        raise Unavailable(message) from None


def _parse(url: str) -> tuple[str | None, dict[str, str]]:
    """Return the directory, ``None`` for a private one, and the options that the URL spells out."""

    def refuse(what: str) -> NoReturn:
        message = f"{url!r} {what}; write embedded:// or embedded:///absolute/directory?appendonly=yes"
        raise InvalidURL(message)

    parts = urlsplit(url)
    place = unquote(parts.path)
    if parts.scheme != "embedded":
        refuse("is no embedded:// URL")
    if parts.netloc:
        refuse(f"names the host {parts.netloc!r}, but a directory starts with a third slash")
    if parts.fragment or "\0" in place:
        refuse("has a part that no directory can have ('#' is written %23)")
    if place and (not place.startswith("/") or not place.strip("/")):
        refuse("names no directory of its own")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in options.items():
        if name not in OPTIONS:
            refuse(f"has the unknown option {name!r} (known: {', '.join(OPTIONS)})")
        if not OPTIONS[name][2].fullmatch(value):
            refuse(f"has {name}={value!r}, which must be {OPTIONS[name][1]}")
    return place or None, options


def _enter(
    directory: Path, options: dict[str, str], deadline: float, binary: ServerBinary | None, *, private: bool
) -> tuple[socket.socket, dict[str, Any]]:
    """Try until a supervisor greets us.

    Raises:
        TimeoutError: None did by *deadline*.
    """
    while time.monotonic() < deadline:
        link = _join_or_start(directory, options, binary, private=private)
        if link is not None:
            hello = _greeting(link, deadline)
            if hello is not None:
                return link, hello
        time.sleep(RETRY_S)
    raise TimeoutError


def _join_or_start(
    directory: Path, options: dict[str, str], binary: ServerBinary | None, *, private: bool
) -> socket.socket | None:
    """Return a connection to a supervisor that is yet to greet us; ``None`` while the directory is in between."""
    path = directory / LOCK
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with held(lambda: open(path, "a+b", 0, opener=_open_for_owner)) as lock:
            lock.seek(0)
            link = _connect(lock.read().decode())
            if link is not None:
                return link
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A private directory may have been removed between our open and our lock.
                if not os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                    return None
            except (BlockingIOError, FileNotFoundError):
                return None
            return _start(directory, lock, options, binary, private=private)
    except OSError as error:
        message = f"embedded:// cannot use the directory {directory}: {error}; name one that can be written to"
        raise UsageError(message) from error


def _open_for_owner(path: str, flags: int) -> int:
    """Open or create a file that others may not read: who can open the lock can hold up its owner."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _start(
    directory: Path,
    lock: Any,  # noqa: ANN401
    options: dict[str, str],
    binary: ServerBinary | None,
    *,
    private: bool,
) -> socket.socket | None:
    """Hand the directory, whose lock we hold, to a new supervisor, and return our connection to it."""
    if not sys.executable or getattr(sys, "frozen", False):
        message = "embedded:// needs a Python interpreter to run its supervisor, and sys.executable is none"
        raise UsageError(message)
    binary = binary or find_server()
    lock.seek(0)
    earlier = lock.read().decode()
    if earlier:
        supervisor.remove_sockets(earlier, str(directory))
    with held(lambda: socket.socket(socket.AF_UNIX)) as listener:
        sockets = _bind(listener, directory)
        lock.truncate(0)
        lock.write(sockets.encode())
        listener.listen(128)
        # Connected before the supervisor exists, so it never sees an empty house while its starter lives.
        link = _connect(sockets)
        settings = {name: default for name, (default, _, _) in OPTIONS.items()} | options
        server_socket = f"{sockets}/{supervisor.SERVER_SOCKET}"
        order = {
            "directory": str(directory),
            "sockets": sockets,
            "private": private,
            "grace_s": 0.0 if private else GRACE_S,
            "lock": lock.fileno(),
            "listener": listener.fileno(),
            "command": _command(binary, directory, server_socket, settings),
            "hello": {
                "url": f"unix://{quote(server_socket)}",
                "binary": asdict(binary),
                "options": settings,
                "private": private,
            },
        }
        log = directory / supervisor.LOG
        with suppress(FileNotFoundError):
            log.replace(directory / f"{supervisor.LOG}.old")
        with log.open("ab") as output:
            spawn(
                [sys.executable, "-I", "-S", supervisor.__file__, json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                pass_fds=(lock.fileno(), listener.fileno()),
                start_new_session=True,
            ).wait()
    return link


def _bind(listener: socket.socket, directory: Path) -> str:
    """Bind ``users.sock`` and return its directory: *directory*, or a short one where that holds no sockets.

    A path of 104 (macOS) or 108 bytes (Linux) is too long for a socket, and some file systems have none.
    """
    try:
        _bind_for_owner(listener, str(directory))
    except OSError:
        elsewhere = tempfile.mkdtemp(prefix="gridsync-", dir="/tmp")  # TMPDIR may be as long; mode 0700
        _bind_for_owner(listener, elsewhere)
        return elsewhere
    return str(directory)


def _bind_for_owner(listener: socket.socket, sockets: str) -> None:
    """Bind and close the door to others; nobody can come in before it listens."""
    path = f"{sockets}/{supervisor.USERS_SOCKET}"
    listener.bind(path)
    Path(path).chmod(0o600)


def _command(binary: ServerBinary, directory: Path, server_socket: str, options: dict[str, str]) -> list[str]:
    """Return the command line: one unix socket, no TCP port, no snapshots, the log on standard output."""
    settings = {
        "port": "0",
        "unixsocket": server_socket,
        "unixsocketperm": "700",
        "dir": str(directory),
        "save": "",
        "loglevel": "notice",
        "enable-debug-command": "no",
        **options,
    }
    return [binary.path, *(word for name, value in settings.items() for word in (f"--{name}", value))]


def _connect(sockets: str) -> socket.socket | None:
    """Return a connection to the supervisor that listens there, or ``None``."""
    if not sockets:
        return None
    link = hold(lambda: socket.socket(socket.AF_UNIX))
    # With a timeout, a door that nobody opens (a stopped supervisor) refuses instead of blocking.
    link.settimeout(CONNECT_S)
    try:
        link.connect(f"{sockets}/{supervisor.USERS_SOCKET}")
    except OSError:
        close(link)
        return None
    return link


def _served(directory: Path) -> bool:
    """Tell whether a supervisor listens for users of this directory."""
    try:
        link = _connect((directory / LOCK).read_text())
    except OSError:
        return False
    if link is not None:
        close(link)
    return link is not None


def _greeting(link: socket.socket, deadline: float) -> dict[str, Any] | None:
    """Wait for the supervisor's line; ``None`` if it left without one.

    Raises:
        TimeoutError: None came by *deadline*.
        Misconfigured: The server ended at once.
    """
    line = b""
    try:
        while not line.endswith(b"\n"):
            link.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = link.recv(4096)
            if not chunk:
                close(link)
                return None
            line += chunk
        link.settimeout(None)
    except ConnectionError:
        close(link)
        return None
    except BaseException:
        close(link)
        raise
    hello: dict[str, Any] = json.loads(line)
    if "error" in hello:
        close(link)
        message = f"the embedded server did not start: {hello['error']}"
        raise Misconfigured(message)
    return hello


def _checked(directory: Path, hello: dict[str, Any], link: socket.socket, options: dict[str, str]) -> EmbeddedServer:
    """Return the user, unless the server runs with other options than this URL spells out."""
    for name, value in options.items():
        if hello["options"][name] != value:
            close(link)
            message = (
                f"the server in {directory} runs already with {name}={hello['options'][name]}, and this URL asks for"
                f" {name}={value}; ask for the same, or come when its users have left"
            )
            raise UsageError(message)
    return EmbeddedServer(directory, hello, link)
