"""Aggregates: what a stream amounts to, and decisions that are made on it.

Loading replays events through a function of the caller; a decision appends at the version that it was made at, and is
made again on what is new if somebody was faster.  A snapshot is only a shortcut: it names the event that it was taken
at, and is left aside if that event is not there, or if another program cannot read its state.
"""

from __future__ import annotations

import copy
import inspect
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from gridsync._io import Category, Command, load, run_sync
from gridsync._units import count as counted
from gridsync._units import name as checked
from gridsync.errors import Diverged, GridsyncError, UsageError, WrongVersion
from gridsync.streams._commit import as_list
from gridsync.streams._envelope import seal
from gridsync.streams._model import E
from gridsync.streams._pages import Mark
from gridsync.streams._records import Appended

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from gridsync.streams._partitions import Store

    Decision: TypeAlias = E | Sequence[E] | None

S = TypeVar("S")

SNAPSHOT: Final = load("gridsync.streams", "snapshot")
LOOK: Final = Command("streams.look_at_snapshot", Category.READ, ("HMGET",))
ATTEMPTS_MAX: Final = 1000
EVERY_MAX: Final = 1_000_000

_log = logging.getLogger("gridsync.streams")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """What a stream amounts to."""

    state: S
    """The state after its last event."""
    version: int
    """The version of that event; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class Decided(Generic[S]):
    """What became of a decision."""

    state: S
    """The state after it."""
    version: int
    """The version after it."""
    appended: Appended | None
    """What was appended; ``None`` if the decision was that nothing happens."""
    attempts: int
    """How often it was made: more than once if others were faster."""


@dataclass(slots=True)
class _Held(Generic[S]):
    """A state on its way through one call."""

    state: S
    mark: Mark | None = None
    snapshot: int = 0
    """The version that the snapshot was taken at which this began with."""

    @property
    def version(self) -> int:
        return 0 if self.mark is None else self.mark.number


class _Aggregate(Generic[S, E]):
    """What both kinds share."""

    def __init__(
        self,
        core: Store[E],
        initial: S,
        evolve: Callable[[S, E], S],
        *,
        name: str | None,
        snapshot_every: int | None,
        schema_version: int,
    ) -> None:
        """Made by the store."""
        if not callable(evolve):
            raise UsageError(f"evolve must be a function of a state and an event, not {evolve!r:.100}")
        self._core = core
        self._initial = initial
        self._evolve = evolve
        self._name = checked(type(initial).__name__ if name is None else name, "the name of an aggregate")
        self._every = None if snapshot_every is None else counted(snapshot_every, "snapshot_every", EVERY_MAX)
        self._schema = f"{self._name}#{counted(schema_version, 'schema_version', EVERY_MAX)}"
        # Only who keeps snapshots must have a state that JSON can hold.
        self._adapter: TypeAdapter[S] | None = None if self._every is None else TypeAdapter(type(initial))

    async def _load(self, stream: str) -> _Held[S]:
        checked(stream, "the name of a stream")
        held = await self._from_snapshot(stream)
        if held is not None:
            try:
                await self._catch_up(stream, held)
            except Diverged as error:
                _log.warning("a snapshot is left aside: %s", error)
            else:
                return held
        held = _Held(copy.deepcopy(self._initial))
        await self._catch_up(stream, held)
        return held

    async def _from_snapshot(self, stream: str) -> _Held[S] | None:
        if self._adapter is None:
            return None
        key = self._core.of(stream).keys.snapshot(self._name, stream)
        version, event_id, time, schema, state = await self._core.io.run(LOOK, (key,), ("v", "i", "w", "s", "d"))
        if version is None or schema.decode() != self._schema:
            return None
        try:
            return _Held(self._adapter.validate_json(state), Mark(int(version), (event_id, time)), int(version))
        except ValidationError as error:
            _log.warning("the snapshot of stream %r is left aside, its state cannot be read: %s", stream, error)
            return None

    async def _catch_up(self, stream: str, held: _Held[S], command: str | None = None) -> Appended | None:
        """Apply what is new; return what *command* appended, if that is in it, with the state as it was then.

        If it raises, or returns something, *held* is not to be decided on any more.
        """
        core = self._core.of(stream)
        pages = core.stream_pages(stream, mark=held.mark)
        ids: list[str] = []
        done: Appended | None = None
        while pages.more and (entries := await pages.next()):
            for entry in entries:
                recorded = core.in_stream(stream, entry)
                if command is not None and recorded.id == _event_id(command, len(ids)):
                    ids.append(recorded.id)
                    done = Appended(recorded.version, recorded.position, tuple(ids), replayed=True)
                elif done is not None:
                    return done
                held.state = self._evolve(held.state, recorded.event)
        held.mark = pages.mark
        return done

    async def _decide(
        self,
        stream: str,
        decide: Callable[[S], Any],
        attempts: int,
        about: str,
        command: str | None,
    ) -> Decided[S]:
        counted(attempts, "attempts", ATTEMPTS_MAX)
        before: Appended | None = None
        if command is None:
            held = await self._load(stream)
        else:
            # A snapshot does not say which commands have led to it.
            held = _Held(copy.deepcopy(self._initial))
            before = await self._catch_up(checked(stream, "the name of a stream"), held, checked(command, "command_id"))
        attempt = 1
        while True:
            if before is not None:
                return Decided(held.state, before.version, before, attempt)
            made = decide(held.state)
            if inspect.isawaitable(made):
                made = await made
            events = () if made is None else made if isinstance(made, list | tuple) else as_list(made)
            if not events:
                return Decided(held.state, held.version, None, attempt)
            try:
                ids = None if command is None else [_event_id(command, k) for k in range(len(events))]
                done = await self._core.append(stream, events, held.version, ids, about)
            except WrongVersion:
                # Somebody was faster, so somebody got on: as a whole, this ends.
                if attempt == attempts:
                    raise
                attempt += 1
                before = await self._catch_up(stream, held, command)
                continue
            if done.replayed and command is not None:
                # The same command, elsewhere, at the same version: what that one decided is what counts.
                before = await self._catch_up(stream, held, command)
                continue
            for event in events:
                held.state = self._evolve(held.state, event)
            await self._keep(stream, held, done)
            return Decided(held.state, done.version, done, attempt)

    async def _keep(self, stream: str, held: _Held[S], done: Appended) -> None:
        """Take a snapshot if it is time to; that it fails is no reason to say that the decision did."""
        if self._adapter is None or self._every is None or done.version - held.snapshot < self._every:
            return
        its = self._core.of(stream).keys
        keys = (its.snapshot(self._name, stream), its.stream(stream), its.aggregates)
        base = held.mark or Mark(0, None)
        args = (
            str(done.version),
            done.event_ids[-1],
            str(base.number),
            *(base.identity or ("", "0")),
            self._schema,
            self._adapter.dump_json(held.state),
            self._name,
        )
        try:
            await self._core.io.run(SNAPSHOT, keys, args)
        except GridsyncError as error:
            _log.warning("no snapshot of stream %r at version %d: %s", stream, done.version, error)

    def __repr__(self) -> str:
        """Name and store."""
        return f"<{type(self).__name__} {self._name!r} of {self._core.name!r}>"


class Aggregate(_Aggregate[S, E]):
    """Loads what a stream amounts to, decides, appends; again if somebody was faster.

    Guarantee: a decision is appended only at the version that it was made at (tests/streams/test_aggregate.py).
    Not guaranteed: that a decision is made once: it must do nothing but decide.
    """

    def load(self, stream: str) -> Loaded[S]:
        """Return what *stream* amounts to now.

        Raises:
            UnknownEventType: At an event whose type no model of this store claims.
            InvalidEvent: At an event whose payload does not fit its model.
            Truncated: Events were removed, and no snapshot stands in for them.

        Cost: one round trip per 500 events since the snapshot, and one for that.
        """
        held = run_sync(self._load(stream))
        return Loaded(held.state, held.version)

    def execute(
        self,
        stream: str,
        decide: Callable[[S], Decision[E]],
        *,
        attempts: int = 10,
        command_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Decided[S]:
        """Append to *stream* what *decide* makes of its state.

        Args:
            stream: The stream's name.
            decide: Takes the state and returns an event, several of them, or ``None`` if nothing happens.  What it
                raises ends the call.  It is called again, with the newer state, if somebody else appended meanwhile.
            attempts: How often it is called at most, 1 to 1000.
            command_id: What tells this command from any other on this stream.  If one with that id has appended here
                before, nothing is decided, and its result comes again, with `Appended.replayed`.  The ids of its events
                are made from it.  A command that appended nothing leaves no trace.
            metadata: As in `EventStore.append`.
            correlation_id: As in `EventStore.append`.
            causation_id: As in `EventStore.append`.

        Returns:
            The state and version after it, and what was appended.

        Raises:
            WrongVersion: Somebody was faster each time.
            OutcomeUnknown: No answer in time: execute it again with the same *command_id*.

        Besides, all that `load` and `EventStore.append` raise.
        Guarantee: with a *command_id* its events are in the stream once, however often and wherever it is executed, as
        long as the stream exists (tests/streams/test_aggregate.py).
        Cost: loading, then one round trip; one more when a snapshot is taken.  With a *command_id* the whole stream is
        read, and no snapshot is used.
        """
        _check(decide)

        def decided(state: S) -> object:
            made: object = decide(state)
            if inspect.iscoroutine(made):
                made.close()
                raise UsageError("this decision returned a coroutine: use AsyncGrid, or pass a plain function")
            return made

        about = seal(metadata, correlation_id, causation_id)
        return run_sync(self._decide(stream, decided, attempts, about, command_id))


class AsyncAggregate(_Aggregate[S, E]):
    """The asyncio twin of `Aggregate`.

    Guarantee: a decision is appended only at the version that it was made at (tests/streams/test_aggregate.py).
    """

    async def load(self, stream: str) -> Loaded[S]:
        """Return what *stream* amounts to now; see `Aggregate.load`."""
        held = await self._load(stream)
        return Loaded(held.state, held.version)

    async def execute(
        self,
        stream: str,
        decide: Callable[[S], Awaitable[Decision[E]] | Decision[E]],
        *,
        attempts: int = 10,
        command_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Decided[S]:
        """Append to *stream* what *decide* makes of its state; it may be a coroutine function.

        See `Aggregate.execute`.
        """
        _check(decide)
        about = seal(metadata, correlation_id, causation_id)
        return await self._decide(stream, decide, attempts, about, command_id)


def _event_id(command: str, number: int) -> str:
    return f"{command}-{number}"


def _check(decide: object) -> None:
    if not callable(decide):
        raise UsageError(f"a decision must be a function of a state, not {decide!r:.100}")
