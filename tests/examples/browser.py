"""A headless Chromium, by its DevTools protocol: open a page, and ask it for values."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

REQUIRED = "GRIDSYNC_TEST_BROWSER"
"""Names a browser that must be there: a test run that has to be whole is not shortened by one that is missing."""
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--no-proxy-server", "--remote-debugging-port=0"),
)
LONG_S = 90.0


def program() -> str:
    """Return a browser; skip the test where there is none, or fail if there has to be one."""
    required = os.environ.get(REQUIRED)
    found = next(filter(None, map(shutil.which, [required] if required else PROGRAMS)), None)
    if found is None:
        assert not required, f"{REQUIRED}={required}, and there is no such program"
        pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} was found")
    return found


class Page:
    """One page of the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    def ask(self, expression: str) -> Any:  # noqa: ANN401 - whatever it is in JavaScript
        """Return the value of a JavaScript expression."""
        number = next(self._numbers)
        wanted = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        self._connection.send(json.dumps({"id": number, "method": "Runtime.evaluate", "params": wanted}))
        while True:
            told = json.loads(self._connection.recv(timeout=LONG_S))
            if told.get("id") == number:
                assert "exceptionDetails" not in told["result"], told
                return told["result"]["result"].get("value")

    def until(self, expression: str) -> None:
        """Return when the expression is true."""
        limit = time.monotonic() + LONG_S
        while not self.ask(expression):
            assert time.monotonic() < limit, f"{expression} never was true; the page: {self.ask('page')}"
            time.sleep(0.05)


@contextlib.contextmanager
def opened(url: str) -> Iterator[Page]:
    """Open *url* in a browser of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [program(), *FLAGS, f"--user-data-dir={home}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                target = f"http://127.0.0.1:{_port(Path(home), browser)}/json/new?{url}"
                request = urllib.request.Request(target, method="PUT")
                direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                with direct.open(request, timeout=LONG_S) as answer:
                    address = json.load(answer)["webSocketDebuggerUrl"]
                with connect(address, proxy=None, max_size=None, open_timeout=LONG_S) as connection:
                    yield Page(connection)
            finally:
                browser.kill()


def _port(home: Path, browser: subprocess.Popen[bytes]) -> int:
    limit = time.monotonic() + LONG_S
    told = home / "DevToolsActivePort"
    while True:
        lines = told.read_text().splitlines() if told.exists() else []
        if lines:
            return int(lines[0])
        assert browser.poll() is None, f"the browser ended with {browser.returncode}"
        assert time.monotonic() < limit, "the browser did not start"
        time.sleep(0.02)
