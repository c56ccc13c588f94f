"""The worked timelines: each row is played to the shipped scripts, and answers what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import run_sync
from gridsync.limits import GCRA, ApproxWindow, Concurrency, FixedWindow, Rate
from gridsync.limits._algorithms import algorithm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.limits import Rule

TABLES: dict[str, tuple[str, str, Rule]] = {
    "window": ("limits.md", "## How it works", Rate(3, 10)),
    "bucket": ("choosing-a-limiter.md", "## Bucket", GCRA(4, 10, burst=4)),
    "fixed": ("choosing-a-limiter.md", "## Fixed windows", FixedWindow(4, 10)),
    "approx": ("choosing-a-limiter.md", "## Two counters", ApproxWindow(4, 10)),
    "slots": ("choosing-a-limiter.md", "## Slots", Concurrency(2, ttl_s=30)),
}
_CALL = re.compile(
    r"`(?P<what>hit|peek|reserve|refund)(?:\((?:cost=(?P<cost>\d+))?(?:max_wait=(?P<wait>\d+))?\))?`"
    r"(?:(?:,| of) (?P<name>\w))?"
)


def rows(page: str, section: str) -> Iterator[tuple[float, re.Match[str], str]]:
    """Yield second, call and answer of each row of a section's first table."""
    text = Path("docs", page).read_text(encoding="utf-8").split(f"\n{section}\n")[1]
    table = re.search(r"^\| second \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None
    for line in table[1].splitlines():
        second, call, _, answer = (cell.strip() for cell in line.strip("|").split("|"))
        found = _CALL.fullmatch(call)
        assert found is not None, call
        yield float(second), found, answer


@pytest.mark.parametrize("table", TABLES)
def test_a_worked_timeline_is_what_the_scripts_answer(timelines: Any, table: str):  # noqa: ANN401 - a script of the docs
    """Whoever checks his own understanding by a table is not misled."""
    page, section, rule = TABLES[table]
    io = timelines.Standing()
    io.read = io.run
    limiter = algorithm(io, "docs", table, [rule], timeout=None)
    hits: dict[str, tuple[str, str, int]] = {}
    checked = 0
    for second, call, answer in rows(page, section):
        io.second = second
        where, cost = f"{section} {second} {call[0]}", int(call["cost"] or 1)
        if call["what"] == "refund":
            given = run_sync(limiter.refund(*hits[call["name"]]))
            assert answer.startswith("true" if given else "false"), where
            continue
        delay_us = 0
        if call["what"] == "peek":
            verdict = run_sync(limiter.peek("k", cost))
        elif call["what"] == "reserve":
            verdict, _, delay_us = run_sync(limiter.reserve("k", cost, int(call["wait"]) * 1_000_000))
        else:
            verdict, hit = run_sync(limiter.hit("k", cost))
            hits[call["name"]] = ("k", hit, cost)
        assert delay_us / 1e6 == float(said[1] if (said := re.search(r"`delay` ([\d.]+)", answer)) else 0), where
        if answer.startswith("denied"):
            assert verdict[0] != 0, where
            told = re.search(r"`retry_after` (`None`|[\d.]+)", answer)
            assert told is not None, where
            assert verdict[0] == (-1 if told[1] == "`None`" else round(float(told[1]) * 1e6)), where
        else:
            assert verdict[0] == 0, where
        if left := re.search(r"(\d+) remaining", answer):
            assert verdict[1] == int(left[1]), where
            checked += 1
    assert checked >= 2, "and the table says something"
