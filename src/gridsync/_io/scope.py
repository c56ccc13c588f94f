"""The block of code that a thread or a task is in, and how it is interrupted when it must not go on.

A task's block behaves like ``asyncio.timeout()``: its task is cancelled, and the end of the block turns that very
cancellation into an exception of its own.  A thread cannot be interrupted; it has to look.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import CancelledError as WorkCancelled
from typing import Any

from gridsync._io.signals import call_in


def here() -> object:
    """Return the current task, or the current thread where no task runs."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return task or threading.current_thread()


def stray(error: BaseException) -> Exception | None:
    """Return what to raise in place of *error* if it is a cancellation, and nobody wants the current task to end.

    It comes out of somebody else's code that awaited a task or a future which was cancelled.  Let through, it would end
    our task as if that had been cancelled, and whoever waits for it would take that for the end that it asked for.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None  # no loop of asyncio, so nothing to know it by
    if not isinstance(error, asyncio.CancelledError) or task is None or task.cancelling():
        return None
    return WorkCancelled("what was awaited was cancelled, and the task that awaited it was not")


class ThreadScope:
    """A block that a thread has entered."""

    __slots__ = ("_thread",)

    def __init__(self) -> None:
        """Belong to the current thread."""
        self._thread = weakref.ref(threading.current_thread())

    def mine(self) -> bool:
        """Tell whether the current thread is the one that entered."""
        return self._thread() is threading.current_thread()

    def alive(self) -> bool:
        """Tell whether the thread goes on."""
        thread = self._thread()
        return thread is not None and thread.is_alive()

    def cancel(self) -> None:
        """Do nothing: nothing may interrupt a thread."""

    def leave(self, error: BaseException | None) -> bool:  # noqa: ARG002 - the protocol's
        """Nothing was interrupted."""
        return False


class TaskScope:
    """A block that a task has entered.

    The task is the one that was current then.  If the block is left in another one, as frameworks do that set up and
    tear down in different tasks, nobody's cancellation is taken for ours.
    """

    __slots__ = ("_cancelling", "_fired", "_left", "_loop", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to the current task of *loop*."""
        task = asyncio.current_task(loop)
        self._loop = loop
        # Weak: a task that nobody refers to any more must not be kept alive by the watchdog.
        self._task: weakref.ref[asyncio.Task[Any]] | None = None if task is None else weakref.ref(task)
        self._cancelling = 0 if task is None else task.cancelling()
        self._fired = False
        self._left = False

    def mine(self) -> bool:
        """Tell whether the current task is the one that entered."""
        return self._task is not None and self._task() is asyncio.current_task()

    def alive(self) -> bool:
        """Tell whether the task goes on; from any thread."""
        if self._task is None:
            return not self._loop.is_closed()
        task = self._task()
        return task is not None and not task.done() and not self._loop.is_closed()

    def cancel(self) -> None:
        """Cancel the task unless it has left by then; from any thread."""
        # Never from within the task's own step: a cancellation reaches it where it waits inside the block.
        call_in(self._loop, self._fire)

    def _fire(self) -> None:
        task = None if self._task is None else self._task()
        if task is not None and not self._left and not self._fired:
            self._fired = task.cancel()

    def leave(self, error: BaseException | None) -> bool:
        """End the block; true if *error* is our cancellation, and nobody else wants the task to end."""
        self._left = True
        task = None if self._task is None else self._task()
        if not self._fired or task is None or asyncio.current_task() is not task:
            return False
        return task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError)
