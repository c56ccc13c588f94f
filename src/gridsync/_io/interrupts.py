"""SIGTERM and SIGINT: whoever runs until it is stopped is told of the first one, and of the second."""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def heeded(first: Callable[[], object], second: Callable[[], object]) -> Iterator[None]:
    """Call *first* at the first signal to end and *second* at every later one, until the block is left.

    Outside the main thread nothing is changed: signals are none of its business.  In a running event loop both are
    called there, else between two instructions of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told = 0

    def tell(*_: Any) -> None:  # noqa: ANN401 - a signal handler's arguments, or none
        nonlocal told
        told += 1
        (first if told == 1 else second)()

    before = {number: signal.getsignal(number) for number in SIGNALS}
    loop = _loop()
    for number in SIGNALS:
        if loop is None:
            signal.signal(number, tell)
        else:
            loop.add_signal_handler(number, tell)
    try:
        yield
    finally:
        for number, handler in before.items():
            if loop is not None:
                loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Workers:
    """Threads that work side by side while the caller's own thread waits for them, or for a word to wait no longer."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._changed = threading.Condition(threading.RLock())
        self._left = 0
        self._hurried = False

    def hurry(self) -> None:
        """Let `run` return although threads are still at work; from any thread, and from a signal handler."""
        self._hurried = True
        with self._changed:
            self._changed.notify_all()

    @property
    def hurried(self) -> bool:
        """Whether `hurry` was called."""
        return self._hurried

    def run(self, calls: Sequence[Callable[[], object]]) -> None:
        """Run each call in a thread of its own; what they raise is theirs to keep.

        The threads are daemons: one that is still at work when this returns does not keep the process alive.
        """
        self._left = len(calls)
        for number, call in enumerate(calls):
            threading.Thread(target=self._work, args=(call,), name=f"gridsync-consumer-{number}", daemon=True).start()
        with self._changed:
            # Bounded, for where a signal does not end a wait.
            while self._left and not self._hurried:
                self._changed.wait(1.0)

    def _work(self, call: Callable[[], object]) -> None:
        try:
            call()
        finally:
            with self._changed:
                self._left -= 1
                self._changed.notify_all()
