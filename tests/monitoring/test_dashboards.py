"""The dashboards: they are what their script writes, and every query of every panel finds something."""

from __future__ import annotations

import json
import runpy
from typing import TYPE_CHECKING, Any

import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.monitoring.observatory import wait_for
from tests.monitoring.rules import MONITORING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.monitoring.conftest import World

FILES = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Every query of every panel, as Grafana would ask with everything chosen."""
    for file in FILES:
        for panel in panels(json.loads(file.read_text())):
            for target in panel["targets"]:
                yield f"{file.stem}: {panel['title']}", target["expr"]


def test_the_files_are_what_the_script_writes():
    """A change by hand would be lost with the next one of the script."""
    written = runpy.run_path(str(MONITORING / "dashboards.py"))["boards"]()
    assert {file.name: file.read_text() for file in FILES} == written, "run python docker/monitoring/dashboards.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_grafana_s_own_model_loses_nothing_of_a_dashboard(file: Path):
    """A misspelt name would be ignored by Grafana, and nobody would be told."""
    board = json.loads(file.read_text())
    assert plain(Dashboard.from_json(board).to_json()) == board
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == len(ids), "two panels at one place"


def plain(value: Any) -> Any:  # noqa: ANN401 - JSON, or a model of some of it
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return plain(value.to_json()) if hasattr(value, "to_json") else value


def test_every_query_of_every_panel_finds_something(world: World):
    """An empty panel is a metric that does not exist, a label that does not match, or a name that was changed."""
    left = {(where, query.replace("$__rate_interval", "1m").replace("$instance", ".*")) for where, query in queries()}
    assert len(left) > 80

    def all_found() -> bool:
        left.difference_update([each for each in left if world.eye.query(each[1])])
        return not left

    wait_for(all_found, lambda: f"these find nothing: {sorted(left)}; {world.load.errors}")
