"""The drawing in *Choosing a limiter* is what the shipped scripts decide."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "_timelines.py"


@pytest.fixture
def timelines() -> Any:  # noqa: ANN401 - a module
    spec = importlib.util.spec_from_file_location("timelines", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_drawing_is_up_to_date(timelines: Any):  # noqa: ANN401
    """Draw it anew with ``python docs/_timelines.py``."""
    assert timelines.PICTURE.read_text(encoding="utf-8") == timelines.picture()


def test_the_drawing_shows_what_each_rule_promises(timelines: Any):  # noqa: ANN401
    held = {name: timelines.fullest(timelines.admitted(rule)) for name, rule in timelines.RULES.items()}
    assert held["SlidingWindow"] == 4
    assert held["GCRA, burst 4"] == 7
    assert held["FixedWindow"] == 7
    assert held["ApproxWindow"] == 6
