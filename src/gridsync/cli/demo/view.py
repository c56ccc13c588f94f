"""How a run looks: live on a terminal, a line now and then elsewhere, one JSON object if asked for."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gridsync.cli.demo.children import FROZEN, KILLED

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from gridsync.cli.demo.children import Child
    from gridsync.cli.demo.report import Report
    from gridsync.cli.demo.run import Market

LINE_EVERY_S: Final = 2.0
NOTES_MAX: Final = 6
STYLES: Final = {KILLED: "red", FROZEN: "cyan"}


class Silent:
    """Shows nothing while it runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to end."""

    def update(self, market: Market) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def finish(self, report: Report) -> None:
        """Print the report as one JSON object."""
        print(json.dumps(report.facts(), ensure_ascii=False, indent=2))


class Plain(Silent):
    """Prints a line every two seconds and whenever something happens."""

    def __init__(self, console: Console) -> None:
        """Print to *console*."""
        self.console = console
        self._due = 0.0

    def update(self, market: Market) -> None:
        """Print where the market stands, if it is time."""
        if market.began and not market.ended and time.monotonic() >= self._due:
            self._due = time.monotonic() + LINE_EVERY_S
            self.note(
                f"{market.elapsed:4.0f} s  {market.moment}  {market.posted:,} orders, {market.denied:,} denied, "
                f"{market.settled} of {market.opened} quarters settled, {market.wh / 1000:,.0f} kWh traded"
            )

    def note(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def finish(self, report: Report) -> None:
        """Print the summary."""
        summary(self.console, report)


class Terminal(Plain):
    """Redraws a picture of the market."""

    def __init__(self, console: Console) -> None:
        """Draw on *console*."""
        super().__init__(console)
        self._notes: list[str] = []
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, market: Market) -> None:
        """Draw, at most ten times a second."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + 0.1
            self._live.update(picture(market, self._notes), refresh=True)

    def note(self, text: str) -> None:
        """Keep a line below the picture."""
        self._notes = [*self._notes, text][-NOTES_MAX:]


def picture(market: Market, notes: list[str]) -> Group:
    """Return what a terminal shows of a running market."""
    head = Text.assemble(("gridsync demo", "bold"), f"  on {market.server}")
    if not market.began:
        ready = sum(child.ready for child in market.children)
        return Group(head, Text(f"starting: {ready} of {len(market.children)} processes ready"))
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        Text(str(market.moment), "bold yellow"),
        ProgressBar(total=market.quarters, completed=market.settled, width=40),
        f"{market.settled} of {market.quarters} quarters settled",
    )
    processes = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("process", "pid", "state", "orders", "denied", "matched", "settled"):
        processes.add_column(title, justify="left" if title in ("process", "state") else "right")
    for child in market.children:
        processes.add_row(*_row(child), style=STYLES.get(child.state, ""))
    seconds = max(market.elapsed, 0.5)
    numbers = Text(
        f"{market.posted / seconds:,.0f} orders/s   {market.wh / 1000:,.1f} kWh for {market.nano_eur / 1e9:,.2f} €   "
        f"{market.denied:,} posts denied and come again   {market.again} deliveries repeated",
    )
    return Group(head, bar, Text(), processes, Text(), numbers, *(Text(note, "magenta") for note in notes))


def _row(child: Child) -> list[str]:
    facts = child.facts
    counts = [f"{facts[name]:,}" if name in facts else "" for name in ("total", "denied", "booked", "settled")]
    return [child.name, str(child.process.pid), child.state, *counts]


def summary(console: Console, report: Report) -> None:
    """Print what one run has to say."""

    def say(text: str = "", style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    counts, rates = report.counts, report.rates
    say()
    say(
        f"gridsync demo on {report.server}: {report.processes} processes, {report.seconds:g} s, seed {report.seed}",
        "bold",
    )
    say(
        f"{report.day}: {report.quarters} quarters, {counts['orders']:,} orders, "
        f"{counts['traded_wh'] / 1000:,.1f} kWh traded for {counts['traded_nano_eur'] / 1e9:,.2f} €"
    )
    say()
    say("  " + "   ".join(f"{rate:,} {name}/s" for name, rate in rates.items()))
    say(f"  {'latency':30} {'p50':>9} {'p99':>12}")
    for latency in report.latencies:
        say(f"  {latency.name:30} {latency.p50_ms:9.2f} ms {latency.p99_ms:9.2f} ms")
    say(f"  {counts['denied']:,} posts were denied, waited as told, and came again")
    for mishap in report.told:
        say(f"  {mishap}")
    if counts["redelivered"]:
        say(f"  {counts['redelivered']} deliveries came again after their effect was written, and it stayed one")
    say()
    for check in report.checks:
        mark, style = ("✓", "green") if check.kept else ("✗", "bold red")
        console.print(Text.assemble("  ", (mark, style), f" {check.name:36} {check.told}"), soft_wrap=True)
