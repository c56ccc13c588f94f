"""A script by itself: the same call again and again from redis-benchmark, so that the server is the bottleneck."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import WARM_UP
from gridsync._io import run_sync
from gridsync.embedded import find_server

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from benchmarks.harness import Bench
    from gridsync._io import Bound, Script

RANDOM = "__rand_int__"
"""What redis-benchmark replaces by twelve digits."""
CONNECTIONS, DEEP = 50, 16
"""How many connections there are, and how many calls each sends at once."""


class _Told:
    """An IO that keeps what a core asks for."""

    words: tuple[Script, Sequence[str], Sequence[str | bytes]]

    def __init__(self, reply: list[Any]) -> None:
        self._reply = reply

    def token(self) -> str:
        return "benchmarking1"

    async def run(self, operation: Script | Bound, keys: Sequence[str], args: Sequence[Any], **_: object) -> list[Any]:
        self.words = operation.whole(keys, args)
        return self._reply


def told(
    ask: Callable[[Any], Coroutine[Any, Any, object]], reply: Sequence[Any] = (0, 0, 0, 0)
) -> tuple[Script, Sequence[str], Sequence[str | bytes]]:
    """Return what a core sends: the script, its keys and its arguments.

    *ask* is called with an IO that gives *reply* to everything.
    """
    io = _Told(list(reply))
    run_sync(ask(io))
    return io.words


def per_s(bench: Bench, words: Sequence[str | bytes], expected_per_s: int, among: int = 10**9) -> float:
    """Return how many calls the server runs in a second.

    Args:
        bench: Where, and for how long.
        words: The command; a `RANDOM` in it is another number each time.
        expected_per_s: About as many as a server runs: redis-benchmark is told a number of calls, not a time.
        among: How many numbers `RANDOM` stands for.
    """
    where = ("-h", bench.host, "-p", str(bench.port), "-c", str(CONNECTIONS), "-P", str(DEEP), "-r", str(among))
    for seconds in (bench.seconds * WARM_UP, bench.seconds):
        calls = ("-n", str(int(seconds * expected_per_s)), "--csv", *words)
        said = subprocess.run([_program(), *where, *calls], check=True, capture_output=True).stdout
    *_, head, line = (each.split('","') for each in said.decode().splitlines())
    # The command is the first column, with whatever it contains.
    return float(dict(zip(head, line[-len(head) :], strict=True))["rps"])


def _program() -> str:
    """Return redis-benchmark: that of the server, or any other."""
    beside = Path(find_server().path).with_name("redis-benchmark")
    found = str(beside) if beside.exists() else shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if found is None:
        raise FileNotFoundError("this row needs redis-benchmark: install redis-tools")
    return found
