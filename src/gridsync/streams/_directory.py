"""In how many partitions a store is: noted once, when it is new, and compared by whoever would look in other places.

Redis structure: the meta hash that the store has in one partition.  In several, it holds nothing but how many there are
and what decides which one a stream is in; its ``pos`` is no number then, so that an append to a store in one partition
notices without asking for more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gridsync._io import Category, Command, load
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from gridsync._io import IO, ReadFrom

OPEN: Final = load("gridsync.streams", "open")
LOOK: Final = Command("streams.look_at_directory", Category.READ, ("HMGET",))
PARTITIONED: Final = "PARTITIONED"
"""What an append says to a caller that takes the store for one partition."""


class Directory:
    """What one store object believes of its partitions, and whether that was seen to be so."""

    def __init__(self, io: IO, key: str, store: str, partitions: int = 1, by: str = "") -> None:
        """Nothing is sent."""
        self._io = io
        self._keys = (key,)
        self._store = store
        self._partitions = partitions
        self.by = by
        """What decides which partition a stream is in."""
        self.seen: bool = False
        """Whether it was compared; a store never changes its partitions."""

    async def open(self) -> None:
        """Note a new store, compare an old one; for those who are about to write.

        Raises:
            UsageError: It is in another number of partitions, or others decide.
        """
        if not self.seen:
            # A repeat finds what the first one noted.
            self._compare(await self._io.run(OPEN, self._keys, (str(self._partitions), self.by)))

    async def look(self, read_from: ReadFrom = "primary") -> None:
        """Compare; for those who read and found nothing.

        Raises:
            UsageError: It is in another number of partitions, or others decide.
        """
        if not self.seen:
            words = ("pos", "partitions", "by")
            self._compare(await self._io.read(LOOK, self._keys, words, read_from=read_from))

    def _compare(self, said: Any) -> None:  # noqa: ANN401 - three values or None
        if said[0] is None:
            return  # not yet written to, or asked of a replica that is behind
        partitions, by = int(said[1] or 1), (said[2] or b"").decode()
        if partitions != self._partitions:
            raise UsageError(
                f"store {self._store!r} is in {partitions} partition(s) and was opened with "
                f"partitions={self._partitions}: their number is fixed when the first event is appended, for streams "
                "would be looked for in other places; open it as it is, or copy it into a new one"
            )
        if by != self.by:
            raise UsageError(
                f"store {self._store!r} is partitioned by {by!r} and was opened with partition_by {self.by!r}: that "
                "is fixed when the first event is appended, for streams would be looked for in other places"
            )
        self.seen = True
