"""Registered readers: a subscription whose place the server knows, so that nothing it has not had is removed.

Redis structure: one hash of all readers of a store, name → its checkpoint and how long that counts.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import Category, Command
from gridsync._units import Seconds, seconds
from gridsync._units import name as checked
from gridsync.errors import GridsyncError
from gridsync.streams._away import raise_if_final
from gridsync.streams._retention import Keeping

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.streams._core import StoreCore

LOOK: Final = Command("streams.look_at_reader", Category.READ, ("HGET",))

READER_TTL_S: Final = 7 * 24 * 3600.0
"""How long a reader without a sign of life is remembered."""
NOTE_S: Final = 1.0
"""Seconds between notes, while it gets on."""
_CHECKPOINT: Final = 3
"""What stands before it: kind, when, and how long it counts."""

_log = logging.getLogger("gridsync.streams")


class Reader:
    """One registered reader of one log."""

    def __init__(self, core: StoreCore[Any], name: str, lasts_s: float) -> None:
        """Nothing is sent."""
        self._io = core.io
        self._name = checked(name, "the name of a reader")
        self._key = core.keys.readers
        self._keeping = Keeping(core.io, core.keys, core.name)
        self._lasts_s = lasts_s
        self._noted = ""
        self._at = 0.0

    async def place(self) -> str | None:
        """Return the checkpoint that is noted; ``None`` if there is none."""
        found = await self._io.run(LOOK, (self._key,), (self._name,))
        return None if found is None else found.decode().split(" ", _CHECKPOINT)[_CHECKPOINT]

    async def had(self, checkpoint: str, *, now: bool = False) -> None:
        """Note that everything up to *checkpoint* was dealt with, if it is time to; a server that is away is let be."""
        since = self._io.monotonic() - self._at
        if self._noted == checkpoint and not 0 < self._lasts_s <= 3 * since:
            return
        if self._noted and since < NOTE_S and not now:
            return
        try:
            await self._keeping.note(self._name, "reader", self._lasts_s, checkpoint)
        except GridsyncError as error:
            raise_if_final(error)
            _log.warning("reader %r could not note its checkpoint yet: %s", self._name, error)
        else:
            self._noted, self._at = checkpoint, self._io.monotonic()


def registered(name: str | None, ttl: Seconds | None) -> Callable[[StoreCore[Any]], Reader] | None:
    """Return what registers the reader *name* in a log; ``None`` without a name.

    Raises:
        UsageError: A name or a time that cannot be used.
    """
    if name is None:
        return None
    known, lasts_s = checked(name, "the name of a reader"), lasting(ttl, "reader_ttl")
    return lambda core: Reader(core, known, lasts_s)


def lasting(ttl: Seconds | None, what: str) -> float:
    """Return for how many seconds a note of a reader counts; 0 is for ever."""
    return 0.0 if ttl is None else seconds(ttl, what, least=1.0)
