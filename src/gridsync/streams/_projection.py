"""Projections: what events amount to for those who ask, kept in Redis beside how far it has got.

Redis structures: a hash with the view, and one hash with the checkpoint of every projection of a store.  A script
changes both or neither, and only if the checkpoint is still the one that the changes were computed from: so every
event counts once, however often a runner dies, is cut off, or runs twice at the same time.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync._io import Category, Command, load, run_sync
from gridsync._units import encoded
from gridsync._units import name as checked
from gridsync.errors import GridsyncError, UsageError
from gridsync.streams._cursors import Cursor, Cursors
from gridsync.streams._model import E
from gridsync.streams._pages import mark_of
from gridsync.streams._partitions import vector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync.streams._core import StoreCore
    from gridsync.streams._partitions import Store
    from gridsync.streams._records import Recorded

PROJECT: Final = load("gridsync.streams", "project")
LOOK: Final = Command("streams.look_at_projection", Category.READ, ("HGET",))

BATCH: Final = 100
"""Events whose changes are written at once."""
NUMBER_MAX: Final = 2**53 - 1


class Changes:
    """What one batch of events changes in a view: fields that are text, and fields that are whole numbers.

    Nothing is sent before the end of the batch, and then all of it or nothing.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        # Each field stands here once, so that the script can check everything before it writes.
        self._fields: dict[str, tuple[str, str | int]] = {}

    def set(self, field: str, value: str | int) -> None:
        """Give *field* a value, whatever it was."""
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise UsageError(f"the value of {field!r:.100} must be a string or a whole number, not {value!r:.100}")
        if isinstance(value, str):
            encoded(value, f"the value of {field!r:.100}")
        self._fields[checked(field, "the name of a field")] = ("set", value)

    def add(self, field: str, amount: int) -> None:
        """Add *amount* to *field*, which is 0 if it is not there."""
        if isinstance(amount, bool) or not isinstance(amount, int) or abs(amount) > NUMBER_MAX:
            raise UsageError(f"what is added to {field!r:.100} must be a whole number, not {amount!r:.100}")
        what, before = self._fields.get(checked(field, "the name of a field"), ("add", 0))
        if isinstance(before, str):
            raise UsageError(f"{field!r:.100} was set to the text {before!r:.100} in this batch: nothing adds to that")
        self._fields[field] = ("set" if what == "remove" else what, before + amount)

    def remove(self, field: str) -> None:
        """Take *field* away."""
        self._fields[checked(field, "the name of a field")] = ("remove", 0)

    def words(self) -> list[str]:
        """Return what the script is told."""
        return [word for field, (what, value) in self._fields.items() for word in (what, field, str(value))]


@dataclass(frozen=True, slots=True)
class Projected:
    """What one run of a projection did."""

    events: int
    """Events that were given to the function and whose changes are in the view, written by this run or, where two were
    at the same batch, by the other."""
    checkpoint: str
    """How far the projection has got."""


class _Projection(Generic[E]):
    """What both kinds share."""

    def __init__(self, store: Store[E], name: str, takes: Callable[[Any], bool] | None) -> None:
        """Made by the store."""
        self._store = store
        self._name = checked(name, "the name of a projection")
        self._takes = takes
        self._stop = store.io.signal()

    def stop(self) -> None:
        """End every `run` of this object after the batch that it is at.

        May be called from any thread or task, and from a signal handler.  It lasts.
        """
        self._stop.set()

    async def _run(self, apply: Callable[[Changes, Recorded[E]], Any], *, once: bool) -> Projected:
        done = 0
        cursors: Cursors[E] = Cursors(self._store.partitions, self._stop, self._at, takes=self._takes, once=once)
        while (found := await cursors.next()) is not None:
            cursor, entries = found
            for first in range(0, len(entries), BATCH):
                batch = entries[first : first + BATCH]
                changes, count = Changes(), 0
                for entry in batch:
                    if self._takes is None or self._takes(entry):
                        outcome = apply(changes, cursor.core.in_log(entry))
                        if inspect.isawaitable(outcome):
                            await outcome
                        count += 1
                after = mark_of(batch[-1]).checkpoint()
                try:
                    there = await self._write(cursor, after, changes)
                except GridsyncError as error:
                    cursors.failed(cursor, error)
                    there = cursor.seen
                if there != after:
                    # The server is away; or somebody else runs it, too, and was faster: it goes on from where it is.
                    cursor.place(there)
                    break
                cursor.seen = after
                done += count
        return Projected(done, vector([cursor.seen for cursor in cursors.all]))

    async def _write(self, cursor: Cursor[E], after: str, changes: Changes) -> str:
        keys = cursor.core.keys
        # Repeated, it finds itself at the new checkpoint: what is written is written once, and whole.
        there = await self._store.io.run(
            PROJECT, (keys.view(self._name), keys.places), (self._name, cursor.seen, after, *changes.words())
        )
        return str(there.decode())

    async def _at(self, core: StoreCore[E]) -> str:
        found = await core.io.run(LOOK, (core.keys.places,), (self._name,))
        return "0" if found is None else found.decode()

    async def _checkpoint(self) -> str:
        return vector(await self._store.io.gather(*(self._at(core) for core in self._store.partitions)))

    async def _get(self, field: str, partition: int | None) -> str | None:
        found = await self._parts(field, partition)
        if len(found) > 1:
            raise UsageError(
                f"field {field!r} of projection {self._name!r} is in {len(found)} partitions, for events in each of "
                "them changed it: total() adds them up, partition= chooses one"
            )
        return found[0] if found else None

    async def _total(self, field: str) -> int:
        found = await self._parts(field, None)
        try:
            return sum(map(int, found))
        except ValueError as error:
            raise UsageError(f"field {field!r} of projection {self._name!r} is no whole number: {found}") from error

    async def _parts(self, field: str, partition: int | None) -> list[str]:
        checked(field, "the name of a field")
        cores = self._store.chosen(partition)
        found = await self._store.io.gather(
            *(core.io.run(LOOK, (core.keys.view(self._name),), (field,)) for core in cores)
        )
        return [value.decode() for value in found if value is not None]

    def __repr__(self) -> str:
        """Name, store and whether it was stopped."""
        return f"<{type(self).__name__} {self._name!r} of {self._store.name!r}{', stopped' * self._stop.is_set()}>"


class Projection(_Projection[E]):
    """A view of events in Redis, and how far it has got.

    Guarantee: the changes of each event are in the view once, and in commit order, however many run it
    (tests/streams/test_projection.py); or `run` raises `Truncated` or `Diverged`.
    Not guaranteed: that the function is called once for each event: it must do nothing but change the view.
    """

    def run(self, apply: Callable[[Changes, Recorded[E]], object], *, once: bool = False) -> Projected:
        """Bring the view up to date, and keep it so until `stop` is called.

        Args:
            apply: Takes the `Changes` of a batch and an event.  What it raises ends the run; nothing of its batch is
                written.
            once: Return at the present end of the log.

        Returns:
            How many events it went through, and how far the projection has got.

        Raises:
            UnknownEventType: At an event whose type no model of this store claims.
            InvalidEvent: At an event whose payload does not fit its model.
            Truncated: Events that it has not seen were removed.
            Diverged: What it has seen is not there any more: build it anew under another name.
            ServerError: With code ``NOTANUMBER``, a field that something is added to is no whole number below 2^53.

        While the server is away it waits and tries again, unless *once* is set.
        Cost: one round trip per 500 events, and one script per 100.
        """
        _check(apply)

        def applied(changes: Changes, recorded: Recorded[E]) -> None:
            outcome = apply(changes, recorded)
            if inspect.iscoroutine(outcome):
                outcome.close()
                raise UsageError("this function returned a coroutine: use AsyncGrid, or pass a plain function")

        return run_sync(self._run(applied, once=once))

    def get(self, field: str, *, partition: int | None = None) -> str | None:
        """Return the value of a field; ``None`` if it is not there.

        Args:
            field: Its name.
            partition: Of a store in several partitions, each has a view of its own, of the events in it: look only into
                this one.  ``None`` looks into all of them, one round trip each.

        Raises:
            UsageError: Several partitions have this field.
        """
        return run_sync(self._get(field, partition))

    def total(self, field: str) -> int:
        """Return the sum of a field over all partitions; 0 if it is nowhere.

        Raises:
            UsageError: It is no whole number.
        """
        return run_sync(self._total(field))

    def checkpoint(self) -> str:
        """Return how far it has got."""
        return run_sync(self._checkpoint())


class AsyncProjection(_Projection[E]):
    """The asyncio twin of `Projection`.

    Guarantee: the changes of each event are in the view once, and in commit order, however many run it
    (tests/streams/test_projection.py); or `run` raises `Truncated` or `Diverged`.
    """

    async def run(
        self, apply: Callable[[Changes, Recorded[E]], Awaitable[object] | object], *, once: bool = False
    ) -> Projected:
        """Bring the view up to date, and keep it so until `stop` is called; see `Projection.run`."""
        _check(apply)
        return await self._run(apply, once=once)

    async def get(self, field: str, *, partition: int | None = None) -> str | None:
        """Return the value of a field; see `Projection.get`."""
        return await self._get(field, partition)

    async def total(self, field: str) -> int:
        """Return the sum of a field over all partitions; see `Projection.total`."""
        return await self._total(field)

    async def checkpoint(self) -> str:
        """Return how far it has got; see `Projection.checkpoint`."""
        return await self._checkpoint()


def _check(apply: object) -> None:
    if not callable(apply):
        raise UsageError(f"a projection needs a function of changes and an event, not {apply!r:.100}")
