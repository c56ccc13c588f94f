"""Settling: what becomes of the deliveries that a consumer has taken, each of them one script.

A delivery is handled and acknowledged, or it fails and the policy decides (`_failures.py`): it is put aside, given up,
skipped, or it ends the consumer.  Where deliveries come from is for `_consumer.py` to say.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias

from gridsync._io import load, telemetry
from gridsync.errors import DeliveryLost, GridsyncError, TooManyDeliveries
from gridsync.streams._aside import Aside
from gridsync.streams._away import PAUSE_MAX, is_gone, raise_if_final
from gridsync.streams._delivery import LOST
from gridsync.streams._failures import Failure, Park, Retry, Verdict
from gridsync.streams._model import E

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync._io import Signal
    from gridsync.streams._core import StoreCore
    from gridsync.streams._delivery import Delivered
    from gridsync.streams._failures import Decided, Rules
    from gridsync.streams._holding import Holding
    from gridsync.streams._records import Recorded

ACK: Final = load("gridsync.streams", "ack")

FRESH: Final = 2
"""Parts of a delivery that this group makes for the first time; others come with how often they were begun."""
_SETTLED: Final = 1
"""The code of `ack.lua` and `bury.lua` for a delivery that surely nobody waited behind."""
_TALLIES: Final = {"retry": "stream.retried", "park": "stream.parked", "skip": "stream.skipped", "dead": "stream.dead"}

Settled: TypeAlias = "tuple[Decided, float | None]"
"""What became of a delivery that failed, and in how many seconds it comes again."""

_log = logging.getLogger("gridsync.streams")


@dataclass(frozen=True, slots=True)
class Consumed:
    """What one `consume` call did."""

    handled: int
    """Deliveries whose handler returned and that were acknowledged."""
    failed: int
    """Deliveries whose handler raised or whose event could not be read, whatever became of them."""
    stolen: int
    """Deliveries that another consumer had claimed before this one could acknowledge or begin them."""
    returned: int
    """Deliveries taken but not begun, given back at the end."""
    skipped: int = 0
    """Those of the failed that the policy counts as done."""
    dead: int = 0
    """Events that became dead letters."""


@dataclass(frozen=True, slots=True)
class Options:
    """How one `consume` call behaves; checked in `_api.py`."""

    consumer: str
    """The name in the group; a given one (`known`) may have pending deliveries from an earlier life."""
    known: bool
    concurrency: int
    batch: int
    claim_idle: float
    idle_stop: float | None
    rules: Rules


class Settling(ABC, Generic[E]):
    """What one consumer does with the deliveries it has taken."""

    _pause: float
    """Seconds until the next attempt while the server is away."""

    def __init__(
        self,
        store: StoreCore[E],
        group: str,
        options: Options,
        stop: Signal,
        holding: Holding,
        *,
        handle: Callable[[Any], Awaitable[None]],
        complain: Callable[[Failure[E]], Awaitable[None]],
        delivery: Callable[[Recorded[E], bytes, int], Delivered[E]] | None,
    ) -> None:
        """Prepare; nothing is sent.

        *handle* gets what *delivery* makes of an event, its id in the group and the attempts, or else the event.
        """
        self._io = store.io
        self._store = store
        self._group = group
        self._name = f"{store.name}/{group}"
        self._options = options
        self._stop = stop
        self._handle = handle
        self._delivery = delivery
        self._complain = complain
        self._holding = holding
        self._held = self._holding.held
        self._rules = options.rules
        self._aside = Aside(self._io, store.keys, group, options.consumer)
        # Of each the id in the group, and the proof which event it was.
        self._unacked: list[tuple[bytes, str | bytes]] = []
        self._acking: Signal | None = None
        self._ended = False
        # Counts how often the group or what was delivered was lost: what is held means nothing any more.
        self._life = 0
        # Whether to look, before anything is read, if what was delivered is still in the log.
        self._doubted = False
        # When to ask for what is due again.
        self._due_at = self._io.monotonic()
        # Failed, and the server was not told yet: no longer held, and not to be begun again.
        self._failing: set[bytes] = set()
        # Ends the blocking read under way: what runs beside it, an acknowledgement or a handler, made something due.
        self._nudge: Signal | None = None
        # What the policy lets this consumer end with.
        self._broken: Exception | None = None
        self._handled = self._failed = self._stolen = self._returned = self._skipped = self._dead = 0

    @abstractmethod
    def _put_back(self, entry: Any) -> None:  # noqa: ANN401
        """Let a delivery that could not begin be the next one."""

    @abstractmethod
    async def _stumble(self, error: GridsyncError) -> None:
        """Wait for a server that is away; raise what no waiting heals."""

    @abstractmethod
    def _lost_group(self) -> None:
        """Begin anew: the group is gone."""

    @abstractmethod
    def give_back(self) -> None:
        """Give back at once what it holds, although handlers may be at work on it."""

    def _robbed(self) -> None:
        """Count a delivery of which the server says that another consumer has it."""
        self._stolen += 1

    def consumed(self) -> Consumed:
        """Return what it did, up to now."""
        return Consumed(self._handled, self._failed, self._stolen, self._returned, self._skipped, self._dead)

    async def _deliver(self, entry: Any) -> None:  # noqa: ANN401 - [id, fields] or, if it comes again, [id, fields, times]
        entry_id, life, recorded, delivery, proof = entry[0], self._life, None, None, ""
        attempts = self._held.get(entry_id, 0) + 1
        if self._asks(entry) and not await self._begin(entry, attempts):
            return
        try:
            recorded = self._store.in_log(entry)
            proof = f"{recorded.id} {recorded.time_us}"
            self._io.tally("stream.lag", self._name, recorded.time_us)
            if self._delivery is not None:
                delivery = self._delivery(recorded, entry_id, attempts)
            await self._handle(delivery or recorded)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises must not end the consumer
            if delivery is None or delivery.settled is None:
                await self._fail(entry, recorded, error, attempts, life)
                return
            await self._raised_after(entry, delivery, error)
        if delivery is not None and delivery.settled is not None:
            if life != self._life and delivery.settled == LOST:
                # What has this id now is held here, too.
                self._stolen += 1
            else:
                self._count(entry_id, delivery.settled)
        elif life == self._life:
            self._unacked.append((entry_id, proof))
            if self._acking is None:
                # Goes out while the next handler runs, and also if this task is cancelled: it was handled.
                self._acking = self._io.signal()
                self._io.spawn(self._acknowledge_aside(self._acking))
        else:
            self._stolen += 1

    def _asks(self, entry: Any) -> bool:  # noqa: ANN401
        """Whether the server must be told that this delivery begins."""
        return len(entry) > FRESH or self._rules.parks

    def _holds_back(self, rule: Retry) -> bool:
        """Whether later events of a stream wait while an earlier one is tried again."""
        return isinstance(rule, Park)

    async def _begin(self, entry: Any, attempts: int) -> bool:  # noqa: ANN401
        """Tell the server that an attempt begins; false if it must not."""
        entry_id, most = entry[0], self._rules.max_deliveries
        if most is not None and attempts > most:
            error = TooManyDeliveries(
                f"the event at position {int(entry_id[:-2])} of {self._store.name!r} was begun {attempts - 1} times "
                f"and never settled; max_deliveries={most}"
            )
            await self._fail(entry, None, error, attempts - 1, self._life)
            return False
        try:
            code, trace = await self._aside.begin(entry_id, attempts, stream_of(entry))
        except GridsyncError as error:
            # Still held and renewed; given back if this is the end.
            self._put_back(entry)
            await self._stumble(error)
            return False
        if code > 0:
            telemetry.follow(trace)
            return True
        self._held.pop(entry_id, None)
        if code < 0:
            self._robbed()
        else:
            self._io.tally("stream.waiting", self._name)
        return False

    async def _fail(
        self,
        entry: Any,  # noqa: ANN401
        recorded: Recorded[E] | None,
        error: Exception,
        attempts: int,
        life: int,
    ) -> None:
        """Do with a delivery that failed what the policy says, then tell `on_error`."""
        self._failed += 1
        self._io.tally("stream.failed", self._name)
        trace = telemetry.failed_trace()
        decided: Decided = "stolen"
        retry_in = None
        if life == self._life:
            # Before anything is sent: once it is put aside, it may be handed out again, and to this consumer.
            self._held.pop(entry[0], None)
            rule = Verdict.DEAD if isinstance(error, TooManyDeliveries) else self._rules.judge(error, attempts)
            self._failing.add(entry[0])
            try:
                decided, retry_in = await self._tell(partial(self._settle, entry, rule, error, attempts, trace))
            finally:
                self._failing.discard(entry[0])
        raw = fields_of(entry)
        await self._report(
            Failure(error, int(entry[0][:-2]), recorded, raw, attempts, decided, retry_in, self._store.partition)
        )
        if decided == "stop":
            self._broken = error
            self._ended = True
            self._wake()

    async def _tell(self, settle: Callable[[], Awaitable[Settled]]) -> Settled:
        """Settle, again and again while the server is away: what may be told to wait behind this must not go on."""
        life = self._life
        while life == self._life:
            try:
                return await settle()
            except GridsyncError as away:
                if is_gone(away):
                    self._lost_group()
                    return "retry", None
                raise_if_final(away)
                _log.warning("group %r cannot tell of a failure yet: %s", self._group, away)
                if await self._stop.wait(self._pause):
                    # It stays pending with us; given back, it is claimed after claim_idle.
                    return "retry", None
                self._pause = min(self._pause * 2, PAUSE_MAX)
        # What has this id now is another event, or will come again.
        return "stolen", None

    async def _settle(
        self,
        entry: Any,  # noqa: ANN401
        rule: Retry | Verdict,
        error: Exception,
        attempts: int,
        trace: str,
    ) -> Settled:
        entry_id, retry_in = entry[0], None
        decided: Decided
        if isinstance(rule, Retry):
            decided = "park" if self._holds_back(rule) else "retry"
            stream = stream_of(entry) if decided == "park" else b""
            delay_ms = rule.pause_ms(attempts, self._aside.chance())
            code, due_ms = await self._aside.park(entry_id, error, attempts, delay_ms, stream, trace)
            retry_in = due_ms / 1000
            self._ask_at(retry_in)
        elif rule is Verdict.DEAD:
            decided, code = "dead", await self._aside.bury(entry, error, attempts, trace)
        elif rule is Verdict.SKIP:
            # A repeat finds nothing pending, which is the same success.
            fields = fields_of(entry)
            proof = b"%b %b" % (fields.get(b"i", b""), fields.get(b"w", b""))
            words = (self._group, self._options.consumer, entry_id, proof)
            decided, code = "skip", (await self._io.run(ACK, self._aside.settling, words))[0]
        else:
            return "stop", None
        if code < 0:
            self._robbed()
            return "stolen", None
        if code != _SETTLED:
            self._ask_at(0.0)
        self._skipped += decided == "skip"
        self._dead += decided == "dead"
        self._io.tally(_TALLIES[decided], self._name)
        return decided, retry_in

    def _ask_at(self, seconds: float) -> None:
        """Ask for what is due in so many seconds; end the blocking read that another worker began before."""
        self._due_at = min(self._due_at, self._io.monotonic() + seconds)
        self._wake()

    def _wake(self) -> None:
        if self._nudge is not None:
            self._nudge.set()

    async def _report(self, failure: Failure[E]) -> None:
        try:
            await self._complain(failure)
        except Exception:  # noqa: BLE001 - nor what its on_error raises
            _log.exception("on_error of group %r failed at position %d", self._group, failure.position)

    async def _acknowledge_aside(self, done: Signal) -> None:
        """Acknowledge until nothing is left; what fails is tried again, and raised, by the next fetch."""
        try:
            while self._unacked and await self._acknowledge():
                pass
        except GridsyncError as error:
            _log.warning("group %r could not acknowledge: %s", self._group, error)
        finally:
            self._acking = None
            done.set()

    async def _acknowledge(self) -> bool:
        """Acknowledge everything handled; false if the server is away, then it stays held for another attempt."""
        done, self._unacked = self._unacked, []
        words = (self._group, self._options.consumer, *chain.from_iterable(done))
        life = self._life
        try:
            # Repeated by the driver; a second run finds nothing pending, which is the same success.
            codes = await self._io.run(ACK, self._aside.settling, words)
        except GridsyncError as error:
            if not is_gone(error):
                self._unacked = done + self._unacked
                raise_if_final(error)
                _log.warning("group %r could not acknowledge %d deliveries yet: %s", self._group, len(done), error)
                return False
            codes = [-1] * len(done)
            self._lost_group()
        for (entry_id, _), code in zip(done, codes, strict=True):
            if life == self._life:
                self._count(entry_id, code)
            else:
                # The group, or the event, was lost meanwhile; what has this id now is to be handled.
                self._stolen += 1
        return True

    def _count(self, entry_id: bytes, code: int) -> None:
        """Let go of a delivery of which the server has said what became of it."""
        self._held.pop(entry_id, None)
        # It was ours, and it is not: a repeat, a thief, or a server that knows nothing of it.
        self._doubted |= code <= 0
        if code < 0:
            self._robbed()
        else:
            self._handled += 1
            self._io.tally("stream.consumed", self._name)
            if code != _SETTLED:
                self._ask_at(0.0)

    async def _raised_after(self, entry: Any, delivery: Delivered[E], error: Exception) -> None:  # noqa: ANN401
        """Tell of a handler that raised when its event was settled: by its own commit, or by another consumer."""
        telemetry.failed_trace()
        decided: Decided = "stolen" if delivery.settled == LOST else "committed"
        if not isinstance(error, DeliveryLost):
            recorded, attempts = delivery.recorded, delivery.attempts
            where, raw = self._store.partition, fields_of(entry)
            await self._report(Failure(error, recorded.position, recorded, raw, attempts, decided, partition=where))


def fields_of(entry: Any) -> dict[bytes, bytes]:  # noqa: ANN401
    """Return the stored fields of a delivery."""
    return dict(zip(entry[1][::2], entry[1][1::2], strict=False))


def stream_of(entry: Any) -> bytes:  # noqa: ANN401
    """Return the stream of a delivery; empty if it was not written by gridsync."""
    stream: bytes = entry[1][3] if entry[1][2:3] == [b"s"] else fields_of(entry).get(b"s", b"")
    return stream
