"""Plain redis-py clients on the server of a grid: they repeat nothing, hide nothing and time out as the grid does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from gridsync._io.route.primary import Primary

if TYPE_CHECKING:
    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.place import Place
    from gridsync.settings import Settings

SETUP_REPEATS: Final = 2
"""How many nodes that do not answer the set-up of a client of a cluster goes on after."""


class PlainClient:
    """A client for threads, and the sentinels it asks, if it asks any."""

    def __init__(self, place: Place, settings: Settings) -> None:
        self._sentinel: redis.sentinel.Sentinel | None = None
        retry = Retry(NoBackoff(), 0)
        options = _client_options(place.server, settings)
        if isinstance(place, Primary):
            theirs = _sentinel_options(place, settings, retry)
            watched = self._sentinel = redis.sentinel.Sentinel(**theirs)  # type: ignore[no-untyped-call]
            self.client: redis.Redis = watched.master_for(place.service, retry=retry, **options)  # type: ignore[no-untyped-call]
        elif place.server.topology == "cluster":
            nodes = [redis.cluster.ClusterNode(*seed) for seed in place.server.seeds]  # type: ignore[no-untyped-call]
            # While it is set up it asks one node about its commands: when that one is silent, another must do.
            cluster = redis.RedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), SETUP_REPEATS), **options)
            cluster.set_retry(retry)
            self.client = cast("redis.Redis", cluster)
        else:
            self.client = redis.Redis(retry=retry, **options)

    def close(self) -> None:
        """Close its connections, and those to the sentinels."""
        self.client.close()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                sentinel.close()


class AsyncPlainClient:
    """A client for tasks, and the sentinels it asks, if it asks any."""

    def __init__(self, place: Place, settings: Settings) -> None:
        self._sentinel: redis.asyncio.sentinel.Sentinel | None = None
        retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
        options = _client_options(place.server, settings)
        if isinstance(place, Primary):
            theirs = _sentinel_options(place, settings, retry)
            watched = self._sentinel = redis.asyncio.sentinel.Sentinel(**theirs)  # type: ignore[no-untyped-call]
            self.client: redis.asyncio.Redis = watched.master_for(place.service, retry=retry, **options)
        elif place.server.topology == "cluster":
            nodes = [redis.asyncio.cluster.ClusterNode(*seed) for seed in place.server.seeds]
            cluster = redis.asyncio.RedisCluster(startup_nodes=nodes, retry=retry, **options)
            self.client = cast("redis.asyncio.Redis", cluster)
        else:
            self.client = redis.asyncio.Redis(retry=retry, **options)

    async def close(self) -> None:
        """Close its connections, and those to the sentinels."""
        await self.client.aclose()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()


def _client_options(endpoint: Endpoint, settings: Settings) -> dict[str, Any]:
    """Return the options of a plain redis-py client that repeats nothing and hides nothing.

    redis-py 8.1 by itself repeats any command up to ten times, and skips its check for unread replies while
    maintenance notifications are on.
    """
    options: dict[str, Any] = {
        "protocol": 3,
        "db": endpoint.db,
        "credential_provider": endpoint.credentials,
        "socket_timeout": settings.redis_command_timeout,
        "socket_connect_timeout": settings.redis_connection_timeout,
    }
    if endpoint.topology == "cluster":
        del options["db"]
    elif endpoint.path is not None:
        options["unix_socket_path"] = endpoint.path
    else:
        options |= {"host": endpoint.host, "port": endpoint.port}
    if endpoint.path is None:
        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    if endpoint.tls is not None:
        options |= {"ssl": True, **endpoint.tls_options}
    return options


def _sentinel_options(primary: Primary, settings: Settings, retry: object) -> dict[str, Any]:
    """Return the options of redis-py's Sentinel."""
    options = _client_options(primary.sentinels[0], settings)
    del options["host"], options["port"]
    sentinels = [(sentinel.host, sentinel.port) for sentinel in primary.sentinels]
    return {"sentinels": sentinels, "sentinel_kwargs": {**options, "retry": retry}}
