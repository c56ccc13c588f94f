"""Event streams: an event store with expected versions, and consumer groups that lose nothing.

`EventStore` and `AsyncEventStore` append and read; their `group` gives a `ConsumerGroup` or an `AsyncConsumerGroup`.
"""

from gridsync.streams._aggregate import Aggregate, AsyncAggregate, Decided, Loaded
from gridsync.streams._api import (
    ANY,
    EXISTS,
    NO_STREAM,
    AsyncEventStore,
    EventStore,
)
from gridsync.streams._commit import Check, Expected, Write
from gridsync.streams._consumer import Consumed, Failure
from gridsync.streams._envelope import Envelope
from gridsync.streams._groups import AsyncConsumerGroup, ConsumerGroup
from gridsync.streams._model import RawEvent, Upcaster, Upcasters
from gridsync.streams._records import Appended, Committed, Recorded
from gridsync.streams._subscription import AsyncSubscription, Subscription

__all__ = [
    "ANY",
    "EXISTS",
    "NO_STREAM",
    "Aggregate",
    "Appended",
    "AsyncAggregate",
    "AsyncConsumerGroup",
    "AsyncEventStore",
    "AsyncSubscription",
    "Check",
    "Committed",
    "Consumed",
    "ConsumerGroup",
    "Decided",
    "Envelope",
    "EventStore",
    "Expected",
    "Failure",
    "Loaded",
    "RawEvent",
    "Recorded",
    "Subscription",
    "Upcaster",
    "Upcasters",
    "Write",
]
