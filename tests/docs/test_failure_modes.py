"""Every fault on the page has a picture, a row in the table, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path("docs/failure-modes.md").read_text(encoding="utf-8")
HEAD, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_a_fault_is_drawn_listed_and_shown(section: str):
    """Whoever doubts a line can run the test, and whoever renames the test finds the line."""
    title = section.splitlines()[0]
    assert "sequenceDiagram" in section
    assert f"(#{title.lower().replace(' ', '-')})" in HEAD
    shown = re.findall(r"`(tests/[^`]+)::(\w+)`", section.rpartition("Shown by")[2])
    assert shown
    for file, name in shown:
        assert f"def {name}(" in Path(file).read_text(encoding="utf-8")


def test_every_row_leads_to_a_fault():
    titles = {section.splitlines()[0].lower().replace(" ", "-") for section in SECTIONS}
    assert set(re.findall(r"^\| \[[^]]+\]\(#([^)]+)\)", HEAD, flags=re.MULTILINE)) == titles
