"""How a figure is taken: rows, and the loops that count finished operations.

A measure is a plain function: it makes its client, proves that it works while warming up, counts for some seconds,
and closes everything.  It checks every reply, because an operation that fails fast is not fast.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
    from typing import Any

WARM_UP = 0.25
"""The part of the measured time that is spent before it: connections, script caches, the interpreter's own caches."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where to measure, and for how long."""

    host: str
    port: int
    seconds: float

    @property
    def url(self) -> str:
        """The server as a URL; everybody uses loopback TCP."""
        return f"redis://{self.host}:{self.port}"


Measure: TypeAlias = "Callable[[Bench], float]"
"""Takes one figure."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What ours is compared with."""

    package: str
    """The package on PyPI; in rows that compare gridsync with itself, what is different."""
    measure: Measure
    target: float | None = None
    """The ratio ours/peer that must be reached (for ``better="lower"``: not exceeded)."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure of ours that is not to be passed; every run of ours counts, beside whichever peer."""

    value: float
    worst: bool = False
    """Whether the worst run is judged, instead of the median."""


@dataclass(frozen=True, slots=True)
class Row:
    """One subject: ours, its peers if there are any, and its limits."""

    name: str
    unit: str
    ours: Measure
    peers: tuple[Peer, ...] = ()
    better: str = "higher"
    limits: tuple[Limit, ...] = ()


class WrongReplyError(AssertionError):
    """An operation did not do what it was measured for."""


def expect(reply: object, wanted: object) -> None:
    """Stop the run unless *reply* is what was *wanted*."""
    if reply != wanted:
        raise WrongReplyError(f"got {reply!r}, wanted {wanted!r}")


def aio(measure: Callable[[Bench], Coroutine[Any, Any, float]]) -> Measure:
    """Make a measure of an asyncio function; each one has an event loop of its own."""

    def run(bench: Bench) -> float:
        return asyncio.run(measure(bench))

    return run


class Together:
    """Figures that one event gives to all sides at once, such as a failover that everybody sees.

    Whoever asks for a figure that there is not yet makes the next event happen.
    """

    def __init__(self, happen: Callable[[Bench], Mapping[str, float]]) -> None:
        self._happen = happen
        self._figures: list[Mapping[str, float]] = []
        self._taken: Counter[str] = Counter()

    def side(self, name: str) -> Measure:
        """Return the measure of one side."""

        def run(bench: Bench) -> float:
            number = self._taken[name]
            self._taken[name] += 1
            if number == len(self._figures):
                self._figures.append(self._happen(bench))
            return self._figures[number][name]

        return run


class Alone:
    """Stop the run if two are inside at once: a lock that does not exclude is fast."""

    def __init__(self) -> None:
        self._inside = 0

    def __enter__(self) -> None:
        self._inside += 1
        expect(self._inside, 1)

    def __exit__(self, *_: object) -> None:
        self._inside -= 1


@contextmanager
def monitored(bench: Bench) -> Iterator[list[str]]:
    """Fill the list, when the block ends, with the commands that clients sent meanwhile.

    By MONITOR: INFO commandstats would also count what scripts call inside the server.
    """
    from redis import Redis  # noqa: PLC0415 - as the peers

    with Redis(host=bench.host, port=bench.port) as observer, observer.monitor() as monitor:
        sent: list[str] = []
        observer.echo("begin")
        yield sent
        observer.echo("end")
        seen = takewhile(lambda line: line["command"] != "ECHO end", monitor.listen())
        commands = [line["command"] for line in seen if line["client_type"] != "lua"]
        sent += commands[commands.index("ECHO begin") + 1 :]


Clock: TypeAlias = "Callable[[], float]"


async def pace_tasks(
    bench: Bench, operations: Sequence[Callable[[], Awaitable[None]]], clock: Clock = time.perf_counter
) -> float:
    """Repeat each operation in a task of its own; return finished operations a second of *clock*."""
    await _tasks(operations, bench.seconds * WARM_UP, clock)
    return await _tasks(operations, bench.seconds, clock)


async def _tasks(operations: Sequence[Callable[[], Awaitable[None]]], seconds: float, clock: Clock) -> float:
    running = True

    def stop() -> None:
        nonlocal running
        running = False

    async def work(operation: Callable[[], Awaitable[None]]) -> int:
        count = 0
        while running:
            await operation()
            count += 1
        return count

    asyncio.get_running_loop().call_later(seconds, stop)
    started = clock()
    counts = await asyncio.gather(*(work(operation) for operation in operations))
    return sum(counts) / (clock() - started)


def pace_threads(bench: Bench, operations: Sequence[Callable[[], None]]) -> float:
    """Repeat each operation in a thread of its own; return finished operations a second."""
    _threads(operations, bench.seconds * WARM_UP)
    return _threads(operations, bench.seconds)


def _threads(operations: Sequence[Callable[[], None]], seconds: float) -> float:
    running = True
    counts: list[int] = []
    failures: list[BaseException] = []

    def work(operation: Callable[[], None]) -> None:
        count = 0
        try:
            while running:
                operation()
                count += 1
        except BaseException as failure:  # noqa: BLE001 - raised again below, in the thread that reports
            failures.append(failure)
        counts.append(count)

    threads = [threading.Thread(target=work, args=(operation,)) for operation in operations]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    threads[0].join(seconds)
    running = False
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    if failures:
        raise failures[0]
    return sum(counts) / elapsed
