"""Tenures: the time in which one member has one partition, from the moment it was taken until it is given back.

Redis structures: the lease of the partition, a hash that says who has it, in which generation and until when; and the
consumer group on its log.  The member's name in the group is ``<member>.<generation>``, a new one for each tenure, and
`take.lua` gives everything pending to that name in the same step that makes it the owner.  So every script that asks
whose a delivery is (`ack`, `begin`, `park`, `bury`) refuses an owner of before, however long it stood still, and only
two ask for the lease itself: `hold.lua`, which keeps it, and `pull.lua`, which delivers new ones.  What a late request
of a former owner still delivers to that one (`due.lua`, `claim.lua`), the owner takes over every third of `claim_idle`.

States of a tenure: *pending list* (what was delivered before, first attempt or not, in the order of positions) → *new
events* → *ending* (asked to give it up, stopped, or lost) → *left*.  Why order holds, event by event of a stream:

- They are delivered in order, to one owner; a lane (`_lanes.py`) begins the next one when the one before is settled.
- One that fails is parked, and those behind it are put behind it on the server when they would begin (`begin.lua`): so
  as long as any event of the partition has failed and is not settled, the server is asked before each begins.
- Acknowledgements leave in the order in which the handlers ended, one request after the other, and a request that was
  not answered is repeated before the next: what is pending of a stream is always a tail of it.
- Nothing begins after the local deadline of the lease, which comes before the server's; and the new owner begins only
  after everything has become its own.  What still runs at the deadline is cancelled where that can be done.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from gridsync._io import Category, Command, load, telemetry
from gridsync.errors import GridsyncError, LeaseLost
from gridsync.streams._away import BLOCK_MAX, PAUSE_MIN
from gridsync.streams._consumer import OWN_MISSED, START, Session
from gridsync.streams._holding import Holding
from gridsync.streams._lanes import Lanes, Line
from gridsync.streams._model import E
from gridsync.streams._pages import number
from gridsync.streams._settling import FRESH

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gridsync._io import IO, Arg, Scope, Script, Signal
    from gridsync._io.keys import EventKeys
    from gridsync.streams._core import StoreCore
    from gridsync.streams._delivery import Delivered
    from gridsync.streams._failures import Failure, Retry
    from gridsync.streams._settling import Options
    from gridsync.streams._turns import Turns

    Work: TypeAlias = Callable[[Any], Coroutine[Any, Any, None]]

HOLD: Final = load("gridsync.streams", "hold")
CEDE: Final = load("gridsync.streams", "cede")
TAKE: Final = load("gridsync.streams", "take")
PULL: Final = load("gridsync.streams", "pull")

MARGIN: Final = 0.99
MARGIN_S: Final = 0.002
"""The local deadline of a lease: a hundredth and two milliseconds before the server's, counted from before the request
left."""
BATCHES: Final = 4
"""How many batches are taken ahead at most, while events wait for an earlier one of their stream."""

_log = logging.getLogger("gridsync.streams")


def taking(keys: EventKeys, group: str) -> tuple[str, ...]:
    """Return the keys of `take.lua`."""
    return keys.log, keys.retry(group), keys.failed(group), keys.waiting(group), keys.lease(group)


class Lease(Holding):
    """A `Keep`: the lease of a partition, which is renewed in the place of every single delivery."""

    def __init__(self, io: IO, key: str, owner: str, ttl: float, sent: float) -> None:
        """Begin with a lease that was asked for at *sent*."""
        super().__init__(key, "", owner, ttl, sent)
        self._args = (owner, str(round(ttl * 1000)))
        self._renewed(sent)
        self.over = io.signal()
        """Thrown when the tenure must end, for whatever reason."""
        self.lost = False
        """Whether somebody else may be the owner by now."""
        self.scopes: list[Scope] = []
        """The blocks in which handlers run."""

    def request(self, now: float) -> tuple[Script, Sequence[str], Sequence[Arg]] | None:
        """Ask for more time; in vain if it is over, for then others may begin what we have in work."""
        if now >= self.deadline:
            self.lose()
            return None
        return HOLD, self._keys, self._args

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401
        """Count from before the request left; after an error try again sooner."""
        if isinstance(reply, Exception):
            self.due = min(sent + self._idle / 12, self.deadline)
        elif reply == 1:
            self._renewed(sent)
        else:
            self.lose()
        return not self.lost

    def lose(self) -> None:
        """End the tenure and interrupt its handlers; from any thread."""
        self.lost = True
        self.over.set()
        for scope in tuple(self.scopes):
            scope.cancel()

    def _renewed(self, at: float) -> None:
        self.due = at + self._idle / 3
        self.deadline = at + self._idle * MARGIN - MARGIN_S


class Tenure(Session[E]):
    """One partition in the hands of one member."""

    _queue: Line | Lanes

    def __init__(
        self,
        store: StoreCore[E],
        group: str,
        options: Options,
        lease: Lease,
        turns: Turns,
        *,
        member: str,
        generation: str,
        workers: int,
        handle: Work,
        complain: Callable[[Failure[E]], Coroutine[Any, Any, None]],
        kind: type[Delivered[E]] | None,
        in_turn: Callable[[Work], Work],
        on_idle: Callable[[], object],
    ) -> None:
        """Prepare; everything pending has become ours."""

        async def begin(recorded: Any) -> None:  # noqa: ANN401 - an event, or a delivery of one
            # Asking whether it may begin, and waiting for the thread that does it, took time.
            if io.monotonic() >= lease.deadline:
                lease.lose()
                self._life += 1
                raise LeaseLost(
                    f"{member!r} lost {store.log_name} before the event at position {recorded.position} began",
                    name=store.log_name,
                    fence=int(generation),
                )
            await handle(recorded)

        io = store.io
        own = replace(options, consumer=f"{member}.{generation}", known=True, concurrency=workers)
        super().__init__(
            store,
            group,
            own,
            lease.over,
            from_now=False,
            handle=telemetry.processing(in_turn(begin), store.name, group, member),
            complain=complain,
            delivery=None if kind is None else partial(kind, store, group, own.consumer),
            holding=lease,
        )
        self.generation = generation
        self.idle = False
        """Whether there was nothing to do for as long as this consumer waits for that."""
        self.left = self._io.signal()
        """Thrown when the partition was given back, as far as that was possible."""
        self._lease = lease
        self._member = member
        self._member_turns = turns
        self._on_idle = on_idle
        self._queue = Line() if workers == 1 else Lanes()
        self._joined = True
        # Whether events of this partition have failed and are not settled, so that others may have to wait.  So it is
        # taken to be until a pull says otherwise: nothing new begins before.
        self._failures = True
        self._parks = 0
        # How many of our pulls have delivered something, as far as we know.
        self._pulls = "0"
        self._room_made: Signal | None = None
        keys = store.keys
        self._pulling = (keys.log, keys.failed(group), keys.lease(group))
        self._taking = taking(keys, group)
        lease.over.on_set(lambda: self._io.notify(self._stop_waiting))

    @property
    def lost(self) -> bool:
        """Whether somebody else may be the owner by now."""
        return self._lease.lost

    def end(self) -> None:
        """Begin nothing any more, let what runs end, and give the partition back."""
        self._lease.over.set()

    async def prove(self) -> None:
        """Tell if what was handled here is gone: who has the partition now knows nothing of that.

        Raises:
            Diverged: It is, and the policy says to stop then.
        """
        await self._prove()
        if self._broken is not None:
            raise self._broken

    def _stop_waiting(self) -> None:
        room, self._room_made = self._room_made, None
        if room is not None:
            room.set()

    async def _work(self) -> None:
        scope = self._io.scope()
        self._lease.scopes.append(scope)
        error: BaseException | None = None
        try:
            await self._serve()
        except BaseException as raised:  # noqa: BLE001 - raised again unless it is the end that we asked for
            error = raised
        if not scope.leave(error) and error is not None:
            raise error

    async def _serve(self) -> None:
        io, queue, turns = self._io, self._queue, self._member_turns
        while (entry := await self._next()) is not None:
            if not (turns.take_free() or await turns.take(self._stop)):
                queue.appendleft(entry)
                return
            try:
                if io.monotonic() >= self._lease.deadline:
                    self._lease.lose()
                if self._stop.is_set():
                    queue.appendleft(entry)
                    return
                await self._deliver(entry)
            finally:
                turns.give()
            self._quiet.since = io.monotonic()
            queue.done(entry)
            self._stop_waiting()
            if self._options.idle_stop is not None and not queue.busy:
                # Whoever reads is to see that nothing is left.
                self._wake()

    async def _next(self) -> Any:  # noqa: ANN401
        while not self._ended and not self._stop.is_set():
            if self._queue:
                return self._queue.popleft()
            if self._fetching is not None:
                await self._fetching.wait()
            elif len(self._held) >= self._most() and not self._unacked:
                # All that is here waits for what is in work.
                room = self._room_made = self._room_made or self._io.signal()
                await room.wait()
            else:
                await self._fetch_as_one()
        self._ended = True
        return None

    def _most(self) -> int:
        return self._options.batch * BATCHES

    def _room(self) -> int:
        """Return how many deliveries to take: what waits here is in nobody's way."""
        return max(1, min(self._options.batch, self._most() - len(self._held)))

    def _asks(self, entry: Any) -> bool:  # noqa: ANN401
        return self._failures or len(entry) > FRESH

    def _holds_back(self, rule: Retry) -> bool:  # noqa: ARG002 - here all of them do
        self._failures = True
        self._parks += 1
        return True

    async def _acknowledge(self) -> bool:
        done = await super()._acknowledge()
        self._stop_waiting()
        return done

    def _robbed(self) -> None:
        super()._robbed()
        # Nobody takes from an owner: it is another one's by now, who has begun the stream anew.
        self._lease.lose()

    async def _make_way(self) -> None:
        """Those who consume in order are this member, and others that have other partitions."""

    async def _claim(self) -> None:
        """Take over what is pending under another name; tell about the group; look for what is pending under ours."""
        self._claim_due = self._io.monotonic() + self._options.claim_idle / 3
        # A request of a former owner that came late has delivered something to that one, who is gone.
        words = (self._group, self._member, str(round(self._options.claim_idle * 1000)), self.generation, "")
        code, *rest = await self._io.run(TAKE, self._taking, words)
        if code != 1:
            self._lease.lose()
            return
        self._forget(rest[2])
        # One of our own waits in our pending list, and so does now what was taken over.
        self._own, self._own_mode = START, OWN_MISSED
        await self._tend()
        await self._take_due()

    async def _read_new(self) -> None:
        io, options, parks, telling = self._io, self._options, self._parks, bool(self._failing)
        words = (self._group, options.consumer, str(self._room()), self._pulls)
        # Never repeated: what a lost reply delivered is found in our pending list.
        code, *rest = await io.run(PULL, self._pulling, words)
        self._pause = PAUSE_MIN
        if code < 0:
            self._lease.lose()
            return
        if code == 0:
            # A request of ours came late, when we had looked already for what it may have delivered.
            self._pulls, self._own, self._own_mode = rest[0], START, OWN_MISSED
            return
        failures, entries, last = rest
        if entries:
            self._pulls = str(int(self._pulls) + 1)
        if parks == self._parks and not telling:
            # Nothing was on its way to be parked while it looked.
            self._failures = bool(failures)
        mark = self._seen.mark
        if entries and mark is not None and number(entries[0]) != mark.number + 1:
            # Another history, in which positions come again.
            await self._prove()
        await self._enqueue(entries)
        if entries or self._queue:
            # What is due again, or was claimed, came before this.
            self.idle = False
            return
        now = io.monotonic()
        wait = min(self._claim_due - now, self._due_at - now, BLOCK_MAX)
        if options.idle_stop is not None and not self._queue.busy and not self.idle:
            quiet = self._quiet.since + options.idle_stop - now
            if quiet <= 0:
                if await self._settles() or now >= self._due_at:
                    return
                self.idle = True
                self._on_idle()
            else:
                wait = min(wait, quiet)
        if wait > 0:
            # It delivers nothing: what it sees is pulled, which asks whose the partition is.
            wait_ms = max(1, round(wait * 1000))
            watch = ("XREAD", "COUNT", "1", "BLOCK", str(wait_ms), "STREAMS")
            await self._block(Command("streams.watch_partition", Category.READ, watch), last, wait_ms / 1000)

    async def _leave(self) -> None:
        try:
            await super()._leave()
            # Whoever comes next need not wait for the end of the lease.  A repeat finds it given back.
            await self._io.run(CEDE, self._pulling[2:], (self._member, self.generation))
        except GridsyncError as error:
            _log.warning("group %r: %s leaves its partition to time: %s", self._group, self._options.consumer, error)
        finally:
            self.left.set()
