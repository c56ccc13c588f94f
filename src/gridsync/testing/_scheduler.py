"""A scheduler of its own: coroutines, a virtual clock in microseconds, and a seed that decides who runs next.

Time stands still while anything can run, and then jumps to the next timer: a minute of leases takes milliseconds.
There is no event loop underneath, so nothing but the seed decides the order.
"""

from __future__ import annotations

import asyncio
import heapq
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine, Generator

T = TypeVar("T")
STEPS_MAX = 100_000
"""How many steps may be taken at one moment before the run counts as stuck."""


class Promise(Generic[T]):
    """A value that is not there yet; awaiting it is the only way in which a simulated task stops."""

    __slots__ = ("_callbacks", "_error", "_value", "done")

    def __init__(self) -> None:
        """Start open."""
        self.done: bool = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []

    def set(self, value: T) -> None:
        """Fulfil it; a second time changes nothing."""
        if not self.done:
            self._value = value
            self._settle()

    def fail(self, error: BaseException) -> None:
        """Let whoever awaits it see *error*."""
        if not self.done:
            self._error = error
            self._settle()

    def _settle(self) -> None:
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call *callback* when it is settled, at once if it is."""
        if self.done:
            callback()
        else:
            self._callbacks.append(callback)

    def result(self) -> T:
        """Return the value or raise the error."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value] # done, so it is a T

    def __await__(self) -> Generator[Promise[Any], None, T]:
        """Stop until it is settled."""
        if not self.done:
            yield self
        return self.result()


class Timer:
    """A call that will happen, unless it is cancelled."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        """Remember the call."""
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Let it not happen."""
        self.call = None


class Host:
    """Where tasks live: a simulated process, which can freeze and die."""

    def __init__(self, name: str) -> None:
        """Start alive."""
        self.name = name
        self.alive = True
        self.frozen = False
        self._kept_back: list[Task] = []

    def hold(self, task: Task) -> None:
        """Keep a runnable task for when the process goes on."""
        self._kept_back.append(task)

    def release(self) -> list[Task]:
        """Return what was kept back."""
        kept, self._kept_back = self._kept_back, []
        return kept


class Task:
    """One coroutine on its way."""

    def __init__(self, scheduler: Scheduler, host: Host, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        """Use `Scheduler.start` instead."""
        self.host = host
        self.name = name
        self.finished: Promise[Any] = Promise()
        self.cancelled: bool = False
        self.error: BaseException | None = None
        self.steps: int = 0
        self._scheduler = scheduler
        self._coroutine = coroutine
        self._context = copy_context()
        self._awaited: Promise[Any] | None = None
        self._cancel = False
        self._cancel_at: int | None = None

    @property
    def done(self) -> bool:
        """Whether it has returned, raised or been cancelled."""
        return self.finished.done

    def cancel(self, *, at_step: int | None = None) -> None:
        """Raise ``CancelledError`` where it waits, now or when it has been resumed *at_step* times."""
        if at_step is not None:
            self._cancel_at = at_step
        elif not self.done:
            self._cancel = True
            if self._awaited is not None:
                self._awaited = None
                self._scheduler.make_runnable(self)

    def step(self) -> None:
        """Run until it waits or ends."""
        self._awaited = None
        try:
            if self._cancel:
                self._cancel = False
                awaited = self._context.run(self._coroutine.throw, asyncio.CancelledError())
            else:
                awaited = self._context.run(self._coroutine.send, None)
        except StopIteration as stop:
            self.finished.set(stop.value)
        except asyncio.CancelledError as error:
            self.cancelled = True
            self.finished.fail(error)
        except Exception as error:  # noqa: BLE001 - whoever waits for the task sees it, or the simulation
            self.error = error
            self.finished.fail(error)
        else:
            self.steps += 1
            self._wait_for(awaited)

    def _wait_for(self, awaited: Any) -> None:  # noqa: ANN401 - a wrong awaitable can be anything
        if not isinstance(awaited, Promise):
            self._coroutine.close()
            self.error = TypeError(f"{self.name} awaited {awaited!r}, which is not of this simulation: ask the io")
            self.finished.fail(self.error)
            return
        self._awaited = awaited
        if self._cancel_at is not None and self.steps >= self._cancel_at:
            self._cancel_at = None
            self._cancel = True
        if self._cancel:
            self._awaited = None
            self._scheduler.make_runnable(self)
            return
        awaited.when_done(lambda: self._resume(awaited))

    def _resume(self, awaited: Promise[Any]) -> None:
        if self._awaited is awaited:
            self._awaited = None
            self._scheduler.make_runnable(self)

    def close(self) -> None:
        """Drop it where it stands."""
        self._coroutine.close()


class Stuck(AssertionError):
    """The simulated program spins without letting time pass."""


class Scheduler:
    """Who runs, and when."""

    def __init__(self, random: random.Random) -> None:
        """Start at zero microseconds."""
        self.now_us: int = 0
        self.tasks: list[Task] = []
        self.running: Task
        """The task whose step is being taken, or was last."""
        self._random = random
        self._runnable: list[Task] = []
        self._timers: list[tuple[int, int, Timer]] = []
        self._count = 0
        self._steps_now = 0

    def start(self, host: Host, coroutine: Coroutine[Any, Any, Any], name: str) -> Task:
        """Make a task of *coroutine*."""
        task = Task(self, host, coroutine, name)
        self.tasks.append(task)
        self.make_runnable(task)
        return task

    def at(self, when_us: int, call: Callable[[], None]) -> Timer:
        """Call *call* at a moment, at once if that has passed."""
        timer = Timer(call)
        self._count += 1
        heapq.heappush(self._timers, (max(when_us, self.now_us), self._count, timer))
        return timer

    def make_runnable(self, task: Task) -> None:
        """Let *task* take its next step when its turn comes."""
        if not task.host.alive or task.done:
            return
        if task.host.frozen:
            task.host.hold(task)
        else:
            self._runnable.append(task)

    def thaw(self, host: Host) -> None:
        """Let the tasks of a frozen process go on."""
        host.frozen = False
        for task in host.release():
            self.make_runnable(task)

    def run(self, until_us: int) -> None:
        """Run until nothing can happen any more, at most to *until_us*."""
        while True:
            if self._runnable:
                self._steps_now += 1
                if self._steps_now > STEPS_MAX:
                    names = sorted({task.name for task in self._runnable})
                    raise Stuck(f"{STEPS_MAX} steps without time passing: {', '.join(names)}")
                self._one_step()
                continue
            if not self._timers or self._timers[0][0] > until_us:
                return
            when, _count, timer = heapq.heappop(self._timers)
            if timer.call is None:
                continue
            if when > self.now_us:
                self.now_us = when
                self._steps_now = 0
            timer.call()

    def _one_step(self) -> None:
        runnable = self._runnable
        place = self._random.randrange(len(runnable)) if len(runnable) > 1 else 0
        task = runnable[place]
        runnable[place] = runnable[-1]
        runnable.pop()
        if not task.host.alive or task.done:
            return
        if task.host.frozen:
            task.host.hold(task)
        else:
            self.running = task
            task.step()

    async def wait(self, promise: Promise[Any], until_us: int) -> bool:
        """Wait until *promise* is settled or the moment comes; true if it is settled."""
        if promise.done:
            return True
        gate: Promise[None] = Promise()
        promise.when_done(lambda: gate.set(None))
        timer = self.at(until_us, lambda: gate.set(None))
        try:
            await gate
        finally:
            timer.cancel()
        return promise.done

    def close(self) -> None:
        """Drop all tasks, oldest first."""
        for task in self.tasks:
            task.host.alive = False
        for task in self.tasks:
            task.close()
