"""A look at the server for what locks rely on: once for each grid, a moment after its first lease.

It travels with the watchdog, on the connection that renews leases: no caller waits for it, no command of theirs is one
more.  What the server's ACL hides is not found, and nothing fails for that.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gridsync._checkup import audit
from gridsync._io import Category, Command
from gridsync._io.keys import health as health_keys
from gridsync._io.wire.faults import ReplyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import Arg, Operation
    from gridsync._io.counts import Counts

_log = logging.getLogger("gridsync")
INFO = Command("INFO", Category.READ, ("INFO", "server", "memory", "persistence", "stats", "replication"), keyed=False)
AGAIN_S = 10.0
"""How long to wait after a look that was not answered."""
LOOKS_MAX = 10


class Audit:
    """What the watchdog asks for once; see `gridsync._io.Keep`."""

    deadline = float("inf")

    def __init__(self, server: object, namespace: str, counts: Counts) -> None:
        """Be ready.

        Args:
            server: What to call it in the log.
            namespace: Whose keys tell which node of a cluster is asked.
            counts: Where the findings go.
        """
        self.due = float("inf")
        self._server = server
        self._keys = (health_keys(namespace).probe,)
        self._counts = counts
        self._looks = 0
        self._over = False

    def request(self, now: float) -> tuple[Operation, Sequence[str], Sequence[Arg]] | None:  # noqa: ARG002 - a Keep's
        """Ask, unless the child of a fork comes with what its parent knew."""
        return None if self._over else (INFO, self._keys, ())

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401 - a reply or an exception
        """Say what is wrong, once."""
        self._looks += 1
        if isinstance(reply, Exception) and not isinstance(reply, ReplyError) and self._looks < LOOKS_MAX:
            self.due = sent + AGAIN_S
            return True
        self._over = True
        if reply is None or isinstance(reply, Exception):
            return False
        found = audit(reply)
        self._counts.findings = tuple(f"{item.name}: {item.value}" for item in found)
        if found:
            _log.warning(
                "locks rely on what %s does not give: %s (said once; `gridsync health --locks` tells more, audit=False "
                "or GRIDSYNC_AUDIT=0 turns this off)",
                self._server,
                "; ".join(f"{item.name} {item.value}: {item.advice}" for item in found),
            )
        return False
