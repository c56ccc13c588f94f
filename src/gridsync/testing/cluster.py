"""A real Redis or Valkey Cluster for tests: primaries and replicas of one's own, resharded and failed over at will."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gridsync.testing.servers import RedisServer, ServerKind, free_port, quoted, trust_each_other

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    _Run = Callable[..., Any]

__all__ = ["SLOTS", "RedisCluster"]

SLOTS = 16384
"""How many slots every cluster has."""
_WITHIN_S = 30.0
_LOOK_S = 0.02
_GIVEN_UP_S = 6.0
"""A replica that did not get the votes gives up after 5 seconds, and has to be told again."""
_MIGRATED_AT_ONCE = 100


class RedisCluster:
    """A private cluster of three primaries, with or without replicas.

    ::

        with RedisCluster() as cluster:
            grid = Grid(cluster.url)
            cluster.reshard(range(100), to=cluster.nodes[2])

    Its nodes are `RedisServer`s: ``kill``, ``pause`` and ``start`` them one by one.

    Args:
        kind: Which program; the first of `server_kinds` by default.
        replicas: How many replicas there are in all; each primary in turn gets one.
        spares: How many further primaries there are that own no slot yet, to move slots to.
        password: What the default user of each node must present; the nodes present it to each other.
        users: Lines of an ACL file for each node, such as ``"user app on >secret ~{app:* &{app:* +@all"``.
        tls: Speak TLS, to clients and among each other; `ca_file` names the authorities.
        node_timeout_ms: After how many milliseconds of silence the nodes take one of them for dead.
        options: Further configuration directives for every node, such as ``{"appendonly": "yes"}``.

    Raises:
        UsageError: No server program was found, or `tls` is asked of one that was built without it.

    Cost: starts in about 2 s, with replicas in about 4 s.
    """

    def __init__(
        self,
        kind: ServerKind | None = None,
        *,
        replicas: int = 0,
        spares: int = 0,
        password: str | None = None,
        users: Sequence[str] = (),
        tls: bool = False,
        node_timeout_ms: int = 1000,
        options: Mapping[str, str] | None = None,
    ) -> None:
        directives = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(node_timeout_ms),
            "cluster-allow-replica-migration": "no",
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
            **({"tls-cluster": "yes"} if tls else {}),
            **({"masterauth": quoted(password)} if password is not None else {}),
            **(options or {}),
        }
        self.password = password
        self._users, self._tls = users, tls
        self.nodes: list[RedisServer] = [
            self._new_node(kind, directives | _bus_port()) for _ in range(3 + replicas + spares)
        ]
        """The primaries of the beginning, then their replicas, then the spares."""
        self._replicas = replicas
        self.ca_file: Path | None = trust_each_other(self.nodes) if tls else None
        self._ids: dict[str, RedisServer] = {}

    @property
    def url(self) -> str:
        """The URL that gridsync takes, password and certificate authorities included; it names all nodes."""
        return self.url_for(None, self.password)

    def url_for(self, user: str | None, password: str | None) -> str:
        """Return the URL of another user, or of a wrong password."""
        login = f"{quote(user or '', safe='')}:{quote(password, safe='')}@" if password is not None else ""
        hosts = ",".join(f"{node.host}:{node.port}" for node in self.nodes)
        if self.ca_file is not None:
            return f"rediss+cluster://{login}{hosts}/0?ssl_ca_certs={quote(str(self.ca_file))}"
        return f"redis+cluster://{login}{hosts}"

    def start(self) -> Self:
        """Start every node, join them, and return when each of them says that the cluster is complete.

        Raises:
            RuntimeError: A node did not start, or they did not agree within 30 seconds.
        """
        for node in self.nodes:
            node.start()
        if self._ids:  # it was stopped: its nodes remember each other
            self.wait()
            return self
        self._ids = {node.command("CLUSTER", "MYID").decode(): node for node in self.nodes}
        first, *others = self.nodes
        primaries, replicas = self.nodes[:3], self.nodes[3 : 3 + self._replicas]
        for rank, node in enumerate(primaries):
            node.command("CLUSTER", "ADDSLOTSRANGE", SLOTS * rank // 3, SLOTS * (rank + 1) // 3 - 1)
        for rank, node in enumerate(self.nodes):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", rank + 1)
        for node in others:
            first.command("CLUSTER", "MEET", node.host, node.port, node._options["cluster-port"])  # noqa: SLF001 - ours
        _until(lambda: all(len(_lines(node)) == len(self.nodes) for node in self.nodes), "the nodes did not meet")
        for rank, node in enumerate(replicas):
            node.command("CLUSTER", "REPLICATE", self.id(primaries[rank % 3]))
        self.wait()
        return self

    def wait(self, *, without: RedisServer | None = None) -> None:
        """Return when every living node says that all slots are served and every living replica is in step.

        Args:
            without: A node that is frozen, and so cannot be asked.

        Raises:
            RuntimeError: They did not within 30 seconds.
        """
        asked = [node for node in self._living() if node is not without]
        _until(lambda: all(_complete(node) for node in asked), "the cluster did not become complete")

    def stop(self) -> None:
        """Stop every node; `start` goes on with the same addresses and slots."""
        for node in self.nodes:
            node.stop()

    def close(self) -> None:
        """Stop every node and remove what they wrote."""
        for node in self.nodes:
            node.close()

    def client(self, **options: Any) -> redis.RedisCluster:  # noqa: ANN401 - redis-py's options
        """Return a plain redis-py client, for what a test wants to see or break behind gridsync's back."""
        first = self.nodes[0]
        options = {"socket_timeout": _WITHIN_S, "retry": Retry(NoBackoff(), 0), "password": self.password, **options}
        if self.ca_file is not None:
            options |= {"ssl": True, "ssl_ca_certs": str(self.ca_file)}
        return redis.RedisCluster(host=first.host, port=first.port, **options)

    def command(self, *words: str | bytes | int) -> Any:  # noqa: ANN401 - replies are whatever the command says
        """Run one command on the node of its key, over connections of its own; text comes back as ``bytes``."""
        with self.client() as client:
            return client.execute_command(*words)

    def flush(self) -> None:
        """Remove every key and every script."""
        for node in self._living():
            if _is_primary(node):
                node.command("FLUSHALL")
                node.command("SCRIPT", "FLUSH")

    def id(self, node: RedisServer) -> str:
        """Return the name by which the cluster knows *node*."""
        return next(name for name, known in self._ids.items() if known is node)

    def owner(self, slot: int) -> RedisServer:
        """Return the primary that serves *slot*, as most of the living nodes see it."""
        with self._connected() as run:
            return self._owner(slot, run)

    def _owner(self, slot: int, run: _Run) -> RedisServer:
        seen = [_owner_of(slot, run(node, "CLUSTER", "SLOTS")) for node in self._living()]
        return self._ids[max(set(seen), key=seen.count)]

    def replica_of(self, primary: RedisServer) -> RedisServer:
        """Return a living replica of *primary*.

        Raises:
            RuntimeError: It has none.
        """
        name = self.id(primary)
        for node in self._living():
            mine = next(words for words in _lines(node) if "myself" in words[2])
            if mine[3] == name:
                return node
        raise RuntimeError(f"{primary!r} has no replica")

    @contextmanager
    def migrating(self, slot: int, to: RedisServer) -> Iterator[RedisServer]:
        """Hold *slot* half-way between its owner, which is returned, and *to*: one of them answers ASK or TRYAGAIN.

        At the end of the block the remaining keys are moved, and *to* owns the slot.
        """
        with self._connected() as run, self._migrating(slot, to, run) as source:
            yield source

    @contextmanager
    def _migrating(self, slot: int, to: RedisServer, run: _Run) -> Iterator[RedisServer]:
        source = self._owner(slot, run)
        if source is to:
            yield source
            return
        run(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id(source))
        run(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id(to))
        try:
            yield source
        finally:
            self._move_keys(slot, source, to, run)
            # The new owner first: between the two the old one points to a node that knows about it.
            others = [node for node in self._living() if node not in (source, to)]
            for node in (to, source, *others):
                if _says_primary(run(node, "ROLE")):
                    run(node, "CLUSTER", "SETSLOT", slot, "NODE", self.id(to))

    def move_keys(self, slot: int, source: RedisServer, to: RedisServer, *, at_most: int | None = None) -> int:
        """Move up to *at_most* keys of a `migrating` slot, by default all; returns how many there were."""
        with self._connected() as run:
            return self._move_keys(slot, source, to, run, at_most=at_most)

    def _move_keys(
        self, slot: int, source: RedisServer, to: RedisServer, run: _Run, *, at_most: int | None = None
    ) -> int:
        moved = 0
        login = () if self.password is None else ("AUTH", self.password)
        while at_most is None or moved < at_most:
            count = _MIGRATED_AT_ONCE if at_most is None else min(at_most - moved, _MIGRATED_AT_ONCE)
            keys = run(source, "CLUSTER", "GETKEYSINSLOT", slot, count)
            if not keys:
                break
            run(source, "MIGRATE", to.host, to.port, "", 0, 5000, *login, "KEYS", *keys)
            moved += len(keys)
        return moved

    def reshard(self, slots: Iterable[int], to: RedisServer) -> None:
        """Move *slots* with their keys to the primary *to*, one after the other, while clients go on."""
        with self._connected() as run:
            for slot in slots:
                with self._migrating(slot, to, run):
                    pass

    def failover(self, primary: RedisServer) -> RedisServer:
        """Let a replica take over from the living *primary*, losing nothing; returns the new primary.

        Raises:
            RuntimeError: It has no replica, or the replica did not take over within 30 seconds.
        """
        replica = self.replica_of(primary)
        asked_at = float("-inf")

        def has_taken_over() -> bool:
            nonlocal asked_at
            if _is_primary(replica):
                return not _is_primary(primary)
            if time.monotonic() - asked_at > _GIVEN_UP_S:
                asked_at = time.monotonic()
                replica.command("CLUSTER", "FAILOVER")
            return False

        _until(has_taken_over, "the replica did not take over")
        self.wait()
        return replica

    def wait_for_promotion(self, replica: RedisServer, *, without: RedisServer | None = None) -> None:
        """Return when *replica*, whose primary was killed or frozen, has taken over and the cluster serves all slots.

        Args:
            replica: Which one.
            without: Its former primary, if that is frozen and so cannot be asked.

        Raises:
            RuntimeError: It did not within 30 seconds.
        """
        _until(lambda: _is_primary(replica), "the replica was not promoted")
        self.wait(without=without)

    @contextmanager
    def _connected(self) -> Iterator[_Run]:
        """Lend a function that runs a command on a node, over one connection to each: setting one up takes the most."""
        with ExitStack() as stack:
            clients: dict[RedisServer, Any] = {}

            def run(node: RedisServer, *words: str | bytes | int) -> Any:  # noqa: ANN401 - as `command`
                if node not in clients:
                    clients[node] = stack.enter_context(node.client())
                return clients[node].execute_command(*words)

            yield run

    def _new_node(self, kind: ServerKind | None, options: dict[str, str]) -> RedisServer:
        return RedisServer(kind, password=self.password, users=self._users, tls=self._tls, options=options)

    def _living(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.running]

    def __enter__(self) -> Self:
        """Start it."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it and remove what it wrote."""
        self.close()

    def __repr__(self) -> str:
        return f"<RedisCluster {self.nodes[0].kind} of {len(self.nodes)} nodes, {len(self._living())} running>"


def _bus_port() -> dict[str, str]:
    return {"cluster-port": str(free_port())}


def _lines(node: RedisServer) -> list[list[str]]:
    """Return what *node* knows of each node: name, address, flags, primary, …, slots."""
    return [line.split(" ") for line in node.command("CLUSTER", "NODES").decode().splitlines()]


def _complete(node: RedisServer) -> bool:
    info = dict(line.split(":") for line in node.command("CLUSTER", "INFO").decode().splitlines())
    with node.client() as client:
        replication: Any = client.info("replication")
    in_step = replication["role"] == "master" or replication["master_link_status"] == "up"
    return bool(info["cluster_state"] == "ok" and int(info["cluster_slots_ok"]) == SLOTS and in_step)


def _owner_of(slot: int, table: Any) -> str:  # noqa: ANN401 - a server's reply
    for first, last, primary, *_ in table:
        if first <= slot <= last:
            return str(primary[2].decode())
    return ""


def _is_primary(node: RedisServer) -> bool:
    return _says_primary(node.command("ROLE"))


def _says_primary(role: Any) -> bool:  # noqa: ANN401 - a server's reply
    return bool(role[0] in (b"master", "master"))


def _until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{complaint} within {_WITHIN_S:g} s")
        time.sleep(_LOOK_S)
