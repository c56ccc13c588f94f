"""The scripts that draw pictures and make pages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def script(name: str) -> Any:  # noqa: ANN401 - a module
    """Load a script of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def timelines() -> Any:  # noqa: ANN401 - a module
    """What draws what each rule admits."""
    return script("_timelines")


@pytest.fixture
def plots() -> Any:  # noqa: ANN401 - a module
    """What draws the benchmarks' figures."""
    return script("_plots")


@pytest.fixture
def pages() -> Any:  # noqa: ANN401 - a module
    """What makes the pages that are written elsewhere."""
    return script("_pages")
