"""Who takes part: a neighbourhood made of real load profiles and real sunshine, and what it orders in a quarter.

``data/quarter_hours.csv`` (in the repository: ``examples/data``) has the shapes; its README tells where they come from.
Energy is in whole watt-hours, prices are in micro-euro per kWh.  Nothing here depends on time, place or process: the
same seed gives the same neighbourhood and the same orders.
"""

from __future__ import annotations

import csv
from calendar import month_name
from dataclasses import dataclass
from functools import cache
from importlib import resources
from random import Random
from typing import Final

from gridsync.cli.demo.events import OrderPlaced

CENT: Final = 10_000
"""Micro-euro."""
FIRST, LAST, NOON = 16, 88, 52
"""The quarters of a day in which the market is open: 04:00 to 22:00; a shorter run is centred on 13:00."""
SPARE: Final = 36
"""Quarters beyond those asked for, for a market that has to stay open longer."""
DAYS: Final = ("workday", "saturday", "sunday")

MIX: Final = {"h25": 50, "p25": 30, "s25": 20, "g25": 44, "l25": 36}
"""How many of each kind: households, with panels, with panels and storage, trade, farms."""
HOMES: Final = frozenset({"h25", "p25", "s25"})
YEARLY_KWH: Final = {"h25": (1800, 5200), "p25": (2800, 6000), "s25": (3000, 7000), "g25": (8000, 45_000),
                     "l25": (9000, 40_000)}  # fmt: skip
PANEL_M2: Final = {"h25": (0, 0), "p25": (18, 45), "s25": (25, 60), "g25": (0, 140), "l25": (40, 320)}


@dataclass(frozen=True, slots=True)
class Row:
    """One quarter of an hour of the table."""

    loads: dict[str, float]
    """Profile → kWh in this quarter for 1,000,000 kWh a year."""
    solar_w_m2: float


@dataclass(frozen=True, slots=True)
class Prosumer:
    """A building that uses energy and may have panels."""

    name: str
    profile: str
    yearly_kwh: float
    panel_m2: float
    efficiency: float
    ask: tuple[int, int]
    """What it wants at least for a kWh, from and to, in micro-euro."""
    bid: tuple[int, int]
    """What it pays at most for a kWh, from and to, in micro-euro."""

    def net_wh(self, row: Row) -> int:
        """Return what it lacks in this quarter (positive) or has left (negative), in Wh.

        The profiles of homes with panels (p25, s25) are what they take from the grid, their own use of the sun taken
        off already.  What they use themselves is then what a home without panels would have taken more.
        """
        load = row.loads[self.profile] * self.yearly_kwh / 1000
        solar = row.solar_w_m2 * self.panel_m2 * self.efficiency / 4
        if self.profile in ("p25", "s25"):
            used_at_home = max(0.0, row.loads["h25"] * self.yearly_kwh / 1000 - load)
            solar = max(0.0, solar - used_at_home)
        return round(load - solar)


@dataclass(frozen=True, slots=True)
class Moment:
    """One quarter of the market: its number in this run, and where in the year it lies."""

    number: int
    month: int
    day: str
    quarter: int

    def __str__(self) -> str:
        """Say it as people do: ``June, workday, 13:45``."""
        return f"{month_name[self.month]}, {self.day}, {self.quarter // 4:02}:{self.quarter % 4 * 15:02}"


@cache
def table() -> dict[tuple[int, str, int], Row]:
    """Return the table: (month, day, quarter) → row."""
    text = resources.files("gridsync.cli.demo").joinpath("data", "quarter_hours.csv").read_text(encoding="utf-8")
    return {
        (int(line["month"]), line["day"], int(line["quarter"])): Row(
            {profile: float(line[profile]) for profile in MIX}, float(line["solar_w_m2"])
        )
        for line in csv.DictReader(text.splitlines())
    }


def neighbourhood(seed: int) -> list[Prosumer]:
    """Return all prosumers of a seed."""
    random = Random(f"neighbourhood {seed}")
    prosumers = []
    for profile, count in MIX.items():
        for number in range(count):
            low, high = random.randint(5 * CENT, 11 * CENT), random.randint(24 * CENT, 36 * CENT)
            middle = random.randint(12 * CENT, 20 * CENT)
            prosumers.append(
                Prosumer(
                    name=f"{profile}-{number:02}",
                    profile=profile,
                    yearly_kwh=random.uniform(*YEARLY_KWH[profile]),
                    panel_m2=random.uniform(*PANEL_M2[profile]),
                    efficiency=random.uniform(0.17, 0.22),
                    ask=(low, middle),
                    bid=(middle, high),
                )
            )
    return prosumers


def days(seed: int, count: int) -> list[Moment]:
    """Return *count* quarters and `SPARE` more: one day's hours around noon, and the next days after them."""
    random = Random(f"calendar {seed}")
    month, day = random.randint(1, 12), random.randint(0, 6)
    first = max(FIRST, NOON - count // 2)
    moments = []
    for number in range(count + SPARE):
        later, quarter = divmod(first - FIRST + number, LAST - FIRST)
        kind = DAYS[max(0, (day + later) % 7 - 4)]
        moments.append(Moment(number, month, kind, FIRST + quarter))
    return moments


def order(prosumer: Prosumer, moment: Moment, seed: int) -> OrderPlaced | None:
    """Return what *prosumer* orders for that quarter; ``None`` if it needs nothing and has nothing left."""
    wh = prosumer.net_wh(table()[moment.month, moment.day, moment.quarter])
    if wh == 0:
        return None
    random = Random(f"{seed} {prosumer.name} {moment.number}")
    return OrderPlaced(
        order=f"{prosumer.name}@{moment.number:04}",
        prosumer=prosumer.name,
        quarter=moment.number,
        side="buy" if wh > 0 else "sell",
        wh=abs(wh),
        limit=random.randint(*(prosumer.bid if wh > 0 else prosumer.ask)),
    )
