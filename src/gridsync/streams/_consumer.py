"""Consuming: one `consume` call of a group in queue mode, from the first read to the clean end.

Redis structure: a consumer group on the log.  Its pending list is the only memory of who works on what; this process
remembers nothing that it could not read there again.  A delivery is ours until someone else claims it, which they may
once it has been idle for `claim_idle`; so whatever is held, handled or waiting its turn, is renewed from a place of
its own (`Holding`), and an acknowledgement counts only while the delivery is still ours (`ack.lua`).
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync._io import Category, Command, load, telemetry
from gridsync.errors import GridsyncError, TooManyDeliveries
from gridsync.streams._aside import Aside
from gridsync.streams._away import BLOCK_MAX, PAUSE_MAX, PAUSE_MIN, is_gone, raise_if_final
from gridsync.streams._failures import Failure, Park, Retry, Verdict
from gridsync.streams._holding import Holding
from gridsync.streams._model import E

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gridsync._io import Arg, Signal
    from gridsync.streams._core import StoreCore
    from gridsync.streams._failures import Decided, Rules
    from gridsync.streams._records import Recorded

JOIN: Final = load("gridsync.streams", "join")
ACK: Final = load("gridsync.streams", "ack")
LEAVE: Final = load("gridsync.streams", "leave")
TEND: Final = load("gridsync.streams", "tend")
CLAIM: Final = load("gridsync.streams", "claim")

AHEAD: Final = 0.5
"""Seconds of work that one consumer takes ahead at most."""
DEAD_AFTER: Final = 3600.0
"""Seconds without a sign of life after which a consumer that holds nothing is removed."""

_START: Final = b"0-0"
_OWN, _OWN_MISSED = "-1", "-2"
_SETTLED: Final = 1
"""The code of `ack.lua` and `bury.lua` for a delivery that surely nobody waited behind."""
_FRESH: Final = 2
"""Parts of a delivery that this group makes for the first time; others come with how often they were begun."""
_TALLIES: Final = {"retry": "stream.retried", "park": "stream.parked", "skip": "stream.skipped", "dead": "stream.dead"}

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


class Session(Generic[E]):
    """One `consume` call."""

    def __init__(
        self,
        store: StoreCore[E],
        group: str,
        options: Options,
        stop: Signal,
        *,
        from_now: bool,
        handle: Callable[[Recorded[E]], Awaitable[None]],
        complain: Callable[[Failure[E]], Awaitable[None]],
    ) -> None:
        """Prepare; nothing is sent before `run`."""
        self._io = store.io
        self._store = store
        self._group = group
        self._name = f"{store.name}/{group}"
        self._options = options
        self._stop = stop
        self._from_now = from_now
        self._handle = handle
        self._complain = complain
        self._log_key = store.keys.log
        self._group_key = store.keys.group(group)
        now = self._io.monotonic()
        self._holding = Holding(self._log_key, group, options.consumer, options.claim_idle, now)
        self._held = self._holding.held
        self._rules = options.rules
        self._aside = Aside(self._io, store.keys, group, options.consumer)
        self._queue: deque[Any] = deque()
        self._unacked: list[bytes] = []
        self._acking: Signal | None = None
        self._fetching: Signal | None = None
        self._ended = False
        self._joined = False
        # Counts how often the group was lost: a delivery of a lost group means nothing in the new one.
        self._life = 0
        # Where in our own pending list to look for deliveries that this process does not know of; None: nowhere.
        self._own: bytes | None = _START if options.known else None
        # What `claim.lua` is told to find there: all, or all with an eye to replies that were lost.
        self._own_mode = _OWN
        self._cursor = _START
        # When to claim what others left, and when to ask for what is due again.
        self._claim_due = self._due_at = self._quiet_since = now
        self._pause = PAUSE_MIN
        # Seconds that a handler takes, smoothed; None before the first one.
        self._pace: float | None = None
        # Failed, and the server was not told yet: no longer held, and not to be begun again.
        self._failing: set[bytes] = set()
        # Ends the blocking read under way: what runs beside it, an acknowledgement or a handler, made something due.
        self._nudge: Signal | None = None
        # What the policy lets this consumer end with.
        self._broken: Exception | None = None
        self._handled = self._failed = self._stolen = self._returned = self._skipped = self._dead = 0

    async def run(self) -> Consumed:
        """Consume until stopped, idle for long enough, or broken in a way that no retry heals."""
        self._io.keep(self._holding)
        left = False
        try:
            try:
                await self._io.gather(*(self._work() for _ in range(self._options.concurrency)))
            finally:
                self._io.unkeep(self._holding)
            await self._leave()
            left = True
        finally:
            if not left:
                # Cancelled or broken, perhaps while leaving: what was not acknowledged goes back, even if nobody waits
                # for it.  Leaving twice is leaving once.
                self._io.spawn(self._leave())
        if self._broken is not None:
            raise self._broken
        return Consumed(self._handled, self._failed, self._stolen, self._returned, self._skipped, self._dead)

    async def _work(self) -> None:
        while (entry := await self._next()) is not None:
            begun = self._io.monotonic()
            await self._deliver(entry)
            self._quiet_since = ended = self._io.monotonic()
            self._pace = ended - begun if self._pace is None else self._pace + (ended - begun - self._pace) / 8

    def _room(self) -> int:
        """Return how many deliveries to take: what waits here for a slow handler, another consumer could have begun."""
        workers = self._options.concurrency
        if self._pace is None:
            return workers
        return max(workers, min(self._options.batch, int(workers * AHEAD / max(self._pace, 1e-6))))

    async def _next(self) -> Any:  # noqa: ANN401
        """Return the next delivery, ``None`` at the end; one worker fetches, the others wait for it."""
        while not self._ended and not self._stop.is_set():
            if self._queue:
                entry = self._queue.popleft()
                if entry[0] in self._held:
                    return entry
                self._stolen += 1
            elif self._fetching is None:
                fetched = self._fetching = self._io.signal()
                try:
                    await self._fetch()
                finally:
                    self._fetching = None
                    fetched.set()
            else:
                await self._fetching.wait()
        self._ended = True
        return None

    async def _deliver(self, entry: Any) -> None:  # noqa: ANN401 - [id, fields] or, if it comes again, [id, fields, times]
        entry_id, life, recorded = entry[0], self._life, None
        attempts = self._held.get(entry_id, 0) + 1
        if (len(entry) > _FRESH or self._rules.parks) and not await self._begin(entry, attempts):
            return
        try:
            recorded = self._store.in_log(entry)
            self._io.tally("stream.lag", self._name, recorded.time_us)
            await self._handle(recorded)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises must not end the consumer
            await self._fail(entry, recorded, error, attempts, life)
            return
        if life == self._life:
            self._unacked.append(entry_id)
            if self._acking is None:
                # Goes out while the next handler runs, and also if this task is cancelled: it was handled.
                self._acking = self._io.signal()
                self._io.spawn(self._acknowledge_aside(self._acking))
        else:
            self._stolen += 1

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
            code, trace = await self._aside.begin(entry_id, attempts, _fields(entry).get(b"s", b""))
        except GridsyncError as error:
            # Still held and renewed; given back if this is the end.
            self._queue.appendleft(entry)
            await self._stumble(error)
            return False
        if code > 0:
            telemetry.follow(trace)
            return True
        self._held.pop(entry_id, None)
        if code < 0:
            self._stolen += 1
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
                decided, retry_in = await self._tell(entry, rule, error, attempts, trace)
            finally:
                self._failing.discard(entry[0])
        raw = _fields(entry)
        await self._report(Failure(error, int(entry[0][:-2]), recorded, raw, attempts, decided, retry_in))
        if decided == "stop":
            self._broken = error
            self._ended = True
            self._wake()

    async def _tell(
        self,
        entry: Any,  # noqa: ANN401
        rule: Retry | Verdict,
        error: Exception,
        attempts: int,
        trace: str,
    ) -> tuple[Decided, float | None]:
        """Settle, again and again while the server is away: what may be told to wait behind this must not go on."""
        while True:
            try:
                return await self._settle(entry, rule, error, attempts, trace)
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

    async def _settle(
        self,
        entry: Any,  # noqa: ANN401
        rule: Retry | Verdict,
        error: Exception,
        attempts: int,
        trace: str,
    ) -> tuple[Decided, float | None]:
        entry_id, retry_in = entry[0], None
        decided: Decided
        if isinstance(rule, Retry):
            decided = "park" if isinstance(rule, Park) else "retry"
            stream = _fields(entry).get(b"s", b"") if decided == "park" else b""
            delay_ms = rule.pause_ms(attempts, self._aside.chance())
            code, due_ms = await self._aside.park(entry_id, error, attempts, delay_ms, stream, trace)
            retry_in = due_ms / 1000
            self._ask_at(retry_in)
        elif rule is Verdict.DEAD:
            decided, code = "dead", await self._aside.bury(entry, error, attempts, trace)
        elif rule is Verdict.SKIP:
            # A repeat finds nothing pending, which is the same success.
            words = (self._group, self._options.consumer, entry_id)
            decided, code = "skip", (await self._io.run(ACK, self._aside.settling, words))[0]
        else:
            return "stop", None
        if code < 0:
            self._stolen += 1
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
        ids, self._unacked = self._unacked, []
        try:
            # Repeated by the driver; a second run finds nothing pending, which is the same success.
            codes = await self._io.run(ACK, self._aside.settling, (self._group, self._options.consumer, *ids))
        except GridsyncError as error:
            if not is_gone(error):
                self._unacked = ids + self._unacked
                raise_if_final(error)
                _log.warning("group %r could not acknowledge %d deliveries yet: %s", self._group, len(ids), error)
                return False
            codes = [-1] * len(ids)
            self._lost_group()
        for entry_id, code in zip(ids, codes, strict=True):
            self._held.pop(entry_id, None)
            if code < 0:
                self._stolen += 1
            else:
                self._handled += 1
                self._io.tally("stream.consumed", self._name)
                if code != _SETTLED:
                    self._ask_at(0.0)
        return True

    async def _fetch(self) -> None:
        """Put deliveries into the queue, oldest debts first: our own, abandoned ones, new ones."""
        try:
            if not self._joined:
                await self._join()
            if self._acking is None and self._unacked:
                await self._acknowledge()
            elif self._acking is not None and len(self._unacked) >= self._options.batch:
                # Handlers are faster than acknowledgements: what is held must not grow without bound.
                await self._acking.wait()
            if self._own is not None:
                await self._read_own(self._own)
                return
            if self._io.monotonic() >= self._due_at:
                await self._take_due()
            if self._io.monotonic() >= self._claim_due:
                await self._claim()
                if not self._queue and self._cursor != _START:
                    # A long pending list is searched piece by piece: new events need not wait for its end.
                    await self._read_new()
            else:
                await self._read_new()
        except GridsyncError as error:
            await self._stumble(error)

    async def _stumble(self, error: GridsyncError) -> None:
        """Wait for a server that is away; raise what no waiting heals."""
        if is_gone(error):
            self._lost_group()
            return
        raise_if_final(error)
        # Deliveries may have become ours without our knowing: look there before reading on.
        self._own, self._own_mode = _START, _OWN_MISSED
        _log.warning("group %r cannot read, next attempt in %.1f s: %s", self._group, self._pause, error)
        await self._stop.wait(self._pause)
        self._pause = min(self._pause * 2, PAUSE_MAX)

    def _lost_group(self) -> None:
        _log.warning(
            "group %r is gone from %s; it is made again where it surely had got to", self._group, self._log_key
        )
        self._joined = False
        self._life += 1
        self._held.clear()
        self._queue.clear()
        self._unacked.clear()
        self._due_at = self._io.monotonic()

    async def _join(self) -> None:
        # Once lost, "now" would skip what was appended since: a group that is nowhere noted starts at the beginning.
        from_now = self._from_now and self._life == 0
        keys = (self._log_key, self._store.keys.meta, self._group_key, *self._aside.settling[1:])
        await self._io.run(JOIN, keys, (self._group, str(int(from_now))))
        self._joined = True

    def _enqueue(self, entries: Any) -> None:  # noqa: ANN401
        """Take deliveries that are not in work here already."""
        for entry in entries:
            if entry[0] not in self._held:
                self._held[entry[0]] = entry[2] if len(entry) > _FRESH else 0
                self._queue.append(entry)

    async def _read_own(self, after: bytes) -> None:
        """Read one page of our own pending list, moving on from page to page."""
        cursor, entries, gone = await self._look(self._own_mode, after)
        self._own = None if cursor == _START else cursor
        self._enqueue([entry for entry in entries if entry[0] not in self._failing])
        self._forget(gone)

    async def _claim(self) -> None:
        """Take over what others left idle.  The cursor is kept, so the head of the list cannot hide the rest."""
        idle = self._options.claim_idle
        self._cursor, entries, gone = await self._look(str(max(1, round(idle * 1000))), self._cursor)
        self._enqueue(entries)
        self._forget(gone)
        if self._cursor == _START:
            self._claim_due = self._io.monotonic() + idle / 3
            await self._tend()
            # It may have found what was stranded.
            self._due_at = self._io.monotonic()

    async def _look(self, idle_ms: str, after: bytes) -> Any:  # noqa: ANN401
        # Never repeated: it would claim the next ones, and the first would wait in the pending list, known to nobody.
        args: list[Arg] = [self._group, self._options.consumer, idle_ms, after, str(self._room())]
        return await self._io.run(CLAIM, self._aside.settling, args)

    async def _take_due(self) -> None:
        """Take what is due again: half of the room at most, for new events have waited for their first attempt."""
        now, self._due_at = self._io.monotonic(), float("inf")
        try:
            wait, entries, gone = await self._aside.due(max(1, self._room() // 2))
        except GridsyncError:
            self._due_at = now
            raise
        self._enqueue(entries)
        self._forget(gone)
        # What other consumers put aside meanwhile is found within BLOCK_MAX.
        self._due_at = min(self._due_at, now + (BLOCK_MAX if wait is None else min(wait, BLOCK_MAX)))

    async def _tend(self) -> None:
        dead_after_ms = round(max(DEAD_AFTER, 2 * self._options.claim_idle) * 1000)
        keys = (self._log_key, self._group_key, *self._aside.settling[1:])
        await self._io.run(TEND, keys, (self._group, str(dead_after_ms)))

    async def _read_new(self) -> None:
        options, now = self._options, self._io.monotonic()
        wait = 0.0 if self._queue else min(self._claim_due - now, self._due_at - now, BLOCK_MAX)
        if options.idle_stop is not None:
            wait = min(wait, self._quiet_since + options.idle_stop - now)
        if wait <= 0:
            # Not BLOCK 1: a server with nothing else to do looks at its timeouts ten times a second.
            read = Command("streams.read_new", Category.NEVER, (*self._read_head(), "STREAMS"))
            reply = await self._io.run(read, (self._log_key,), (">",))
        else:
            # BLOCK 0 would be for ever.
            wait_ms = max(1, round(wait * 1000))
            read = Command("streams.read_new", Category.NEVER, (*self._read_head(), "BLOCK", str(wait_ms), "STREAMS"))
            reply = await self._block(read, wait_ms / 1000)
        # Only here: what comes before may work while this does not, as when no descriptor is left for a connection.
        self._pause = PAUSE_MIN
        self._enqueue(_entries(reply))
        if not self._queue and options.idle_stop is not None and self._cursor == _START:
            self._ended = self._io.monotonic() >= self._quiet_since + options.idle_stop

    async def _block(self, read: Command, wait: float) -> Any:  # noqa: ANN401
        self._nudge = self._io.signal()
        drop = self._stop.on_set(self._nudge.set)
        try:
            return await self._io.block(read, (self._log_key,), (">",), wait=wait, stop=self._nudge)
        finally:
            drop()
            self._nudge = None

    def _read_head(self) -> tuple[str, ...]:
        options = self._options
        return ("XREADGROUP", "GROUP", self._group, options.consumer, "COUNT", str(self._room()))

    def _forget(self, gone: Sequence[bytes]) -> None:
        if gone:
            _log.error("group %r: %d pending events were deleted unhandled, first %r", self._group, len(gone), gone[0])

    async def _leave(self) -> None:
        """Give back what is not acknowledged and take this consumer out of the group."""
        self._returned = sum(entry[0] in self._held for entry in self._queue)
        self._queue.clear()
        try:
            if self._acking is not None:
                await self._acking.wait()
            if self._unacked:
                await self._acknowledge()
            held = (word for entry_id, begun in tuple(self._held.items()) for word in (entry_id, str(begun)))
            args: tuple[Arg, ...] = (self._group, self._options.consumer, *held)
            while self._joined and await self._io.run(LEAVE, (self._log_key,), args):
                pass
            if self._joined:
                await self._tend()
        except GridsyncError as error:
            if not is_gone(error):
                _log.warning("group %r: %s leaves without word: %s", self._group, self._options.consumer, error)


def _fields(entry: Any) -> dict[bytes, bytes]:  # noqa: ANN401
    return dict(zip(entry[1][::2], entry[1][1::2], strict=False))


def _entries(reply: Any) -> Any:  # noqa: ANN401
    """Return the entries of the one stream that was read; a map in RESP3, pairs in RESP2, null when there are none."""
    if not reply:
        return []
    return next(iter(reply.values())) if isinstance(reply, dict) else reply[0][1]
