"""Drivers, proxies and look-outs for what a driver must not leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.aio import AsyncIO
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.testing.proxy import FaultProxy
from tests.wire.fake import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from gridsync.testing.servers import RedisServer


@pytest.fixture
def proxy(flushed: RedisServer) -> Iterator[FaultProxy]:
    """A proxy in front of the server, which is empty."""
    with FaultProxy(flushed.url) as running:
        yield running


@pytest.fixture
def sync_io() -> Iterator[Callable[..., SyncIO]]:
    """Return a maker of drivers; all are closed at the end."""
    made: list[SyncIO] = []

    def make(url: str, *, timeout: float = 5.0, pool_size: int = 8, connect_timeout: float = 5.0) -> SyncIO:
        made.append(SyncIO(parse(url, connect_timeout=connect_timeout), pool_size=pool_size, timeout=timeout))
        return made[-1]

    yield make
    for io in made:
        io.close()


@pytest.fixture
async def async_io() -> AsyncIterator[Callable[..., AsyncIO]]:
    """Return a maker of drivers; all are closed at the end."""
    made: list[AsyncIO] = []

    def make(url: str, *, timeout: float = 5.0, inflight_max: int = 1000, connect_timeout: float = 5.0) -> AsyncIO:
        endpoint = parse(url, connect_timeout=connect_timeout)
        made.append(AsyncIO(endpoint, inflight_max=inflight_max, timeout=timeout))
        return made[-1]

    yield make
    for io in made:
        await io.close()


@pytest.fixture
async def complaints() -> AsyncIterator[list[dict[str, Any]]]:
    """What the event loop complains of, such as an exception that was never retrieved; fails the test if anything."""
    heard: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context))
    yield heard
    gc.collect()
    await asyncio.sleep(0)
    assert not heard


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails a test that leaves threads or sockets."""

    def threads() -> set[str]:
        return {t.name for t in threading.enumerate() if t.name.startswith(("gridsync", "fault"))}

    before, sockets = threads(), open_sockets()
    yield
    gc.collect()
    eventually(lambda: threads() <= before)
    eventually(lambda: open_sockets() <= sockets)


def open_sockets() -> int:
    """Count this process's sockets."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        # The descriptor of the listing itself is gone by now.
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count
