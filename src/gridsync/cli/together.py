"""What `gridsync locks` tells of latches, barriers and periods: nobody holds them, but others wait for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import Category, Command, run_sync
from gridsync._io.keys import barrier, latch, once
from gridsync.cli._shared import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync.grid import Grid

KINDS: Final = ("latch", "barrier", "once")
_FIELDS = Command("HMGET", Category.READ, ("HMGET",))
_SIZE = Command("ZCARD", Category.READ, ("ZCARD",))


@dataclass(frozen=True, slots=True)
class LatchState:
    """What the server knows of a latch."""

    name: str
    count: int
    """What it starts from."""
    remaining: int
    """What must still be counted down; 0 once it is open."""
    waiting: int
    """How many wait, dead ones of the last ten seconds included."""

    @property
    def idle(self) -> bool:
        """Whether nobody need care."""
        return self.remaining == 0

    def __str__(self) -> str:
        state = f"{self.remaining} of {self.count} remain" if self.remaining else "open"
        return f"latch {shown(self.name)}: {state}, {self.waiting} wait"


@dataclass(frozen=True, slots=True)
class BarrierState:
    """What the server knows of a barrier."""

    name: str
    parties: int
    """How many it waits for; 0 if nobody has come yet."""
    generation: int
    """How often it opened or was reset."""
    broken: str
    """Why it is broken; empty if it is not."""
    waiting: int
    """How many are here, dead ones of the last ten seconds included."""

    @property
    def idle(self) -> bool:
        """Whether nobody need care."""
        return not self.waiting and not self.broken

    def __str__(self) -> str:
        state = f", broken: {shown(self.broken)}" if self.broken else ""
        here = f"{self.waiting} of {self.parties} parties are here"
        return f"barrier {shown(self.name)}: {here}, generation {self.generation}{state}"


@dataclass(frozen=True, slots=True)
class PeriodState:
    """What the server knows of what runs once per period."""

    name: str
    fence: int
    """The last run's; 0 if none is remembered."""
    taken: datetime | None
    """When it took its period, on the server's clock."""

    @property
    def idle(self) -> bool:
        """Whether no run is remembered."""
        return self.taken is None

    def __str__(self) -> str:
        taken = "no run is remembered"
        if self.taken is not None:
            taken = f"last run since {self.taken:%Y-%m-%d %H:%M:%S} UTC, fence {self.fence}"
        return f"once {shown(self.name)}: {taken}"


State = LatchState | BarrierState | PeriodState


def look(grid: Grid, kind: str, name: str) -> State:
    """Ask the server about one of `KINDS`."""
    match kind:
        case "latch":
            keys = latch(grid.namespace, name)
            count, remaining = _fields(grid, keys.state, "c", "n")
            return LatchState(name, int(count or 0), int(remaining or 0), _size(grid, keys.alive))
        case "barrier":
            place = barrier(grid.namespace, name)
            parties, generation, why = _fields(grid, place.state, "p", "g", "b")
            broken = "" if why is None else why.decode(errors="replace")
            return BarrierState(name, int(parties or 0), int(generation or 0), broken, _size(grid, place.here))
    (fence,) = _fields(grid, once(grid.namespace, name), "t")
    taken = None if fence is None else datetime.fromtimestamp(int(fence) / 1_000_000, UTC)
    return PeriodState(name, int(fence or 0), taken)


def _fields(grid: Grid, key: str, *fields: str) -> Sequence[Any]:
    found: Sequence[Any] = run_sync(grid._io.run(_FIELDS, (key,), fields))  # noqa: SLF001 - the command's own grid
    return found


def _size(grid: Grid, key: str) -> int:
    size: int = run_sync(grid._io.run(_SIZE, (key,)))  # noqa: SLF001 - the command's own grid
    return size
