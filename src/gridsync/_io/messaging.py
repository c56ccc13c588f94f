"""Event operations in the words of OpenTelemetry's messaging conventions: sending, receiving and settling.

A store is a destination, a group's acknowledgement settles.  What else the wing asks of the server (how a group begins,
renewals, reads of history) is no messaging, but plain database work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from opentelemetry.trace import SpanKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io.scripts import Bound, Operation

Attributes: TypeAlias = "dict[str, str | int]"

_KINDS: Final = {
    "streams.append": ("send", "send", SpanKind.PRODUCER),
    "streams.commit": ("send", "send", SpanKind.PRODUCER),
    "streams.read_new": ("receive", "receive", SpanKind.CLIENT),
    "streams.claim": ("receive", "receive", SpanKind.CLIENT),
    "streams.due": ("receive", "receive", SpanKind.CLIENT),
    "streams.ack": ("ack", "settle", SpanKind.CLIENT),
    "streams.complete": ("complete", "settle", SpanKind.CLIENT),
}
"""Of each operation, by its name: the operation's name and type, and the kind of its span."""
_APPEND_HEAD, _APPEND_EVENT, _GROUP_HEAD, _ACK_EVENT = 5, 3, 2, 2
"""How many arguments `append.lua` has before the events and for each; how many words name group and consumer; and how
many arguments `ack.lua` has for each event."""
_SENDS: Final = frozenset({"streams.append", "streams.commit"})
_SETTLES: Final = frozenset({"streams.ack", "streams.complete"})
_COMMIT_TOTAL: Final = 2
"""Which argument of `commit.lua` says how many events there are."""
_WRITTEN: Final = 1
"""The highest code of `append.lua` and `commit.lua` for events that are in the store."""


class Message(NamedTuple):
    """What one operation does with messages."""

    title: str
    kind: SpanKind
    about: Attributes
    messages: int | None
    """How many messages; ``None`` if only the reply tells."""


def named(operation: str, kind: str, destination: str, group: str = "", consumer: str = "") -> Attributes:
    """Return the attributes that spans and metrics share, and the consumer's name for spans."""
    about: Attributes = {
        "messaging.system": "redis",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": destination,
    }
    if group:
        about["messaging.consumer.group.name"] = group
    if consumer:
        about["messaging.client.id"] = consumer
    return about


def message(operation: Operation | Bound, keys: Sequence[Any], args: Sequence[Any]) -> Message | None:
    """Return what *operation* does with messages, or ``None``."""
    found = _KINDS.get(operation.name)
    if found is None:
        return None
    name, kind, span_kind = found
    # The key is {namespace:events:store}:…, colons in the namespace and braces in both escaped: `keys.events`.
    store = keys[0].split(":", 2)[2].partition("}")[0]
    count: int | None = None
    group = consumer = ""
    if operation.name == "streams.commit":
        count = int(args[_COMMIT_TOTAL])
    elif kind == "send":
        count = (len(args) - _APPEND_HEAD) // _APPEND_EVENT
    else:
        head = getattr(operation, "head", ())
        group, consumer = head[2:4] if head[:1] == ("XREADGROUP",) else args[:_GROUP_HEAD]
        if kind == "settle":
            count = 1 if operation.name == "streams.complete" else (len(args) - _GROUP_HEAD) // _ACK_EVENT
    return Message(f"{name} {store}", span_kind, named(name, kind, store, group, consumer), count)


def ids(operation: Operation | Bound, reply: Any) -> list[str]:  # noqa: ANN401 - a reply
    """Return the ids of the messages that *reply* tells: of all that were received, of the last that was sent."""
    if operation.name in _SENDS:
        return [f"{reply[-1]}-0"] if reply[0] <= _WRITTEN else []
    if operation.name in _SETTLES or not reply:
        return []
    entries = next(iter(reply.values())) if operation.name == "streams.read_new" else reply[1]
    return [entry[0].decode() for entry in entries]


def of_count(known: Sequence[str], count: int) -> Attributes:
    """Return how many messages it were, or which one."""
    if count != 1:
        return {"messaging.batch.message_count": count}
    return {"messaging.message.id": known[0]} if known else {}
