"""The way in: opening, closing, settings, and the plain client."""

from __future__ import annotations

import copy
import os
import pickle
from typing import TYPE_CHECKING

import pytest

from gridsync import (
    AsyncGrid,
    Grid,
    InvalidURL,
    Settings,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer


def test_a_grid_without_arguments_starts_its_own_server(monkeypatch: pytest.MonkeyPatch):
    """The first line of the README needs no server, no container and no configuration."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    with Grid() as grid:
        assert grid.embedded is not None
        assert grid.client.ping()
        with grid.lock("job") as lease:
            assert lease.fence > 0


async def test_an_async_grid_without_arguments_starts_its_own_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    async with AsyncGrid() as grid:
        assert grid.embedded is not None
        assert await grid.client.ping()
        async with grid.lock("job") as lease:
            assert lease.fence > 0


def test_the_environment_names_the_server(flushed: RedisServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_URL", flushed.url)
    monkeypatch.setenv("GRIDSYNC_NAMESPACE", "market")
    with Grid() as grid:
        assert grid.embedded is None
        with grid.lock("job"):
            assert grid.client.exists("{market:lock:job}")


def test_two_namespaces_do_not_meet(flushed: RedisServer):
    with Grid(flushed.url, namespace="a") as a, Grid(flushed.url, namespace="b") as b, a.lock("x"):
        other = b.lock("x").try_acquire()
        assert other is not None
        other.release()


def test_a_name_with_braces_stays_in_its_own_slot(flushed: RedisServer):
    """A user's name must not be able to reach another entity's keys or slot."""
    with Grid(flushed.url) as grid, grid.lock("a}:{b%"):
        assert grid.client.exists("{gridsync:lock:a%7D:%7Bb%25}")


def test_the_plain_client_repeats_nothing_by_itself(flushed: RedisServer):
    """redis-py's own default would send an unanswered INCR up to eleven times."""
    with Grid(flushed.url) as grid:
        assert grid.client.get_retry().get_retries() == 0
        assert grid.client.incr("gridsync:test:n") == 1
        grid.client.delete("gridsync:test:n")


def test_a_closed_grid_says_so(flushed: RedisServer):
    grid = Grid(flushed.url)
    grid.close()
    grid.close()
    with pytest.raises(UsageError, match="closed"):
        grid.lock("x").acquire()


def test_what_has_connections_is_not_pickled_or_copied_and_says_what_to_do(flushed: RedisServer):
    """`multiprocessing` pickles what it passes on, and spoke of hiredis; a copied lease went away with its twin."""
    with Grid(flushed.url) as grid, grid.lock("job") as lease:
        for thing in (grid, grid.lock("job"), grid.rwlock("rw"), grid.limiter("orders", "5/second")):
            for refused in (pickle.dumps, copy.deepcopy):
                with pytest.raises(UsageError, match="open a grid in each process"):
                    refused(thing)
        for refused in (pickle.dumps, copy.deepcopy, copy.copy):
            with pytest.raises(UsageError, match=r"of lock 'job'.*pass on what detach\(\) returns"):
                refused(lease)


async def test_an_async_grid_that_is_not_open_says_so(flushed: RedisServer):
    grid = AsyncGrid(flushed.url)
    with pytest.raises(UsageError, match="not open"):
        grid.lock("x")
    await grid.open()
    await grid.open()
    await grid.close()
    await grid.close()
    with pytest.raises(UsageError, match="not open"):
        grid.lock("x")


async def test_a_failed_open_can_be_tried_again(flushed: RedisServer):
    flushed.stop()
    grid = AsyncGrid(flushed.url)
    with pytest.raises(Unavailable):
        await grid.open()
    flushed.start()
    async with grid:
        assert await grid.client.ping()


def test_the_repr_hides_the_password():
    settings = Settings(redis_url="redis://someone:secret@127.0.0.1:1/0")
    assert "secret" not in repr(settings)
    assert "secret" not in repr(AsyncGrid(settings=settings))
    with pytest.raises(Unavailable) as caught:
        Grid(settings=settings)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("REDIS_POOL_SIZE", "0", "greater than or equal to 1"),
        ("REDIS_CONNECTION_TIMEOUT", "-1", "greater than 0"),
        ("REDIS_COMMAND_TIMEOUT", "soon", "valid number"),
        ("GRIDSYNC_NAMESPACE", "", "at least 1 character"),
        ("GRIDSYNC_INFLIGHT_MAX", "1.5", "valid integer"),
    ],
)
def test_a_bad_setting_names_its_variable_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, allowed: str
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=variable) as caught:
        Settings()
    assert allowed in str(caught.value)


def test_an_unknown_setting_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="redis_pool_size"):
        Settings(redis_pool=3)


def test_settings_and_arguments_mix(flushed: RedisServer):
    with Grid(flushed.url, settings=Settings(redis_pool_size=1)) as grid:
        assert grid.settings.redis_url == flushed.url
        assert grid.settings.redis_pool_size == 1
    with pytest.raises(UsageError, match="GRIDSYNC_NAMESPACE"):
        Grid(flushed.url, namespace="", settings=Settings())


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://h/db", "redis://h:port", "unix://"])
def test_a_url_that_cannot_be_used_is_refused_before_anything_is_sent(url: str):
    with pytest.raises(InvalidURL):
        Grid(url)


def test_the_child_of_a_fork_has_connections_of_its_own(flushed: RedisServer):
    """A parent's replies must never end up in its child."""
    with Grid(flushed.url) as grid, grid.lock("parent"):
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            try:
                with grid.lock("child"):
                    os.write(writable, b"ok" if grid.lock("parent").try_acquire() is None else b"both")
            finally:
                os._exit(0)
        os.close(writable)
        with os.fdopen(readable, "rb") as pipe:
            assert pipe.read() == b"ok"
        os.waitpid(child, 0)
        assert grid.lock("parent").try_acquire() is None
