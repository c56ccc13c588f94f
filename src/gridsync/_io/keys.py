"""Key names: one function per entity, one hash tag per entity.

Every key starts with ``{namespace:wing:name}``, so all keys of one entity live in one Cluster slot.  Braces and the
percent sign of a user's name are percent-escaped: a name can never change the slot or reach another entity's keys.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from typing import NamedTuple

from gridsync.errors import UsageError

_ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})
_PART_ESCAPES = {**_ESCAPES, ord(":"): "%3A"}

PROCESS_CHARS = 12
"""How many leading characters of an `IO.token` name the process that made it."""


def wake_prefix(tag: str) -> str:
    """Return what the wake-up channels for the entity *tag* begin with, on one server: all of a namespace share them.

    A script appends the first `PROCESS_CHARS` of a waiter's token and publishes with PUBLISH.
    """
    return f"{tag[1 : tag.index(':')]}:wake:"


def shard_wake_prefix(tag: str) -> str:
    """Return what the wake-up channels for the entity *tag* begin with, on a Cluster: they lie in the entity's slot.

    No namespace begins with a brace, so a script tells by it to publish with SPUBLISH.
    """
    return f"{tag}:wake:"


def wake_channel(prefix: str, token: str) -> str:
    """Return the channel on which the process that made *token* listens."""
    return prefix + token[:PROCESS_CHARS]


def tag(namespace: str, wing: str, name: str) -> str:
    """Return the hash tag, braces included, that all keys of one entity share."""
    # A colon would let the namespace ``a:lock`` and the lock ``x`` meet ``a`` and its lock ``lock:x``.
    return f"{{{namespace.translate(_PART_ESCAPES)}:{wing}:{name.translate(_ESCAPES)}}}"


class LockKeys(NamedTuple):
    """The keys of one lock.  All of them expire."""

    state: str
    """hash: ``o`` owner, ``t`` fence, ``s`` since when (server ms), ``m`` about it; lives as long as the lease."""
    queue: str
    """sorted set: waiter → ticket (the order of arrival)."""
    alive: str
    """hash: waiter → until when it counts as alive (server ms), and about it."""
    fence: str
    """string: the last fence given out."""
    gone: str
    """sorted set: owner that gave up while a request of its was on its way → until when it may be (server ms)."""


def lock(namespace: str, name: str, wing: str = "lock") -> LockKeys:
    """Return the keys of the lock *name*, or of something else that is held like one; *wing* says what."""
    base = tag(namespace, wing, name)
    return LockKeys(base, f"{base}:queue", f"{base}:alive", f"{base}:fence", f"{base}:gone")


def watchers(namespace: str, name: str) -> str:
    """Return the key of those who watch the election *name*: a sorted set, watcher → alive until, server ms."""
    return f"{tag(namespace, 'election', name)}:watchers"


class ShareKeys(NamedTuple):
    """The keys of one semaphore or reader-writer lock.  All of them expire."""

    state: str
    """hash: ``l`` how many permits there are, ``r`` 1 if a resize said so, ``u`` how many are taken."""
    held: str
    """sorted set: owner → until when it holds, server ms."""
    what: str
    """hash: owner → permits, fence, since when (server ms), and about it."""
    queue: str
    """sorted set: waiter → ticket (the order of arrival)."""
    alive: str
    """hash: waiter → until when it counts as alive (server ms), permits, and about it."""
    fence: str
    """string: the last fence given out."""
    gone: str
    """sorted set: owner that gave up while a request of its own was on its way → until when it may be (server ms)."""


def share(namespace: str, wing: str, name: str) -> ShareKeys:
    """Return the keys of the semaphore or reader-writer lock *name*; *wing* says which."""
    base = tag(namespace, wing, name)
    return ShareKeys(
        base, f"{base}:held", f"{base}:what", f"{base}:queue", f"{base}:alive", f"{base}:fence", f"{base}:gone"
    )


def pattern(namespace: str) -> str:
    """Return a pattern for SCAN that the first key of every entity matches, and perhaps others; see `entity`."""
    return _literal(f"{{{namespace.translate(_PART_ESCAPES)}:") + "*}"


def entity(namespace: str, key: str) -> tuple[str, str] | None:
    """Return wing and name of the entity whose first key *key* is, or ``None`` if it is no such key."""
    prefix = f"{{{namespace.translate(_PART_ESCAPES)}:"
    if not key.startswith(prefix) or not key.endswith("}"):
        return None
    wing, _, name = key[len(prefix) : -1].partition(":")
    return (wing, unescaped(name)) if name else None


def _literal(text: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def unescaped(part: str) -> str:
    """Return a part of a key as the user had named it."""
    for escape, sign in (("%3A", ":"), ("%7B", "{"), ("%7D", "}"), ("%25", "%")):
        part = part.replace(escape, sign)
    return part


def once(namespace: str, name: str) -> str:
    """Return the key of what runs once per period: a hash, which expires."""
    return tag(namespace, "once", name)


class LatchKeys(NamedTuple):
    """The keys of one latch.  All of them expire."""

    state: str
    """hash: ``c`` the count, ``n`` what remains of it."""
    by: str
    """hash: id → by how much it counted down."""
    alive: str
    """sorted set: waiter → until when it counts as alive, server ms."""


def latch(namespace: str, name: str) -> LatchKeys:
    """Return the keys of the latch *name*."""
    base = tag(namespace, "latch", name)
    return LatchKeys(base, f"{base}:by", f"{base}:alive")


class BarrierKeys(NamedTuple):
    """The keys of one barrier.  All of them expire."""

    state: str
    """hash: ``p`` parties, ``g`` generation, ``b`` why it is broken, ``x`` the last orders to break or mend it."""
    here: str
    """sorted set: party → until when it counts as alive, server ms."""
    passed: str
    """hash: party → generation and place of what it passed, or that it gave up with a request on its way."""
    when: str
    """sorted set: party → when it passed, or until when that request may come, server ms."""


def barrier(namespace: str, name: str) -> BarrierKeys:
    """Return the keys of the barrier *name*."""
    base = tag(namespace, "barrier", name)
    return BarrierKeys(base, f"{base}:here", f"{base}:passed", f"{base}:when")


class GateKeys(NamedTuple):
    """The keys that guard one key of a user.  All of them expire."""

    mark: str
    """string: the largest fence seen."""

    def done(self, write: str) -> str:
        """Return the key that tells what became of the write with this id: a string."""
        return f"{self.mark}:{write}"


def gate(namespace: str, key: str) -> GateKeys:
    """Return the keys that guard *key*: the only ones that do not start with the namespace.

    They must be in the slot of *key*, which the user chose; so they start with its hash tag.

    Raises:
        UsageError: *key* has no hash tag, and a closing brace that would end one.
    """
    rest = key.partition("{")[2]
    inside, closed, _ = rest.partition("}")
    whole = not (inside and closed)
    if whole and "}" in key:
        raise UsageError(f"the key {key!r} cannot be guarded: give it a hash tag, as in '{{wallet}}:7', or no brace")
    return GateKeys(f"{{{key if whole else inside}}}:{namespace.translate(_PART_ESCAPES)}:fence:{key}")


def limit(namespace: str, limiter: str, subject: str) -> str:
    """Return the key of one subject of a limiter: a sorted set, cumulative cost and hit id → time.  It expires.

    A colon ends the limiter's name, so the limiter ``a:b`` and the subject ``c`` never meet ``a`` and ``b:c``.
    What other algorithms keep lies in the same slot, under this key and a suffix (`LIMIT_KINDS`): a limiter whose
    algorithm was changed begins anew.
    """
    return _part_of(namespace, "limit", limiter, subject)


def _part_of(namespace: str, wing: str, owner: str, name: str) -> str:
    """Return the hash tag of something that has a slot of its own, and a name that counts within *owner* only."""
    parts = (namespace.translate(_PART_ESCAPES), wing, owner.translate(_PART_ESCAPES), name.translate(_ESCAPES))
    return f"{{{':'.join(parts)}}}"


def limiter_here(namespace: str, limiter: str) -> str:
    """Return the key of the processes that use a limiter: a sorted set, process → alive until, server ms.  It expires.

    No subject's key ends so: it ends in a brace, or in one of `LIMIT_KINDS`.
    """
    return f"{tag(namespace, 'limit', limiter)}:here"


LIMIT_KINDS = {
    "bucket": "a bucket",
    "fixed": "a fixed window",
    "approx": "two counters",
    "slots": "slots",
}
"""What follows a limiter's key and a colon where its rule is no sliding window: strings, and a sorted set for slots."""


def limit_pattern(namespace: str, limiter: str = "") -> str:
    """Return a pattern for SCAN that every key of *limiter* matches, or of all limiters, and few others."""
    return _literal(limit(namespace, limiter, "")[: -1 if limiter else -2]) + "*}*"


def limit_of(namespace: str, key: str) -> tuple[str, str, str] | None:
    """Return limiter, subject and kind of *key*, or ``None`` if it is no limiter's.

    The kind is one of `LIMIT_KINDS`, or nothing for a log.
    """
    prefix = f"{{{namespace.translate(_PART_ESCAPES)}:limit:"
    name, brace, suffix = key.partition("}")
    kind = suffix.removeprefix(":")
    if not name.startswith(prefix) or not brace or (suffix and (kind == suffix or kind not in LIMIT_KINDS)):
        return None
    limiter, _, subject = name[len(prefix) :].partition(":")
    return (unescaped(limiter), unescaped(subject), kind) if limiter and subject else None


class EventKeys(NamedTuple):
    """The keys of an event store.  All of them are permanent: they are the data."""

    meta: str
    """hash: ``pos`` the last position, ``trimmed`` the last one that was removed from the log.

    Of a store that is mirrored or a mirror also ``site``, its name; ``epoch``, how many promotions it knows of;
    ``promoted``, the token of its own last one; and, if it takes no events, ``ro``: ``mirror``, ``fenced`` or
    ``superseded``.

    Of a store in several partitions this one is the directory: ``partitions`` how many there are, ``by`` what decides
    which one a stream is in, and ``pos`` no number.
    """
    versions: str
    """hash: stream → version."""
    log: str
    """stream ``<position>-0``: every event, in commit order."""
    recent: str
    """sorted set: event id → position, for the newest events only."""
    places: str
    """hash: projection → the checkpoint of the last event that is in it."""
    floors: str
    """hash: consumer group → up to where everything was acknowledged, and when that was noted (server ms)."""
    readers: str
    """hash: registered reader → kind, when it was noted and how long that counts (server ms), and its checkpoint."""
    base: str
    """The hash tag; ``stream`` and other keys start with it."""

    def stream(self, name: str) -> str:
        """Return the key of one stream ``<version>-0``."""
        return f"{self.base}:s:{name.translate(_ESCAPES)}"

    def snapshot(self, aggregate: str, stream: str) -> str:
        """Return the key of what one kind of aggregate makes of a stream: a hash."""
        return f"{self.base}:a:{aggregate.translate(_PART_ESCAPES)}:{stream.translate(_ESCAPES)}"

    def view(self, projection: str) -> str:
        """Return the key of what a projection makes of the events: a hash."""
        return f"{self.base}:v:{projection.translate(_ESCAPES)}"

    def done(self, group: str) -> str:
        """Return the key of the deliveries that a group has committed with what came of them: a sorted set.

        ``<id> <consumer>`` with the position as score, of those that may come again, and 1000 before them.
        """
        return f"{self.base}:done:{group.translate(_ESCAPES)}"

    def state(self, group: str) -> str:
        """Return the key of what the handlers of a group keep: a hash, name → JSON."""
        return f"{self.base}:state:{group.translate(_ESCAPES)}"

    @property
    def sent(self) -> str:
        """The key of what each outbox was given: a hash, its key → consignments, ``#`` and its key → events."""
        return f"{self.base}:sent"

    @property
    def senders(self) -> str:
        """The key of what was accepted from outboxes of other stores: a hash, the outbox's key → the last number."""
        return f"{self.base}:senders"

    def outbox(self, target: str) -> str:
        """Return the key of what is to be sent to the store, or partition, whose hash tag is *target*: a stream."""
        return f"{self.base}:out:{target.translate(_ESCAPES)}"

    def retry(self, group: str) -> str:
        """Return the key of the deliveries of a group that were put aside: a sorted set, id → when due, server ms."""
        return f"{self.base}:retry:{group.translate(_ESCAPES)}"

    def failed(self, group: str) -> str:
        """Return the key of what is known about failed deliveries of a group: a hash.

        ``<id>`` → first and last failure (server ms), attempts, length of the consumer's name, that name, error;
        ``k<stream>`` → the id that its later events wait behind; ``h<id>`` → the stream that waits behind it;
        ``w<id>`` → when it is due (server ms), once it need not wait for an earlier one.
        """
        return f"{self.base}:failed:{group.translate(_ESCAPES)}"

    def waiting(self, group: str) -> str:
        """Return the key of the deliveries that wait behind a failed one of their stream: a sorted set.

        Members of score 0: the length of the stream's name in three digits, the name, the position in sixteen digits.
        """
        return f"{self.base}:waiting:{group.translate(_ESCAPES)}"

    @property
    def mirror(self) -> str:
        """The key of what this store mirrors: a hash.

        ``site`` the name of that store, ``epoch`` how often it was promoted, ``at`` the checkpoint of the last event
        that was taken over; it is gone when this one is promoted.
        """
        return f"{self.base}:mirror"

    def cut(self, stream: str) -> str:
        """Return the key of what stays of a stream, or of the log (empty), while its end is taken off: a stream."""
        return f"{self.base}:cut:{stream.translate(_ESCAPES)}"

    @property
    def erased(self) -> str:
        """The key of what was erased: a hash, stream → the version up to which it has no events any more."""
        return f"{self.base}:erased"

    @property
    def holes(self) -> str:
        """The key of the positions that were erased and not trimmed yet: a sorted set.

        ``<position> <version> <stream>`` with the position as score.
        """
        return f"{self.base}:holes"

    def erasing(self, stream: str) -> str:
        """Return the key of the events of a stream that are being erased and are still in the log: a stream."""
        return f"{self.base}:erasing:{stream.translate(_ESCAPES)}"

    @property
    def aggregates(self) -> str:
        """The key of the kinds of aggregates that have snapshots here: a set."""
        return f"{self.base}:aggregates"

    @property
    def turn(self) -> str:
        """The key of whose turn it is to keep the log small: a string, which expires."""
        return f"{self.base}:turn"

    def lease(self, group: str) -> str:
        """Return the key of who owns this partition for an ordered group: a hash.

        ``g`` the generation, which stays; and while it is owned ``m`` the member, ``o`` the member, a dot and the
        generation, ``s`` since when and ``t`` until when (server ms), ``p`` how many pulls delivered something.
        """
        return f"{self.base}:lease:{group.translate(_ESCAPES)}"

    def members(self, group: str) -> str:
        """Return the key of the members of an ordered group: a hash, which expires.

        Member → until when it counts as alive (server ms), its ear, and the partitions that it has.
        """
        return f"{self.base}:members:{group.translate(_ESCAPES)}"

    def dead(self, group: str) -> str:
        """Return the key of the dead letters of a group: a stream."""
        return f"{self.base}:dead:{group.translate(_ESCAPES)}"


def events(namespace: str, store: str) -> EventKeys:
    """Return the keys of the event store *store*; if it is in several partitions, those of its directory."""
    return _events(tag(namespace, "events", store))


def outbox_target(key: str) -> tuple[str, str, int]:
    """Return namespace, store and partition that the outbox *key* is for."""
    target = unescaped(key.partition("}:out:")[2])
    namespace, wing, name = target[1:-1].split(":", 2)
    partition = 0
    if wing != "events":
        name, _, place = name.rpartition("/")
        partition = int(place.partition(".")[0])
    return unescaped(namespace), unescaped(name), partition


def event_partitions(namespace: str, store: str, count: int) -> tuple[EventKeys, ...]:
    """Return the keys of each of *count* partitions of the event store *store*.

    Tags that only count up fall where the checksum throws them: ``{orders:0}`` to ``{orders:15}`` give six equal
    masters 3, 3, 0, 5, 5 and 0.  So each tag ends in six digits that lead to a chosen slot, at equal distances from the
    others, and any number of equal masters gets its share.  Where the first one lies, the name of the store decides:
    with more masters than partitions, different stores use different masters.
    """
    # At a quarter to three quarters of each share: no rounding puts it on another side of a boundary.
    first = 2**15 + crc_hqx(store.encode(), 0)
    slots = [SLOTS * (first + 2**17 * k) // (2**17 * count) for k in range(count)]
    return tuple(
        _events(_in_slot(tag(namespace, f"events/{count}", f"{store}/{k}.")[:-1], slot)) for k, slot in enumerate(slots)
    )


SLOTS = 16384
"""Hash slots of a Cluster."""
_DIGITS = [f"{n:03o}".encode() for n in range(8**3)]


def _in_slot(opened: str, slot: int) -> str:
    """Return the tag that begins with *opened*, goes on with six octal digits, and lies in *slot*."""
    inside = crc_hqx(opened[1:].encode(), 0)
    # A checksum is linear: what the last digits do to it is the same whatever stands before them.
    heads = {crc_hqx(bytes(3), crc_hqx(head, inside)) % SLOTS: head for head in _DIGITS}
    found = next(heads[key] + tail for tail in _DIGITS if (key := slot ^ crc_hqx(tail, 0) % SLOTS) in heads)
    return f"{opened}{found.decode()}}}"


def _events(base: str) -> EventKeys:
    return EventKeys(
        f"{base}:meta",
        f"{base}:versions",
        f"{base}:log",
        f"{base}:recent",
        f"{base}:places",
        f"{base}:floors",
        f"{base}:readers",
        base,
    )


_STORE_END = "}:meta"


def store_pattern(namespace: str) -> str:
    """Return a pattern for SCAN that one key of every event store matches, and perhaps others; see `store_of`."""
    return _literal(f"{{{namespace.translate(_PART_ESCAPES)}:events:") + "*" + _STORE_END


def store_of(namespace: str, key: str) -> str | None:
    """Return the event store whose key *key* is, or ``None`` if it is not the one that each store has."""
    prefix = f"{{{namespace.translate(_PART_ESCAPES)}:events:"
    if not key.startswith(prefix) or not key.endswith(_STORE_END):
        return None
    return unescaped(key[len(prefix) : -len(_STORE_END)]) or None


class OrderBookKeys(NamedTuple):
    """The keys of one order book, in the slot of the events that it makes.  All but the last are permanent."""

    buy: str
    """sorted set: ``<place>:<order>`` → the price in ticks, negated; the place has sixteen digits."""
    sell: str
    """sorted set: ``<place>:<order>`` → the price in ticks."""
    book: str
    """hash: ``o:<order>`` → the open order; ``b:<price>`` and ``s:<price>`` → how many lots stand there; ``terms`` →
    tick and lot; ``turn`` → which of ``seen`` is written to (1 or 2), and since when (server ms); ``best`` → the
    sequence number, the best bid and ask then, and when the first order may expire (server ms); ``restoring`` and
    ``restored`` → who makes, or made, it anew."""
    expiry: str
    """sorted set: order → when it expires, server ms."""
    seen: str
    """hash: order → how it ended, what was left, what was asked for, and what that was answered."""
    older: str
    """hash: the same, and the other one by turns."""
    metadata: str
    """string: best prices and sequence as JSON; it expires."""


def orderbook(base: str, market: str) -> OrderBookKeys:
    """Return the keys of the order book *market*, whose events are in the store, or partition, with the tag *base*."""
    first = f"{base}:orderbook:{market.translate(_PART_ESCAPES)}"
    names = ("buy", "sell", "book", "expiry", "seen:1", "seen:2", "metadata")
    return OrderBookKeys(*(f"{first}:{name}" for name in names))


def cache(namespace: str, cache: str, key: str) -> str:
    """Return the key of one cached value: a string.  The lease of its load is a hash: this and ``:load``.  Both expire.

    A colon ends the cache's name, so the cache ``a:b`` and the key ``c`` never meet ``a`` and ``b:c``.
    """
    return _part_of(namespace, "cache", cache, key)


def cache_of(namespace: str, key: str) -> str | None:
    """Return the cache whose value *key* is, or ``None`` if it is no value of one."""
    prefix = f"{{{namespace.translate(_PART_ESCAPES)}:cache:"
    if not key.startswith(prefix) or not key.endswith("}"):
        return None
    return unescaped(key[len(prefix) :].partition(":")[0]) or None


def cache_tag(namespace: str, cache: str, tag_name: str) -> str:
    """Return the key of the version of a tag of a cache: a string, which expires."""
    return _part_of(namespace, "cachetag", cache, tag_name)


class ChannelKeys(NamedTuple):
    """The keys of one fan-out channel.  All of them expire."""

    state: str
    """hash: ``e`` epoch, ``o`` the last offset, ``m`` its mark."""
    history: str
    """stream ``<offset>-0``: ``m`` mark, ``i`` id, ``k`` key, ``d`` payload."""
    ids: str
    """sorted set: id of a publication → its offset, for the newest."""
    here: str
    """sorted set: member → until when it counts as present (server ms)."""
    about: str
    """hash: member → what it tells about itself."""
    base: str
    """The hash tag; every key starts with it."""


def channel(namespace: str, name: str) -> ChannelKeys:
    """Return the keys of the fan-out channel *name*."""
    base = tag(namespace, "channel", name)
    return ChannelKeys(base, f"{base}:history", f"{base}:ids", f"{base}:here", f"{base}:about", base)


def live(prefix: str, base: str) -> str:
    """Return what the channel with the hash tag *base* is published on; *prefix* is `IO.wake_prefix` of that.

    No token has a colon, so no waiter of the namespace listens there.
    """
    return f"{prefix}live:{base[1:-1]}"


def cache_prefixes(namespace: str, cache: str) -> tuple[str, str]:
    """Return what the keys of one cache's values begin with, and those of its tags."""
    return tuple(_part_of(namespace, wing, cache, "")[:-1] for wing in ("cache", "cachetag"))  # type: ignore[return-value]


def cache_key_in(prefix: bytes, name: bytes) -> str | None:
    """Return the key of the value whose Redis key is *name*, ``None`` if it is no such key of the cache of *prefix*."""
    if not name.startswith(prefix) or not name.endswith(b"}"):
        return None
    return unescaped(name[len(prefix) : -1].decode("utf-8", "replace"))


class HealthKeys(NamedTuple):
    """The keys of a health report."""

    probe: str
    """Never written; its slot decides which node of a Cluster is looked at."""
    absent: str
    """Never written; what is done to it shows whether the server takes writes, and what its ACL permits."""


def health(namespace: str) -> HealthKeys:
    """Return the keys of a health report, all in one slot."""
    base = tag(namespace, "health", "probe")
    return HealthKeys(base, f"{base}:absent")


_PERMANENT = re.compile(
    r"\{[^{}]*:events(/\d+)?:[^{}]*\}:(meta|versions|log|recent|places|floors|readers|mirror|sent|senders|erased|holes|aggregates|(a|s|v|retry|failed|waiting|dead|done|state|out|lease|erasing):.*|orderbook:[^:]*:(buy|sell|book|expiry|seen:[12]))"
)


def is_permanent(key: str) -> bool:
    """Tell whether *key* is one that stays: those of an event store, and of the order books in it, are the data."""
    return _PERMANENT.fullmatch(key) is not None


def namespace_pattern(namespace: str) -> str:
    """Return a pattern for SCAN that every key of *namespace* matches, but the marks of fences on keys of users."""
    return _literal(f"{{{namespace.translate(_PART_ESCAPES)}:") + "*"
