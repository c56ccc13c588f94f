"""Run the demo and show it: ``python -m docs._demo`` writes ``demo.txt`` and ``demo.svg``, and the README's report.

All three are of the same run, on whatever machine this is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rich.text import Text

from docs._top import HERE, drawn

README = HERE.parent / "README.md"
FIRST = "gridsync demo on "


def report(said: str) -> str:
    """Return the report at the end of what the demo said."""
    return said[said.index(f"\n{FIRST}") + 1 :]


def quoted(readme: str) -> tuple[int, int]:
    """Return where the README has the report."""
    begin = readme.index(FIRST)
    return begin, readme.index("```", begin)


def main() -> None:
    """Run it."""
    command = [str(Path(sys.executable).parent / "gridsync"), "demo"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own program
    (HERE / "demo.txt").write_text(said, encoding="utf-8")
    picture = Text(said.strip())
    picture.highlight_regex("✓.*", "green")
    picture.highlight_regex(".*SIG(KILL|STOP).*", "yellow")
    (HERE / "demo.svg").write_text(drawn("make demo", picture), encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    begin, end = quoted(readme)
    README.write_text(readme[:begin] + report(said) + readme[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
