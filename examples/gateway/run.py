"""A gateway of two processes under load: `python examples/gateway/run.py [url] [--seconds 5] [--unshared]`.

Needs gridsync with the extras embedded, fastapi and httpx, and uvicorn.  Ends with 1 if a promise was broken.  With
--unshared each process counts by itself, as limiters without a server do, and the check shows what that is worth; on
a machine too slow to ask for more within two seconds than the market allows, with a longer --market-window.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from load import drive
from service import PROMISES

from gridsync import Grid

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMESPACE = "example-gateway"
PROCESSES = 2
END_S = 10.0


@contextlib.contextmanager
def serving(url: str, namespace: str, market_window_s: float) -> Iterator[str]:
    """Start one gateway on a free port, and return its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        fd = listening.fileno()
        program = [sys.executable, str(Path(__file__).with_name("service.py")), "--market-window", str(market_window_s)]
        process = subprocess.Popen(  # noqa: S603 - itself
            [*program, "--fd", str(fd), "--url", url, "--namespace", namespace], pass_fds=[fd]
        )
    try:
        yield address
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> int:
    """Run it; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("url", nargs="?", default="embedded://")
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--unshared", action="store_true", help="let each process count by itself")
    options.add_argument("--market-window", type=float, default=PROMISES["market"][1], help="in seconds")
    chosen = options.parse_args()
    with Grid(chosen.url) as grid, contextlib.ExitStack() as gateways:
        url = chosen.url if grid.embedded is None else grid.embedded.url
        names = [f"{NAMESPACE}-{number}" if chosen.unshared else NAMESPACE for number in range(PROCESSES)]
        urls = [gateways.enter_context(serving(url, name, chosen.market_window)) for name in names]
        return 0 if asyncio.run(drive(urls, chosen.seconds, chosen.market_window)) else 1


if __name__ == "__main__":
    sys.exit(main())
