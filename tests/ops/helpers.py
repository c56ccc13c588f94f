"""Servers, sentinels and clusters that run on what `gridsync setup` has written."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from gridsync.ops.layout import Layout
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.sentinels import Sentinel, SentinelSet
from gridsync.testing.servers import RedisServer, ServerKind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def kind_of(kind: ServerKind) -> str:
    """Return the ``--server`` of a kind that was found."""
    return "redis-7.0" if str(kind) == "redis-7.0" else f"{kind.product}-8"


class Configured(RedisServer):
    """A server with one of the configurations of a directory, as its administrator sees it."""

    file = "redis.conf"

    def __init__(self, kind: ServerKind | None, made: Path, more: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(kind)
        self.layout = Layout(made)
        self._more = list(more)

    def login(self, role: str) -> str:
        return self.layout.password(role).read_text(encoding="utf-8").strip()

    @property
    def url(self) -> str:
        return self.url_of("admin")

    def url_of(self, role: str, *, password: bool = True) -> str:
        """Return the URL of one role, or without its password."""
        said = f":{self.login(role)}" if password else ""
        if not self.kind.tls:
            return f"redis://{role}{said}@{self.host}:{self.port}/0"
        files = {"ssl_ca_certs": "ca.crt", "ssl_certfile": "client.crt", "ssl_keyfile": "client.key"}
        query = "&".join(f"{option}={quote(str(self.layout.tls(name)))}" for option, name in files.items())
        return f"rediss://{role}{said}@{self.host}:{self.port}/0?{query}"

    def _directives(self) -> list[tuple[str, str]]:
        here = [("bind", self.host), ("dir", str(self.directory)), *self._more, *self._options.items()]
        if self.kind.tls and self.file != "sentinel.conf":
            return [("include", str(self.layout.conf(self.file))), ("tls-port", str(self.port)), *here]
        # Built without TLS, it must do without the lines about it; and a sentinel rewrites what it is given, but no
        # include.  So both get a copy, as their operator would make.
        lines = (line for line in self.layout.conf(self.file).read_text(encoding="utf-8").splitlines())
        copied = [
            (name, value) for line in lines for name, _, value in [line.partition(" ")] if value and name[0] != "#"
        ]
        left_out = {"bind", "dir", "port", "tls-port"}
        kept = [
            (name, value)
            for name, value in copied
            if name not in left_out and (self.kind.tls or not name.startswith("tls-"))
        ]
        ports = [("port", "0"), ("tls-port", str(self.port))] if self.kind.tls else [("port", str(self.port))]
        return [*kept, *ports, *here]


class ConfiguredSentinel(Sentinel, Configured):
    """A sentinel with its configuration."""

    file = "sentinel.conf"

    def _directives(self) -> list[tuple[str, str]]:
        return Configured._directives(self)

    def _write_config(self, file: Path) -> None:
        if not file.exists():
            super()._write_config(file)


class Reconfigured(Configured):
    """A server whose file is its own, for sentinels have it rewritten."""

    def _write_config(self, file: Path) -> None:
        if not file.exists():
            super()._write_config(file)


class ConfiguredSet(SentinelSet):
    """A primary, replicas and sentinels, each of which comes in at the others as the user that is meant for it."""

    def __init__(self, kind: ServerKind | None, made: Path, *, replicas: int, sentinels: int) -> None:
        self.layout = Layout(made)
        # A machine that stalls must not make the sentinels act.
        patience = {"down_after": 60.0, "failover_timeout": 20.0}
        super().__init__(kind, service="gridsync", replicas=replicas, sentinels=sentinels, **patience)

    def url_of(self, role: str, *, password: bool = True) -> str:
        """Return the URL of one role, at the sentinels and the servers, or without its password."""
        first, login = self.members[0], self.layout.password(role).read_text(encoding="utf-8").strip()
        scheme, _, rest = first.url_of(role, password=password).partition(":")
        hosts = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels)
        secret = f"&sentinel_password={login}" if password else ""
        where = rest.replace(f"{first.host}:{first.port}/0", f"{hosts}/{self.service}/0")
        more = f"sentinel_username={role}&sentinel_timeout=10{secret}"
        return f"{scheme}+sentinel:{where}{'&' if '?' in where else '?'}{more}"

    @property
    def members(self) -> list[Configured]:
        """All servers and sentinels."""
        return [each for each in (*self.servers, *self.sentinels) if isinstance(each, Configured)]

    def _new_server(self) -> Reconfigured:
        server = Reconfigured(self.kind, self.layout.root)
        server._options.update(self._options)
        return server

    def _new_sentinel(self) -> ConfiguredSentinel:
        login = self._login()["auth-pass"]
        return ConfiguredSentinel(
            self.kind,
            self.layout.root,
            [("sentinel", "sentinel-user sentinel"), ("sentinel", f"sentinel-pass {login}")],
        )

    def _login(self) -> dict[str, str]:
        login = self.layout.password("sentinel").read_text(encoding="utf-8").strip()
        return {"auth-user": "sentinel", "auth-pass": login}


class Member(Configured):
    """A node of a cluster."""

    file = "cluster.conf"


class ConfiguredCluster(RedisCluster):
    """Three primaries and replicas."""

    def __init__(self, kind: ServerKind | None, made: Path, *, replicas: int) -> None:
        self.layout = Layout(made)
        # A machine that stalls must not make the nodes act; but a replica asks for votes once in four of these.
        super().__init__(kind, replicas=replicas, node_timeout_ms=5_000)

    def url_of(self, role: str, *, password: bool = True) -> str:
        """Return the URL of one role, or without its password."""
        first = self.members[0]
        scheme, _, rest = first.url_of(role, password=password).partition(":")
        hosts = ",".join(f"{node.host}:{node.port}" for node in self.nodes)
        return f"{scheme}+cluster:{rest.replace(f'{first.host}:{first.port}/0', hosts)}"

    @property
    def members(self) -> list[Member]:
        """All nodes."""
        return [node for node in self.nodes if isinstance(node, Member)]

    def _new_node(self, kind: ServerKind | None, options: dict[str, str]) -> Member:
        node = Member(kind, self.layout.root)
        node._options.update(options)
        return node
