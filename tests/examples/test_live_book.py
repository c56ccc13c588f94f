"""The page with the live order book, in a browser: nothing is lost on it, and nothing there twice."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from gridsync.testing.servers import RedisServer, server_kinds
from tests.examples.browser import opened, program

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[2] / "examples" / "live_book" / "live_book.py"
LONG_S = 120.0


class Service:
    """The example, running."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, str(EXAMPLE), url, "--pause", "0.005"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.url = self.process.stdout.readline().strip()
        self.said: list[str] = []
        self._readers = [
            threading.Thread(target=self.said.extend, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def close(self) -> None:
        """End it."""
        with self.process:
            self.process.terminate()
            for reader in self._readers:
                reader.join(LONG_S)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that loses nothing when it is killed."""
    program()
    with RedisServer(server_kinds()[-1], options={"appendonly": "yes", "appendfsync": "always"}) as running:
        yield running


@pytest.fixture
def service(server: RedisServer) -> Iterator[Service]:
    running = Service(server.url)
    yield running
    running.close()


@pytest.mark.timeout(600)
def test_a_page_shows_the_whole_book_after_the_server_was_killed_and_came_back(
    server: RedisServer, service: Service
) -> None:
    """A trader would see offers that are gone, or not see his own."""
    with opened(service.url) as page:
        page.until("typeof page !== 'undefined' && page.applied.length > 40")
        server.kill()
        server.start()
        page.until(f"page.applied.length > {page.ask('page.applied.length')} + 40")
        page.ask("socket.close()")  # a line that breaks, while the others go on
        page.until("page.connections > 1")
        page.until(f"page.applied.length > {page.ask('page.applied.length')} + 40")
        assert page.ask("fetch('/close', {method: 'POST'}).then(answer => answer.status)") == 200
        with Grid(server.url, namespace="live", audit=False) as grid:
            book = grid.orderbook("home", tick="0.01")
            truth = book.depth(500)
            assert book.verify().ok
        page.until(f"page.n === {truth.sequence}")
        seen = page.ask("page")
        rows = {
            side: page.ask(
                f"[...document.getElementById('{side}').rows].map(r => [...r.cells].map(c => c.textContent))"
            )
            for side in ("buy", "sell")
        }
        # A snapshot that does not come is asked for again: without one a page shows nothing, and keeps every change.
        page.ask("(() => { const real = fetch; let cuts = 3; window.fetch = (...all) => cuts-- > 0"
                 " ? Promise.reject(new TypeError('cut')) : real(...all); snapshot(); })()")  # fmt: skip
        page.until(f"page.n === {truth.sequence} && page.snapshots === 5")
    assert rows == {
        "buy": [[f"{level.price * 100:.0f}", f"{level.quantity:f}"] for level in truth.bids],
        "sell": [[f"{level.price * 100:.0f}", f"{level.quantity:f}"] for level in truth.asks],
    }
    assert seen["snapshots"] == 1, "everything else came as a change"
    assert seen["applied"] == list(range(seen["applied"][0], truth.sequence + 1)), "each change once, and in order"
    assert seen["gaps"] == 0
    assert seen["recovered"][0] is None
    assert all(seen["recovered"][1:]), seen["recovered"]
