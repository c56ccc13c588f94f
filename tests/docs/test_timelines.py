"""The drawing in *Choosing a limiter* is what the shipped scripts decide."""

from __future__ import annotations

from typing import Any


def test_the_drawing_is_up_to_date(timelines: Any):  # noqa: ANN401
    """Draw it anew with ``python docs/_timelines.py``."""
    assert timelines.PICTURE.read_text(encoding="utf-8") == timelines.picture()


def test_the_drawing_shows_what_each_rule_promises(timelines: Any):  # noqa: ANN401
    held = {name: timelines.fullest(timelines.admitted(rule)) for name, rule in timelines.RULES.items()}
    assert held["SlidingWindow"] == 4
    assert held["GCRA, burst 4"] == 7
    assert held["FixedWindow"] == 7
    assert held["ApproxWindow"] == 6
