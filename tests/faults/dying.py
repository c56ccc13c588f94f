"""Processes that kill themselves at a given step: before or after each of their calls, or within a handler."""

# ruff: noqa: ANN401 - calls of either driver

from __future__ import annotations

import importlib
import itertools
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import redis

from gridsync._io.aio import AsyncIO
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io.wire.endpoint import Endpoint


class _Steps:
    """Counts, and dies at the last one, as by ``kill -9``."""

    def __init__(self, last: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._last = last
        self._steps = itertools.count(1)

    def step(self) -> None:
        if next(self._steps) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    async def run(self, *args: Any, **options: Any) -> Any:
        self.step()
        reply = await super().run(*args, **options)  # type: ignore[misc]
        self.step()
        return reply

    async def block(self, *args: Any, **options: Any) -> Any:
        self.step()
        reply = await super().block(*args, **options)  # type: ignore[misc]
        self.step()
        return reply


class Dying(_Steps, SyncIO):
    """A driver for threads whose process dies."""


class AsyncDying(_Steps, AsyncIO):
    """A driver for asyncio whose process dies."""


class Fate:
    """What a process is given: drivers that die."""

    def __init__(self, url: str, last: int) -> None:
        self._endpoint: Endpoint = parse(url, connect_timeout=30.0)
        self._last = last

    def client(self) -> redis.Redis:
        """Return a plain client, whose calls are no steps."""
        return redis.Redis(host=self._endpoint.host, port=self._endpoint.port)

    def sync(self) -> Dying:
        return Dying(self._last, self._endpoint, pool_size=4, timeout=30.0)

    def asyncio(self) -> AsyncDying:
        return AsyncDying(self._last, self._endpoint, inflight_max=100, timeout=30.0)


class Nursery:
    """Starts one process after the other; each calls *work* with its `Fate`."""

    def __init__(self, url: str, work: Callable[[Fate], None]) -> None:
        words = [sys.executable, "-m", __name__, url, work.__module__, work.__name__]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def survives(self, step: int) -> bool:
        """Start a process that dies at its step number *step*; true if it came to its end before."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(step, file=self._process.stdin, flush=True)
        said = self._process.stdout.readline().strip()
        assert said in {"0", str(int(signal.SIGKILL))}, f"a process ended with {said!r} that was to die at step {step}"
        return said == "0"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def main(url: str, module: str, name: str) -> None:
    """Start a process for each line; a fork of this one, which has imported everything."""
    work = getattr(importlib.import_module(module), name)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(Fate(url, int(line)))
                code = 0
            finally:
                os._exit(code)
        sys.stdout.write(f"{os.waitpid(pid, 0)[1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
