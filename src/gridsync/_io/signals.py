"""One-way switches that any thread may throw: for "stop" and "lost"."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("gridsync")


class _Switch:
    """The state and its callbacks; subclasses add how to wait."""

    def __init__(self) -> None:
        self._thrown = False
        # Re-entrant: a signal handler may throw the switch while its own thread registers a callback.
        self._lock = threading.RLock()
        self._callbacks: list[Callable[[], None]] = []

    def set(self) -> None:
        """Throw the switch; later calls change nothing."""
        with self._lock:
            if self._thrown:
                return
            self._thrown = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            call(callback)

    def is_set(self) -> bool:
        """Tell whether the switch was thrown."""
        return self._thrown

    def on_set(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when the switch is thrown, at once if it was; returns a function that takes it back."""
        with self._lock:
            if not self._thrown:
                self._callbacks.append(callback)
                return lambda: self._drop(callback)
        callback()
        return _nothing

    def _drop(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'set' if self._thrown else 'unset'}>"


def _nothing() -> None:
    """Take nothing back."""


class ThreadSignal(_Switch):
    """A switch that a thread waits for."""

    async def wait(self, timeout: float | None = None) -> bool:
        """Block at most *timeout* seconds; returns `is_set`."""
        event = threading.Event()
        drop = self.on_set(event.set)
        try:
            event.wait(timeout)
        finally:
            drop()
        return self._thrown


class LoopSignal(_Switch):
    """A switch that a task waits for; it may be thrown from any thread."""

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait at most *timeout* seconds; returns `is_set`."""
        if self._thrown:
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        drop = self.on_set(lambda: call_in(loop, lambda: _finish(future)))
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            pass
        finally:
            drop()
        return self._thrown


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def call(callback: Callable[[], object]) -> None:
    """Call *callback* and log what it raises: it is somebody else's, and the caller has others to serve."""
    try:
        callback()
    except Exception:  # noqa: BLE001 - logged
        _log.exception("the callback %r failed", callback)


def call_in(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Run *callback* in *loop* from any thread; nothing happens if the loop is closed by now."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        if not loop.is_closed():
            raise


def in_background(call: Callable[[], object], name: str = "gridsync-finalizer") -> None:
    """Run *call* in a thread of its own, for a finalizer: it may run anywhere, also while its thread holds a lock."""
    with contextlib.suppress(RuntimeError):  # the interpreter is on its way out, and takes everything along
        threading.Thread(target=call, name=name, daemon=True).start()
