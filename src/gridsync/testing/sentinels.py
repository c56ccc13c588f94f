"""A primary, its replicas and the sentinels that watch them, for tests of failovers."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import redis

from gridsync.errors import UsageError
from gridsync.testing.servers import RedisServer, ServerKind, quoted, server_kinds, trust_each_other

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

__all__ = ["Sentinel", "SentinelSet"]

_WITHIN_S = 30.0
_PERIODS = {
    "info-period": 400,
    "ping-period": 250,
    "ask-period": 100,
    "publish-period": 500,
    "election-timeout": 1000,
    "slave-reconf-timeout": 1000,
    "tilt-period": 1000,
}
"""Milliseconds; by default a sentinel looks so rarely that a test would wait 10 seconds for it, or 30 after a stall.

They cannot be shorter: during a failover a replica is asked for its INFO once a second, whatever is said here.  One
whose INFO is older than five ping periods is no candidate, and one that says after four publish periods that it is a
primary, before all sentinels have heard of its promotion, is made a replica again.
"""


class Sentinel(RedisServer):
    """One sentinel; made by `SentinelSet`.

    Keeps what it has learnt over `kill` and `start`, as it does in production.
    """

    _arguments = ("--sentinel",)

    def _write_config(self, file: Path) -> None:
        # A sentinel writes what it learns into its own file.
        if not file.exists() or f"port {self.port}\n" not in file.read_text(encoding="utf-8"):
            super()._write_config(file)

    def _directives(self) -> list[tuple[str, str]]:
        login = [("requirepass", quoted(self.password))] if self.password is not None else []
        return [*self._listening(), *login, *self._options.items()]


class SentinelSet:
    """One primary, replicas and sentinels of one kind of server, all children of this process.

    ::

        with SentinelSet() as servers:
            grid = Grid(servers.url)
            servers.failover()

    Args:
        kind: Which program; the first of `server_kinds` by default.
        service: The name under which the sentinels know the primary.
        replicas: How many replicas.
        sentinels: How many sentinels; more than half of them must agree.
        down_after: How long the primary must be silent until a sentinel takes it for dead, in seconds.
        failover_timeout: How long a step of a failover may take before it is tried anew, in seconds.
        password: What the default user of each data server must present.
        sentinel_password: What a client of a sentinel must present.
        tls: Speak TLS, servers and sentinels, also among each other; `ca_file` names the authorities.
        options: Further configuration directives of the data servers.

    Raises:
        UsageError: No server program was found, or `tls` is asked of one that was built without it.

    Cost: as many processes as servers; starting takes about 2 seconds.
    """

    def __init__(
        self,
        kind: ServerKind | None = None,
        *,
        service: str = "market",
        replicas: int = 2,
        sentinels: int = 3,
        down_after: float = 1.0,
        failover_timeout: float = 2.0,
        password: str | None = None,
        sentinel_password: str | None = None,
        tls: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        if kind is None and not server_kinds():
            raise UsageError("no Redis or Valkey server was found")
        self.kind: ServerKind = kind if kind is not None else server_kinds()[0]
        self.service = service
        self.password = password
        self.sentinel_password = sentinel_password
        self._down_after_ms = int(down_after * 1000)
        self._failover_timeout_ms = int(failover_timeout * 1000)
        login = {"masterauth": quoted(password)} if password is not None else {}
        self._options = {"repl-diskless-sync-delay": "0", **login, **(options or {})}
        self._replicas = replicas
        self._tls = tls
        self.servers: list[RedisServer] = [self._new_server() for _ in range(1 + replicas)]
        """All data servers, the first primary first."""
        self.sentinels: list[Sentinel] = [self._new_sentinel() for _ in range(sentinels)]
        self.ca_file: Path | None = trust_each_other([*self.servers, *self.sentinels]) if tls else None

    # -- where things are -------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL that gridsync takes, passwords included."""
        login = f":{quote(self.password, safe='')}@" if self.password is not None else ""
        hosts = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels)
        options = [f"sentinel_password={quote(self.sentinel_password, safe='')}"] if self.sentinel_password else []
        if self.ca_file is not None:
            options.append(f"ssl_ca_certs={quote(str(self.ca_file))}")
        scheme, query = "redis" if self.ca_file is None else "rediss", "&".join(options)
        return f"{scheme}+sentinel://{login}{hosts}/{self.service}/0{'?' if query else ''}{query}"

    @property
    def master(self) -> RedisServer:
        """The primary, as the sentinels name it.

        Raises:
            RuntimeError: No sentinel is running, or they name a server that is none of ours.
        """
        for sentinel in self.sentinels:
            if sentinel.running:
                port = int(sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)[1])
                return self._server(port)
        raise RuntimeError("no sentinel is running")

    @property
    def replicas(self) -> list[RedisServer]:
        """All data servers but the primary, whether they run or not."""
        master = self.master
        return [server for server in self.servers if server is not master]

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start everything and return when all sentinels know each other and all replicas.

        Raises:
            RuntimeError: A server did not start, or they did not find each other within 30 seconds.
        """
        first, *replicas = self.servers
        first.start()
        for replica in replicas:
            replica._options["replicaof"] = f"{first.host} {self._port(first)}"  # noqa: SLF001 - ours
            replica.start()
        _until(self._replicated, f"the replicas did not reach {first!r}")
        for sentinel in self.sentinels:
            sentinel.start()
            quorum = str(len(self.sentinels) // 2 + 1)
            sentinel.command("SENTINEL", "MONITOR", self.service, first.host, str(self._port(first)), quorum)
            settings = {
                "down-after-milliseconds": str(self._down_after_ms),
                "failover-timeout": str(self._failover_timeout_ms),
                **self._login(),
            }
            for name, value in settings.items():
                sentinel.command("SENTINEL", "SET", self.service, name, value)
            self._hurry(sentinel)
        self.wait()
        return self

    def wait(self) -> RedisServer:
        """Return the primary when all running sentinels agree on it, and every server that runs follows it.

        Raises:
            RuntimeError: They did not within 30 seconds.
        """
        _until(self._agreed, "the sentinels did not agree")
        return self.master

    def close(self) -> None:
        """Stop everything and remove the directories."""
        for server in (*self.sentinels, *self.servers):
            server.kill()
            server.close()

    def __enter__(self) -> Self:
        """Start everything."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything and remove the directories."""
        self.close()

    def __repr__(self) -> str:
        return f"<SentinelSet {self.kind} {self.service!r} {self.servers} {self.sentinels}>"

    # -- what tests do to it ----------------------------------------------------------------------------------------

    def failover(self) -> RedisServer:
        """Make another server the primary, as an administrator does, and return it when all agree.

        The old one goes on until a sentinel makes it a replica; what is written to it meanwhile is lost.

        Raises:
            RuntimeError: It was refused, or did not end, within 30 seconds.
        """
        old = self.master
        first = next(sentinel for sentinel in self.sentinels if sentinel.running)

        def ended() -> bool:
            facts: dict[bytes, bytes] = first.command("SENTINEL", "MASTER", self.service)
            if int(facts[b"port"]) != self._port(old):
                return True
            if b"failover_in_progress" not in facts[b"flags"]:
                # Refused: a replica that has just been made one is no good candidate yet.  Or given up: on a busy
                # machine the other sentinels may not hear of the promotion in time, and undo it.
                with suppress(redis.ResponseError):
                    first.command("SENTINEL", "FAILOVER", self.service)
            return False

        _until(ended, "the failover did not end")
        return self.wait()

    def kill_master(self) -> RedisServer:
        """End the primary with SIGKILL and return it; the sentinels notice after *down_after*."""
        master = self.master
        master.kill()
        return master

    def restart(self, server: RedisServer) -> None:
        """Start a killed server or sentinel again.

        A data server comes back as what it was at the very start, so that a former primary takes itself for one
        until a sentinel corrects it.
        """
        server.start()
        if isinstance(server, Sentinel):
            self._hurry(server)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _new_server(self) -> RedisServer:
        return RedisServer(self.kind, password=self.password, tls=self._tls, options=self._options)

    def _new_sentinel(self) -> Sentinel:
        return Sentinel(self.kind, password=self.sentinel_password, tls=self._tls)

    def _login(self) -> dict[str, str]:
        """Return what a sentinel is told to come in at the servers."""
        return {"auth-pass": self.password} if self.password is not None else {}

    def _port(self, server: RedisServer) -> int:
        """Return the port at which the others reach *server*; a network between them has ports of its own."""
        return server.port

    def _server(self, port: int) -> RedisServer:
        for server in self.servers:
            if self._port(server) == port:
                return server
        raise RuntimeError(f"the sentinels name port {port}, which is none of {self.servers}")

    @staticmethod
    def _hurry(sentinel: Sentinel) -> None:
        for name, period_ms in _PERIODS.items():
            sentinel.command("SENTINEL", "DEBUG", name, str(period_ms))

    def _replicated(self) -> bool:
        return len(self.servers[0].command("ROLE")[2]) == self._replicas

    def _agreed(self) -> bool:
        named = set()
        sentinels = [sentinel for sentinel in self.sentinels if sentinel.running]
        for sentinel in sentinels:
            facts: dict[bytes, bytes] = sentinel.command("SENTINEL", "MASTER", self.service)
            if facts[b"flags"] != b"master" or int(facts[b"num-slaves"]) < self._replicas:
                return False
            if int(facts[b"num-other-sentinels"]) < len(self.sentinels) - 1:
                return False
            named.add(int(facts[b"port"]))
        if len(named) != 1:
            return False
        master = self._server(named.pop())
        if not master.running or master.command("ROLE")[0] != b"master":
            return False
        roles = [server.command("ROLE") for server in self.servers if server.running and server is not master]
        return all(role[0] == b"slave" and role[2] == self._port(master) and role[3] == b"connected" for role in roles)


def _until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while True:
        # A server that is being demoted or restarted closes its connections.
        with suppress(redis.ConnectionError, redis.TimeoutError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{complaint} within {_WITHIN_S:g} s")
        time.sleep(0.01)
