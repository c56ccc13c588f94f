"""The configuration and the alerts as promtool sees them: each alert has series that fire it and others that do not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.monitoring.cases import CASES
from tests.monitoring.rules import CONFIG, MONITORING, RULES, Alert, alerts

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("tools")


def promtool(*words: str | Path) -> str:
    ended = subprocess.run(
        [str(shutil.which("promtool")), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_prometheus_takes_the_configuration():
    told = promtool("check", "config", CONFIG)
    assert f"{len(RULES)} rule files found" in told


def test_every_file_of_targets_can_be_read(tmp_path: Path):
    """The other profiles have the same files in a folder of their own."""
    for folder in sorted((MONITORING / "prometheus").glob("targets*")):
        whole = re.sub(r"\btargets/", f"{folder}/", CONFIG.read_text()).replace("rules/*.yml", str(RULES[0]))
        (tmp_path / "prometheus.yml").write_text(whole)
        promtool("check", "config", tmp_path / "prometheus.yml")
        assert sorted(each.parent.name for each in folder.rglob("*.yml")) == ["gridsync", "redis"]


def test_every_alert_has_a_case():
    assert sorted(CASES) == sorted(alert.name for alert in alerts())


def test_every_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path):
    given, asked = [], []
    for name, case in CASES.items():
        for fires, series in ((True, case.fires), (False, case.calm)):
            # Of an instance of its own, so that all of them are one test, which takes a hundredth of the time.
            where = f'instance="{name} {"fires" if fires else "is calm"}"'
            given += [{"series": re.sub(r'instance="\w+"', where, each), "values": series[each]} for each in series]
            query = f'count(ALERTS{{alertname="{name}", alertstate="firing", {where}}})'
            samples = [{"labels": "{}", "value": 1}] if fires else []
            asked.append({"expr": query, "eval_time": case.at, "exp_samples": samples})
    assert all("instance=" in each["series"] for each in given)
    one = {"interval": "15s", "input_series": given, "promql_expr_test": asked}
    file = tmp_path / "tests.json"  # which is YAML too
    file.write_text(
        json.dumps({"rule_files": [str(rule) for rule in RULES], "evaluation_interval": "15s", "tests": [one]})
    )
    promtool("test", "rules", file)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: Alert):
    text = alert.text
    assert re.search(r"labels: \{ severity: (warning|critical) \}", text)
    assert all(f"{part}:" in text for part in ("summary", "description", "runbook_url"))


def test_what_prometheus_and_grafana_call_is_a_service_of_the_compose_file():
    """A renamed container would be watched by nobody."""
    services = set(yaml.safe_load((MONITORING.parent / "compose.yaml").read_text())["services"])
    folder = MONITORING / "prometheus"
    called = {
        name for file in folder.glob("targets*/redis/*.yml") for name in re.findall(r"//([\w-]+):", file.read_text())
    }
    called |= set(re.findall(r"replacement: (\w+):", CONFIG.read_text()))
    sources = MONITORING / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    called |= set(re.findall(r"url: http://(\w+):", sources.read_text()))
    assert called - services == set()
    assert {"exporter", "prometheus", "redis", "cache", "redis-3", "cluster-6"} <= called
