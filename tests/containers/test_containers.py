"""gridsync against a Redis in a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.containers.conftest import RedisInContainer

pytestmark = pytest.mark.containers


def test_a_container_answers(start_redis: Callable[..., RedisInContainer]):
    running = start_redis()
    with redis.Redis.from_url(running.url) as client:
        assert client.ping()
        running.restart()
        assert client.ping()


def test_a_container_speaks_tls(start_redis: Callable[..., RedisInContainer], certificates: Path):
    with redis.Redis.from_url(start_redis(certificates=certificates).url) as client:
        assert client.ping()


def test_a_container_asks_for_its_password(start_redis: Callable[..., RedisInContainer]):
    with redis.Redis.from_url(start_redis(password="secret").url) as client:
        assert client.ping()
