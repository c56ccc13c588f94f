"""What `gridsync top` reads, and how much of it at a time; nothing here draws or knows a key.

The cost of a refresh is bounded, whatever the server holds: so many keys of a SCAN that goes on where it stopped, and
so many locks, groups and limited keys, by turns.  What is looked at more closely is asked each time.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gridsync._io.keys import event_partitions, limit, namespace_pattern, tag
from gridsync.cli import limits, locks, stores
from gridsync.cli._shared import Walk, place_of, raw_store
from gridsync.cli.top.known import NAMES_MAX, Known
from gridsync.cli.top.vitals import Away, Pulse, Vitals
from gridsync.errors import GridsyncError, Misconfigured, OutcomeUnknown, ServerError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from gridsync.grid import Grid
    from gridsync.limits._look import Kept, Usage
    from gridsync.streams import EventStore, GroupInfo, StoreInfo

STEPS: Final = 3
"""SCANs of a refresh, each of a thousand keys."""
LOCKS: Final = 30
STORES: Final = 3
GROUPS: Final = 8
SUBJECTS: Final = 10
"""How many of each are asked about in a refresh."""
WINDOW_S: Final = 60.0
"""The time in which what limiters admitted is counted."""
ONCE_S: Final = 0.5
ONCE_NAMES: Final = 100_000
"""How many names of each kind are kept if nobody watches: the time bounds what is read."""
LAST: Final = "; the last one: "
"""What stands before the reason of an error that tells of several attempts."""
DETAILS: Final = 20
"""Holders, waiters, consumers or keys of what is looked at more closely."""

T = TypeVar("T")
Focus = tuple[str, str]
"""A section, and what of it: the ``id`` of its row."""


@dataclass(frozen=True, slots=True)
class LockRow:
    """Something that is held or waited for."""

    kind: str
    name: str
    state: str
    """Who holds it, for people."""
    fence: int | None
    """Of the only holder, or the newest of several."""
    expires_in: float | None
    """Seconds until the first of the leases ends, when it was asked."""
    waiting: int
    asked: float
    """When it was asked, in seconds on this machine's monotonic clock."""

    @property
    def id(self) -> str:
        """Its kind and its name."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limiter, as far as its keys were met."""

    limiter: str
    keys: int
    """Keys that it has."""
    busiest: str
    """The one that used most of those that were asked about."""
    used: int
    """How much that was, in a minute, in its own window, or now."""

    @property
    def id(self) -> str:
        """Its name."""
        return self.limiter


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A consumer group, or a store without one."""

    store: str
    group: str
    events: int
    lag: int
    pending: int
    parked: int
    dead: int
    consumers: int
    oldest_age: float | None
    """Seconds since the commit of the oldest event that is not settled."""

    @property
    def id(self) -> str:
        """Store and group."""
        return f"{self.store} {self.group}"


@dataclass(frozen=True, slots=True)
class CacheRow:
    """A cache, as far as its keys were met."""

    cache: str
    keys: int

    @property
    def id(self) -> str:
        """Its name."""
        return self.cache


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one refresh has to show."""

    server: str
    namespace: str
    complete: bool
    """Whether everything is here: all servers answer, the walk has been over all keys, all were asked about, and
    nothing was left out."""
    keys: int
    """Keys of the namespace that it has met."""
    servers: tuple[Vitals, ...]
    locks: tuple[LockRow, ...]
    limits: tuple[LimitRow, ...]
    streams: tuple[StreamRow, ...]
    caches: tuple[CacheRow, ...]
    left_out: tuple[str, ...] = ()
    """Sections of which there are more names than are kept."""
    unreadable: tuple[str, ...] = ()
    """What has a name of ours and cannot be read, and why: another program wrote there."""
    away: tuple[Away, ...] = ()
    """Primaries of a cluster that do not answer; what they hold is not here."""
    focus: Focus | None = None
    """What was looked at more closely."""
    detail: tuple[str, ...] = ()
    """What was found there, a line each."""

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values; a lease's rest is as of now."""
        plain = {name: value for name, value in asdict(self).items() if name not in ("focus", "detail")}
        for row in plain["locks"]:
            asked = row.pop("asked")
            if row["expires_in"] is not None:
                row["expires_in"] = round(max(row["expires_in"] - (time.monotonic() - asked), 0.0), 3)
        return plain


class _UnaskedError(Exception):
    """A node does not answer, so that it is not asked."""


class Model:
    """Reads the server, a bounded part of it at a time.  One thread at a time may use it."""

    def __init__(self, grid: Grid, names_max: int = NAMES_MAX) -> None:
        """Look through *grid* for at most so many names of each section; nothing is sent yet."""
        self._grid = grid
        self._pulse = Pulse(grid)
        self._walk = Walk(grid, namespace_pattern(grid.namespace))
        self._known = Known(grid.namespace, locks.KINDS, names_max)
        self._locks: dict[tuple[str, str], LockRow] = {}
        self._used: dict[tuple[str, str, str], Usage | Kept] = {}
        self._opened: dict[str, EventStore[Any]] = {}
        self._stores: dict[str, StoreInfo] = {}
        self._groups: dict[tuple[str, str], GroupInfo] = {}
        self._unreadable: dict[tuple[str, object], str] = {}
        self._group_turn = self._limit_turn = 0
        self._late = False
        self._silent: set[str] = set()
        self._vain = False
        self._whole_after = 0

    def refresh(self, focus: Focus | None = None) -> Snapshot:
        """Read what it is the turn of, and everything about *focus*.

        Raises:
            GridsyncError: The server does not answer, no node of the cluster does, or one refuses.
        """
        servers = self._look()
        for _ in range(STEPS):
            if self.step():
                break
        self._ask_locks(self._known.locks.next(LOCKS))
        self._ask_stores(self._known.stores.next(STORES))
        self._ask_groups()
        self._ask_subjects()
        detail: tuple[str, ...] = ()
        if focus is not None:
            with self._reading("", focus, {}):
                detail = tuple(self._about(focus))
        return replace(self._snapshot(servers), focus=focus, detail=detail)

    def once(self, seconds: float) -> Snapshot:
        """Read everything, for at most so many seconds; at least for half a one, in which rates are counted.

        Raises:
            GridsyncError: As `refresh`.
        """
        began = time.monotonic()
        until = began + seconds
        self._look()
        while not self.step() and time.monotonic() < until:
            pass
        self._ask_locks(self._while(until, self._known.locks))
        self._ask_stores(self._while(until, self._known.stores))
        for store, info in self._stores.items():
            for group in self._while(until, info.groups):
                self._ask_group(store, group)
        for subjects in self._known.subjects.values():
            self._ask_used(self._while(until, subjects))
        time.sleep(max(began + ONCE_S - time.monotonic(), 0.0))
        silent, vain = self._silent, self._vain
        servers = self._look()
        self._silent, self._vain = self._silent | silent, vain
        return self._snapshot(servers)

    def step(self) -> bool:
        """Look at some more keys; true if that was the end of a round."""
        rounds = self._walk.rounds
        try:
            self._known.meet(self._walk.step())
        except Unavailable as error:
            if self._walk.silent is None or self._walk.silent in self._pulse.away:
                raise
            self._pulse.missed(self._walk.silent, error)
            self._heed()
            return False
        if self._walk.rounds == rounds:
            return False
        self._known.round()
        self._forget()
        return True

    def _look(self) -> tuple[Vitals, ...]:
        servers = self._pulse.look()
        self._silent, self._vain = set(), False
        self._heed()
        return servers

    def _heed(self) -> None:
        """Ask nothing of the nodes that are away, and walk over the keys of the others."""
        away = frozenset(self._pulse.away)
        self._silent |= away
        if away != self._walk.without:
            self._walk.leave_out(away)
            self._known.again()
            self._whole_after = self._walk.rounds

    # -- asking -----------------------------------------------------------------------------------------------------

    def _ask_locks(self, names: Iterable[tuple[str, str]]) -> None:
        for kind, name in names:
            with self._reading("locks", (kind, name), self._locks):
                self._expect(tag(self._grid.namespace, kind, name))
                info = locks.look(self._grid, kind, name, DETAILS, 0)
                if locks.idle(info):
                    self._locks.pop((kind, name), None)
                else:
                    self._locks[kind, name] = _lock_row(kind, info)

    def _ask_stores(self, names: Iterable[str]) -> None:
        for name in names:
            with self._reading("streams", name, self._stores):
                self._expect_store(name)
                if name not in self._opened:
                    self._opened[name] = raw_store(self._grid, name)
                self._stores[name] = self._opened[name].info()

    def _ask_groups(self) -> None:
        every = [(store, group) for store, info in self._stores.items() for group in info.groups]
        for turn in range(min(GROUPS, len(every))):
            self._ask_group(*every[(self._group_turn + turn) % len(every)])
        self._group_turn += GROUPS

    def _ask_group(self, store: str, group: str) -> None:
        with self._reading("streams", (store, group), self._groups):
            self._expect_store(store)
            self._groups[store, group] = self._opened[store].group(group).info(consumers_max=1)

    def _ask_subjects(self) -> None:
        limiters = list(self._known.subjects.values())
        for turn in range(min(SUBJECTS, len(limiters))):
            subjects = limiters[(self._limit_turn + turn) % len(limiters)]
            self._ask_used(subjects.next(max(SUBJECTS // len(limiters), 1)))
        self._limit_turn += SUBJECTS

    def _ask_used(self, subjects: Iterable[tuple[str, str, str]]) -> None:
        for subject in subjects:
            with self._reading("limits", subject, self._used):
                self._expect(limit(self._grid.namespace, *subject[:2]))
                used = limits.look_at(self._grid, *subject, WINDOW_S)
                if used is None:
                    self._used.pop(subject, None)
                else:
                    self._used[subject] = used

    def _expect(self, *keys: str) -> None:
        """Go on only if the nodes that have *keys* answer, as far as this refresh knows.

        One that is asked in vain costs a timeout, so that a refresh asks no more after the first.
        """
        where = self._grid._io.where  # noqa: SLF001 - the command's own grid
        if self._vain or any(str(where((key,))) in self._silent for key in keys):
            raise _UnaskedError

    def _expect_store(self, name: str) -> None:
        namespace = self._grid.namespace
        count = self._opened[name].partitions if self._silent and name in self._opened else 1
        parts = event_partitions(namespace, name, count) if count > 1 else ()
        self._expect(tag(namespace, "events", name), *(part.meta for part in parts))

    @contextmanager
    def _reading(self, section: str, name: Any, known: dict[Any, Any]) -> Iterator[None]:  # noqa: ANN401 - a key of it
        """Note that something cannot be read: what another program wrote under a name of ours hides nothing else.

        Nor does a node of a cluster that does not answer: what it has is not shown, and not asked for again and again.
        """
        try:
            yield
        except Misconfigured:
            raise
        except _UnaskedError:
            if not self._vain:
                known.pop(name, None)
                self._unreadable.pop((section, name), None)
        except (GridsyncError, ValueError, LookupError) as error:
            if isinstance(error, Unavailable | OutcomeUnknown):
                if not hasattr(self._grid.client, "get_primaries"):
                    raise
                self._vain = True
            what = " ".join(name) if isinstance(name, tuple) else str(name)
            told = str(error).rpartition(LAST)[2].partition("; ")[0]
            why = error.code if isinstance(error, ServerError) else told
            self._unreadable[section, name] = f"{section} {what.strip()}: {why}"
            if not self._vain:
                known.pop(name, None)
        else:
            self._unreadable.pop((section, name), None)

    def _while(self, until: float, names: Iterable[T]) -> Iterator[T]:
        for name in names:
            if time.monotonic() >= until:
                self._late = True
                return
            yield name

    def _about(self, focus: Focus) -> Iterator[str]:
        section, which = focus
        first, _, rest = which.partition(" ")
        if section == "locks" and (first, rest) in self._known.locks:
            info = locks.look(self._grid, first, rest, DETAILS, DETAILS)
            yield from (locks.line(first, info), *locks.who(info))
        elif section == "streams":
            for store, group in [key for key in self._groups if " ".join(key) == which]:
                opened = self._opened[store].group(group)
                told = opened.info(consumers_max=DETAILS)
                aside = opened.parked(limit=DETAILS) if told.parked else ()
                yield from (stores.line(self._stores[store]), stores.group_line(told), *stores.about(told, aside))
        elif section == "limits":
            used = sorted((each for each in self._used.values() if each.limiter == which), key=lambda each: -each.used)
            yield from (limits.line(each, WINDOW_S) for each in used[:DETAILS])

    # -- what is known ----------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Let go of what the walk has not met in a whole round."""
        known = self._known
        self._locks = {name: row for name, row in self._locks.items() if name in known.locks}
        self._stores = {name: info for name, info in self._stores.items() if name in known.stores}
        self._opened = {name: store for name, store in self._opened.items() if name in known.stores}
        self._groups = {key: told for key, told in self._groups.items() if key[0] in known.stores}
        subjects = {subject for turns in known.subjects.values() for subject in turns}
        self._used = {subject: used for subject, used in self._used.items() if subject in subjects}
        streams = {*known.stores, *self._groups}
        there: dict[str, Container[Any]] = {"locks": known.locks, "streams": streams, "limits": subjects}
        self._unreadable = {
            (section, name): why for (section, name), why in self._unreadable.items() if name in there.get(section, ())
        }

    def _snapshot(self, servers: tuple[Vitals, ...]) -> Snapshot:
        busiest: dict[str, Usage | Kept] = {}
        for used in self._used.values():
            if used.limiter not in busiest or used.used > busiest[used.limiter].used:
                busiest[used.limiter] = used
        left_out = self._known.left_out
        missing = self._late or left_out or self._silent or self._vain
        return Snapshot(
            server=place_of(self._grid.settings.redis_url),
            namespace=self._grid.namespace,
            complete=self._walk.rounds > self._whole_after and not missing,
            keys=self._known.keys,
            servers=servers,
            locks=tuple(row for _, row in sorted(self._locks.items())),
            limits=tuple(self._limit_row(name, busiest.get(name)) for name in self._known.names("limit")),
            streams=tuple(self._stream_rows()),
            caches=tuple(CacheRow(name, self._known.count("cache", name)) for name in self._known.names("cache")),
            left_out=left_out,
            unreadable=tuple(sorted(why for (section, _), why in self._unreadable.items() if section)),
            away=tuple(sorted(self._pulse.away.values(), key=lambda each: each.server)),
        )

    def _limit_row(self, name: str, most: Usage | Kept | None) -> LimitRow:
        keys = self._known.count("limit", name)
        return LimitRow(name, keys, most.key if most else "", most.used if most else 0)

    def _stream_rows(self) -> Iterator[StreamRow]:
        for store, info in sorted(self._stores.items()):
            if not info.groups:
                yield StreamRow(store, "", info.events, 0, 0, 0, 0, 0, None)
            for group in info.groups:
                told = self._groups.get((store, group))
                if told is not None:
                    facts = (told.lag, told.pending, told.parked, told.dead, told.consumer_count, told.oldest_age)
                    yield StreamRow(store, group, info.events, *facts)


def _lock_row(kind: str, info: Any) -> LockRow:  # noqa: ANN401 - one of several kinds
    holders = locks.holders_of(info)
    fence = max((holder.fence for holder in holders), default=None)
    rest = min((holder.expires_in for holder in holders), default=None)
    return LockRow(kind, info.name, locks.state(info), fence, rest, getattr(info, "waiting", 0), time.monotonic())
