"""Every exception of gridsync, in one tree.

::

    GridsyncError
    ├── UsageError (ValueError)     you did it wrong; nothing was sent
    │   ├── InvalidURL                 a connection URL that cannot be used
    │   ├── InvalidLimit               a rate limit that cannot be read
    │   ├── InvalidEvent               an event that does not fit its model
    │   ├── InvalidValue               a value that a cache could not give back as it is
    │   ├── DuplicateOrder             an order's id belongs to another order
    │   └── UnknownEventType           an event type that no model claims
    ├── NotNow                      the answer is no, for the moment
    │   ├── WaitTimeout (TimeoutError) what was waited for did not come in time
    │   │   └── LockTimeout               someone else still held it
    │   ├── BarrierBroken              a party died, or somebody broke the barrier
    │   ├── NotDurable                 too few servers confirmed a lock in time
    │   ├── RateLimited                the limit is used up
    │   ├── TooSlow                    a subscriber did not read what was published
    │   ├── WrongVersion               the stream has moved on
    │   ├── LogFull                    a log of events is at its cap, and somebody needs the oldest
    │   └── StaleState                 what was read of the state of a group has changed
    ├── LeaseLost                   you had it, and have it no longer
    │   ├── StaleFence                 a later holder wrote already; your write was refused
    │   ├── DeliveryLost               another consumer has the event; your commit was refused
    │   └── Promoted                   the mirror that you fed takes events of its own now
    ├── HistoryBroken               what was read does not lead on to what is there
    │   ├── Truncated                  what comes next was removed
    │   ├── Diverged                   what was read before is not there any more
    │   └── Damaged                    a file of events is not what was written
    ├── TooManyDeliveries           an event was begun so often that it is not begun again
    ├── OutcomeUnknown              it may or may not have happened
    ├── Unavailable                 it did not happen: the server is away
    ├── Misconfigured               it did not happen and no retry will heal it
    │   ├── AuthenticationFailed       wrong user or password
    │   ├── PermissionDenied           the ACL forbids a command, key or channel
    │   ├── ReadOnlyStore              this copy of a store takes no events
    │   └── TLSFailed                  certificate or protocol does not match
    └── ServerError                 the server answered with any other error

The branch tells what to do: fix the code (`UsageError`, `Misconfigured`), try
later (`NotNow`, `Unavailable`), stop acting on what you no longer own
(`LeaseLost`), look before you repeat (`OutcomeUnknown`), or decide where to
read on (`HistoryBroken`).
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AuthenticationFailed",
    "BarrierBroken",
    "Damaged",
    "DeliveryLost",
    "Diverged",
    "DuplicateOrder",
    "GridsyncError",
    "HistoryBroken",
    "InvalidEvent",
    "InvalidLimit",
    "InvalidURL",
    "InvalidValue",
    "LeaseLost",
    "LockTimeout",
    "LogFull",
    "Misconfigured",
    "NotDurable",
    "NotNow",
    "OutcomeUnknown",
    "PermissionDenied",
    "Promoted",
    "RateLimited",
    "ReadOnlyStore",
    "ServerError",
    "StaleFence",
    "StaleState",
    "TLSFailed",
    "TooManyDeliveries",
    "TooSlow",
    "Truncated",
    "Unavailable",
    "UnknownEventType",
    "UsageError",
    "WaitTimeout",
    "WrongVersion",
]


class GridsyncError(Exception):
    """The root: catch it to catch everything that gridsync raises on purpose."""


class UsageError(GridsyncError, ValueError):
    """An argument or a setting is wrong; nothing was sent to the server."""


class InvalidURL(UsageError):
    """A connection URL that cannot be used."""


class InvalidLimit(UsageError):
    """A rate limit that cannot be read, such as ``"100 per fortnight"``."""


class InvalidEvent(UsageError):
    """An event, on its way in or out, does not fit its model."""


class InvalidValue(UsageError):
    """A value that would not come back from the cache as it is."""


class DuplicateOrder(UsageError):
    """An order was placed under an id that another order of this book has, or had lately; nothing was done.

    Attributes:
        market: The book.
        order_id: The id.
    """

    def __init__(self, message: str, *, market: str, order_id: str) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.market = market
        self.order_id = order_id


class UnknownEventType(UsageError):
    """An event type that no model of this store claims."""


class NotNow(GridsyncError):
    """The server answered, and the answer is no for the moment."""


class WaitTimeout(NotNow, TimeoutError):
    """What was waited for did not come before the timeout ended.

    Attributes:
        name: What was waited for: the lock, the latch, the barrier.
        waited_s: How long this caller waited, in seconds.
    """

    def __init__(self, message: str, *, name: str, waited_s: float) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.name = name
        self.waited_s = waited_s


class LockTimeout(WaitTimeout):
    """Someone else still held the lock when the timeout ended."""


class BarrierBroken(NotNow):
    """The barrier will not open: a party died while it waited, or somebody broke it or reset it.

    Attributes:
        name: The barrier.
        why: What happened.
    """

    def __init__(self, message: str, *, name: str, why: str) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.name = name
        self.why = why


class NotDurable(NotNow):
    """A lock was granted, too few servers confirmed that they have it, and it was given back.

    Attributes:
        name: The lock.
        confirmed: How many replicas did, in time.
    """

    def __init__(self, message: str, *, name: str, confirmed: int) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.name = name
        self.confirmed = confirmed


class RateLimited(NotNow):
    """The limit is used up.

    Attributes:
        name: The limiter.
        key: Who is limited.
        retry_after: Seconds after which the same call would be admitted, or ``None`` for never.
    """

    def __init__(self, message: str, *, name: str, key: str, retry_after: float | None) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.name = name
        self.key = key
        self.retry_after = retry_after


class TooSlow(NotNow):
    """A subscriber did not read as fast as was published, and its queue is full: it is to subscribe anew.

    Attributes:
        name: The channel.
        position: What it has read: the `gridsync.fanout.Position` to resume after.
    """

    def __init__(self, message: str, *, name: str, position: Any) -> None:  # noqa: ANN401 - of a wing above
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.name = name
        self.position = position


class WrongVersion(NotNow):
    """The stream is not at the version that the caller expected; nothing was appended.

    Attributes:
        stream: The stream's name.
        expected: What the caller expected.
        actual: The stream's version now; 0 if it has no event.
    """

    def __init__(self, message: str, *, stream: str, expected: object, actual: int) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.stream = stream
        self.expected = expected
        self.actual = actual


class LogFull(NotNow):
    """The log of an event store is at its cap, and somebody still needs the oldest events; nothing was appended.

    Attributes:
        name: The store.
        partition: The partition whose log it is.
        count: How many events were to be appended.
        held: How many it holds; 0 if others took each room that was made.
        cap: How many it may hold.
        holder: Kind and name of who is furthest behind, as `EventStore.floor` has them; ``None`` if that is nobody.
    """

    def __init__(
        self,
        message: str,
        *,
        name: str,
        partition: int,
        count: int,
        held: int = 0,
        cap: int = 0,
        holder: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.name = name
        self.partition = partition
        self.count = count
        self.held = held
        self.cap = cap
        self.holder = holder


class StaleState(NotNow):
    """What a handler read of its group's state was changed before it could commit; nothing was written.

    Attributes:
        name: The store and the group.
        key: What was read.
    """

    def __init__(self, message: str, *, name: str, key: str) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.name = name
        self.key = key


class LeaseLost(GridsyncError):
    """The lease ended before it was released: someone else may hold the name now.

    Attributes:
        name: The lock.
        fence: The fence of the lost lease.
        reason: How it was lost, in words.
    """

    def __init__(self, message: str, *, name: str, fence: int, reason: str = "") -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.name = name
        self.fence = fence
        self.reason = reason


class StaleFence(LeaseLost):
    """A write was refused, because a later holder wrote before; nothing was written.

    Attributes:
        name: What was to be written.
        fence: The fence of the refused write.
        seen: The later holder's fence, or ``None`` where the resource does not tell.  It is larger, or the same if the
            network was split, and each side granted the lock in the same microsecond.
    """

    def __init__(self, message: str, *, name: str, fence: int, seen: int | None) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message, name=name, fence=fence)
        self.seen = seen


class DeliveryLost(LeaseLost):
    """A commit was refused, because the event is no longer this consumer's; nothing was written.

    Attributes:
        name: The store and the group.
        fence: How often the event had been begun when this consumer got it, with that time.
        reason: How it was lost, in words.
    """


class Promoted(LeaseLost):
    """A mirror was promoted: it takes events of its own, and nothing is written to it for the store that it mirrored.

    Attributes:
        name: The store.
        fence: The epoch that began with the promotion.
        reason: How it was noticed.
    """


class HistoryBroken(GridsyncError):
    """A reader of events cannot simply go on: what it has read does not lead to what is there.

    Attributes:
        name: What was read, in words.
    """

    def __init__(self, message: str, *, name: str) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.name = name


class Truncated(HistoryBroken):
    """The events that come next were removed.

    Attributes:
        name: What was read, in words.
        first: The first version or position that is there: reading can go on with it.
    """

    def __init__(self, message: str, *, name: str, first: int) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message, name=name)
        self.first = first


class Diverged(HistoryBroken):
    """An event that was read before is not there any more: a failover, a restore or a flush has lost it.

    Attributes:
        name: What was read, in words.
        checkpoint: The event that was seen.
    """

    def __init__(self, message: str, *, name: str, checkpoint: str) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message, name=name)
        self.checkpoint = checkpoint


class Damaged(HistoryBroken):
    """A file of an archive or an export is not as it was written: torn, changed, or gone.

    Attributes:
        name: The file.
    """


class TooManyDeliveries(GridsyncError):
    """An event was begun again and again and never settled: whoever handled it died, or was cut off."""


class OutcomeUnknown(GridsyncError):
    """The request left and no answer came: it may or may not have been applied."""


class Unavailable(GridsyncError):
    """The server could not be reached in time; the request was not applied."""


class Misconfigured(GridsyncError):
    """The server refused in a way that no retry will heal; the request was not applied."""


class AuthenticationFailed(Misconfigured):
    """Wrong user name or password, or none where one is needed."""


class PermissionDenied(Misconfigured):
    """The ACL forbids this user the command, the key or the channel."""


class ReadOnlyStore(Misconfigured):
    """This copy of a store takes no events: it mirrors another one, or it was fenced; nothing was appended.

    Attributes:
        name: The store.
        why: ``mirror``, ``fenced``, or ``superseded`` if another copy was promoted.
        epoch: The promotions that this copy knows of.
    """

    def __init__(self, message: str, *, name: str, why: str, epoch: int) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.name = name
        self.why = why
        self.epoch = epoch


class TLSFailed(Misconfigured):
    """The certificate is not trusted, or one side speaks TLS and the other does not."""


class ServerError(GridsyncError):
    """The server answered with an error that has no class of its own.

    Attributes:
        code: The first word of the reply, such as ``WRONGTYPE``.
    """

    def __init__(self, message: str, *, code: str) -> None:
        """Keep what a handler may want besides the message."""
        super().__init__(message)
        self.code = code
