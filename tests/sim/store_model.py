"""A model of the event store: what the documentation says of appends and commits, in lists."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from gridsync.streams import ANY, EXISTS


class Stored(NamedTuple):
    """An event as it must be stored."""

    stream: str
    version: int
    position: int
    id: str
    type: str
    data: str
    about: str


class Model:
    """What the store must be, as the documentation has it."""

    def __init__(self) -> None:
        """Begin empty."""
        self.log: list[Stored] = []
        self.streams: dict[str, list[Stored]] = defaultdict(list)

    def append(self, name: str, expected: int, events: list[tuple[str, ...]], about: str) -> list[int]:
        """Return what `append.lua` must answer, and append as it must."""
        code, *where = self._place(name, expected, [event[0] for event in events])
        return [0, *self._write(name, events, about)] if code == 0 else [code, *where]

    def commit(self, parts: list[tuple[str, int, list[tuple[str, ...]]]], about: str) -> list[int]:
        """Return what `commit.lua` must answer, and commit as it must."""
        fits, before, refused, again = [], [1], None, None
        for number, (name, expected, events) in enumerate(parts, 1):
            version = len(self.streams[name])
            if not events:
                if version != expected and (expected != EXISTS.value or not version):
                    refused = refused or [2, number, version]
                continue
            code, *where = self._place(name, expected, [event[0] for event in events])
            if code == 0:
                fits.append((name, events))
            elif code == 1:
                again = again or [3, number, version]
                before += where
            else:
                refused = refused or [code, number, version]
        if len(before) == 1 + 2 * sum(bool(events) for _, _, events in parts):
            return before
        if refused or again:
            return refused or again or []
        return [0, *(n for name, events in fits for n in self._write(name, events, about))]

    def _place(self, name: str, expected: int, ids: list[str]) -> tuple[int, ...]:
        """Return 0; or 1, version and position of a replay; or 2 (conflict) or 3 (in part) and the version."""
        there = self.streams[name]
        at = expected
        if expected < 0:
            if not there:
                return (0,) if expected == ANY.value else (2, 0)
            known = [event.id for event in there]
            if not set(ids) & set(known):
                return (0,)
            # Who gave an id twice, at versions that fit, is answered with the newest.
            at = len(known) - 1 - known[::-1].index(ids[0]) if ids[0] in known else len(known)
        elif len(there) == expected:
            return (0,)
        if [event.id for event in there[at : at + len(ids)]] == ids:
            last = there[at + len(ids) - 1]
            return 1, last.version, last.position
        return 2 if expected >= 0 else 3, len(there)

    def _write(self, name: str, events: list[tuple[str, ...]], about: str) -> tuple[int, int]:
        for event_id, kind, data in events:
            stored = Stored(name, len(self.streams[name]) + 1, len(self.log) + 1, event_id, kind, data, about)
            self.streams[name].append(stored)
            self.log.append(stored)
        return self.streams[name][-1].version, len(self.log)


def triples(words: list[str]) -> list[tuple[str, ...]]:
    """Return id, type and payload of each event, from the arguments of an append."""
    return [tuple(words[k : k + 3]) for k in range(0, len(words), 3)]


def parts_of(words: list[str]) -> list[tuple[str, int, list[tuple[str, ...]]]]:
    """Return the parts of a commit, from its arguments."""
    parts, at = [], 0
    while at < len(words):
        name, expected, count = words[at], int(words[at + 1]), int(words[at + 2])
        parts.append((name, expected, triples(words[at + 3 : at + 3 + 3 * count])))
        at += 3 + 3 * count
    return parts
