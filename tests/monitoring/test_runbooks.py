"""The runbooks and the page about monitoring: every alert has a chapter, and what they tell to do can be done."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
import typer
from prometheus_client import CollectorRegistry

from gridsync import Grid
from gridsync.cli._app import app
from gridsync.contrib.prometheus import GridCollector, StoreCollector
from tests.monitoring.rules import MONITORING, alerts
from tests.streams.models import Placed

if TYPE_CHECKING:
    from pathlib import Path

    from gridsync.testing.servers import RedisServer
    from tests.monitoring.rules import Alert

DOCS: Final = MONITORING.parents[1] / "docs"
PAGES: Final = sorted((DOCS / "runbooks").glob("*.md"))
MINE: Final = [page for page in PAGES if page.stem in {alert.runbook[0].split("/")[1][:-3] for alert in alerts()}]
ELSEWHERE: Final = {"Redis", "gridsync", "Targets"}
"""What is set in italics beside rows and panels: the dashboards, and a page of Prometheus."""


def chapters(page: Path) -> dict[str, str]:
    """Return what stands under each heading, by its anchor."""
    parts = re.split(r"(?m)^##+ (.*)$", page.read_text(encoding="utf-8"))
    anchors = [re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in parts[1::2]]
    return dict(zip(anchors, parts[2::2], strict=True))


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_has_a_chapter_that_names_it_and_tells_what_to_do(alert: Alert):
    page, anchor = alert.runbook
    found = chapters(DOCS / page)
    assert anchor in found, f"{page} has {sorted(found)}"
    assert f"`{alert.name}`" in found[anchor]
    for part in ("**Do.**", "**Over when**"):
        assert part in found[anchor]
    row = re.search(
        rf"\| `{alert.name}` \| (\w+) \| ([\w ]+) \| \[.*\]\({page}#{anchor}\) \|", (DOCS / "monitoring.md").read_text()
    )
    assert row, "it is not in the table of docs/monitoring.md"
    assert f"severity: {row[1]} " in alert.text
    assert (f"for: {row[2]}\n" in alert.text) if row[2] != "at once" else ("for:" not in alert.text)


def commands(page: Path, program: str) -> set[str]:
    """Return what is said to be called: lines of a console, and code in a line."""
    text = page.read_text(encoding="utf-8")
    lines = re.findall(rf"(?m)^\$ ({program} .*)$", text)
    return {*lines, *(re.sub(r"\s+", " ", each) for each in re.findall(rf"(?<!`)`({program} [^`]*)`", text))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_gridsync_exists(page: Path):
    for line in commands(page, "gridsync"):
        command: Any = typer.main.get_command(app)
        options: set[str] = set()
        for word in line.split()[1:]:
            if hasattr(command, "commands") and not word.startswith("-"):
                assert word in command.commands, line
                command = command.commands[word]
            elif word.startswith("--"):
                options.add(word.partition("=")[0])
        known = {"--help"} | {name for parameter in command.params for name in parameter.opts}
        assert options <= known, line


@pytest.mark.any_server
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_the_server_exists(flushed: RedisServer, page: Path):
    with flushed.client(decode_responses=True) as client:
        known = set(client.command_list())
    for line in commands(page, "redis-cli"):
        words = [word.lower() for word in re.findall(r"(?<=\s)[A-Z]{3,}\b", line)]
        if not words:
            continue  # a mode of redis-cli itself, such as --bigkeys
        assert words[0] in known, line
        if any(name.startswith(f"{words[0]}|") for name in known):
            assert "|".join(words[:2]) in known, line


@pytest.mark.parametrize("page", MINE, ids=lambda page: page.stem)
def test_every_panel_that_is_named_is_in_a_dashboard(page: Path):
    boards = [json.loads(file.read_text()) for file in (MONITORING / "grafana" / "dashboards").glob("*.json")]
    titles = ELSEWHERE | {panel["title"] for board in boards for panel in board["panels"]}
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    named = {re.sub(r"\s+", " ", each) for each in re.findall(r"(?<!\*)\*([A-Z][^*`.:]*)\*(?!\*)", text)}
    assert {each for each in named if not any(title.startswith(each) for title in titles)} == set()


@pytest.mark.any_server
def test_the_table_of_metrics_is_what_is_exported(flushed: RedisServer):
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(gridsync_\w+)`", page.partition("## Metrics")[2].partition("## Dashboards")[0]))
    registry = CollectorRegistry()
    with Grid(flushed.url) as grid:
        registry.register(GridCollector(grid))
        registry.register(StoreCollector(grid.events("orders", Placed)))
        families = list(registry.collect())
    exported = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    assert told == exported
