"""Members: one `consume` call of an ordered group, which shares the partitions of the store with the others.

Redis structures: in the group's slot a hash of members, each with the partitions that it says it has; in the slot of
each partition its lease (`_tenure.py`).  The first is advice, and computed from it is who should have what
(`_assignment.py`); the second is the truth.

States of a partition, as one member sees it: *others'* → *wanted* (ours by the assignment: take it as soon as it is
free) → *ours* (a tenure) → *given up* (another's by the assignment: nothing new is begun, what runs ends, then it is
given back) → *others'*.  A tenure that is lost goes back to *wanted*.

What may break in between, and who notices: a member that dies says nothing any more, so its row ends and the others
want its partitions, which they get when the leases end.  A member that cannot reach the hash keeps what it has.  A
message that is lost costs a third of the lease time.  Whoever takes a partition, gives one back, comes or goes, tells
the others at once, in the script that changes its row.
"""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync._io import load
from gridsync._io.keys import wake_channel
from gridsync.errors import GridsyncError, ServerError
from gridsync.streams._assignment import assign
from gridsync.streams._away import PAUSE_MAX, PAUSE_MIN, is_gone, patiently, raise_if_final
from gridsync.streams._crew import Desk
from gridsync.streams._joining import join
from gridsync.streams._model import E
from gridsync.streams._settling import Consumed
from gridsync.streams._tenure import CEDE, TAKE, Lease, Tenure, taking
from gridsync.streams._turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gridsync._io import IO, Signal
    from gridsync.streams._core import StoreCore
    from gridsync.streams._delivery import Delivered
    from gridsync.streams._failures import Failure
    from gridsync.streams._settling import Options
    from gridsync.streams._tenure import Work

MEET: Final = load("gridsync.streams", "meet")

LEFT_S: Final = 10.0
"""Seconds that a cancelled member waits for its tenures before it tells the others that it is gone."""

_log = logging.getLogger("gridsync.streams")


class Post(Generic[E]):
    """A partition, as one member sees it."""

    def __init__(self, io: IO, number: int, core: StoreCore[E], group: str) -> None:
        """It is not ours."""
        self._io = io
        self.number = number
        self.core = core
        keys = core.keys
        self.taking = taking(keys, group)
        self.name = f"partition {number} of {core.name!r}"
        self.wanted = False
        self.tenure: Tenure[E] | None = None
        self.last: Tenure[E] | None = None
        """The one before, which may still be leaving."""
        self.pause = PAUSE_MIN
        self.listen()

    def listen(self) -> Signal:
        """Return what `ring` throws from now on: listen first, then look."""
        self._bell = self._io.signal()
        return self._bell

    def ring(self) -> None:
        """Let who waits for this partition look again."""
        self._bell.set()

    def want(self, *, wanted: bool) -> None:
        """Take it or give it up."""
        self.wanted = wanted
        if not wanted and self.tenure is not None:
            self.tenure.end()
        self.ring()


class Member(Generic[E]):
    """One `consume` call."""

    def __init__(
        self,
        cores: Sequence[StoreCore[E]],
        group: str,
        options: Options,
        stop: Signal,
        *,
        in_threads: bool,
        from_now: bool,
        handle: Work,
        complain: Callable[[Failure[E]], Coroutine[Any, Any, None]],
        kind: type[Delivered[E]] | None,
    ) -> None:
        """Prepare; nothing is sent before `run`."""
        core = cores[0]
        self._io = io = core.io
        self._group = group
        self._name = f"{core.name}/{group}"
        self._options = options
        self._workers = 1 if in_threads else options.concurrency
        self._stop = stop
        self._from_now = from_now
        self._handle = handle
        self._kind = kind
        self._posts = [Post(io, number, each, group) for number, each in enumerate(cores)]
        self._turns = Turns(io, options.concurrency)
        self._members_key = core.keys.members(group)
        self._wake = io.wake_prefix(core.keys.base)
        self._token = io.token()
        self._ttl_ms = str(round(options.claim_idle * 1000))
        # Thrown when this member ends, for whatever reason.
        self._over = io.signal()
        # With threads, all handlers run in the one that called.
        self._desk = Desk(io, len(cores), self._over) if in_threads and len(cores) > 1 else None
        self._complain = complain if self._desk is None else self._desk.done_by(complain)
        self._told: str | None = None
        # From when on our row is not written any more, and the request under way that writes it.
        self._parting = False
        self._meeting: Signal | None = None
        self._broken: Exception | None = None
        self._done: list[Consumed] = []

    async def run(self) -> Consumed:
        """Consume until stopped, idle for long enough, or broken in a way that no retry heals."""
        self._ear = self._io.ear(self._token, wake_channel(self._wake, self._token))
        drops = (
            self._stop.on_set(self._over.set),
            self._over.on_set(lambda: self._io.notify(self._look_again)),
        )
        gone, last = False, () if self._desk is None else (self._desk.serve(),)
        try:
            # What comes last has the thread of the caller.
            await self._io.beside(self._meet_others(), *(self._man(post) for post in self._posts), *last)
            await self._part()
            gone = True
        finally:
            for drop in drops:
                drop()
            if not gone:
                self._io.spawn(self._part())
        if self._broken is not None:
            raise self._broken
        return self.consumed()

    def consumed(self) -> Consumed:
        """Return what it did, up to now."""
        running = [post.tenure.consumed() for post in self._posts if post.tenure is not None]
        each_done = self._done + running
        return Consumed(*(sum(getattr(done, each.name) for done in each_done) for each in fields(Consumed)))

    def give_back(self) -> None:
        """Give back at once what it has, although handlers may be at work on it; they will be told as too late."""
        for post in self._posts:
            if post.tenure is not None:
                post.tenure.give_back()
        self._io.spawn(self._part())

    def _look_again(self) -> None:
        self._ear.wake()
        for post in self._posts:
            if self._over.is_set():
                post.want(wanted=False)
            post.ring()

    async def _meet_others(self) -> None:
        """Tell what we have and hear what the others have, as often as something changes, and to count as alive."""
        try:
            while True:
                pause = await self._meet()
                if self._over.is_set() and all(post.tenure is None for post in self._posts):
                    return
                if self._idle():
                    self._over.set()
                    continue
                await self._ear.wait(pause)
        except Exception as error:  # noqa: BLE001 - raised by `run`, when the tenures have ended
            self._break(error)
        except BaseException:
            self._over.set()
            raise

    async def _meet(self) -> float:
        """Look once; returns the seconds until the next look at the latest."""
        beat = self._options.claim_idle / 3
        meeting = self._meeting = self._io.signal()
        try:
            # Only now: who parts says so first, and then looks for a request under way.
            if self._parting:
                return beat
            await self._ear.open()
            has = ",".join(str(post.number) for post in self._posts if post.tenure is not None)
            words = (self._options.consumer, self._ttl_ms, has, self._token, self._wake)
            # A repeat writes the same row.
            next_ms, *rows = await self._io.run(MEET, (self._members_key,), words)
        except GridsyncError as error:
            raise_if_final(error)
            _log.warning("group %r cannot hear of its other members: %s", self._group, error)
            return min(beat, PAUSE_MAX)
        finally:
            self._meeting = None
            meeting.set()
        if not self._over.is_set():
            self._want({name.decode(): has.decode() for name, has in zip(rows[::2], rows[1::2], strict=True)})
        return beat if next_ms < 0 else min(beat, next_ms / 1000 + 0.001)

    def _want(self, table: dict[str, str]) -> None:
        has = {name: [int(number) for number in text.split(",") if number] for name, text in table.items()}
        target = assign(has, len(self._posts))
        me = self._options.consumer
        mine = [number for number, member in target.items() if member == me]
        told = f"{len(has)} members, {len(mine)} of {len(self._posts)} partitions are for {me!r}"
        if told != self._told:
            self._told = told
            _log.info("group %r: %s", self._group, told)
        for post in self._posts:
            if post.wanted != (target[post.number] == me) or (post.wanted and post.tenure is None):
                post.want(wanted=target[post.number] == me)

    def _idle(self) -> bool:
        """Whether everything that is to be ours is, and has nothing to do."""
        if self._options.idle_stop is None or self._told is None or self._over.is_set():
            return False
        return all(post.tenure is not None and post.tenure.idle for post in self._posts if post.wanted)

    def _break(self, error: Exception) -> None:
        self._broken = self._broken or error
        self._over.set()

    async def _man(self, post: Post[E]) -> None:
        """See to one partition: take it when it is for us, and have it until it is not."""
        try:
            while True:
                bell = post.listen()
                if self._over.is_set():
                    return
                pause = await self._take(post) if post.wanted else None
                if not post.wanted or pause:
                    await bell.wait(pause)
        except Exception as error:  # noqa: BLE001 - raised by `run`, when the other tenures have ended
            self._break(error)
        except BaseException:
            self._over.set()
            raise
        finally:
            if self._desk is not None:
                self._desk.left()

    async def _take(self, post: Post[E]) -> float:
        """Take a partition and have it to the end; returns the seconds to wait if it is another's."""
        taken, token = False, self._io.token()
        try:
            lease_or_wait = await self._ask(post, token)
            taken = True
        except GridsyncError as error:
            taken = True
            if isinstance(error, ServerError):
                await post.core.compare(error)
            if is_gone(error):
                return 0.0
            raise_if_final(error)
            _log.warning(
                "group %r cannot take %s, next attempt in %.1f s: %s", self._group, post.name, post.pause, error
            )
            pause, post.pause = post.pause, min(post.pause * 2, PAUSE_MAX)
            return pause
        finally:
            if not taken:
                # Cancelled: it may have become ours without our knowing.
                self._io.spawn(self._cede(post, token))
        if isinstance(lease_or_wait, float):
            return lease_or_wait
        tenure = post.last = post.tenure = lease_or_wait
        post.pause = PAUSE_MIN
        _log.info(
            "group %r: %r has %s, generation %s", self._group, self._options.consumer, post.name, tenure.generation
        )
        self._io.tally("stream.taken", self._name)
        self._ear.wake()
        if not post.wanted:
            tenure.end()
        try:
            done = await tenure.run()
        finally:
            post.tenure = None
            if tenure.lost:
                _log.warning("group %r: %r lost %s", self._group, self._options.consumer, post.name)
                self._io.tally("stream.lost", self._name)
            self._ear.wake()
        self._done.append(done)
        if tenure.lost:
            # Perhaps in a failover.
            await patiently(self._over, f"what {self._options.consumer!r} had of {post.name}", tenure.prove)
        return 0.0

    async def _ask(self, post: Post[E], token: str) -> Tenure[E] | float:
        io, options, member = self._io, self._options, self._options.consumer
        if len(self._posts) > 1:
            await post.core.directory.open()
        await join(io, post.core.keys, self._group, from_now=self._from_now and post.last is None)
        sent = io.monotonic()
        # A repeat after a lost reply takes it again, in the next generation: nothing was begun in between.
        generation, gone = b"", list[bytes]()
        while True:
            code, *rest = await io.run(TAKE, post.taking, (self._group, member, self._ttl_ms, generation, token))
            if code <= 0:
                return 0.001 + max(0, int(rest[0])) / 1000
            generation, more, ids = rest
            gone += ids
            if not more:
                # It takes longer only after another kind of consumer: an owner never holds so much.
                break
        if gone:
            _log.error("group %r: %d pending events were deleted unhandled, first %r", self._group, len(gone), gone[0])
        number = generation.decode()
        lease = Lease(io, post.taking[-1], f"{member}.{number}", options.claim_idle, sent)
        return Tenure(
            post.core,
            self._group,
            options,
            lease,
            self._turns,
            member=member,
            generation=number,
            workers=self._workers,
            handle=self._handle,
            complain=self._complain,
            kind=self._kind,
            in_turn=_at_once if self._desk is None else self._desk.done_by,
            on_idle=self._ear.wake,
        )

    async def _cede(self, post: Post[E], token: str) -> None:
        try:
            # Only what this request took: the next life of this name may have the partition when it arrives.
            await self._io.run(CEDE, post.taking[-1:], (self._options.consumer, token))
        except GridsyncError as error:
            _log.warning("group %r leaves %s to time: %s", self._group, post.name, error)

    async def _part(self) -> None:
        """Tell the others that we are gone, once our partitions are free."""
        self._parting = True
        if (meeting := self._meeting) is not None:
            # Given back at once, the rest of us goes on: its row would stay after we are gone.
            await meeting.wait(LEFT_S)
        self._ear.close()
        for post in self._posts:
            if post.last is not None:
                await post.last.left.wait(LEFT_S)
        try:
            await self._io.run(MEET, (self._members_key,), (self._options.consumer, "0", "", self._token, self._wake))
        except GridsyncError as error:
            _log.warning("group %r: %r leaves without word: %s", self._group, self._options.consumer, error)


def _at_once(work: Work) -> Work:
    return work
