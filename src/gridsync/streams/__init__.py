"""Event streams: an event store with expected versions, and consumer groups that lose nothing.

`EventStore` and `AsyncEventStore` append and read; their `group` gives a `ConsumerGroup` or an `AsyncConsumerGroup`.
"""

from gridsync.streams._api import (
    ANY,
    EXISTS,
    NO_STREAM,
    AsyncEventStore,
    EventStore,
)
from gridsync.streams._consumer import Consumed, Failure
from gridsync.streams._core import Expected
from gridsync.streams._groups import AsyncConsumerGroup, ConsumerGroup
from gridsync.streams._records import Appended, Recorded

__all__ = [
    "ANY",
    "EXISTS",
    "NO_STREAM",
    "Appended",
    "AsyncConsumerGroup",
    "AsyncEventStore",
    "Consumed",
    "ConsumerGroup",
    "EventStore",
    "Expected",
    "Failure",
    "Recorded",
]
