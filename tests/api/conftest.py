"""Sizes are reported, not failed."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

SOURCE = Path(__file__).parents[2] / "src"
PYTHON_LINES = 500
LUA_LINES = 40


def body_lines(path: Path) -> int:
    """Count the lines of a script below its contract header."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return sum(not line.lstrip().startswith(("--", "#!")) for line in lines)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter):
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    long = {path: lines for path, lines in sizes.items() if lines > PYTHON_LINES}
    long |= {path: lines for path in SOURCE.rglob("*.lua") if (lines := body_lines(path)) > LUA_LINES}
    say = terminalreporter.write_line
    say("")
    say(f"sizes: {len(sizes)} Python files, {sum(sizes.values())} lines, median {median(sizes.values()):g}")
    for path, lines in sorted(long.items(), key=lambda item: -item[1]):
        say(f"  {lines:5} lines: {path.relative_to(SOURCE)}: look for the second idea")
