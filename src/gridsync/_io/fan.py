"""Requests to several servers at the same time, by a caller that blocks: what `IO.fan` is for threads.

The caller's own thread does the last one, kept threads do the others.  Handing work to a kept thread costs about 40 µs,
starting one twice as much.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from gridsync._io import run_sync

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextvars import Context

T = TypeVar("T")
THREADS_MAX = 64
"""How many requests of one driver may be under way beside those of the callers' own threads; further ones wait."""


class Fan:
    """The kept threads of one driver; they end when it is closed or dropped."""

    def __init__(self, threads_max: int = THREADS_MAX) -> None:
        """Start no thread yet."""
        self._threads_max = threads_max
        self.reset()

    def reset(self) -> None:
        """Forget the threads: the child of a fork has none."""
        self._pool = ThreadPoolExecutor(self._threads_max, thread_name_prefix="gridsync-fan")

    def run(self, coroutines: tuple[Coroutine[Any, Any, T], ...]) -> list[T]:
        """Run all of them to their end, and return their results in order, or raise the first exception."""
        return _joined([self._start(each) for each in coroutines[:-1]], coroutines[-1:])

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        context = copy_context()
        try:
            return self._pool.submit(context.run, run_sync, coroutine)
        except RuntimeError:
            # Closed, which the coroutine says better, or the interpreter is on its way out, when leases are still given
            # back: one after the other, by the caller's own thread.
            future: Future[T] = Future()
            _do(future, context, coroutine)
            return future

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False)


def beside(coroutines: tuple[Coroutine[Any, Any, T], ...]) -> list[T]:
    """Run all of them to their end, each but the last in a thread that is started for it; as `Fan.run` otherwise.

    The threads are daemons: those of a pool would be waited for when the process ends, and a handler that never
    returns would keep it alive.
    """
    futures: list[Future[T]] = []
    for each in coroutines[:-1]:
        future: Future[T] = Future()
        words = (future, copy_context(), each)
        threading.Thread(target=_do, args=words, name="gridsync-beside", daemon=True).start()
        futures.append(future)
    return _joined(futures, coroutines[-1:])


def _do(future: Future[T], context: Context, coroutine: Coroutine[Any, Any, T]) -> None:
    try:
        future.set_result(context.run(run_sync, coroutine))
    except BaseException as error:  # noqa: BLE001 - raised by who asks for the result
        future.set_exception(error)


def _joined(futures: list[Future[T]], mine: tuple[Coroutine[Any, Any, T], ...]) -> list[T]:
    try:
        last = [run_sync(each) for each in mine]
    finally:
        wait(futures)
    return [*(future.result() for future in futures), *last]
