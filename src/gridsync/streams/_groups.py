"""Consumer groups: `ConsumerGroup` for threads, `AsyncConsumerGroup` for asyncio."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal

from gridsync._io import run_sync, telemetry
from gridsync._io.scope import stray
from gridsync._units import Seconds, seconds
from gridsync._units import name as checked
from gridsync.errors import ServerError, UsageError
from gridsync.streams._away import patiently
from gridsync.streams._boxes import letters_of
from gridsync.streams._consumer import Quiet, Session, Shared
from gridsync.streams._crew import Crew, Desk
from gridsync.streams._dead import AsyncDeadLetters, DeadLetters
from gridsync.streams._delivery import AsyncDelivery, Delivery
from gridsync.streams._failures import Failure, Policy, Retry, Rules
from gridsync.streams._handlers import asked
from gridsync.streams._joining import join, skip_removed
from gridsync.streams._look import CONSUMERS, PARKED, group_info, parked
from gridsync.streams._member import Member
from gridsync.streams._model import E
from gridsync.streams._owners import Owner, owners
from gridsync.streams._settling import Consumed, Options
from gridsync.streams._turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import TypeAlias

    from gridsync._io import IO, Signal
    from gridsync.streams._boxes import Boxes
    from gridsync.streams._core import StoreCore
    from gridsync.streams._delivery import Delivered
    from gridsync.streams._letters import Letters
    from gridsync.streams._look import GroupInfo, ParkedEvent
    from gridsync.streams._partitions import Store
    from gridsync.streams._settling import Settling

    Handle: TypeAlias = Callable[[Any], Coroutine[Any, Any, None]]
    Complain: TypeAlias = Callable[[Failure[E]], Coroutine[Any, Any, None]]
    Kind: TypeAlias = type[Delivered[Any]] | None

BATCH_MAX = 1000
CLAIM_IDLE_MIN = 0.1
"""Seconds: below this a slow network alone would make deliveries look abandoned."""

RETRY = Retry()
"""What becomes of a failed event unless you say otherwise: nothing is given up."""

_log = logging.getLogger("gridsync.streams")


class _Group(Generic[E]):
    """What both kinds of group share: a name, where it starts, and how it is stopped."""

    def __init__(self, store: Store[E], name: str, start: Literal["first", "now"], *, ordered: bool = False) -> None:
        """Made by the store."""
        self._ordered = ordered
        self._store = store
        self._name = checked(name, "the name of a consumer group")
        self._from_now = _from_now(start)
        self._stop = store.io.signal()
        self._begun: list[Settling[E] | Member[E]] | None = None

    def stop(self) -> None:
        """End every `consume` of this object: running handlers finish, nothing new is begun.

        May be called from any thread or task, and from a signal handler.  It lasts: ask the store for a new group to
        go on.
        """
        self._stop.set()

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    def _observed(self) -> list[Settling[E] | Member[E]]:
        """Return the list to which every session or member of `consume` adds itself from now on."""
        self._begun = []
        return self._begun

    async def _ready(self) -> None:
        """Return once the group exists at the server, or once it was stopped."""
        what = f"group {self._name!r} of {self._store.name!r}"
        for core in self._store.partitions:
            joining = partial(join, core.io, core.keys, self._name, from_now=self._from_now)
            await patiently(self._stop, what, joining)

    def _member(
        self, options: Options, handle: Handle, complain: Complain[E], kind: Kind, *, in_threads: bool
    ) -> Member[E]:
        member = Member(
            self._store.partitions,
            self._name,
            options,
            self._stop,
            in_threads=in_threads,
            from_now=self._from_now,
            handle=handle,
            complain=complain,
            kind=kind,
        )
        if self._begun is not None:
            self._begun.append(member)
        return member

    async def _alone(self, options: Options, handle: Handle, complain: Complain[E], kind: Kind) -> Consumed:
        """Consume what is in one partition."""
        (core,) = self._store.partitions
        try:
            return await self._session(core, options, self._stop, handle, complain, kind, None).run()
        except ServerError as error:
            await core.compare(error)
            raise

    def _sessions(
        self, options: Options, stop: Signal, handle: Handle, complain: Complain[E], kind: Kind
    ) -> list[Session[E]]:
        io, partitions = self._store.io, self._store.partitions
        shared = Shared(Quiet(io.monotonic()), Turns(io, options.concurrency))
        return [self._session(core, options, stop, handle, complain, kind, shared) for core in partitions]

    def _session(  # noqa: PLR0917 - what a session takes
        self,
        core: StoreCore[E],
        options: Options,
        stop: Signal,
        handle: Handle,
        complain: Complain[E],
        kind: Kind,
        shared: Shared | None,
    ) -> Session[E]:
        """Return the call; *handle* gets deliveries of this *kind*, or events."""
        observed = telemetry.processing(handle, core.name, self._name, options.consumer)
        session = Session(
            core,
            self._name,
            options,
            stop,
            from_now=self._from_now,
            handle=observed,
            complain=complain,
            delivery=None if kind is None else partial(kind, core, self._name, options.consumer),
            shared=shared,
        )
        if self._begun is not None:
            self._begun.append(session)
        return session

    def _letters(self) -> Letters | Boxes:
        store = self._store
        keys = [core.keys for core in store.partitions]
        return letters_of(store.io, keys, store.name, self._name, from_now=self._from_now)

    async def _skip_removed(self) -> int:
        store, skipped = self._store, 0
        for core in store.partitions:
            skipped += await skip_removed(store.io, core.keys, self._name, from_now=self._from_now)
        return skipped

    async def _info(self, consumers_max: int) -> GroupInfo:
        return await group_info(self._store.partitions, self._name, consumers_max)

    async def _parked(self, limit: int) -> tuple[ParkedEvent, ...]:
        return await parked(self._store.partitions, self._name, limit)

    def _log(self, failure: Failure[E]) -> None:
        _log_failure(self._name, failure)

    def __repr__(self) -> str:
        """Name, store and whether it was stopped."""
        return f"<{type(self).__name__} {self._name!r} of {self._store.name!r}{', stopped' * self._stop.is_set()}>"


class ConsumerGroup(_Group[E]):
    """Consumers that share the events of a store: each event is handled by one of them, at least once.

    Guarantee: an event is acknowledged only after its handler returned, and only by the consumer it is with; what a
    dead consumer held is taken over (tests/streams/test_consumer.py).
    Not guaranteed: order between consumers, and exactly one handling: a consumer that dies between the end of its
    handler and the acknowledgement has its event handled again, so handlers must be safe to repeat.
    """

    def consume(
        self,
        handler: Callable[..., object],
        *,
        consumer: str | None = None,
        concurrency: int = 1,
        batch: int = 100,
        claim_idle: Seconds = 30.0,
        idle_stop: Seconds | None = None,
        policy: Policy = RETRY,
        max_deliveries: int | None = None,
        on_error: Callable[[Failure[E]], object] | None = None,
    ) -> Consumed:
        """Handle events in this thread until `stop` is called.

        Args:
            handler: Called with each event; when it returns, the event is acknowledged.  When it raises, *policy*
                says what becomes of the event.  It gets a `Recorded`; the event itself if its parameter says a model;
                a `Delivery` if it says that, or if it has a second one.
            consumer: A name of your own that no other running consumer has; one that lives on after a crash gets its
                pending events back at once.  Without one a new name is made and removed at the end.
            concurrency: Only 1 here: call `consume` in more threads or processes instead.
            batch: The most events taken at once, 1 to 1000, and never more than half a second's work: what waits
                behind a slow handler, another consumer could have begun.  Those that wait are renewed too.
            claim_idle: Seconds without a sign of life after which an event held by someone else is taken over.
            idle_stop: Return after this many seconds without any event; ``None`` goes on for ever.
            policy: What becomes of an event whose handler raised, or that cannot be read: a `Retry`, a `Park`,
                ``DEAD``, ``SKIP`` or ``STOP``, or a mapping of these by class of exceptions, of which the nearest
                counts.  What it does not name is tried again for ever, with pauses that grow up to 5 minutes.
                Consumers of one group should agree on it.
            max_deliveries: An event that was begun so often and never settled, for example because its process died,
                becomes a dead letter instead of being begun again.  ``None`` takes the largest ``max_attempts`` of
                the policy, and is without limit if an error is retried without, or ``Exception`` is not retried.
            on_error: Called with each `Failure` and what was decided about it; without one it is logged.

        Returns:
            What was handled, failed, lost to others and given back.

        Raises:
            UsageError: An argument that cannot be used.
            Misconfigured: The server refuses for a reason that no retry heals.
            Truncated: The group was lost, and events were removed that it has not had: see `skip_removed`.
            Exception: What the handler raised, if *policy* says ``STOP``.

        Guarantee: while the handler runs, however long, its event is renewed and nobody else gets it; as long as the
        server can be reached within *claim_idle*.
        While the server is away it waits and tries again; a lost group is made again from its last noted position.
        Cost: one blocking read per batch, on a connection of its own, and one script per event (here; in asyncio
        events handled meanwhile share one).
        """
        _callable(handler, on_error)
        if inspect.iscoroutinefunction(handler):
            raise UsageError("this handler is a coroutine function: use AsyncGrid, or pass a plain function")
        if concurrency != 1:
            raise UsageError(f"concurrency={concurrency}: a thread does one thing; call consume() in more threads")
        call, delivers = asked(handler, self._store.codec.models)

        async def handle(subject: Any) -> None:  # noqa: ANN401 - a Recorded, or a Delivery
            done = call(subject)
            if inspect.iscoroutine(done):
                # Nobody would run it, and the event would count as handled.
                done.close()
                raise UsageError("this handler returned a coroutine: use AsyncGrid, or pass a plain function")

        async def complain(failure: Failure[E]) -> None:
            (on_error or self._log)(failure)

        options = _options(
            self._store.io,
            consumer,
            concurrency=concurrency,
            batch=batch,
            claim_idle=claim_idle,
            idle_stop=idle_stop,
            rules=Rules(policy, max_deliveries),
        )
        kind = Delivery if delivers else None
        store = self._store
        if self._ordered:
            return run_sync(self._member(options, handle, complain, kind, in_threads=True).run())
        if len(store.partitions) == 1:
            return run_sync(self._alone(options, handle, complain, kind))
        crew: Crew[E] = Crew(store.io, store.directory, self._stop)
        desk = Desk(store.io, len(store.partitions), crew.halt)
        sessions = self._sessions(options, crew.halt, desk.done_by(handle), desk.done_by(complain), kind)
        return run_sync(crew.run(sessions, desk))

    def owners(self) -> list[Owner]:
        """Return who has which partition, if this group is ordered, and what is left to do in each.

        Cost: one round trip per partition, O(groups of the store).
        """
        return run_sync(owners(self._store.partitions, self._name))

    def dead_letters(self) -> DeadLetters:
        """Return the events that this group has given up; nothing is sent."""
        return DeadLetters(self._letters())

    def skip_removed(self) -> int:
        """Let the group go on although events were removed that it has not had: the answer to `Truncated`.

        Returns:
            How many events it will never have; 0 if there was nothing to skip.
        """
        return run_sync(self._skip_removed())

    def info(self, *, consumers_max: int = CONSUMERS) -> GroupInfo:
        """Look how far this group has got, and who is in it.

        Args:
            consumers_max: The most consumers to name, 1 to 1000; all are counted.

        Returns:
            What the server knows at this moment; with `GroupInfo.exists` false if nobody has consumed yet.

        Raises:
            UsageError: A number that cannot be used.

        Cost: one round trip; O(consumers + groups of the store).
        """
        return run_sync(self._info(consumers_max))

    def parked(self, *, limit: int = PARKED) -> tuple[ParkedEvent, ...]:
        """Look at the failed events that are tried again later, those that are due first come first.

        Args:
            limit: The most to return, 1 to 1000; `GroupInfo.parked` counts all.

        Raises:
            UsageError: A number that cannot be used.

        Cost: one round trip; O(log n) for each.
        """
        return run_sync(self._parked(limit))


class AsyncConsumerGroup(_Group[E]):
    """The asyncio twin of `ConsumerGroup`.

    Guarantee: an event is acknowledged only after its handler returned, and only by the consumer it is with; what a
    dead consumer held is taken over (tests/streams/test_consumer.py).
    Not guaranteed: order between consumers, and exactly one handling; see `ConsumerGroup`.
    """

    async def consume(
        self,
        handler: Callable[..., Awaitable[object] | object],
        *,
        consumer: str | None = None,
        concurrency: int = 1,
        batch: int = 100,
        claim_idle: Seconds = 30.0,
        idle_stop: Seconds | None = None,
        policy: Policy = RETRY,
        max_deliveries: int | None = None,
        on_error: Callable[[Failure[E]], Awaitable[object] | object] | None = None,
    ) -> Consumed:
        """Handle events in this task until `stop` is called; see `ConsumerGroup.consume`.

        Args:
            handler: A coroutine function, or a plain one that is quick: it holds up the loop while it runs.  It gets a
                `Recorded`; the event itself if its parameter says a model; an `AsyncDelivery` if it says that, or if it
                has a second one.
            consumer: A name of your own that no other running consumer has.
            concurrency: How many handlers run side by side; with 1 this consumer handles its events in order.
            batch: The most events taken at once, 1 to 1000, and never more than half a second's work: what waits
                behind a slow handler, another consumer could have begun.  Those that wait are renewed too.
            claim_idle: Seconds without a sign of life after which an event held by someone else is taken over.
            idle_stop: Return after this many seconds without any event; ``None`` goes on for ever.
            policy: What becomes of an event whose handler raised, or that cannot be read: a `Retry`, a `Park`,
                ``DEAD``, ``SKIP`` or ``STOP``, or a mapping of these by class of exceptions, of which the nearest
                counts.  What it does not name is tried again for ever, with pauses that grow up to 5 minutes.
                Consumers of one group should agree on it.
            max_deliveries: An event that was begun so often and never settled, for example because its process died,
                becomes a dead letter instead of being begun again.  ``None`` takes the largest ``max_attempts`` of
                the policy, and is without limit if an error is retried without, or ``Exception`` is not retried.
            on_error: Called with each `Failure` and what was decided about it; without one it is logged.

        Returns:
            What was handled, failed, lost to others and given back.

        Raises:
            UsageError: An argument that cannot be used.
            Misconfigured: The server refuses for a reason that no retry heals.
            Exception: What the handler raised, if *policy* says ``STOP``.

        Cancelling the task cancels the running handlers; nothing that was not handled is acknowledged, and what was
        held goes back to the group at once.  A handler that raises ``asyncio.CancelledError`` while nobody cancels the
        task has failed, with a ``concurrent.futures.CancelledError``: something that it waited for was cancelled.
        """
        _callable(handler, on_error)
        call, delivers = asked(handler, self._store.codec.models)

        # Each gets a Recorded, or an AsyncDelivery; a Failure.
        handle, complain = partial(_called, call), partial(_called, on_error or self._log)

        options = _options(
            self._store.io,
            consumer,
            concurrency=concurrency,
            batch=batch,
            claim_idle=claim_idle,
            idle_stop=idle_stop,
            rules=Rules(policy, max_deliveries),
        )
        kind = AsyncDelivery if delivers else None
        store = self._store
        if self._ordered:
            return await self._member(options, handle, complain, kind, in_threads=False).run()
        if len(store.partitions) == 1:
            return await self._alone(options, handle, complain, kind)
        crew: Crew[E] = Crew(store.io, store.directory, self._stop)
        return await crew.run(self._sessions(options, crew.halt, handle, complain, kind))

    async def owners(self) -> list[Owner]:
        """Return who has which partition, if this group is ordered; see `ConsumerGroup.owners`."""
        return await owners(self._store.partitions, self._name)

    def dead_letters(self) -> AsyncDeadLetters:
        """Return the events that this group has given up; nothing is sent."""
        return AsyncDeadLetters(self._letters())

    async def skip_removed(self) -> int:
        """Let the group go on although events were removed that it has not had; see `ConsumerGroup.skip_removed`."""
        return await self._skip_removed()

    async def info(self, *, consumers_max: int = CONSUMERS) -> GroupInfo:
        """Look how far this group has got, and who is in it; see `ConsumerGroup.info`."""
        return await self._info(consumers_max)

    async def parked(self, *, limit: int = PARKED) -> tuple[ParkedEvent, ...]:
        """Look at the failed events that are tried again later; see `ConsumerGroup.parked`."""
        return await self._parked(limit)


async def _called(call: Callable[[Any], Awaitable[object] | object], subject: Any) -> None:  # noqa: ANN401
    try:
        done = call(subject)
        if inspect.isawaitable(done):
            await done
    except BaseException as error:
        if (failed := stray(error)) is not None:
            raise failed from error
        raise


def _from_now(start: str) -> bool:
    if start not in ("first", "now"):
        raise UsageError(f"start={start!r}: a group starts at 'first' or 'now'")
    return start == "now"


def _callable(handler: object, on_error: object) -> None:
    """Refuse what cannot be called before an event is taken: each call would fail and leave its event pending."""
    if not callable(handler):
        raise UsageError(f"the handler of consume() must be a function of one event, not {handler!r:.100}")
    if on_error is not None and not callable(on_error):
        raise UsageError(f"on_error must be a function of one failure, not {on_error!r:.100}")


def _options(
    io: IO,
    consumer: str | None,
    *,
    concurrency: int,
    batch: int,
    claim_idle: Seconds,
    idle_stop: Seconds | None,
    rules: Rules,
) -> Options:
    """Check the arguments of `consume` and convert them, once."""
    name = io.token() if consumer is None else checked(consumer, "the name of a consumer")
    if name.startswith("~"):
        raise UsageError(f"consumer={name!r}: names that begin with ~ are gridsync's own")
    if type(concurrency) is not int or concurrency < 1:
        raise UsageError(f"concurrency={concurrency!r} must be a whole number from 1")
    if type(batch) is not int or not 1 <= batch <= BATCH_MAX:
        raise UsageError(f"batch={batch!r} must be a whole number from 1 to {BATCH_MAX}")
    idle_s = seconds(claim_idle, "claim_idle", least=CLAIM_IDLE_MIN)
    stop_s = None if idle_stop is None else seconds(idle_stop, "idle_stop")
    return Options(name, consumer is not None, concurrency, batch, idle_s, stop_s, rules)


def _log_failure(group: str, failure: Failure[Any]) -> None:
    _log.error(
        "group %r: the event at position %d was not handled (attempt %d): %r; %s",
        group,
        failure.position,
        failure.attempts,
        failure.error,
        _BECOMES[failure.decided],
        exc_info=failure.error,
    )


_BECOMES = {
    "retry": "it comes again",
    "park": "it comes again, and later events of its stream wait for it",
    "skip": "it counts as done",
    "stop": "it stays pending and this consumer ends",
    "dead": "it is a dead letter now",
    "stolen": "another consumer has taken it over",
    "committed": "it was committed before, and is done",
    "diverged": "undo what came of it and of what followed; the consumer goes on with what is there now",
}
