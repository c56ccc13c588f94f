"""A delivery, as a handler gets it that wants more than the event: to settle it together with what comes of it.

Redis structures: those of the store, and of the group a hash of state and a sorted set of deliveries that were
committed.  One script acknowledges, appends and changes the state, or does nothing of it, so what a handler makes of an
event inside Redis is made once, however often the handler runs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from gridsync._io import Category, Command, load, run_sync
from gridsync._units import name as checked
from gridsync.errors import DeliveryLost, GridsyncError, ServerError, StaleState, UsageError
from gridsync.streams._away import is_gone
from gridsync.streams._cap import again
from gridsync.streams._commit import Check, Expected, Plan, Write
from gridsync.streams._core import RECENT, REPLAYED
from gridsync.streams._envelope import seal
from gridsync.streams._model import E
from gridsync.streams._projection import Changes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from pydantic import BaseModel

    from gridsync.streams._core import StoreCore
    from gridsync.streams._envelope import Envelope
    from gridsync.streams._outbox import AsyncOutbox, Outbox
    from gridsync.streams._records import Committed, Recorded

T = TypeVar("T")
F = TypeVar("F", bound="BaseModel")

COMPLETE: Final = load("gridsync.streams", "complete")
LOOK: Final = Command("streams.look_at_state", Category.READ, ("HGET",))

LOST: Final = -1
"""The code of `complete.lua` for a delivery that is another's."""
_CHANGED: Final = 4


@dataclass(slots=True)
class Commit(Generic[E]):
    """What a handler wants to be true at once when its event is done."""

    parts: list[Write[E] | Check]
    changes: Changes
    about: str
    consignments: list[tuple[str, list[str | bytes]]]
    """The key of an outbox, and what the script is told of what goes there."""


class Delivered(Generic[E]):
    """What both kinds share."""

    def __init__(  # noqa: PLR0917 - one argument per fact
        self, core: StoreCore[E], group: str, consumer: str, recorded: Recorded[E], entry_id: bytes, attempts: int
    ) -> None:
        """Made by the consumer."""
        self.recorded = recorded
        """The event as it stands in the store."""
        self.attempts = attempts
        """How often it was begun, with this time."""
        self.group = group
        """The consumer group that it was delivered to."""
        self.consumer = consumer
        """The consumer that it was delivered to."""
        self.settled: int | None = None
        """What the script said of it, as `ack.lua` does; ``None`` as long as nothing was committed."""
        self._core = core
        self._id = entry_id
        # What was read of the state: as the script compares it, empty for nothing.
        self._seen: dict[str, bytes] = {}
        # Whether a commit is on its way: another one, from a task beside it, would be taken for its repeat.
        self._committing = False

    @property
    def event(self) -> E:
        """The event itself."""
        return self.recorded.event

    @property
    def position(self) -> int:
        """The event's position in the store."""
        return self.recorded.position

    @property
    def envelope(self) -> Envelope:
        """What is known of the commit that the event came with."""
        return self.recorded.envelope

    @property
    def store(self) -> StoreCore[E]:
        """The store, or the partition of it, that the event is in; for the inside of this package."""
        return self._core

    def new_id(self, number: int) -> str:
        """Return the id of the event number *number* that comes of this one: the same whoever handles it."""
        origin = f"{self._core.keys.base}\0{self.group}\0{self.recorded.stream}\0{self.recorded.id}"
        return f"{hashlib.blake2b(origin.encode(), digest_size=15).hexdigest()}-{number}"

    def _open(self, metadata: Mapping[str, Any] | None) -> Commit[E]:
        self._unsettled()
        recorded = self.recorded
        about = seal(metadata, recorded.correlation_id or recorded.id, recorded.id, recorded.envelope)
        return Commit([], Changes(), about, [])

    def _unsettled(self) -> None:
        if self.settled is not None or self._committing:
            state = "being committed" if self._committing else "settled"
            raise UsageError(f"the event at position {self.position} is {state}: a delivery is committed once")

    async def _look(self, key: str, as_type: Any, default: Any) -> Any:  # noqa: ANN401
        checked(key, "the name of a state")
        if key not in self._seen:
            found = await self._core.io.run(LOOK, (self._core.keys.state(self.group),), (key,))
            self._seen[key] = b"" if found is None else found
        stored = self._seen[key]
        if not stored:
            return default
        try:
            return _adapter(as_type).validate_json(stored)
        except ValidationError as error:
            raise UsageError(
                f"state {key!r} of group {self.group!r} does not fit {as_type!r:.100}: {error}; it is {stored!r:.100}"
            ) from error

    async def _complete(self, commit: Commit[E]) -> tuple[bool, Committed | None]:
        """Send it; returns whether it had been committed before, and where the events are."""
        self._unsettled()
        core, keys = self._core, self._core.keys
        plan = Plan(commit.parts, least=0)
        # All of them were given.
        ids = plan.ids(lambda _: ())
        changes = commit.changes.words()
        recorded = self.recorded
        words: list[str | bytes] = [self.group, self.consumer, self._id, str(self.attempts)]
        words += (f"{recorded.id} {recorded.time_us}", str(RECENT), commit.about)
        boxes = list(dict.fromkeys(box for box, _ in commit.consignments))
        words += (str(plan.total), core.mode, str(len(self._seen)), str(len(changes) // 3))
        words += (str(len(boxes)), str(len(commit.consignments)))
        for key, stored in self._seen.items():
            words += (key, stored)
        words += changes
        for box, consigned in commit.consignments:
            words += (str(boxes.index(box) + 1), *consigned)
        words += plan.words(ids, core.codec.dump)
        for part in plan.parts:
            core.require(part.stream)
        touched = (*self._keys(), *boxes, *(keys.stream(part.stream) for part in plan.parts))
        self._committing = True
        try:
            # A lost reply may mean written: the script finds its mark, and changes nothing.
            reply = await core.io.run(COMPLETE, touched, words)
            reply = await again(core, reply, COMPLETE, touched, words, plan.total, spare=True)
        except GridsyncError as error:
            if isinstance(error, ServerError):
                await core.compare(error)
            if not is_gone(error):
                raise
            self.settled = LOST
            raise self._lost("the group is gone; it is made again, and the event comes again") from error
        finally:
            self._committing = False
        code = reply[0]
        if code == LOST:
            self.settled = LOST
            raise self._lost("another consumer has taken it over, it was given up, or a failover has lost the event")
        if code == _CHANGED:
            key = tuple(self._seen)[reply[1] - 1]
            # Read anew, it may be tried again at once.
            self._seen.clear()
            raise StaleState(
                f"state {key!r} of group {self.group!r} was changed since this handler read it; nothing was written: "
                "the event comes again as the policy says",
                name=self._name,
                key=key,
            )
        if code > REPLAYED:
            refused = plan.parts[reply[1] - 1]
            raise core.wrong_version(code, refused.stream, refused.expected_version, reply[2])
        self.settled = reply[1]
        ends = reply[2:]
        already = code == REPLAYED
        return already, plan.answer(ids, ends, replayed=already) if ends else None

    def _keys(self) -> tuple[str, ...]:
        keys, group = self._core.keys, self.group
        aside = (keys.retry(group), keys.failed(group), keys.waiting(group))
        kept = (keys.done(group), keys.state(group), keys.floors)
        return (keys.log, *aside, *kept, keys.meta, keys.versions, keys.recent, keys.sent)

    @property
    def _name(self) -> str:
        return f"{self._core.name}/{self.group}"

    def _lost(self, reason: str) -> DeliveryLost:
        return DeliveryLost(
            f"the event at position {self.position} of {self._core.name!r} is no longer with consumer "
            f"{self.consumer!r} of group {self.group!r}: {reason}; nothing was written",
            name=self._name,
            fence=self.attempts,
            reason=reason,
        )

    def __repr__(self) -> str:
        """Event, group and attempt."""
        return f"<{type(self).__name__} of position {self.position} to {self._name!r}, attempt {self.attempts}>"


class _Transaction(Generic[E]):
    """What both kinds share."""

    def __init__(self, delivery: Delivered[E], metadata: Mapping[str, Any] | None) -> None:
        """Made by the delivery."""
        self._delivery = delivery
        self._commit = delivery._open(metadata)  # noqa: SLF001 - two halves of one thing
        self._written = 0
        self.already: bool | None = None
        """Whether it had been committed before, so that nothing was written now: by an earlier run of the handler, or
        by a request of this one whose reply was lost.  ``None`` before the end of the block."""
        self.committed: Committed | None = None
        """Where the events are, after the end of the block; ``None`` if there are none, or if that is not known because
        all of it had been committed before."""

    def append(
        self, stream: str, events: E | Sequence[E], *, expected_version: int | Expected = Expected.ANY
    ) -> tuple[str, ...]:
        """Append events to a stream of the same store; see `EventStore.append`.

        Args:
            stream: The stream's name; each stands in one call only.
            events: One model instance, or a sequence of them.
            expected_version: The version that this was decided at.

        Returns:
            The ids of the events: made of the event that is handled, so whoever handles it again makes the same.  Their
            correlation id is that of the event, or its id; their causation id is its id.

        Raises:
            UsageError: An argument that cannot be used; nothing was sent.
        """
        write = Write(stream, events, expected_version)
        count = len(write.batch)
        ids = tuple(self._delivery.new_id(self._written + k) for k in range(count))
        self._written += count
        self._commit.parts.append(Write(stream, events, expected_version, ids))
        return ids

    def send(self, outbox: Outbox[F] | AsyncOutbox[F], stream: str, events: F | Sequence[F]) -> tuple[str, ...]:
        """Send events to a stream of another store, or of another partition of this one.

        They are put into *outbox* when the block ends, and appended there once, soon after: see `EventStore.outbox`.

        Args:
            outbox: That of this store for the other one.
            stream: A stream of the other store.
            events: One instance of its models, or a sequence of up to 1000.

        Returns:
            The ids of the events, as in `append`.

        Raises:
            UsageError: An argument that cannot be used, or an outbox of another store than this.
        """
        write = Write(stream, events)
        Plan((write,))
        count = len(write.batch)
        ids = tuple(self._delivery.new_id(self._written + k) for k in range(count))
        key, dump = outbox.box(self._delivery.store, stream)
        words: list[str | bytes] = [stream, str(count)]
        for event, event_id in zip(write.batch, ids, strict=True):
            words += (event_id, *dump(event))
        self._written += count
        self._commit.consignments.append((key, words))
        return ids

    def check(self, stream: str, expected_version: int | Expected) -> None:
        """Make sure that a stream stands at a version; nothing is written to it."""
        self._commit.parts.append(Check(stream, expected_version))

    def state(self, key: str, value: Any) -> None:  # noqa: ANN401 - what pydantic can write as JSON
        """Give a field of the group's state a value.

        If the handler has read it before, it must still be as it was then: see `Delivery.state`.

        Raises:
            UsageError: JSON cannot hold the value.
        """
        try:
            text = to_json(value, round_trip=True).decode()
        except PydanticSerializationError as error:
            raise UsageError(f"state {key!r:.100} cannot be {value!r:.100}: {error}") from error
        self._commit.changes.set(key, text)

    def add(self, key: str, amount: int) -> None:
        """Add *amount* to a field of the group's state that is a whole number, or 0 if it is not there.

        It need not be read before, so handlers that run at the same moment do not stand in each other's way.
        """
        self._commit.changes.add(key, amount)

    def forget(self, key: str) -> None:
        """Remove a field of the group's state."""
        self._commit.changes.remove(key)

    async def _leave(self) -> None:
        self.already, self.committed = await self._delivery._complete(self._commit)  # noqa: SLF001


class Transaction(_Transaction[E]):
    """What becomes true at once when the block ends; see `Delivery.commit`."""

    def __enter__(self) -> Transaction[E]:
        """Begin; nothing is sent."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Write all of it, or nothing if the block raised."""
        if kind is None:
            run_sync(self._leave())


class AsyncTransaction(_Transaction[E]):
    """What becomes true at once when the block ends; see `AsyncDelivery.commit`."""

    async def __aenter__(self) -> AsyncTransaction[E]:
        """Begin; nothing is sent."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Write all of it, or nothing if the block raised."""
        if kind is None:
            await self._leave()


class Delivery(Delivered[E]):
    """An event as it was delivered to a handler, which may settle it together with what comes of it.

    A handler gets one if it has a parameter of this type, or a second one that says nothing else.

    Guarantee: a commit is written whole or not at all, and once for each event and group, however often the handler
    runs and whoever runs it (tests/streams/test_delivery.py).
    Not guaranteed: that the handler runs once, nor anything about what it does outside the commit.
    """

    def commit(self, *, metadata: Mapping[str, Any] | None = None) -> Transaction[E]:
        """Begin a block at whose end the event is acknowledged, events are appended and state is changed, all at once.

        Args:
            metadata: Whatever else is to be known of the events that it appends, as in `EventStore.append`.

        Returns:
            A context manager with `append`, `check`, `state`, `add` and `forget`.  If its block raises, nothing is
            written.

        Raises:
            UsageError: This delivery was committed already.

        At the end of the block it raises what `EventStore.commit` does, and:

        Raises:
            DeliveryLost: The event is not this consumer's any more; nothing was written.
            StaleState: What was read of the state has changed since; nothing was written.
            OutcomeUnknown: No answer in time.  Let it pass: if the event comes again, nothing was written.

        Guarantee: after a commit the event is done, and it is not acknowledged again when the handler returns.
        Cost: one round trip, in place of that of the acknowledgement.
        """
        return Transaction(self, metadata)

    @overload
    def state(self, key: str, as_type: type[T]) -> T | None: ...

    @overload
    def state(self, key: str, as_type: type[T], default: T) -> T: ...

    def state(self, key: str, as_type: type[T], default: T | None = None) -> T | None:
        """Return a field of the state that handlers of this group keep.

        Args:
            key: The field.
            as_type: What it is: any type that pydantic can read.
            default: What to return if it is not there.

        Raises:
            UsageError: What is stored does not fit *as_type*.

        Guarantee: what was read is compared when the delivery is committed, so two handlers that run at the same moment
        never undo each other's changes: the later one gets `StaleState`.
        Cost: one round trip for each field.
        """
        value: T | None = run_sync(self._look(key, as_type, default))
        return value


class AsyncDelivery(Delivered[E]):
    """The asyncio twin of `Delivery`.

    Guarantee: a commit is written whole or not at all, and once for each event and group, however often the handler
    runs and whoever runs it (tests/streams/test_delivery.py).
    """

    def commit(self, *, metadata: Mapping[str, Any] | None = None) -> AsyncTransaction[E]:
        """Begin a block at whose end the event is acknowledged, events are appended and state is changed, all at once.

        See `Delivery.commit`.  If the task is cancelled at the end of the block, all of it is written or nothing; if
        the event comes again, nothing was.
        """
        return AsyncTransaction(self, metadata)

    @overload
    async def state(self, key: str, as_type: type[T]) -> T | None: ...

    @overload
    async def state(self, key: str, as_type: type[T], default: T) -> T: ...

    async def state(self, key: str, as_type: type[T], default: T | None = None) -> T | None:
        """Return a field of the state that handlers of this group keep; see `Delivery.state`."""
        value: T | None = await self._look(key, as_type, default)
        return value


@lru_cache(maxsize=256)
def _adapter(as_type: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - whatever pydantic takes
    return TypeAdapter(as_type)
