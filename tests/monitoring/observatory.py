"""A Prometheus and an exporter, as docker/monitoring configures them, that look at servers and programs of tests."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, Final, Self

from gridsync.testing._ports import hold_port
from tests.monitoring.rules import CONFIG, write_cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from gridsync.testing.servers import RedisServer

TOOLS: Final = ("prometheus", "promtool", "prometheus-redis-exporter")
INTERVAL: Final = "250ms"
PATIENCE_S: Final = 60.0
"""How long a condition is waited for: a limit for bugs, which a busy machine does not reach."""


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


class Observatory:
    """One Prometheus, one exporter."""

    def __init__(self, folder: Path, servers: Mapping[RedisServer, str], programs: Iterable[int]) -> None:
        """Write the configuration: servers and what they are for, and the ports of programs."""
        self._folder = folder
        self._held = [hold_port("127.0.0.1"), hold_port("127.0.0.1")]
        self._at, self._exporter_at = (f"127.0.0.1:{held.getsockname()[1]}" for held in self._held)
        targets = folder / "targets"
        for job in ("redis", "gridsync"):
            (targets / job).mkdir(parents=True)
        described = [{"targets": [name_of(server)], "labels": {"data": data}} for server, data in servers.items()]
        (targets / "redis" / "all.yml").write_text(json.dumps(described))
        there = [{"targets": [f"127.0.0.1:{port}" for port in programs]}]
        (targets / "gridsync" / "all.yml").write_text(json.dumps(there))
        write_cut(folder / "rules")
        text = re.sub(
            r"(scrape_interval|scrape_timeout|evaluation_interval): \w+", rf"\1: {INTERVAL}", CONFIG.read_text()
        )
        assert "exporter:9121" in text
        (folder / "prometheus.yml").write_text(text.replace("exporter:9121", self._exporter_at))
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.exporter = self._start("prometheus-redis-exporter", f"--web.listen-address={self._exporter_at}")
        self._start(
            "prometheus",
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self._at}",
        )
        wait_for(self._ready, lambda: f"Prometheus does not answer: {self._log('prometheus')[-2000:]}")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        for held in self._held:
            held.close()

    def query(self, text: str) -> list[Mapping[str, Any]]:
        """Return the samples of an instant query, those that are no number left out."""
        found = self._ask("query", query=text)["result"]
        return [each for each in found if each["value"][1] != "NaN"]

    def firing(self) -> list[Mapping[str, Any]]:
        """Return the alerts that fire now."""
        return [each for each in self._ask("alerts")["alerts"] if each["state"] == "firing"]

    def rings(self, name: str, **labels: str) -> Mapping[str, Any] | None:
        """Return the alert *name* with these *labels*, if it fires now."""
        for each in self.firing():
            has = each["labels"]
            if has["alertname"] == name and all(has.get(label) == value for label, value in labels.items()):
                return each
        return None

    def hear(self, name: str, **labels: str) -> None:
        """Return when the alert *name* fires, and tells what and where."""
        found: list[Mapping[str, Any]] = []

        def rings() -> bool:
            heard = self.rings(name, **labels)
            found.extend([heard] if heard else [])
            return heard is not None

        wait_for(rings, lambda: f"{name} {labels} never fires, but {[each['labels'] for each in self.firing()]}")
        texts = found[0]["annotations"]
        assert all("<no value>" not in text and "<error" not in text for text in texts.values()), texts

    def quiet(self, name: str, **labels: str) -> None:
        """Return when the alert *name* does not fire, so that it is the fault that makes it fire."""
        wait_for(lambda: self.rings(name, **labels) is None, lambda: f"{name} fires all the time")

    def until(self, query: str) -> None:
        """Return when *query* has a result."""
        wait_for(lambda: self.query(query), lambda: f"never: {query}")

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._at}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _ask(self, what: str, **form: str) -> Any:  # noqa: ANN401 - JSON
        url = f"http://{self._at}/api/v1/{what}?{urllib.parse.urlencode(form)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return json.load(answer)["data"]

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{words[0]}.log").open("wb") as log:
            started = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder)
        self._processes.append(started)
        return started

    def _log(self, program: str) -> str:
        return (self._folder / f"{program}.log").read_text(errors="replace")


def name_of(server: RedisServer) -> str:
    """Return what Prometheus calls a server."""
    return f"127.0.0.1:{server.port}"


def wait_for(condition: Callable[[], object], why: Callable[[], str]) -> None:
    """Return when *condition* holds."""
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, why()
        time.sleep(0.05)
