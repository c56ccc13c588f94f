"""The plain redis-py client beside gridsync: the same server, the same way in, nothing repeated."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis.credentials import CredentialProvider

from gridsync import AsyncGrid, Grid
from gridsync.testing.servers import RedisServer, server_kinds

if TYPE_CHECKING:
    from collections.abc import Iterator


class Vault(CredentialProvider):
    """Credentials from elsewhere than the URL."""

    def get_credentials(self) -> tuple[str, str]:
        return "app", "secret"

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()


@contextmanager
def ways(way: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Start the server for a way in; yields URL and options for a grid."""
    users = ["user app on >secret ~* &* +@all"]
    if way == "tls":
        kind = next(kind for kind in server_kinds() if kind.tls)
        with RedisServer(kind, tls=True, users=users) as server:
            yield server.url_for("app", "secret"), {}
    elif way == "unix":
        with RedisServer(unix=True, users=users) as server:
            yield server.url_for("app", "secret"), {}
    else:
        with RedisServer(users=users) as server:
            plain = f"redis://{server.host}:{server.port}/3"
            yield (server.url_for("app", "secret"), {}) if way == "acl" else (plain, {"credentials": Vault()})


WAYS = pytest.mark.parametrize("way", ["acl", "tls", "unix", "provider"])


@WAYS
def test_the_plain_client_takes_the_same_way(way: str):
    with ways(way) as (url, options), Grid(url, **options) as grid:
        assert grid.client.acl_whoami() in {"app", b"app"}
        assert grid.client.set("gridsync:test:x", "1", px=5000)
        info = grid.client.client_info()
        assert info["db"] == ("3" if way == "provider" else "0") or info["db"] == (3 if way == "provider" else 0)
        assert grid.client.get_retry().get_retries() == 0
        with grid.lock("job"):
            assert grid.client.exists("{gridsync:lock:job}")


@WAYS
async def test_the_plain_async_client_takes_the_same_way(way: str):
    with ways(way) as (url, options):
        async with AsyncGrid(url, **options) as grid:
            assert await grid.client.acl_whoami() in {"app", b"app"}
            assert await grid.client.set("gridsync:test:x", "1", px=5000)
            assert grid.client.get_retry().get_retries() == 0
            async with grid.lock("job"):
                assert await grid.client.exists("{gridsync:lock:job}")


def test_maintenance_notifications_are_off(flushed: RedisServer):
    """While they are on, redis-py 8.1 does not look for unread replies before it uses a connection again."""
    with Grid(flushed.url) as grid:
        pool = grid.client.connection_pool
        assert not pool.maint_notifications_enabled()
        assert not inspect.iscoroutinefunction(grid.client.ping)
