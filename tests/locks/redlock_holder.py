"""As `tests.locks.holder`, for a Redlock: ``python -m tests.locks.redlock_holder``."""

from __future__ import annotations

import sys

from gridsync import Redlock
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from tests.locks.holder import obey
from tests.locks.redlocks import PATIENT


def main(resource: str, ttl: str, *urls: str) -> None:
    """Take the lock ``job``; what it protects is at *resource*."""
    with Redlock(urls, **PATIENT) as redlock:
        obey(
            redlock.lock("job", ttl=float(ttl)).acquire(),
            SyncIO(parse(resource, connect_timeout=5.0), pool_size=4, timeout=5.0),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
