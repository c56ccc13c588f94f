"""Draw what each rule admits of the same calls: ``python docs/_timelines.py`` writes ``docs/limits-timelines.svg``.

The shipped scripts decide, on the simulation's server, whose clock stands where it is put.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridsync._io import run_sync
from gridsync._io.clock import Tokens
from gridsync.limits import GCRA, ApproxWindow, Concurrency, FixedWindow, Rate
from gridsync.limits._algorithms import algorithm
from gridsync.testing.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import Operation
    from gridsync.limits import Rule

PICTURE = Path(__file__).with_name("limits-timelines.svg")
START_US = 1_800_000_000_000_000
LIMIT, WINDOW_S, END_S, RUNS_S = 4, 10, 30, 3
CALLS = [0.0, *(8 + number / 2 for number in range(2 * (END_S - 8) + 1))]
"""One call, a pause, and then one every half second."""
RULES: dict[str, Rule] = {
    "SlidingWindow": Rate(LIMIT, WINDOW_S),
    "GCRA, burst 4": GCRA(LIMIT, WINDOW_S, burst=LIMIT),
    "FixedWindow": FixedWindow(LIMIT, WINDOW_S),
    "ApproxWindow": ApproxWindow(LIMIT, WINDOW_S),
    "Concurrency, 3 s each": Concurrency(LIMIT, WINDOW_S),
}
LEFT, RIGHT, TOP, ROW, SCALE = 170, 100, 26, 34, 15


class Standing:
    """What an algorithm asks, on a server whose time is set."""

    def __init__(self) -> None:
        self.second = 0.0
        self.token = Tokens()
        self._engine = Engine(lambda: START_US + round(self.second * 1_000_000))

    async def run(self, operation: Operation, keys: Sequence[str], args: Sequence[Any], **_: object) -> Any:  # noqa: ANN401
        """Run it."""
        script, keys, args = operation.whole(keys, args)
        self._engine.execute("SCRIPT", "LOAD", script.source)  # type: ignore[union-attr]
        return self._engine.execute(*script.words(keys, args))


def admitted(rule: Rule) -> list[bool]:
    """Return which of the calls a rule admits; slots are given back when the call ends."""
    io: Any = Standing()
    limiter = algorithm(io, "docs", "timeline", [rule], timeout=None)
    running: list[tuple[float, str]] = []
    answers = []
    for second in CALLS:
        io.second = second
        if isinstance(rule, Concurrency):
            for end, hit in running:
                if end <= second:
                    run_sync(limiter.refund("member-7", hit, 1))
        (retry_us, *_), hit = run_sync(limiter.hit("member-7", 1))
        running.append((second + RUNS_S, hit))
        answers.append(retry_us == 0)
    return answers


def fullest(answers: Sequence[bool]) -> int:
    """Return how many were admitted in the fullest window."""
    times = [second for second, answer in zip(CALLS, answers, strict=True) if answer]
    return max(sum(end - WINDOW_S < second <= end for second in times) for end in times)


def picture() -> str:
    """Return the drawing."""
    width, height = LEFT + END_S * SCALE + RIGHT, TOP + len(RULES) * ROW + 24
    font = 'font-family="sans-serif" font-size="12" fill="#808080"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {font}>',
        "<title>The same calls to five rules: filled dots were admitted, rings were denied</title>",
        f'<text x="{width - RIGHT + 14}" y="14">fullest 10 s</text>',
    ]
    bottom = height - 22
    for second in range(0, END_S + 1, 5):
        x = LEFT + second * SCALE
        lines.append(f'<line x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{bottom}" stroke="#808080" stroke-opacity="0.3"/>')
        lines.append(f'<text x="{x}" y="{height - 6}" text-anchor="middle">{second} s</text>')
    for row, (name, rule) in enumerate(RULES.items()):
        y = TOP + row * ROW + ROW // 2
        answers = admitted(rule)
        lines.append(f'<text x="4" y="{y + 4}">{name}</text>')
        for second, answer in zip(CALLS, answers, strict=True):
            look = 'fill="#009485"' if answer else 'fill="none" stroke="#808080" stroke-opacity="0.6"'
            lines.append(f'<circle cx="{LEFT + second * SCALE:g}" cy="{y}" r="{4 if answer else 3}" {look}/>')
        lines.append(f'<text x="{width - RIGHT + 14}" y="{y + 4}">{fullest(answers)}</text>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
