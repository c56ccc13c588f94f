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
from gridsync.streams._dead import AsyncDeadLetters, DeadLetters
from gridsync.streams._delivery import AsyncDelivery, AsyncTransaction, Delivery, Transaction
from gridsync.streams._divergence import Branch, Divergence, Reappended, SetAside
from gridsync.streams._envelope import Envelope
from gridsync.streams._erase import Erased
from gridsync.streams._failures import Failure, Park, Policy, Retry, Verdict
from gridsync.streams._groups import AsyncConsumerGroup, ConsumerGroup
from gridsync.streams._keeper import AsyncRetention, Retention
from gridsync.streams._letters import DeadLetter, Replayed
from gridsync.streams._look import ConsumerInfo, GroupInfo, ParkedEvent, StoreInfo
from gridsync.streams._look_outboxes import OutboxInfo
from gridsync.streams._model import RawEvent, Upcaster, Upcasters
from gridsync.streams._outbox import AsyncOutbox, Outbox
from gridsync.streams._owners import Owner
from gridsync.streams._partitions import PartitionBy
from gridsync.streams._projection import AsyncProjection, Changes, Projected, Projection
from gridsync.streams._records import Appended, Committed, Recorded
from gridsync.streams._replication import AsyncReplication, Lag, Mirrored, Replication
from gridsync.streams._retention import Archived, Floor, Holder, Trimmed
from gridsync.streams._run import Ran
from gridsync.streams._settling import Consumed
from gridsync.streams._sites import Site
from gridsync.streams._subscription import AsyncSubscription, Subscription

DEAD = Verdict.DEAD
SKIP = Verdict.SKIP
STOP = Verdict.STOP

__all__ = [
    "ANY",
    "DEAD",
    "EXISTS",
    "NO_STREAM",
    "SKIP",
    "STOP",
    "Aggregate",
    "Appended",
    "Archived",
    "AsyncAggregate",
    "AsyncConsumerGroup",
    "AsyncDeadLetters",
    "AsyncDelivery",
    "AsyncEventStore",
    "AsyncOutbox",
    "AsyncProjection",
    "AsyncReplication",
    "AsyncRetention",
    "AsyncSubscription",
    "AsyncTransaction",
    "Branch",
    "Changes",
    "Check",
    "Committed",
    "Consumed",
    "ConsumerGroup",
    "ConsumerInfo",
    "DeadLetter",
    "DeadLetters",
    "Decided",
    "Delivery",
    "Divergence",
    "Envelope",
    "Erased",
    "EventStore",
    "Expected",
    "Failure",
    "Floor",
    "GroupInfo",
    "Holder",
    "Lag",
    "Loaded",
    "Mirrored",
    "Outbox",
    "OutboxInfo",
    "Owner",
    "Park",
    "ParkedEvent",
    "PartitionBy",
    "Policy",
    "Projected",
    "Projection",
    "Ran",
    "RawEvent",
    "Reappended",
    "Recorded",
    "Replayed",
    "Replication",
    "Retention",
    "Retry",
    "SetAside",
    "Site",
    "StoreInfo",
    "Subscription",
    "Transaction",
    "Trimmed",
    "Upcaster",
    "Upcasters",
    "Verdict",
    "Write",
]
