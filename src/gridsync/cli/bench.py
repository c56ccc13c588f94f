"""`gridsync bench`: how much gridsync does in a second with this server, from this machine.

Every row calls one thing for a time, as fast as it goes: alone in one thread, or from many asyncio tasks.  It is a look
at a server and at the way to it; `make bench` compares with other libraries.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import asdict, dataclass
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from gridsync.cache import Space
from gridsync.cli._shared import DONE, Scan, asking, open_grid, place_of, plain_errors, print_json
from gridsync.grid import AsyncGrid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gridsync.grid import Grid

_KEYS: Final = 100
"""How many names one thread goes through in turn; of tasks each has one of its own."""
_SAMPLES_MAX: Final = 100_000
"""How many calls of a row are timed one by one: its first ones."""


class Counted(BaseModel):
    """The event that is appended."""

    number: int


@dataclass(frozen=True, slots=True)
class Row:
    """What one thing came to."""

    what: str
    how: str
    per_second: float
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return f"{self.what:<16}{self.how:<16}{self.per_second:>12,.0f}{self.p50_ms:>10.2f}{self.p99_ms:>10.2f}"


def command(*, url: str | None, seconds: float, tasks: int, as_json: bool) -> int:
    """Measure, print, and delete every key that was written; returns 0, or 2 if the server cannot be asked."""
    with asking() as outcome, open_grid(url, f"gridsync-bench-{secrets.token_hex(4)}", audit=False) as grid:
        try:
            with plain_errors():
                rows = _rows(grid, seconds, tasks)
        finally:
            _sweep(grid)
        if as_json:
            print_json(
                {"server": place_of(grid.settings.redis_url), "seconds": seconds, "rows": list(map(asdict, rows))}
            )
        else:
            print(f"{place_of(grid.settings.redis_url)}, {seconds:g} s each")
            print(f"{'':<32}{'per second':>12}{'p50 ms':>10}{'p99 ms':>10}", *rows, sep="\n")
        outcome.append(DONE)
    return outcome[0]


def _rows(grid: Grid, seconds: float, tasks: int) -> list[Row]:
    def lock(name: int) -> None:
        grid.lock(f"job-{name}", ttl=10).acquire().release()

    calls = {"lock, unlock": lock, **_calls(grid)}
    alone = {what: _alone(what, call, seconds) for what, call in calls.items()}
    together = asyncio.run(_together(grid, seconds, tasks))
    return [row for what in calls for row in (alone[what], together[what])]


def _calls(grid: Any) -> dict[str, Callable[[int], Any]]:  # noqa: ANN401 - a grid of either kind
    limiter = grid.limiter("bench", "1000000/second")
    store = grid.events("bench", Counted)
    cache = grid.cache(Space("bench", int, ttl=600))
    return {
        "limiter hit": lambda name: limiter.hit(f"key-{name}"),
        "event append": lambda name: store.append(f"stream-{name}", Counted(number=name)),
        "cache read": lambda name: cache.get(f"key-{name}"),
    }


def _alone(what: str, call: Callable[[int], Any], seconds: float) -> Row:
    taken: list[float] = []
    call(0)  # a script's first use loads it
    count, begun = 0, perf_counter()
    while not count or perf_counter() < begun + seconds:
        now = perf_counter()
        call(count % _KEYS)
        count += 1
        if count <= _SAMPLES_MAX:
            taken.append(perf_counter() - now)
    return _row(what, "1 thread", count, perf_counter() - begun, taken)


async def _together(grid: Grid, seconds: float, tasks: int) -> dict[str, Row]:
    where = None if grid.embedded is None else grid.embedded.url
    settings = grid.settings if where is None else grid.settings.model_copy(update={"redis_url": where})
    async with AsyncGrid(settings=settings, audit=False) as same:

        async def lock(name: int) -> None:
            lease = await same.lock(f"job-{name}", ttl=10).acquire()
            await lease.release()

        calls = {"lock, unlock": lock, **_calls(same)}
        return {what: await _of_tasks(what, call, seconds, tasks) for what, call in calls.items()}


async def _of_tasks(what: str, call: Callable[[int], Any], seconds: float, tasks: int) -> Row:
    taken: list[float] = []
    count = 0
    await call(0)
    begun = perf_counter()

    async def work(name: int) -> None:
        nonlocal count
        again = True
        while again:
            now = perf_counter()
            await call(name)
            count += 1
            if count <= _SAMPLES_MAX:
                taken.append(perf_counter() - now)
            again = perf_counter() < begun + seconds

    # Not a task group: what stops one of them is told as it is.
    await asyncio.gather(*map(work, range(tasks)))
    return _row(what, f"{tasks} tasks", count, perf_counter() - begun, taken)


def _row(what: str, how: str, count: int, spent: float, taken: Iterable[float]) -> Row:
    ordered = sorted(taken)
    p50, p99 = (round(ordered[int(len(ordered) * share)] * 1000, 3) for share in (0.5, 0.99))
    return Row(what, how, round(count / spent, 1), p50, p99)


def _sweep(grid: Grid) -> None:
    if grid.embedded is not None:
        return  # the server goes with its grid
    for key in Scan(grid, f"{{{grid.namespace}:*", inf):
        grid.client.unlink(key)
