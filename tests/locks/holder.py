"""A process of its own that takes something, and then does what it is told: ``python -m tests.locks.holder``."""

from __future__ import annotations

import sys
from typing import Any

from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.errors import GridsyncError
from gridsync.locks import FenceGate
from tests.locks.ways import each, fence, made
from tests.wire.world import NAMESPACE

WALLET = "wallet:7"


def main(url: str, way: str, ttl: str) -> None:
    """Take it, say its fence, and answer each line that is read."""
    io = SyncIO(parse(url, connect_timeout=5.0), pool_size=4, timeout=5.0)
    obey(made("sync", io, way, ttl=float(ttl)).acquire(), io)


def obey(lease: Any, io: SyncIO) -> None:  # noqa: ANN401 - a lease, or several
    """Say the fence of what is held, and do what each line says that is read; *io* leads to what is written."""
    gate = FenceGate(io, NAMESPACE, WALLET)
    acts = {
        "write": lambda: gate.set(each(lease)[0], "mine", ttl=60),
        "check": lease.check,
        "release": lease.release,
    }

    def say(what: object) -> None:
        sys.stdout.write(f"{what}\n")
        sys.stdout.flush()

    say(fence(lease))
    for line in sys.stdin:
        try:
            say(acts[line.strip()]())
        except GridsyncError as error:
            say(type(error).__name__)


if __name__ == "__main__":
    main(*sys.argv[1:])
