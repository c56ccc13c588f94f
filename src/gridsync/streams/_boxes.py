"""The dead letters of a group in all partitions of a store, as if they lay in one box."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import TYPE_CHECKING

from gridsync.errors import UsageError
from gridsync.streams._letters import Letters, Replayed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync._io import IO
    from gridsync._io.keys import EventKeys
    from gridsync.streams._letters import DeadLetter


class Boxes:
    """One box for each partition; an id begins with its number and a colon."""

    def __init__(self, boxes: Sequence[Letters]) -> None:
        """Nothing is sent."""
        self._boxes = boxes
        self._io = boxes[0].io
        self.name: str = boxes[0].name

    async def count(self) -> int:
        """Count the letters."""
        return sum(await self._io.gather(*(box.count() for box in self._boxes)))

    async def page(self, after: str) -> list[DeadLetter]:
        """Return the next letters after the id *after*, partition by partition; none at the end."""
        first, last = self._parsed(after) if after else (0, "")
        for number in range(first, len(self._boxes)):
            if found := await self._boxes[number].page(last):
                return [_named(letter, number) for letter in found]
            last = ""
        return []

    async def discard(self, letter_id: str) -> bool:
        """Delete a letter; false if it was not there."""
        number, its = self._parsed(letter_id)
        return await self._boxes[number].discard(its)

    async def replay(
        self, choose: Callable[[DeadLetter], object] | None, *, dry_run: bool, rate: float | None, limit: int | None
    ) -> Replayed:
        """Give letters back to the group, partition by partition; see `DeadLetters.replay`."""
        done = Replayed(0, 0, 0, 0)
        for number, box in enumerate(self._boxes):

            def chosen(letter: DeadLetter, number: int = number) -> object:
                return choose is None or choose(_named(letter, number))

            left = None if limit is None else limit - done.matched
            more = await box.replay(chosen, dry_run=dry_run, rate=rate, limit=left)
            if rate is not None and more.matched and not dry_run:
                await self._io.sleep(1 / rate)
            done = Replayed(*(one + other for one, other in zip(astuple(done), astuple(more), strict=True)))
        return done

    def _parsed(self, letter_id: str) -> tuple[int, str]:
        number, _, its = str(letter_id).partition(":")
        if not its or not number.isdecimal() or int(number) >= len(self._boxes):
            raise UsageError(
                f"{letter_id!r:.100} is no dead letter's id here: the store has {len(self._boxes)} partitions, so it "
                "is the partition's number, a colon, and the id there"
            )
        return int(number), its


def letters_of(
    io: IO, partitions: Sequence[EventKeys], store: str, group: str, *, from_now: bool = False
) -> Letters | Boxes:
    """Return the dead letters of *group*, in however many partitions; nothing is sent."""
    boxes = [Letters(io, keys, store, group, from_now=from_now) for keys in partitions]
    return Boxes(boxes) if len(boxes) > 1 else boxes[0]


def _named(letter: DeadLetter, number: int) -> DeadLetter:
    return replace(letter, id=f"{number}:{letter.id}", partition=number)
