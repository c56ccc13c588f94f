"""What comes out of a channel: messages, and gaps where some are missing.

A `Position` is an offset in one life of a channel, with the mark of the publication there.  Each mark follows from the
one before, so two positions are equal only if the same history leads to them: after a failover that lost publications
other ones take their offsets, with other marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, NamedTuple, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

P = ParamSpec("P")
T = TypeVar("T")
Why = Literal["slow", "conflated", "history", "epoch", "token"]
_HEAD_WORDS: Final = 7
_VERSION: Final = b"1"


class Position(NamedTuple):
    """A place in the history of a channel; never compare offsets of two epochs."""

    epoch: str
    """The life of the channel: another one after it expired, or was deleted."""
    offset: int
    """How many publications there were in this life, up to this one."""
    mark: str
    """What tells this history from another one with the same offsets; empty if it is not known any more."""


class Message:
    """One publication.  All subscribers of a process share the object."""

    __slots__ = ("_made", "data", "epoch", "id", "key", "mark", "offset", "position", "prev")

    def __init__(self, position: Position, prev: str, *, id: str, key: str, data: bytes) -> None:  # noqa: A002
        self.position: Position = position
        """Where it stands."""
        epoch, offset, mark = position
        self.epoch: str = epoch
        """The life of the channel."""
        self.offset: int = offset
        """Which publication of that life it is, from 1."""
        self.mark: str = mark
        """What leads from the publication before to this one."""
        self.prev: str = prev
        """The mark of the publication before."""
        self.id: str = id
        """What the publisher calls it."""
        self.key: str = key
        """What it is about, for ``conflate``; empty if nothing was said."""
        self.data: bytes = data
        """The payload."""
        self._made: dict[Any, Any] = {}

    @property
    def text(self) -> str:
        """The payload as text; decoded once for all who ask.

        Raises:
            UnicodeDecodeError: It is not UTF-8.
        """
        return self.once(_text)

    def once(self, make: Callable[Concatenate[Message, P], T], *args: P.args, **options: P.kwargs) -> T:
        """Return what *make* makes of this message, made once for all subscribers of this process.

        It is remembered by *make* alone, so the other arguments must not make a difference.
        """
        found = self._made.get(make, self)
        if found is self:
            found = self._made[make] = make(self, *args, **options)
        made: T = found
        return made

    def __repr__(self) -> str:
        return f"<Message {self.offset} of {self.epoch} {self.data!r:.60}>"


def _text(message: Message) -> str:
    return message.data.decode()


@dataclass(frozen=True, slots=True)
class Gap:
    """Here publications are missing for this subscriber: what it knows of their subject has to be read anew.

    Attributes:
        missed: How many, if that can be known.
        position: Where it goes on: the next message is the one after this.
        why: ``slow`` and ``conflated``: they did not fit in its queue, or newer ones of their key took their place;
            ``history``: they are not kept any more; ``epoch``: the channel began anew, or a failover lost some of
            its history; ``token``: what it wanted to resume from was no valid token, or has expired.
    """

    missed: int | None
    position: Position
    why: Why


Item = Message | Gap


def heard(raw: bytes) -> Message | None:
    """Return the message that was published as *raw*, or ``None`` if it is none: anybody may publish anything."""
    head, _, rest = raw.partition(b"\n")
    words = head.split(b" ")
    if len(words) != _HEAD_WORDS or words[0] != _VERSION:
        return None
    try:
        epoch, offset, mark, prev = words[1].decode(), int(words[2]), words[3].decode(), words[4].decode()
        of_id, of_key = int(words[5]), int(words[6])
        name, key = rest[:of_id].decode(), rest[of_id : of_id + of_key].decode()
    except ValueError:
        return None
    return Message(Position(epoch, offset, mark), prev, id=name, key=key, data=rest[of_id + of_key :])


def kept(epoch: str, prev: str, entries: Sequence[Any]) -> list[Message]:
    """Return the messages of *entries* of the history, which follow a publication with the mark *prev*."""
    messages = []
    for entry_id, (_, mark, _, name, _, key, _, data) in entries:
        offset = int(entry_id.partition(b"-")[0])
        at = Position(epoch, offset, mark.decode())
        messages.append(Message(at, prev, id=name.decode(), key=key.decode(), data=data))
        prev = messages[-1].mark
    return messages
