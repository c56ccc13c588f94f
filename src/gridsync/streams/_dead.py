"""What users call to look at the dead letters of a group: `DeadLetters` for threads, `AsyncDeadLetters` for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._io import run_sync

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from gridsync.streams._boxes import Boxes
    from gridsync.streams._letters import DeadLetter, Letters, Replayed


class DeadLetters:
    """The dead letters of a consumer group: iterate over them, oldest first; of several partitions, one by one.

    Guarantee: until it is handled, skipped or discarded, a delivered event is either pending or a dead letter, never
    neither and never both (tests/sim/test_failures.py).
    Not guaranteed: that a failover keeps the last ones; replication is asynchronous.
    """

    def __init__(self, letters: Letters | Boxes) -> None:
        """Made by `ConsumerGroup.dead_letters`."""
        self._letters = letters

    def __iter__(self) -> Iterator[DeadLetter]:
        """Iterate to the present end; one round trip per 100 letters, which is also what is held in memory."""
        after = ""
        while page := run_sync(self._letters.page(after)):
            yield from page
            after = page[-1].id

    def count(self) -> int:
        """Count them; one round trip, O(1)."""
        return run_sync(self._letters.count())

    def replay(
        self,
        choose: Callable[[DeadLetter], object] | None = None,
        *,
        dry_run: bool = False,
        rate: float | None = None,
        limit: int | None = None,
    ) -> Replayed:
        """Give dead letters back to this group, oldest first, as if they had never been tried.

        Other groups see nothing of it: the event goes into the list of what this group tries again, not into the log.

        Args:
            choose: Called with each letter; those are replayed for which it returns something true.  ``None``: all.
            dry_run: Only count those that would be.
            rate: The most events per second; ``None`` for no limit.
            limit: The most letters to replay.

        Returns:
            How many were chosen, given back, gone meanwhile, and no longer in the log.

        Raises:
            UsageError: A rate or limit that cannot be used.
            OutcomeUnknown: No answer in time; go on with another `replay`, nothing is replayed twice.

        Guarantee: each letter is moved by one script: whole or not at all, once however often it is sent.  What becomes
        a dead letter meanwhile is left for the next time.
        Not guaranteed: that an event can be replayed that was trimmed from the log; its letter stays, and holds it.
        Cost: one round trip per letter.
        """
        return run_sync(self._letters.replay(choose, dry_run=dry_run, rate=rate, limit=limit))

    def discard(self, letter_id: str) -> bool:
        """Delete the letter with that `DeadLetter.id` for good; false if it was not there."""
        return run_sync(self._letters.discard(letter_id))

    def __repr__(self) -> str:
        """Whose they are."""
        return f"<DeadLetters of {self._letters.name!r}>"


class AsyncDeadLetters:
    """The asyncio twin of `DeadLetters`.

    Guarantee: until it is handled, skipped or discarded, a delivered event is either pending or a dead letter, never
    neither and never both (tests/sim/test_failures.py).
    Not guaranteed: that a failover keeps the last ones; replication is asynchronous.
    """

    def __init__(self, letters: Letters | Boxes) -> None:
        """Made by `AsyncConsumerGroup.dead_letters`."""
        self._letters = letters

    async def __aiter__(self) -> AsyncIterator[DeadLetter]:
        """Iterate to the present end; one round trip per 100 letters, which is also what is held in memory."""
        after = ""
        while page := await self._letters.page(after):
            for letter in page:
                yield letter
            after = page[-1].id

    async def count(self) -> int:
        """Count them; one round trip, O(1)."""
        return await self._letters.count()

    async def replay(
        self,
        choose: Callable[[DeadLetter], object] | None = None,
        *,
        dry_run: bool = False,
        rate: float | None = None,
        limit: int | None = None,
    ) -> Replayed:
        """Give dead letters back to this group, oldest first; see `DeadLetters.replay`."""
        return await self._letters.replay(choose, dry_run=dry_run, rate=rate, limit=limit)

    async def discard(self, letter_id: str) -> bool:
        """Delete the letter with that `DeadLetter.id` for good; false if it was not there."""
        return await self._letters.discard(letter_id)

    def __repr__(self) -> str:
        """Whose they are."""
        return f"<AsyncDeadLetters of {self._letters.name!r}>"
