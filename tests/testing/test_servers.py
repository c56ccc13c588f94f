"""The servers that all other tests stand on."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gridsync import Grid
from gridsync._io import keys
from gridsync.errors import TLSFailed, UsageError
from gridsync.testing.leaks import leaked_keys
from gridsync.testing.servers import RedisServer, ServerKind, server_kinds

ONCE = Retry(NoBackoff(), 0)
KINDS = pytest.mark.parametrize("kind", server_kinds(), ids=str)


def test_every_kind_of_server_that_must_be_tested_is_found():
    """Without one, every test that asks for `server` would be skipped, or run against fewer kinds, unnoticed."""
    found = {f"{kind.product}-{kind.version.split('.')[0]}" for kind in server_kinds()}
    assert found
    assert found >= set(os.environ.get("GRIDSYNC_TEST_KINDS", "").split())


@KINDS
def test_a_server_runs_the_program_that_its_kind_names(kind: ServerKind):
    with RedisServer(kind) as server:
        with server.client() as client:
            info = client.info("server")
        assert info.get(f"{kind.product}_version") == kind.version
        assert info["process_id"] == server.pid


@KINDS
def test_a_killed_server_comes_back_on_the_same_address(kind: ServerKind):
    with RedisServer(kind, options={"appendonly": "yes", "appendfsync": "always"}) as server:
        url = server.url
        server.command("SET", "kept", "1")
        server.kill()
        with pytest.raises(redis.ConnectionError):
            server.command("PING")
        server.start()
        assert server.url == url
        assert server.command("GET", "kept") == b"1"


def test_the_port_of_a_server_that_is_away_is_nobody_elses():
    """Somebody who asks the kernel for a free port meanwhile would get it, and the server could not come back."""
    with RedisServer() as server:
        server.kill()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((server.host, server.port))
        server.start()
        assert server.command("PING")


def test_a_frozen_server_answers_after_it_goes_on():
    with RedisServer() as server:
        client = redis.Redis.from_url(server.url, socket_timeout=0.05, retry=ONCE)
        client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert server.command("PING")
        client.close()


def test_a_frozen_server_can_be_stopped():
    with RedisServer() as server:
        server.pause()
        server.stop()
        assert not server.running


def test_a_closed_server_leaves_nothing_behind():
    with RedisServer() as server:
        directory = server.directory
        assert directory.exists()
    assert not directory.exists()
    assert not server.running


def test_a_unix_socket_serves():
    with RedisServer(unix=True) as server:
        assert server.url.startswith("unix://")
        assert server.command("PING") is True


@KINDS
def test_a_password_is_asked_for(kind: ServerKind):
    with RedisServer(kind, password="p:@ss/wörd") as server:
        assert server.command("PING") is True
        for login in (None, "wrong"):
            with (
                redis.Redis.from_url(server.url_for(None, login)) as stranger,
                pytest.raises((redis.AuthenticationError, redis.ResponseError)),
            ):
                stranger.ping()


@KINDS
def test_users_have_the_rights_of_their_line(kind: ServerKind):
    with (
        RedisServer(kind, password="root", users=["user reader on >secret ~* +@read +ping"]) as server,
        redis.Redis.from_url(server.url_for("reader", "secret")) as reader,
    ):
        assert reader.get("nothing") is None
        with pytest.raises(redis.exceptions.NoPermissionError):
            reader.set("nothing", "1")


@pytest.mark.parametrize("kind", [kind for kind in server_kinds() if kind.tls], ids=str)
def test_tls_is_trusted_through_the_authority_of_the_server_only(kind: ServerKind):
    with RedisServer(kind, tls=True) as server:
        assert server.command("PING") is True
        with (
            redis.Redis(host=server.host, port=server.port, ssl=True, retry=ONCE) as stranger,
            pytest.raises(redis.ConnectionError, match="certificate verify failed"),
        ):
            stranger.ping()


@KINDS
def test_a_client_without_a_certificate_is_turned_away_where_one_is_asked_for(kind: ServerKind):
    """A test of mutual TLS that let everybody in would show nothing."""
    if not kind.tls:
        with pytest.raises(UsageError, match="built without TLS"):
            RedisServer(kind, tls=True, client_certificates=True)
        return
    with RedisServer(kind, tls=True, client_certificates=True) as server, Grid(server.url) as grid:
        assert grid.limiter("orders", "5/second").hit("me")
        assert grid.client.ping()
        with pytest.raises(TLSFailed, match="ssl_certfile=… and ssl_keyfile=…"):
            Grid(server.url.partition("&")[0])


def test_client_certificates_without_tls_are_refused():
    with pytest.raises(UsageError, match="needs tls=True"):
        RedisServer(client_certificates=True)


@pytest.mark.parametrize("users", [(), ("user reader on >other ~* +@read",)], ids=["requirepass", "ACL file"])
def test_a_password_may_have_spaces_and_quotes(users: tuple[str, ...]):
    with RedisServer(password='two "words" \\ #1', users=users) as server:
        assert server.command("PING")
        with Grid(server.url) as grid:
            assert grid.client.ping()


def test_a_server_that_cannot_start_says_why():
    with pytest.raises(RuntimeError, match="no-such-directive"):
        RedisServer(options={"no-such-directive": "1"}).start()


def test_only_keys_without_a_ttl_that_no_one_listed_are_leaks(flushed: RedisServer):
    """If this broke, a lock or limiter that forgets its TTL would fill the server unnoticed."""
    store = keys.events("ns", "orders")
    for key in (store.meta, store.versions, store.log, store.recent, store.stream("a:b")):
        flushed.command("SET", key, "data")
    flushed.command("SET", keys.lock("ns", "expires").state, "1", "PX", 60_000)
    flushed.command("SET", keys.lock("ns", "stays").state, "1", "PX", 60_000)
    flushed.command("PERSIST", keys.lock("ns", "stays").state)
    with flushed.client() as client:
        assert leaked_keys(client) == [keys.lock("ns", "stays").state]
        assert leaked_keys(client, permanent=r".*:lock:.*") == []
    flushed.command("FLUSHALL")


def test_the_directory_of_a_server_is_its_own():
    with RedisServer() as one, RedisServer() as other:
        assert one.directory != other.directory
        assert Path(one.command("CONFIG", "GET", "dir")[b"dir"].decode()).samefile(one.directory)
