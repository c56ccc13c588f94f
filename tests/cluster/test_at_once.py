"""Two readings of the slot table at once: a thread reads it when something failed, and so does whoever connects.

Each interleaving is played in one thread: the second reading runs as a whole in the middle of the first one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gridsync._io.hub import ThreadHub, ThreadSubscriber
from gridsync._io.reads import ThreadReads
from gridsync._io.route.cluster import ClusterTopology, Shard
from gridsync._io.route.cluster_nodes import ClusterPools
from gridsync._io.route.replica import Replica
from gridsync._io.wire.endpoint import parse
from tests.wire.fake import FakeServer, endpoint, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from gridsync._io.wire.endpoint import Endpoint
    from tests.wire.fake import Peer, Words

GONE = "127.0.0.1:1"
ALL_SLOTS = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n"


def topology(*ports: int) -> ClusterTopology:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports or (1,))
    return ClusterTopology(parse(f"redis+cluster://{hosts}", connect_timeout=5.0))


def owner() -> FakeServer:
    """Return a node that says that all slots are its own."""

    def answer(peer: Peer, _: Words) -> None:
        peer.send(ALL_SLOTS % server.port)

    server = FakeServer(answer)
    return server


class InTheMiddle:
    """Calls something once."""

    def __init__(self, what: Callable[[], object]) -> None:
        self._what = what
        self._called = False

    def __call__(self) -> None:
        if not self._called:
            self._called = True
            self._what()


def test_two_reviews_at_once_end_an_idle_connection_once(monkeypatch: pytest.MonkeyPatch):
    """The second one raised a KeyError, and the thread that read the slot table died of it."""
    hub = ThreadHub(topology(), timeout=5.0)
    hub._subscriber(endpoint())
    middle = InTheMiddle(hub.review)
    monkeypatch.setattr(ThreadSubscriber, "leave", lambda *_, **__: middle())
    hub.review()
    assert hub._subscribers == {}


def test_a_review_ends_only_the_connection_that_it_looked_at(monkeypatch: pytest.MonkeyPatch):
    """A waiter had opened a new one to the same node meanwhile: it was forgotten, and neither moved nor closed."""
    hub = ThreadHub(topology(), timeout=5.0)
    place = endpoint()
    hub._subscriber(place)
    opened: list[ThreadSubscriber] = []

    def come_back() -> None:
        hub.review()
        opened.append(hub._subscriber(place))

    middle = InTheMiddle(come_back)
    monkeypatch.setattr(ThreadSubscriber, "leave", lambda *_, **__: middle())
    hub.review()
    assert list(hub._subscribers.values()) == opened
    assert not opened[0]._retired


def test_two_readings_at_once_close_the_pool_of_a_node_that_left_once(monkeypatch: pytest.MonkeyPatch):
    """Whoever came second failed, and what else follows a reading was left undone."""
    found = topology()
    pools = ClusterPools(found, size=1)
    pool = pools.at(GONE)
    middle = InTheMiddle(pools._prune)

    def knows(_: str) -> bool:
        middle()
        return False

    monkeypatch.setattr(found, "knows", knows)
    pools._prune()
    assert pools._pools == {}
    assert pool._retired


def test_two_readings_at_once_retire_the_replicas_of_a_node_that_left_once():
    found = topology()
    place = found.replica(("a",))
    assert place is not None

    class Primaries(dict[str, None]):
        def __contains__(self, address: object) -> bool:
            middle()
            return False

    middle = InTheMiddle(lambda: found._retire({}))
    found._retire(Primaries())
    assert found._shards == {}
    assert place.retired


def test_two_threads_that_find_a_replica_retired_close_its_pool_once():
    """One of them got a KeyError for the events that it wanted to read."""
    found = topology()
    reads = ThreadReads(endpoint(), found, 5.0, size=1)

    class Leaving(Replica):
        @property
        def retired(self) -> bool:
            if self is old:
                middle()
            return self is old

        @retired.setter
        def retired(self, _: bool) -> None: ...

    def place(address: str) -> Replica:
        return Leaving(address, endpoint(), Shard(found, address))

    old: Replica | None = None
    middle = InTheMiddle(lambda: reads._open(place("127.0.0.1:2")))
    first = place(GONE)
    pool = reads._open(first)
    old = first
    reads._open(place("127.0.0.1:3"))
    assert pool._retired
    assert old not in reads._pools


def test_what_follows_a_reading_fails_alone(caplog: pytest.LogCaptureFixture):
    """One driver's mistake must not keep the others on the old table."""
    seen: list[str] = []
    with owner() as server:
        found = topology(server.port)
        found.on_change(lambda: {}["planted"])
        found.on_change(lambda: seen.append("reviewed"))
        with caplog.at_level(logging.ERROR, "gridsync"):
            found.find(20.0)
        found.close()
    assert seen == ["reviewed"]
    assert "KeyError: 'planted'" in caplog.text


def test_a_reading_that_fails_unexpectedly_is_told_and_followed_by_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A thread that dies silently would leave the grid with the table as it was."""
    take = ClusterTopology._take
    taken: list[Endpoint] = []

    def stumble(self: ClusterTopology, asked: Endpoint, ranges: list[Any]) -> None:
        taken.append(asked)
        if len(taken) == 1:
            raise RuntimeError("planted")
        take(self, asked, ranges)

    monkeypatch.setattr(ClusterTopology, "_take", stumble)
    with owner() as server, caplog.at_level(logging.ERROR, "gridsync"):
        found = topology(server.port)
        found._read_soon()
        eventually(lambda: found._thread is None)
        assert "RuntimeError: planted" in caplog.text
        found._read_soon()
        eventually(lambda: set(found._owners) == {f"127.0.0.1:{server.port}"})
        found.close()
