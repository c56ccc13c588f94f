"""Blocking commands under SyncIO: how they end when somebody says stop."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import Category, Command, run_sync
from gridsync.errors import OutcomeUnknown, UsageError
from tests.wire.fake import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import Signal
    from gridsync._io.sync import SyncIO
    from gridsync.testing.proxy import FaultProxy
    from gridsync.testing.servers import RedisServer

POP = Command("pop", Category.NEVER, ("BLPOP",))
ECHO = Command("echo", Category.READ, ("ECHO",))


def pop(io: SyncIO, stop: Signal, wait: float = 60.0, *, patience_s: float = 0.0) -> Any:  # noqa: ANN401 - a reply
    return run_sync(io.block(POP, ["l"], [str(wait)], wait=wait + patience_s, stop=stop))


@pytest.mark.parametrize("when", ["waiting", "on its way", "before"])
def test_a_blocked_read_ends_when_it_is_stopped(proxy: FaultProxy, sync_io: Callable[..., SyncIO], when: str):
    """Also when the command had not reached the server yet, so that the server knew nothing to unblock."""
    io = sync_io(proxy.url)
    stop = io.signal()
    assert pop(io, stop, 0.01, patience_s=20.0) is None
    seen = len(proxy.requests("BLPOP"))
    if when == "before":
        stop.set()
    if when == "on its way":
        proxy.delay_s = 0.02
    with ThreadPoolExecutor(1) as threads:
        blocked = threads.submit(pop, io, stop)
        if when == "waiting":
            eventually(lambda: len(proxy.requests("BLPOP")) > seen)
        if when == "on its way":
            eventually(lambda: io._blocked)
        stop.set()
        assert blocked.result(20) is None
    proxy.heal()
    assert run_sync(io.run(ECHO, ["in step"])) == b"in step"


def test_a_signal_handler_may_stop_its_own_thread(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    """SIGTERM to a consumer that waits in the main thread: the handler runs in the very thread that is blocked."""
    io = sync_io(flushed.url)
    stop = io.signal()
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.set())
    try:

        def later() -> None:
            with flushed.client() as client:
                eventually(lambda: client.info("clients")["blocked_clients"])
            os.kill(os.getpid(), signal.SIGUSR1)

        thread = threading.Thread(target=later)
        thread.start()
        assert pop(io, stop) is None
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_closing_ends_a_blocked_read_and_forbids_the_next(proxy: FaultProxy, sync_io: Callable[..., SyncIO]):
    io = sync_io(proxy.url)
    with ThreadPoolExecutor(1) as threads:
        blocked = threads.submit(pop, io, io.signal())
        eventually(lambda: proxy.requests("BLPOP"))
        io.close()
        assert isinstance(blocked.exception(20), OutcomeUnknown)
    with pytest.raises(UsageError, match="was closed"):
        pop(io, io.signal())
    eventually(lambda: proxy.connections == 0)


def test_a_blocked_read_keeps_a_connection_from_nobody(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    io = sync_io(flushed.url, pool_size=1)
    stop = io.signal()
    with ThreadPoolExecutor(1) as threads:
        blocked = threads.submit(pop, io, stop)
        with flushed.client() as client:
            eventually(lambda: client.info("clients")["blocked_clients"])
        assert run_sync(io.run(ECHO, ["quick"])) == b"quick"
        stop.set()
        assert blocked.result(20) is None
