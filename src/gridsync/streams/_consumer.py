"""Consuming: one `consume` call of a group in queue mode, from the first read to the clean end.

Redis structure: a consumer group on the log.  Its pending list is the only memory of who works on what; this process
remembers nothing that it could not read there again.  A delivery is ours until someone else claims it, which they may
once it has been idle for `claim_idle`; so whatever is held, handled or waiting its turn, is renewed from a place of
its own (`Holding`), and an acknowledgement counts only while the delivery is still ours (`ack.lua`).
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from gridsync._io import Category, Command, load
from gridsync.errors import Diverged, GridsyncError, UsageError
from gridsync.streams._away import BLOCK_MAX, PAUSE_MAX, PAUSE_MIN, is_gone, raise_if_final
from gridsync.streams._failures import Failure, Verdict
from gridsync.streams._holding import Holding
from gridsync.streams._joining import join
from gridsync.streams._model import E
from gridsync.streams._owners import WHOSE
from gridsync.streams._pages import mark_of, number
from gridsync.streams._settling import FRESH, Consumed, Settling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from gridsync._io import Arg, Signal
    from gridsync.streams._core import StoreCore
    from gridsync.streams._delivery import Delivered
    from gridsync.streams._failures import Decided
    from gridsync.streams._records import Recorded
    from gridsync.streams._settling import Options
    from gridsync.streams._turns import Turns

LEAVE: Final = load("gridsync.streams", "leave")
TEND: Final = load("gridsync.streams", "tend")
CLAIM: Final = load("gridsync.streams", "claim")

AHEAD: Final = 0.5
"""Seconds of work that one consumer takes ahead at most."""
DEAD_AFTER: Final = 3600.0
"""Seconds without a sign of life after which a consumer that holds nothing is removed."""

START: Final = b"0-0"
_OWN, OWN_MISSED = "-1", "-2"

_log = logging.getLogger("gridsync.streams")


class Quiet:
    """Since when nothing came, in all partitions of a store."""

    def __init__(self, now: float) -> None:
        """Begin now."""
        self.since = now


class Shared(NamedTuple):
    """What the sessions of one `consume` call share that is in several partitions."""

    quiet: Quiet
    turns: Turns


class Queue(Protocol):
    """Deliveries that wait here for their turn."""

    def __len__(self) -> int:
        """Count those that may begin."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over all of them."""

    def append(self, entry: Any, /) -> None:  # noqa: ANN401
        """Let one wait."""

    def appendleft(self, entry: Any, /) -> None:  # noqa: ANN401
        """Let one that was taken be the next."""

    def popleft(self) -> Any:  # noqa: ANN401
        """Take the next one."""

    def clear(self) -> None:
        """Forget them."""


class Session(Settling[E]):
    """One `consume` call."""

    def __init__(
        self,
        store: StoreCore[E],
        group: str,
        options: Options,
        stop: Signal,
        *,
        from_now: bool,
        handle: Callable[[Any], Awaitable[None]],
        complain: Callable[[Failure[E]], Awaitable[None]],
        delivery: Callable[[Recorded[E], bytes, int], Delivered[E]] | None = None,
        shared: Shared | None = None,
        holding: Holding | None = None,
    ) -> None:
        """Prepare; nothing is sent before `run`."""
        if holding is None:
            holding = Holding(store.keys.log, group, options.consumer, options.claim_idle, store.io.monotonic())
        super().__init__(store, group, options, stop, holding, handle=handle, complain=complain, delivery=delivery)
        self._from_now = from_now
        self._log_key = store.keys.log
        self._queue: Queue = deque()
        # The newest event that was delivered here; a failover that lost it may give its position to another one.
        self._seen = store.log_pages()
        self._fetching: Signal | None = None
        self._joined = False
        # Where in our own pending list to look for deliveries that this process does not know of; None: nowhere.
        self._own: bytes | None = START if options.known else None
        # What `claim.lua` is told to find there: all, or all with an eye to replies that were lost.
        self._own_mode = _OWN
        self._cursor = START
        # When to claim what others left.
        self._claim_due = self._due_at
        self._quiet = Quiet(self._due_at) if shared is None else shared.quiet
        self._turns = None if shared is None else shared.turns
        self._pause = PAUSE_MIN
        # Seconds that a handler takes, smoothed; None before the first one.
        self._pace: float | None = None

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
        return self.consumed()

    def give_back(self) -> None:
        """Give back at once what it holds, although handlers may be at work on it; they will be told as too late."""
        self._io.spawn(self._leave())

    async def _work(self) -> None:
        turns = self._turns
        while (entry := await self._next()) is not None:
            begun = self._io.monotonic()
            if turns is None:
                await self._deliver(entry)
            elif not await self._deliver_in_turn(turns, entry):
                continue
            self._quiet.since = ended = self._io.monotonic()
            self._pace = ended - begun if self._pace is None else self._pace + (ended - begun - self._pace) / 8

    async def _deliver_in_turn(self, turns: Turns, entry: Any) -> bool:  # noqa: ANN401
        """Deliver when it is our turn; false if that was not begun: stopped, or another's by then."""
        if not (turns.take_free() or await turns.take(self._stop)):
            self._put_back(entry)
            return False
        try:
            if self._stop.is_set() or entry[0] not in self._held:
                self._put_back(entry)
                return False
            await self._deliver(entry)
        finally:
            turns.give()
        return True

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
                await self._fetch_as_one()
            else:
                await self._fetching.wait()
        self._ended = True
        return None

    async def _fetch_as_one(self) -> None:
        """Fetch, while the other workers wait for it."""
        fetched = self._fetching = self._io.signal()
        try:
            await self._fetch()
        finally:
            self._fetching = None
            fetched.set()

    def _put_back(self, entry: Any) -> None:  # noqa: ANN401
        self._queue.appendleft(entry)

    async def _fetch(self) -> None:
        """Put deliveries into the queue, oldest debts first: our own, abandoned ones, new ones."""
        try:
            if not self._joined:
                await self._join()
            if self._doubted:
                await self._prove()
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
                if self._cursor == START:
                    await self._prove()
                    # Who was there before the first event learns only now if that was written to other partitions.
                    await self._store.directory.look()
                await self._claim()
                if self._queue:
                    return
            # Also after a search: new events need not wait for the end of a long pending list, and when the server is
            # slow, the next search is due by now.
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
        self._own, self._own_mode = START, OWN_MISSED
        # Nor do we know that it is still the same server.
        self._doubted = True
        _log.warning("group %r cannot read, next attempt in %.1f s: %s", self._group, self._pause, error)
        await self._stop.wait(self._pause)
        self._pause = min(self._pause * 2, PAUSE_MAX)

    def _lost_group(self) -> None:
        _log.warning(
            "group %r is gone from %s; it is made again where it surely had got to", self._group, self._log_key
        )
        self._joined = False
        self._doubted = True
        self._drop()

    def _drop(self) -> None:
        """Forget what was delivered: it means nothing any more."""
        self._life += 1
        self._held.clear()
        self._queue.clear()
        self._unacked.clear()
        self._due_at = self._io.monotonic()

    async def _prove(self) -> None:
        """Make sure that what was delivered here is still in the log; tell if it is not."""
        try:
            await self._seen.prove()
        except Diverged as error:
            mark, self._seen.mark = self._seen.mark, None
            self._drop()
            # Some of what is there now may be ours: delivered under positions that were held for others.
            self._own, self._own_mode = START, OWN_MISSED
            position = 0 if mark is None else mark.number
            ends = self._rules.judge(error, 1) is Verdict.STOP
            decided: Decided = "stop" if ends else "diverged"
            await self._report(Failure(error, position, None, {}, 0, decided, partition=self._store.partition))
            if ends:
                self._broken = error
                self._ended = True
        self._doubted = False

    async def _join(self) -> None:
        # Once lost, "now" would skip what was appended since: a group that is nowhere noted starts at the beginning.
        from_now = self._from_now and self._life == 0
        await join(self._io, self._store.keys, self._group, from_now=from_now)
        await self._make_way()
        self._joined = True

    async def _make_way(self) -> None:
        """Make sure that no ordered consumers are in this group: this one would take events out of their middle."""
        keys = self._store.keys
        member, _, _, ends_ms, *_ = await self._io.run(WHOSE, (keys.log, keys.lease(self._group)), (self._group,))
        if member and ends_ms > 0:
            raise UsageError(
                f"group {self._group!r} of {self._store.log_name} is consumed in order, by {member.decode()!r}: make "
                f"it with ordered=True here too, or choose another group"
            )

    async def _enqueue(self, entries: Any) -> None:  # noqa: ANN401
        """Take deliveries that are not in work here already."""
        for entry in await self._store.filled(entries):
            if entry[0] not in self._held:
                self._held[entry[0]] = entry[2] if len(entry) > FRESH else 0
                self._queue.append(entry)
        if entries:
            newest, mark = max(entries, key=number), self._seen.mark
            if mark is None or number(newest) > mark.number:
                self._seen.mark = mark_of(newest)

    async def _read_own(self, after: bytes) -> None:
        """Read one page of our own pending list, moving on from page to page."""
        cursor, entries, gone = await self._look(self._own_mode, after)
        self._own = None if cursor == START else cursor
        await self._enqueue([entry for entry in entries if entry[0] not in self._failing])
        self._forget(gone)

    async def _claim(self) -> None:
        """Take over what others left idle.  The cursor is kept, so the head of the list cannot hide the rest."""
        idle = self._options.claim_idle
        if self._cursor == START:
            await self._make_way()
        self._cursor, entries, gone = await self._look(str(max(1, round(idle * 1000))), self._cursor)
        await self._enqueue(entries)
        self._forget(gone)
        if self._cursor == START:
            self._claim_due = self._io.monotonic() + idle / 3
            await self._tend()
            await self._take_due()  # it may have found what was stranded

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
        await self._enqueue(entries)
        self._forget(gone)
        # What other consumers put aside meanwhile is found within BLOCK_MAX.
        self._due_at = min(self._due_at, now + (BLOCK_MAX if wait is None else min(wait, BLOCK_MAX)))

    async def _tend(self) -> None:
        dead_after_ms = round(max(DEAD_AFTER, 2 * self._options.claim_idle) * 1000)
        store = self._store
        keys = (self._log_key, store.keys.floors, *self._aside.settling[1:], store.keys.dead(self._group))
        _, *facts = await self._io.run(TEND, keys, (self._group, str(dead_after_ms)))
        # Whoever measures is told what is known here anyway; nobody asks the server for it.
        self._io.report("group", (self._name, store.partition, self._options.consumer), facts)

    async def _read_new(self) -> None:
        options, now = self._options, self._io.monotonic()
        wait = 0.0 if self._queue else min(self._claim_due - now, self._due_at - now, BLOCK_MAX)
        if options.idle_stop is not None:
            wait = min(wait, self._quiet.since + options.idle_stop - now)
        if wait <= 0:
            # Not BLOCK 1: a server with nothing else to do looks at its timeouts ten times a second.
            read = Command("streams.read_new", Category.NEVER, (*self._read_head(), "STREAMS"))
            reply = await self._io.run(read, (self._log_key,), (">",))
        else:
            # BLOCK 0 would be for ever.
            wait_ms = max(1, round(wait * 1000))
            read = Command("streams.read_new", Category.NEVER, (*self._read_head(), "BLOCK", str(wait_ms), "STREAMS"))
            reply = await self._block(read, ">", wait_ms / 1000)
        # Only here: what comes before may work while this does not, as when no descriptor is left for a connection.
        self._pause = PAUSE_MIN
        entries, mark = _entries(reply), self._seen.mark
        if entries and mark is not None and number(entries[0]) != mark.number + 1:
            # Others had what lies between; or it is another history, in which positions come again.
            await self._prove()
        await self._enqueue(entries)
        if not self._queue and options.idle_stop is not None and self._cursor == START:
            await self._settles()
            # What is due by now was due in time: it is late, or we are.
            self._ended = self._quiet.since + options.idle_stop <= self._io.monotonic() < self._due_at

    async def _settles(self) -> bool:
        """Wait for the acknowledgement under way, if there is one: what waits for it is due then."""
        under_way = self._acking
        if under_way is not None:
            await under_way.wait()
        return under_way is not None

    async def _block(self, read: Command, after: Arg, wait: float) -> Any:  # noqa: ANN401
        self._nudge = self._io.signal()
        drop = self._stop.on_set(self._nudge.set)
        try:
            return await self._io.block(read, (self._log_key,), (after,), wait=wait, stop=self._nudge)
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
        finally:
            self._io.report("group", (self._name, self._store.partition, self._options.consumer), None)


def _entries(reply: Any) -> Any:  # noqa: ANN401
    """Return the entries of the one stream that was read; a map in RESP3, pairs in RESP2, null when there are none."""
    if not reply:
        return []
    return next(iter(reply.values())) if isinstance(reply, dict) else reply[0][1]
