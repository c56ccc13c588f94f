"""The fault proxy breaks what it says, when it says so, and nothing else."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.wire.blocking import connect
from gridsync._io.wire.endpoint import parse
from gridsync._io.wire.faults import Fault
from gridsync.errors import UsageError
from gridsync.testing.proxy import Break, FaultProxy
from gridsync.testing.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

PING = b"*1\r\n$4\r\nPING\r\n"


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

    @property
    def closed(self) -> bool:
        return self._wire.closed

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


@pytest.mark.parametrize("reply", [b"value" * 1000, b""], ids=["long", "empty"])
def test_a_reset_in_the_middle_of_a_reply_is_no_reply(proxy: FaultProxy, behind: RedisServer, reply: bytes):
    behind.command("SET", "k", reply)
    rule = proxy.on(Break.RESET, "GET")
    with client_of(proxy) as client:
        with pytest.raises(Fault):
            client("GET", "k")
        assert (rule.hits, client("GET", "k")) == (1, reply)


def test_a_corrupt_reply_is_no_reply_and_the_server_ran_it(proxy: FaultProxy, behind: RedisServer):
    proxy.on(Break.CORRUPT, "INCR")
    with client_of(proxy) as client:
        with pytest.raises(Fault, match="broke"):
            client("INCR", "n")
        assert client.closed
        assert client("INCR", "n") == 2
    assert behind.command("GET", "n") == b"2"


def test_a_function_is_called_when_the_server_has_run_the_request(proxy: FaultProxy, behind: RedisServer):
    seen: list[bytes] = []
    rule = proxy.on(lambda: seen.append(behind.command("GET", "n")), "INCR", nth=2)
    with client_of(proxy) as client:
        assert [client("INCR", "n") for _ in range(3)] == [1, 2, 3]
    rule.wait()
    assert seen == [b"2"]


def test_a_function_may_break_more_than_a_connection(proxy: FaultProxy):
    proxy.on(lambda: (proxy.refuse(), proxy.cut(reset=True)), "INCR")
    with client_of(proxy) as client:
        for _ in range(2):
            with pytest.raises((Fault, OSError)):
                client("INCR", "n")
        proxy.heal()
        assert client("INCR", "n") == 2


def test_what_a_function_raises_is_seen_by_whoever_waits_for_it(proxy: FaultProxy):
    def broken() -> None:
        raise LookupError("of its own")

    rule = proxy.on(broken, "PING")
    with client_of(proxy) as client:
        assert client("PING") == b"PONG"
    with pytest.raises(LookupError, match="of its own"):
        rule.wait()
    assert repr(rule) == "<Rule broken PING hits=1>"


def test_a_connection_ends_after_as_many_bytes_as_it_may_carry(proxy: FaultProxy, behind: RedisServer):
    behind.command("SET", "k", "v" * 10_000)
    with client_of(proxy) as client:
        client("PING")
        proxy.limit_bytes = 5_000
        with pytest.raises(Fault):
            client("GET", "k")
        assert client("PING") == b"PONG"  # on a connection that has carried nothing yet
        proxy.heal()
        assert len(client("GET", "k")) == 10_000


@pytest.mark.parametrize("where", ["greeting", "value"])
def test_the_last_byte_that_a_connection_may_carry_arrives(proxy: FaultProxy, where: str):
    """A reply that ends exactly there is whole, and so are all before it."""
    with socket.create_connection((proxy.host, proxy.port)) as plain:
        if where == "value":
            plain.sendall(PING)
            assert plain.recv(100) == b"+PONG\r\n"
        proxy.limit_bytes = 7 if where == "greeting" else 14
        plain.sendall(PING)
        with plain.makefile("rb") as got:
            assert got.read() == b"+PONG\r\n"


def test_a_narrow_connection_carries_all_of_it_and_healing_makes_it_wide(proxy: FaultProxy, behind: RedisServer):
    behind.command("SET", "k", b"\0\r\n" * 1_000)
    proxy.bytes_per_s = 100_000
    with client_of(proxy) as client:
        assert client("GET", "k") == b"\0\r\n" * 1_000
        proxy.bytes_per_s = 100  # of 10 MB: until tomorrow
        got: list[bytes] = []
        caller = threading.Thread(target=lambda: got.append(client("ECHO", b"x" * 10_000_000)))
        caller.start()
        while not proxy.requests("ECHO"):
            pass
        proxy.heal()
        caller.join(10)
        assert len(got[0]) == 10_000_000


def test_latency_with_jitter_changes_no_order(proxy: FaultProxy):
    proxy.delay_s, proxy.jitter_s, proxy.slice_bytes = 0.0001, 0.001, 5
    with client_of(proxy) as client:
        client("RPUSH", "l", *range(20))
        assert client("LRANGE", "l", 0, -1) == [b"%d" % n for n in range(20)]


def test_a_black_hole_with_a_timeout_ends_in_a_cut(proxy: FaultProxy):
    with client_of(proxy) as client:
        client("PING")
        proxy.blackhole(timeout=0.01)
        with pytest.raises(Fault):
            client("PING")
        proxy.heal()
        assert client("PING") == b"PONG"


def test_healing_takes_back_a_cut_that_was_to_come(proxy: FaultProxy):
    with client_of(proxy) as client:
        client("PING")
        proxy.blackhole(timeout=3600)
        proxy.heal()
        assert client("PING") == b"PONG"
        assert (proxy.accepted, proxy.connections) == (1, 1)


def test_a_slow_close_leaves_the_other_side_waiting(proxy: FaultProxy, behind: RedisServer):
    """The server has ended a connection, and the client goes on believing in it."""
    proxy.close_delay_s = 3600
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as plain:
        plain.sendall(b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n")
        name = int(plain.recv(100)[1:])
        behind.command("CLIENT", "KILL", "ID", name)
        plain.settimeout(0.05)
        with pytest.raises(TimeoutError):
            plain.recv(100)
        assert proxy.connections == 1
        plain.settimeout(10)
        proxy.heal()
        assert plain.recv(100) == b""


def test_clients_that_reset_their_connections_harm_nobody(proxy: FaultProxy):
    """Some of them are gone before the proxy has reached the server, and its connection there ends all the same."""
    with client_of(proxy) as client:
        client("PING")
        for _ in range(30):
            with socket.create_connection((proxy.host, proxy.port)) as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                other.sendall(PING)
        assert client("PING") == b"PONG"


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


def test_a_port_that_refuses_is_still_nobody_elses(proxy: FaultProxy):
    """Somebody who asks the kernel for a free port while nobody listens there would get it, and healing would fail."""
    proxy.refuse()
    with socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind((proxy.host, proxy.port))
        with pytest.raises(ConnectionRefusedError):
            other.connect((proxy.host, proxy.port))
    proxy.heal()
    with client_of(proxy) as client:
        assert client("PING") == b"PONG"


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
    proxy.on(lambda: None, "PING")
    with client_of(proxy) as client:
        client("PING")
        proxy.close()
        proxy.close()
        assert not [t for t in threading.enumerate() if t.name.startswith(("fault-proxy", "asyncio_"))]
        with pytest.raises(Fault):
            client("PING")


def test_who_connects_while_it_closes_is_hung_up_on(behind: RedisServer):
    """What is only half accepted would stay open until it is collected, in the middle of somebody else's test."""
    for _ in range(50):
        with FaultProxy(behind.url) as proxy, contextlib.ExitStack() as clients:
            for _ in range(8):
                client = clients.enter_context(socket.create_connection((proxy.host, proxy.port), timeout=10))
                client.sendall(PING)
            proxy.close()
            assert proxy.connections == 0
        del proxy
        gc.collect()  # a transport that was left open says so now, and fails this test


def test_a_unix_socket_can_be_behind_it():
    with RedisServer(unix=True) as server, FaultProxy(server.url) as proxy, client_of(proxy) as client:
        assert client("PING") == b"PONG"


def test_tls_cannot_be_behind_it():
    with pytest.raises(ValueError, match="rediss://"):
        FaultProxy("rediss://localhost")


def test_a_fault_that_would_never_happen_is_refused(proxy: FaultProxy):
    """A test whose fault was misspelt, or planned for the request before the first, would pass and show nothing."""
    with pytest.raises(UsageError, match=r"Break\.REPLY.*not 'reply'"):
        proxy.on("reply", "SET")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nth counts requests from 1"):
        proxy.on(Break.REPLY, "SET", nth=0)
    with pytest.raises(UsageError, match="times counts requests from 1"):
        proxy.on(Break.REPLY, "SET", times=0)
