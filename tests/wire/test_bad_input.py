"""What is wrong is named at once: a typed error that says what it was and what to do; nothing is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import socket
import threading
import traceback
from typing import TYPE_CHECKING

import pytest

from gridsync import AsyncGrid, Grid, Settings, errors
from gridsync.testing.proxy import FaultProxy
from gridsync.testing.servers import RedisServer, server_kinds
from tests.wire.fake import FakeServer, Peer, Words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIMIT_S = 20.0
"""Longer than any of these may take; a retry or a timeout of the client would take longer."""
PATIENT = {"redis_connection_timeout": 60.0, "redis_command_timeout": 60.0}


def open_sync(url: str) -> None:
    with Grid(settings=Settings(redis_url=url, **PATIENT)):
        pass


async def _open_async(url: str) -> None:
    async with AsyncGrid(settings=Settings(redis_url=url, **PATIENT)):
        pass


def open_async(url: str) -> None:
    asyncio.run(_open_async(url))


@pytest.fixture(params=[open_sync, open_async], ids=["sync", "asyncio"])
def refused(request: pytest.FixtureRequest) -> Callable[[str], Exception]:
    """Return what opens a URL and returns the error; fails if that takes long."""

    def attempt(url: str) -> Exception:
        ended: list[Exception | None] = []

        def work() -> None:
            try:
                request.param(url)
            except Exception as error:  # noqa: BLE001 - judged by the test
                ended.append(error)
            else:
                ended.append(None)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(LIMIT_S)
        assert ended, f"no answer within {LIMIT_S} s"
        assert ended[0] is not None, "it was accepted"
        return ended[0]

    return attempt


@pytest.fixture(scope="module")
def plain() -> Iterator[RedisServer]:
    """A server with a password and users."""
    users = ["user reader on >secret ~* +@read +hello +client", "user app on >it's/me@home: ~* &* +@all"]
    with RedisServer(password="right", users=users) as running:
        yield running


@pytest.fixture(scope="module")
def secure() -> Iterator[RedisServer]:
    """A server that speaks TLS."""
    kind = next(kind for kind in server_kinds() if kind.tls)
    with RedisServer(kind, tls=True) as running:
        yield running


def expect(error: Exception, kind: type[Exception], *words: str) -> None:
    """Check the class, and that the message has all *words*."""
    assert type(error) is kind, f"{type(error).__name__}: {error}"
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:6379", ["begin it with one of redis://", "embedded://"]),
        ("http://localhost", ["begin it with one of redis://"]),
        ("redis://localhost:port", ["cannot be read"]),
        ("redis://localhost:99999", ["cannot be read"]),
        ("redis://localhost/zero", ["database number such as /0", "/zero"]),
        ("redis://localhost?db=x", ["db"]),
        ("redis://localhost/-1", ["-1"]),
        ("redis://h1,h2:7000", ["several hosts", "redis+cluster://", "redis+sentinel://"]),
        ("redis://localhost?ssl_ca_certs=/ca.pem", ["'ssl_ca_certs' is an option of TLS", "rediss://"]),
        ("redis://localhost?socket_timout=5", ["unknown option 'socket_timout'", "allowed are"]),
        ("rediss://localhost?ssl_cert_reqs=maybe", ["ssl_cert_reqs must be none, optional or required", "maybe"]),
        ("unix://", ["names no socket", "unix:///path/of/redis.sock"]),
    ],
)
def test_a_url_that_cannot_be_used_is_explained(refused: Callable[[str], Exception], url: str, words: list[str]):
    expect(refused(url), errors.InvalidURL, *words)


def test_a_missing_authority_file_is_named(refused: Callable[[str], Exception], tmp_path: Path):
    error = refused(f"rediss://localhost?ssl_ca_certs={tmp_path}/none.pem")
    expect(error, errors.TLSFailed, f"ssl_ca_certs={tmp_path}/none.pem")


def test_a_certificate_without_its_key_is_explained(refused: Callable[[str], Exception], secure: RedisServer):
    """OpenSSL says "PEM lib", from which nobody learns that a second file is missing."""
    certificate = secure.directory / "client.pem"
    error = refused(f"{secure.url}&ssl_certfile={certificate}")
    expect(error, errors.TLSFailed, f"ssl_certfile={certificate}", "needs its private key", "ssl_keyfile=…")


@pytest.mark.parametrize(
    "url",
    [
        "redis://ada:s3cr3t@localhost/zero",
        "redis://ada:s3cr3t@localhost:99999",
        "redis://ada:s3cr3t@home@localhost/zero",
        "redis://ada:s3cr3t/x@localhost",
        "redis://localhost/zero?password=s3cr3t",
        "redis://localhost/zero?username=ada&password=s3cr3t&client_name=x",
        "http://ada:s3cr3t@localhost",
        "rediss://localhost/zero?ssl_password=s3cr3t",
    ],
)
def test_no_message_shows_a_password(refused: Callable[[str], Exception], url: str):
    """Messages end up in logs."""
    error = refused(url)
    expect(error, errors.InvalidURL)
    assert "s3cr3t" not in str(error)
    assert "s3cr3t" not in repr(Settings(redis_url=url))


@pytest.mark.parametrize(("user", "password"), [(None, "wrong"), ("reader", "wrong"), ("nobody", "secret")])
def test_wrong_credentials_are_refused_once(
    refused: Callable[[str], Exception], plain: RedisServer, user: str | None, password: str
):
    with FaultProxy(f"redis://{plain.host}:{plain.port}") as proxy:
        url = plain.url_for(user, password).replace(f":{plain.port}/", f":{proxy.port}/")
        error = refused(url)
        expect(error, errors.AuthenticationFailed, f"127.0.0.1:{proxy.port}", "WRONGPASS")
        assert password not in str(error).replace("WRONGPASS", "")
        assert proxy.accepted == 1


def test_missing_credentials_are_refused_once(refused: Callable[[str], Exception], plain: RedisServer):
    with FaultProxy(f"redis://{plain.host}:{plain.port}") as proxy:
        expect(refused(proxy.url), errors.AuthenticationFailed, "NOAUTH", "write redis://user:password@host")
        assert proxy.accepted == 1


def test_a_password_with_any_character_works(plain: RedisServer):
    url = plain.url_for("app", "it's/me@home:")
    open_sync(url)
    open_async(url)


def test_an_acl_that_forbids_a_command_is_named_and_nothing_is_repeated(plain: RedisServer):
    with FaultProxy(f"redis://{plain.host}:{plain.port}") as proxy:
        url = plain.url_for("reader", "secret").replace(f":{plain.port}/", f":{proxy.port}/")
        with Grid(url) as grid, pytest.raises(errors.PermissionDenied, match=r"locks\.acquire.*ACL SETUSER"):
            grid.lock("job").try_acquire()
        assert len(proxy.requests("EVALSHA")) == 1
        assert proxy.accepted == 1


async def test_an_acl_that_forbids_a_command_is_named_in_asyncio_too(plain: RedisServer):
    async with AsyncGrid(plain.url_for("reader", "secret")) as grid:
        with pytest.raises(errors.PermissionDenied, match=r"locks\.acquire.*ACL SETUSER"):
            await grid.lock("job").try_acquire()


def test_an_unknown_authority_is_named(refused: Callable[[str], Exception], secure: RedisServer):
    error = refused(f"rediss://{secure.host}:{secure.port}")
    expect(error, errors.TLSFailed, "not trusted", "ssl_ca_certs=")


def test_a_certificate_for_another_host_is_named(refused: Callable[[str], Exception], secure: RedisServer):
    # 127.0.0.2 is this machine, too, and the certificate does not know it.
    with socket.create_server(("127.0.0.2", 0)) as listener, _relay(listener, secure.port):
        port = listener.getsockname()[1]
        error = refused(f"rediss://127.0.0.2:{port}?ssl_ca_certs={secure.ca_file}")
    expect(error, errors.TLSFailed, "127.0.0.2")


@contextlib.contextmanager
def _relay(listener: socket.socket, port: int) -> Iterator[None]:
    """Join the first connection to *port* on 127.0.0.1."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=pump, args=(server, client), daemon=True)
            back.start()
            pump(client, server)
            back.join(LIMIT_S)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    thread.join(LIMIT_S)


def test_tls_to_a_plain_port_is_named(refused: Callable[[str], Exception], plain: RedisServer):
    error = refused(f"rediss://{plain.host}:{plain.port}")
    expect(error, errors.TLSFailed, "did not answer in TLS", "redis://")


def test_plain_to_a_tls_port_is_named(refused: Callable[[str], Exception], secure: RedisServer):
    error = refused(f"redis://{secure.host}:{secure.port}")
    assert isinstance(error, (errors.TLSFailed, errors.Unavailable))
    assert "use rediss://" in str(error)


class Page(http.server.BaseHTTPRequestHandler):
    """A web server that knows no page."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_port_of_a_web_server_is_named(refused: Callable[[str], Exception]):
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        error = refused(f"redis://127.0.0.1:{server.server_port}")
        server.shutdown()
    expect(error, errors.Misconfigured, "answers in HTTP", "web server")


def test_nobody_there_is_named(refused: Callable[[str], Exception]):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        expect(refused(f"redis://127.0.0.1:{port}"), errors.Unavailable, f"127.0.0.1:{port}", "is a server running")


def test_a_host_without_an_address_is_named(refused: Callable[[str], Exception]):
    error = refused("redis://no-such-host.invalid:6379")
    expect(error, errors.Unavailable, "no-such-host.invalid", "cannot be resolved")


def test_a_missing_socket_is_named(refused: Callable[[str], Exception], tmp_path: Path):
    expect(refused(f"unix://{tmp_path}/none.sock"), errors.Unavailable, f"{tmp_path}/none.sock", "No such file")


def test_a_database_that_does_not_exist_is_named(refused: Callable[[str], Exception], plain: RedisServer):
    with FaultProxy(f"redis://{plain.host}:{plain.port}") as proxy:
        error = refused(f"redis://:right@127.0.0.1:{proxy.port}/4711")
        expect(error, errors.InvalidURL, "no database 4711")
        assert proxy.accepted == 1


@pytest.mark.parametrize(
    ("answer", "kind", "word"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", errors.Misconfigured, "answers in HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x28", errors.TLSFailed, "did not answer in RESP"),
        (b"-ERR unknown command 'HELLO'\r\n", errors.Misconfigured, "7.0 or newer"),
        (b"-NOPROTO unsupported protocol version\r\n", errors.Misconfigured, "7.0 or newer"),
        (b"+OK\r\n", errors.Misconfigured, "7.0 or newer"),
        (b"-ERR max number of clients reached\r\n", errors.Unavailable, "max number of clients"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", errors.Unavailable, "LOADING"),
    ],
)
def test_something_else_than_a_ready_server_is_named(
    refused: Callable[[str], Exception], answer: bytes, kind: type[Exception], word: str
):
    with FakeServer(lambda peer, _: peer.send(answer), greeting=None) as server:
        expect(refused(server.url), kind, word, f"127.0.0.1:{server.port}")
        assert len(server.peers) == 1


def test_a_server_that_does_not_know_hello_is_named_and_its_quotation_of_the_password_is_not_shown(
    refused: Callable[[str], Exception],
):
    """Redis 5, proxies and servers where HELLO was renamed quote the whole command, which would end in a log."""
    said = b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'hunter2' 'SETNAME' \r\n"
    with FakeServer(lambda peer, _: peer.send(said), greeting=None) as server:
        error = refused(server.url.replace("redis://", "redis://:hunter2@"))
        expect(error, errors.Misconfigured, "unknown command 'HELLO'", "7.0 or newer", f"127.0.0.1:{server.port}")
    assert "hunter2" not in "".join(traceback.format_exception(error))


def test_a_server_that_hangs_up_is_reported_once(refused: Callable[[str], Exception]):
    def hang_up(peer: Peer, _: Words) -> None:
        peer.close()

    with FakeServer(hang_up, greeting=None) as server:
        expect(refused(server.url), errors.Unavailable, "closed the connection during the greeting")
        assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("REDIS_POOL_SIZE", "0", ["greater than or equal to 1"]),
        ("REDIS_POOL_SIZE", "many", ["integer"]),
        ("REDIS_CONNECTION_TIMEOUT", "-1", ["greater than 0"]),
        ("REDIS_COMMAND_TIMEOUT", "1e9", ["less than or equal to 300"]),
        ("REDIS_COMMAND_TIMEOUT", "nan", ["less than or equal to 300"]),
        ("GRIDSYNC_INFLIGHT_MAX", "0", ["greater than or equal to 1"]),
        ("GRIDSYNC_NAMESPACE", "", ["at least 1 character"]),
        ("REDIS_URL", "", ["at least 1 character"]),
    ],
)
@pytest.mark.parametrize("make", [Grid, AsyncGrid])
def test_a_bad_setting_names_its_variable_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], object], variable: str, value: str, words: list[str]
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(errors.UsageError) as raised:
        make()
    for word in (variable, *words, "default"):
        assert word in str(raised.value)


def test_a_setting_that_does_not_exist_is_named():
    with pytest.raises(errors.UsageError, match=r"no setting 'redis_timeout'; there are .*redis_command_timeout"):
        Settings(redis_timeout=3)
