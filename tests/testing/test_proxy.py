"""The fault proxy breaks what it says, when it says so, and nothing else."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.wire.blocking import connect
from gridsync._io.wire.endpoint import parse
from gridsync._io.wire.faults import Fault
from gridsync.testing.proxy import Break, FaultProxy
from gridsync.testing.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def behind() -> Iterator[RedisServer]:
    """One server of any kind: the proxy is the thing under test."""
    with RedisServer() as running:
        yield running


@pytest.fixture
def proxy(behind: RedisServer) -> Iterator[FaultProxy]:
    behind.command("FLUSHALL")
    with FaultProxy(behind.url) as running:
        yield running


class Client:
    """Calls on one connection, and on a new one after it broke; repeats nothing."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._endpoint = parse(proxy.url, connect_timeout=10)
        self._wire = connect(self._endpoint, timeout=10, met_before=True)

    def __call__(self, *words: str | bytes | int) -> Any:  # noqa: ANN401 - any reply
        if self._wire.closed:
            self._wire = connect(self._endpoint, timeout=10, met_before=True)
        return self._wire.call(words, 10)

    def close(self) -> None:
        self._wire.close()


@contextlib.contextmanager
def client_of(proxy: FaultProxy) -> Iterator[Client]:
    with contextlib.closing(Client(proxy)) as client:
        yield client


def test_what_is_not_broken_passes(proxy: FaultProxy):
    with client_of(proxy) as client:
        client("SET", "k", b"\r\n$5\r\n\x00" * 100_000)
        assert client("GET", "k") == b"\r\n$5\r\n\x00" * 100_000
        assert client("LRANGE", "nothing", 0, -1) == []
        assert len(proxy.requests("SET")) == 1
        assert (proxy.accepted, proxy.connections) == (1, 1)


def test_a_lost_reply_means_that_the_server_ran_it_once(proxy: FaultProxy, behind: RedisServer):
    rule = proxy.on(Break.REPLY, "incr", nth=2)
    with client_of(proxy) as client:
        client("INCR", "n")
        with pytest.raises(Fault):
            client("INCR", "n")
        assert (rule.hits, client("INCR", "n")) == (1, 3)
    assert behind.command("GET", "n") == b"3"


def test_a_lost_request_means_that_the_server_never_saw_it(proxy: FaultProxy, behind: RedisServer):
    proxy.on(Break.REQUEST, lambda words: words[:2] == (b"INCR", b"n"), times=2)
    with client_of(proxy) as client:
        for _ in range(2):
            with pytest.raises(Fault):
                client("INCR", "n")
        assert client("INCR", "n") == 1
    assert behind.command("GET", "n") == b"1"


def test_half_a_reply_arrives_as_no_reply(proxy: FaultProxy, behind: RedisServer):
    behind.command("SET", "k", "value" * 1000)
    proxy.on(Break.HALF_REPLY, "GET")
    with client_of(proxy) as client:
        with pytest.raises(Fault):
            client("GET", "k")
        assert client("GET", "k") == b"value" * 1000


def test_slices_of_one_byte_arrive_whole(proxy: FaultProxy):
    proxy.slice_bytes = 1
    with client_of(proxy) as client:
        client("RPUSH", "l", *range(50))
        assert client("LRANGE", "l", 0, -1) == [b"%d" % n for n in range(50)]


@pytest.mark.parametrize("direction", ["requests", "replies"])
def test_what_a_black_hole_held_goes_on_afterwards(proxy: FaultProxy, behind: RedisServer, direction: str):
    with client_of(proxy) as client:
        client("SET", "n", 0)
        proxy.blackhole(requests=direction == "requests", replies=direction == "replies")
        got: list[int] = []
        caller = threading.Thread(target=lambda: got.append(client("INCR", "n")))
        caller.start()
        while direction == "replies" and behind.command("GET", "n") != b"1":
            pass
        caller.join(0.05)
        assert not got
        proxy.heal()
        caller.join(10)
        assert got == [1]


def test_a_refused_connection_is_accepted_again_after_healing(proxy: FaultProxy):
    with client_of(proxy) as client:
        client("PING")
        proxy.refuse()
        client("PING")
        proxy.cut()
        with pytest.raises(Fault):
            client("PING")
        proxy.heal()
        assert client("PING") == b"PONG"


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_ends_every_connection(proxy: FaultProxy, *, reset: bool):
    with client_of(proxy) as one, client_of(proxy) as other:
        one("PING")
        other("PING")
        proxy.cut(reset=reset)
        for client in (one, other):
            with pytest.raises(Fault):
                client("PING")
            assert client("PING") == b"PONG"


def test_a_fault_can_be_waited_for(proxy: FaultProxy):
    rule = proxy.on(Break.REPLY, "PING")
    with pytest.raises(TimeoutError, match="REPLY PING"):
        rule.wait(0.01)
    with client_of(proxy) as client, pytest.raises(Fault):
        client("PING")
    rule.wait()


def test_a_closed_proxy_leaves_no_thread(behind: RedisServer):
    proxy = FaultProxy(behind.url)
    with client_of(proxy) as client:
        client("PING")
        proxy.close()
        proxy.close()
        assert not [t for t in threading.enumerate() if t.name == "fault-proxy"]
        with pytest.raises(Fault):
            client("PING")


def test_a_unix_socket_can_be_behind_it():
    with RedisServer(unix=True) as server, FaultProxy(server.url) as proxy, client_of(proxy) as client:
        assert client("PING") == b"PONG"


def test_tls_cannot_be_behind_it():
    with pytest.raises(ValueError, match="rediss://"):
        FaultProxy("rediss://localhost")
