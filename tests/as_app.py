"""Servers to which grids connect as the role ``app`` of `gridsync setup`, while what tests look with may do everything.

So all that gridsync does is in that role's rules, and what a change adds shows as a refusal.  A Valkey that stands
alone, the sentinels with their servers, and the servers that are killed and frozen are always met so, other servers and
clusters with ``--as-app``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gridsync.ops import acl
from gridsync.ops.roles import ROLES
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.sentinels import Sentinel, SentinelSet
from gridsync.testing.servers import RedisServer, ServerKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

LOGIN = ("as-app", "secret")
"""Not ``app``: some tests make a user of that name."""


def wanted(config: pytest.Config, kind: ServerKind) -> bool:
    """Tell whether grids shall connect as ``app``."""
    return bool(config.option.as_app) or kind.product == "valkey"


def app_at(kind: ServerKind, *, sentinel: bool = False) -> str:
    """Return the line of the ACL file, without what the server does not know."""
    without = acl.unknown("redis-7.0" if str(kind) == "redis-7.0" else f"{kind.product}-8")
    return acl.line(replace(ROLES["app"], name=LOGIN[0]), [acl.hashed(LOGIN[1])], without, sentinel=sentinel)


class AppServer(RedisServer):
    """A server whose `url` is that of ``app``."""

    def __init__(self, kind: ServerKind, options: Mapping[str, str] | None = None) -> None:
        super().__init__(kind, users=[app_at(kind)], options=options)

    @property
    def url(self) -> str:
        return self.url_for(*LOGIN)

    def client(self, **options: Any) -> redis.Redis:  # noqa: ANN401 - redis-py's options
        once = {"socket_timeout": 10.0, "retry": Retry(NoBackoff(), 0)}
        return redis.Redis.from_url(self.url_for(None, None), **{**once, **options})


class AppCluster(RedisCluster):
    """A cluster whose `url` is that of ``app``."""

    def __init__(self, kind: ServerKind) -> None:
        super().__init__(kind, users=[app_at(kind)])

    @property
    def url(self) -> str:
        return self.url_for(*LOGIN)


class AppSet(SentinelSet):
    """Servers and sentinels whose `url` is that of ``app`` at both; among each other they are the default user."""

    @property
    def url(self) -> str:
        login, (user, password) = ":".join(LOGIN), LOGIN
        return f"{super().url.replace('://', f'://{login}@', 1)}?sentinel_username={user}&sentinel_password={password}"

    def _new_server(self) -> AppServer:
        return AppServer(self.kind, self._options)

    def _new_sentinel(self) -> Sentinel:
        sentinel = super()._new_sentinel()
        sentinel._options["user"] = app_at(self.kind, sentinel=True).removeprefix("user ")
        return sentinel
