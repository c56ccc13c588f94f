"""`Channel` for threads and `AsyncChannel` for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from gridsync._io import run_sync
from gridsync._worlds import ForTasks, ForThreads
from gridsync.fanout._core import ChannelCore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO
    from gridsync._units import Seconds
    from gridsync.fanout._core import Member
    from gridsync.fanout._mailbox import OnFull
    from gridsync.fanout._message import Item, Position
    from gridsync.fanout._subscriber import Subscriber


class _SubscriptionBase:
    """What both kinds share."""

    def __init__(self, subscriber: Subscriber) -> None:
        """Be made by a channel."""
        self._subscriber = subscriber

    @property
    def position(self) -> Position:
        """What was read last; where it began before that."""
        return self._subscriber.position

    @property
    def closed(self) -> bool:
        """Whether it is not entered, or closed again."""
        return self._subscriber.closed

    @property
    def recovered(self) -> bool | None:
        """Whether everything since the position that it resumed from is given; ``None`` if it did not resume."""
        return self._subscriber.recovered

    def token(self, item: Item | None = None, *, expires: Seconds | None = None) -> str:
        """Return a resume token: what a client shows to get what it missed, and cannot forge.

        Args:
            item: Resume after this; after what was read last by default.
            expires: It counts for so many seconds, by the clock of the server; always by default.

        Raises:
            UsageError: The channel has no secrets.

        Cost: no input or output; a few microseconds.
        """
        return self._subscriber.token(item, expires)

    def __repr__(self) -> str:
        at = self.position
        return f"<{type(self).__name__} at {at.offset} of {at.epoch or 'nothing'}>"


class Subscription(_SubscriptionBase, ForThreads):
    """Reads one channel, for one client and from one thread at a time; made by `Channel.subscribe`.

    ::

        with channel.subscribe() as subscription:
            for item in subscription: ...

    Guarantee: each publication at most once, in order; what is missing lies in a `Gap`, which is given in its place
    (tests/sim/test_fanout.py).
    """

    def next(self, timeout: float | None = None) -> Item | None:
        """Block until the next message or gap, at most *timeout* seconds.

        Returns:
            A `Message`, or a `Gap` where some are missing; ``None`` if there is none in time.  While the server is away
            it waits, and may for one command timeout longer.

        Raises:
            TooSlow: The queue was full, and this subscription is to be resumed.
            Misconfigured: The server refuses what this needs.

        Cost: no input or output while messages arrive; a look at the server by one subscriber in five seconds.
        """
        return run_sync(self._subscriber.next(timeout))

    def close(self) -> None:
        """Stop reading, from any thread: who waits for a message is told ``None``; safe to call twice."""
        self._subscriber.close()

    def __enter__(self) -> Self:
        run_sync(self._subscriber.open())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Item:
        """Return what `next` returns, until this is closed."""
        item = run_sync(self._subscriber.next(None))
        if item is None:
            raise StopIteration
        return item


class AsyncSubscription(_SubscriptionBase, ForTasks):
    """Reads one channel, for one client and from one task at a time; see `Subscription`."""

    async def next(self, timeout: float | None = None) -> Item | None:
        """Wait for the next message or gap, at most *timeout* seconds; see `Subscription.next`.

        A caller that is cancelled has missed nothing: the next call returns what this one would have.
        """
        return await self._subscriber.next(timeout)

    async def close(self) -> None:
        """Stop reading: who waits for a message is told ``None``; safe to call twice."""
        self._subscriber.close()

    async def __aenter__(self) -> Self:
        await self._subscriber.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Item:
        """Return what `next` returns, until this is closed."""
        item = await self._subscriber.next(None)
        if item is None:
            raise StopAsyncIteration
        return item


class _ChannelBase:
    """What both kinds share."""

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        *,
        history: int = 1000,
        keep: Seconds = 300.0,
        secrets: Sequence[str | bytes] = (),
    ) -> None:
        """Open the channel; nothing is sent.

        Args:
            io: The driver.
            namespace: The first part of every key.
            name: Of the channel; 1 to 512 bytes.
            history: How many publications are kept, from 1 to 100,000: a client that missed fewer gets them.
            keep: How long they are kept after the last one, in seconds; at most thirty days.
            secrets: What resume tokens are signed with, of at least 16 bytes each: by the first one; all are accepted.

        Raises:
            UsageError: An argument cannot be used.
        """
        self._core = ChannelCore(io, namespace, name, history=history, keep=keep, secrets=secrets)

    @property
    def name(self) -> str:
        """Its name."""
        return self._core.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} history={self._core.history} keep={self._core.keep_s:g} s>"


class Channel(_ChannelBase):
    """What is published once and reaches every client of every process, with a bounded history; for threads.

    All subscriptions of a process share one subscription in Redis, and one copy of each message.

    Guarantee: a publication has the next offset, and one only, however often it was sent; who resumes is given exactly
    what was missed, or told that it cannot be (tests/sim/test_fanout.py).
    Not guaranteed: that anybody is there to read; that a publication survives a failover of the server, or a crash of
    one that does not write each to disk: who has read it before is told by a gap.
    """

    def publish(self, payload: str | bytes, *, id: str | None = None, key: str | None = None) -> Position:  # noqa: A002
        """Publish *payload* to all subscribers of all processes.

        Args:
            payload: Text or bytes, at most 1 MiB.
            id: Two publications with one id are one: the second returns the position of the first.  That holds for the
                newest thousand (or *history*, if that is more), and five minutes (or *keep*) after the last one.
            key: What it is about; a subscriber that conflates is given the newest of each key.

        Returns:
            Where it stands: epoch, offset and mark; the mark is empty where the first one of this id is kept no longer.

        Raises:
            UsageError: An argument cannot be used.
            Unavailable: The server is away; it was not published.
            OutcomeUnknown: No answer came, after repeats; publish again with the same *id*.

        Cost: one round trip, O(size of the payload) and one message to each process that listens.
        """
        return run_sync(self._core.publish(payload, id, key))

    def subscribe(
        self,
        *,
        after: Position | str | None = None,
        queue: int = 256,
        on_full: OnFull = "drop_oldest",
        member: str | None = None,
        about: str = "",
    ) -> Subscription:
        """Return a subscription, to be entered by ``with``.

        Args:
            after: Resume after this position, or resume token; by default it begins with the next publication.  A token
                that is none of ours, or has expired, begins there too, and `recovered` is false.
            queue: How many messages may wait for this subscriber, from 1 to 100,000.
            on_full: What happens when it does not read fast enough: ``drop_oldest`` drops what waited longest, and
                gives a gap; ``conflate`` keeps only the newest of each key at any time, and gives a gap;
                ``disconnect_with_resume`` drops all and raises `TooSlow`, so that it resumes by the history.
            member: Be present under this name while it is entered; see `presence`.
            about: What the member tells about itself; at most 4 KiB.

        Raises:
            UsageError: An argument cannot be used.
            Unavailable: The server is away; raised where it is entered.

        Cost: one round trip for the first subscription of a process, and one for each that resumes from further back
        than the last hundred messages; another one for a member.
        """
        return Subscription(self._core.subscriber(after, queue=queue, on_full=on_full, member=member, about=about))

    def position(self) -> Position:
        """Return where the channel is now: after a snapshot that was read later nothing is missing.

        Raises:
            Unavailable: The server is away.

        Cost: one round trip.
        """
        return run_sync(self._core.position())

    def presence(self, *, limit: int = 100) -> list[Member]:
        """Return who is present: the members among the subscribers of all processes.

        Args:
            limit: At most so many; up to 10,000.

        Returns:
            Those who expire first if they are not renewed.  The members of a process that died count for 30 s.

        Raises:
            UsageError: *limit* cannot be used.
            Unavailable: The server is away.

        Cost: one round trip, O(limit · log of all).
        """
        return run_sync(self._core.presence(limit))

    def count(self) -> int:
        """Return how many members are present.  Cost: one round trip, O(log of all)."""
        return run_sync(self._core.count())


class AsyncChannel(_ChannelBase):
    """What is published once and reaches every client of every process; for asyncio, see `Channel`."""

    async def publish(self, payload: str | bytes, *, id: str | None = None, key: str | None = None) -> Position:  # noqa: A002
        """Publish *payload* to all subscribers of all processes; see `Channel.publish`."""
        return await self._core.publish(payload, id, key)

    def subscribe(
        self,
        *,
        after: Position | str | None = None,
        queue: int = 256,
        on_full: OnFull = "drop_oldest",
        member: str | None = None,
        about: str = "",
    ) -> AsyncSubscription:
        """Return a subscription, to be entered by ``async with``; see `Channel.subscribe`."""
        return AsyncSubscription(self._core.subscriber(after, queue=queue, on_full=on_full, member=member, about=about))

    async def position(self) -> Position:
        """Return where the channel is now; see `Channel.position`."""
        return await self._core.position()

    async def presence(self, *, limit: int = 100) -> list[Member]:
        """Return who is present; see `Channel.presence`."""
        return await self._core.presence(limit)

    async def count(self) -> int:
        """Return how many members are present; see `Channel.count`."""
        return await self._core.count()
