"""What becomes of leases, waiters and tasks when a program is interrupted; `tests/grid` forgets grids."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from gridsync._io.keys import lock as lock_keys
from tests.wire.fake import eventually

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer

KEYS = lock_keys("test", "job")

INTERRUPTED = """
import asyncio, signal, sys
from gridsync import AsyncGrid

async def call(grid, name):
    limiter = grid.limiter("calls", "1000000/minute")
    while True:
        await limiter.hit(name)

async def main():
    async with AsyncGrid(sys.argv[1], namespace="test") as grid, asyncio.TaskGroup() as group:
        for n in range(20):
            group.create_task(call(grid, str(n)))
        async with grid.lock("job", ttl=60):
            group.create_task(grid.lock("job").acquire())
            print("inside", flush=True)
            await asyncio.sleep(60)

asyncio.run(main())
"""


def test_ctrl_c_leaves_nothing_behind(server: RedisServer):
    """The block ends as by an exception: the lock is free at once, nobody waits for it, and Python has no complaint."""
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", INTERRUPTED, server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "inside\n"
            eventually(lambda: server.command("ZCARD", KEYS.queue) == 1)
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert complaints.rstrip().endswith("KeyboardInterrupt")
    for word in ("never retrieved", "never awaited", "Task was destroyed", "ResourceWarning", "Exception ignored"):
        assert word not in complaints
    assert server.command("EXISTS", KEYS.state, KEYS.queue) == 0
    eventually(lambda: server.command("CLIENT", "LIST").count(b"name=gridsync") == 0)
