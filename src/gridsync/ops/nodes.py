"""Every server and sentinel that a URL leads to, asked one by one: what must be changed at all of them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gridsync._io.route.open import open_place
from gridsync._io.route.primary import Primary
from gridsync._io.wire.blocking import connect
from gridsync._io.wire.faults import Fault, ReplyError
from gridsync.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gridsync._io.wire.blocking import BlockingWire
    from gridsync._io.wire.endpoint import Endpoint

__all__ = ["Node", "reach", "table"]


class Node:
    """A connection to one server or sentinel, as its administrator."""

    def __init__(self, endpoint: Endpoint, timeout: float, *, sentinel: bool) -> None:
        """Connect.

        Raises:
            GridsyncError: It cannot be reached, or refuses the credentials.
        """
        self.sentinel = sentinel
        self._timeout = timeout
        self._endpoint = endpoint
        try:
            self._wire: BlockingWire = connect(endpoint, timeout=timeout, met_before=False)
        except Fault as error:
            raise Unavailable(f"{error}; every server must be there, for each has users of its own") from error

    @property
    def name(self) -> str:
        """What it is, and where."""
        return f"{'sentinel' if self.sentinel else 'server'} {self._wire.endpoint}"

    @property
    def connection(self) -> int:
        """The number of this connection; each later one has a greater."""
        return self._wire.id

    def ask(self, *words: str) -> Any:  # noqa: ANN401 - a reply
        """Run a command.

        Raises:
            ReplyError: It answered with an error.
            Unavailable: It did not answer.
        """
        try:
            return self._wire.call(words, self._timeout)
        except Fault as error:
            raise Unavailable(f"{error}; run the same again: what was done is not done twice") from error

    def run(self) -> str:
        """Return what names this run of the server: after a restart it is another."""
        return self.info("server")["run_id"]

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO."""
        text = _text(self.ask("INFO", section))
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def again(self) -> Node:
        """Return another connection to the same server, with the credentials of now."""
        return Node(self._endpoint, self._timeout, sentinel=self.sentinel)

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()


def reach(urls: Sequence[str], password_file: str, timeout: float) -> list[Node]:
    """Connect to everything that *urls* lead to, as an administrator.

    A server leads to its replicas, a sentinel to the other sentinels, the primary and its replicas, and a node of a
    cluster to all nodes.

    Args:
        urls: Whose user may do everything.
        password_file: Where its password is, for those that name none.
        timeout: For each connection and each answer, in seconds.

    Raises:
        GridsyncError: One of them cannot be reached, or is no administrator's.
    """
    found: dict[tuple[str, int, str | None], Node] = {}
    try:
        for url in urls:
            place = open_place(url, connect_timeout=timeout, password_file=password_file)
            try:
                starts = place.sentinels if isinstance(place, Primary) else _seeds(place.server)
                waiting = [(start, isinstance(place, Primary)) for start in starts]
                while waiting:
                    endpoint, sentinel = waiting.pop()
                    if (at := (endpoint.host, endpoint.port, endpoint.path)) in found:
                        continue
                    node = found[at] = Node(endpoint, timeout, sentinel=sentinel)
                    waiting += _others(node, endpoint, place)
            finally:
                if isinstance(place, Primary):
                    place.close()
    except BaseException as error:
        for node in found.values():
            node.close()
        if isinstance(error, ReplyError):
            raise UsageError(f"a server says {error}; name a user that may do everything, as admin does") from None
        raise
    return list(found.values())


def _seeds(server: Endpoint) -> list[Endpoint]:
    return [replace(server, host=host, port=port) for host, port in server.seeds] or [server]


def _others(node: Node, endpoint: Endpoint, place: Any) -> Iterator[tuple[Endpoint, bool]]:  # noqa: ANN401 - a Place
    """Yield whom *node* knows, and whether they are sentinels."""
    if node.sentinel:
        for known in (node.ask("SENTINEL", "MASTER", place.service), *node.ask("SENTINEL", "REPLICAS", place.service)):
            yield _at(place.server, table(known)), False
        for known in node.ask("SENTINEL", "SENTINELS", place.service):
            yield _at(endpoint, table(known)), True
    elif endpoint.topology == "cluster":
        for line in _text(node.ask("CLUSTER", "NODES")).splitlines():
            _, address, flags, *_ = line.split()
            # One that has failed has users, too, and may come back with them.
            if not {"handshake", "noaddr"} & set(flags.split(",")):
                host, _, port = address.partition("@")[0].rpartition(":")
                yield replace(endpoint, host=host.strip("[]") or endpoint.host, port=int(port)), False
    elif endpoint.path is None and not isinstance(place, Primary):
        # ROLE leaves out those that are loading their copy.
        for name, value in node.info("replication").items():
            if re.fullmatch(r"slave\d+", name):
                told = dict(pair.split("=", 1) for pair in value.split(","))
                yield replace(endpoint, host=told["ip"], port=int(told["port"])), False


def _at(like: Endpoint, known: dict[str, str]) -> Endpoint:
    return replace(like, host=known["ip"], port=int(known["port"]))


def table(words: Any) -> dict[str, str]:  # noqa: ANN401 - a reply
    """Return what a server tells by names, as pairs or as a table."""
    pairs = words.items() if isinstance(words, dict) else zip(words[::2], words[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _text(word: Any) -> str:  # noqa: ANN401 - bytes, or text from a verbatim string
    return word.decode() if isinstance(word, bytes) else str(word)
