"""Draw the benchmarks' figures: ``python -m docs._plots`` writes ``docs/benchmarks.svg``.

One bar for each other library in each row of ``benchmarks/results.json``: by how much ours is better, on a logarithmic
scale.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from benchmarks.pair import ROWS

ROOT = Path(__file__).parents[1]
PICTURE = Path(__file__).with_name("benchmarks.svg")
RESULTS = ROOT / "benchmarks" / "results.json"
LEFT, RIGHT, TOP, ROW, DECADE = 330, 64, 40, 18, 150
LEAST, MOST = 0.5, 1000.0
"""Where the scale begins and ends; what is beyond is drawn up to there, and its number says what it is."""
WHOLE = 10
"""From here on a number needs no decimals."""


class Bar(NamedTuple):
    """One comparison."""

    row: str
    peer: str
    times: float
    """How many times better ours is; below 1 the peer is."""


def bars() -> list[Bar]:
    """Return the comparisons with other libraries, in the table's order, where both figures are above 0."""
    file = json.loads(RESULTS.read_text(encoding="utf-8"))
    order = {name: number for number, name in enumerate(ROWS)}
    found = []
    for row in sorted(file["rows"], key=lambda row: order[row["name"]]):
        ours, peer = row["ours"], row["peer"]
        if row["peer_name"].partition(",")[0] in file["versions"] and min(ours, peer) > 0:
            found.append(Bar(row["name"], row["peer_name"], ours / peer if row["better"] == "higher" else peer / ours))
    return found


def _x(times: float) -> float:
    return LEFT + DECADE * (math.log10(min(MOST, max(LEAST, times))) - math.log10(LEAST))


def picture() -> str:
    """Return the drawing."""
    found = bars()
    width, height = _x(MOST) + RIGHT, TOP + len(found) * ROW + 12
    font = 'font-family="sans-serif" font-size="12" fill="#808080"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" {font}>',
        "<title>By how many times gridsync is better than each peer in each row of the benchmarks</title>",
    ]
    for times in (1, 10, 100, 1000):
        x = _x(times)
        weight = 1 if times == 1 else 0.3
        lines.append(f'<text x="{x:g}" y="{TOP - 18}" text-anchor="middle">{times:,} times</text>')
        lines.append(
            f'<line x1="{x:g}" y1="{TOP - 10}" x2="{x:g}" y2="{height}" stroke="#808080" stroke-opacity="{weight}"/>'
        )
    before = ""
    for number, bar in enumerate(found):
        y = TOP + number * ROW
        name = bar.row if bar.row != before else ""
        before = bar.row
        one, end = _x(1), _x(bar.times)
        colour = "#009485" if bar.times >= 1 else "#c2410c"
        lines.append(f'<text x="4" y="{y + 11}">{name}</text>')
        lines.append(f'<text x="{LEFT - 128}" y="{y + 11}">{bar.peer}</text>')
        lines.append(
            f'<rect x="{min(one, end):.1f}" y="{y + 2}" width="{max(1, abs(end - one)):.1f}" height="{ROW - 6}" '
            f'fill="{colour}"/>'
        )
        said = f"{bar.times:,.0f}" if bar.times >= WHOLE else f"{bar.times:.2g}"
        lines.append(f'<text x="{max(one, end) + 6:.1f}" y="{y + 11}">{said}</text>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
