"""The script that draws the timelines."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "_timelines.py"


@pytest.fixture
def timelines() -> Any:  # noqa: ANN401 - a module
    """It, as a module."""
    spec = importlib.util.spec_from_file_location("timelines", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
