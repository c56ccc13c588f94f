"""Draw what `gridsync top` and `gridsync doctor` show: ``python docs/_top.py`` writes ``top.svg`` and ``doctor.svg``.

Both look at a private server on which a few things are held, used and consumed, and draw what they would show of it.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from gridsync import Grid
from gridsync.cache import Space
from gridsync.cli.doctor import examine
from gridsync.cli.top.model import Model
from gridsync.cli.top.state import State, pressed
from gridsync.cli.top.view import screen

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gridsync.cli.top.model import Snapshot


class Placed(BaseModel):
    """An order."""

    kwh: float


HERE = Path(__file__).parent
SIZE = (112, 20)
FINDINGS = 24
"""Lines of the doctor's report that are drawn."""


def drawn(title: str, what: RenderableType) -> str:
    """Return *what* as a picture of a terminal that loads nothing from elsewhere."""
    console = Console(record=True, width=SIZE[0], file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(what)
    picture = console.export_svg(title=title, theme=MONOKAI, unique_id=title.replace(" ", "-"))
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


def busy(grid: Grid, held: ExitStack) -> None:
    """Hold, use and publish something."""
    for name, note in (("invoices:2026-11", "month end"), ("settle:42", "quarter 42"), ("import", "meter readings")):
        held.enter_context(grid.lock(name, ttl=30, note=note))
    held.enter_context(grid.semaphore("exports", 3, ttl=30))
    held.enter_context(grid.rwlock("tariffs", ttl=30).read)
    for number in range(40):
        grid.limiter("api", "100/minute").hit(f"customer-{number % 7}")
        grid.cache(Space("prices", int, ttl=60)).set(f"2026-11-{number}", number)
    store = grid.events("orders", Placed)
    for number in range(12):
        store.append(f"order-{number}", Placed(kwh=number))
    store.group("billing").consume(lambda _: None, idle_stop=0)
    store.append("order-13", Placed(kwh=13))


def watched(grid: Grid) -> Snapshot:
    """Return what is seen after two looks, between which rates are counted."""
    model = Model(grid)
    model.refresh()
    time.sleep(1)
    return model.refresh()


def main() -> None:
    """Write the pictures."""
    with Grid("embedded://") as grid, ExitStack() as held:
        busy(grid, held)
        snapshot = watched(grid)
        ids = [row.id for row in snapshot.locks]
        state = pressed(State(), "down", ids)
        (HERE / "top.svg").write_text(drawn("gridsync top", screen(snapshot, state, "", SIZE)), encoding="utf-8")
        # The first line is where the private server is found, and nobody else's business.
        lines = ["localhost:6379", *str(examine(grid, grid.settings, 10)).splitlines()[1:FINDINGS]]
        (HERE / "doctor.svg").write_text(drawn("gridsync doctor", Text("\n".join(lines))), encoding="utf-8")


if __name__ == "__main__":
    main()
