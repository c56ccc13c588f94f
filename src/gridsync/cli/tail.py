"""`gridsync streams tail`: events as they are appended."""

from __future__ import annotations

import itertools
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gridsync.cli._shared import DONE, asking, open_grid, print_json, raw_store, shown, tell_missing
from gridsync.errors import UsageError
from gridsync.streams._partitions import vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gridsync.streams import EventStore, RawEvent, Recorded


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted; what is ``None`` does not matter."""

    types: list[str] | None
    stream: str | None
    category: str | None

    def __call__(self, recorded: Recorded[RawEvent]) -> bool:
        """Tell whether *recorded* is wanted, for what a store does not choose itself."""
        return self.stream in (None, recorded.stream) and (self.types is None or recorded.type in self.types)


def tail(
    store: str,
    wanted: Filter,
    *,
    last: int,
    after: str | None,
    follow: bool,
    url: str | None,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Print events until Ctrl-C; returns 0, or 2 if the server cannot be asked or events were removed."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        opened, told = raw_store(grid, store), False
        try:
            # Ctrl-C is how it ends.
            with suppress(KeyboardInterrupt):
                for recorded in _events(opened, wanted, last, after, follow=follow):
                    if as_json:
                        print_json(_plain(recorded))
                    else:
                        print(_line(recorded))
                    sys.stdout.flush()
                    told = True
        except BrokenPipeError:
            # Whoever read it, such as `head`, has seen enough; what is still in the buffer goes nowhere, in silence.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not told and not follow:
            tell_missing(opened.info())
        outcome.append(DONE)
    return outcome[0]


def _events(
    store: EventStore[RawEvent], wanted: Filter, last: int, after: str | None, *, follow: bool
) -> Iterator[Recorded[RawEvent]]:
    if after is None:
        # Where the logs end now: what is shown first ends there, and what follows begins there.
        ends = [next(store.read_all(reverse=True, limit=1, partition=k), None) for k in range(store.partitions)]
        backwards = (filter(wanted, _back(store, wanted, newest)) for newest in ends if newest is not None)
        found = [recorded for each in backwards for recorded in itertools.islice(each, last)]
        # Over several partitions, the clocks of their servers are all there is to go by.
        yield from sorted(found, key=lambda each: (each.time_us, each.position))[max(0, len(found) - last) :]
        after = vector(["0" if newest is None else newest.checkpoint for newest in ends])
    chosen: Iterable[Recorded[RawEvent]]
    if follow:
        chosen = store.subscribe(after=after, types=wanted.types, category=wanted.category)
    else:
        chosen = store.read_all(after=after, types=wanted.types, category=wanted.category)
    yield from filter(wanted, chosen)


def _back(store: EventStore[RawEvent], wanted: Filter, newest: Recorded[RawEvent]) -> Iterator[Recorded[RawEvent]]:
    """Yield what is wanted of the partition of *newest*, from there on backwards."""
    try:
        home = None if wanted.stream is None else store.partition_of(wanted.stream)
    except UsageError:
        home = None  # only the program that writes it knows
    if wanted.stream is None or home is None:
        return store.read_all(
            before=newest.position + 1,
            partition=newest.partition,
            reverse=True,
            types=wanted.types,
            category=wanted.category,
        )
    if home != newest.partition or wanted.category not in (None, wanted.stream.partition("-")[0]):
        return iter(())
    # Its own stream is shorter than the log of all.
    own = store.read(wanted.stream, reverse=True)
    return (recorded for recorded in own if recorded.position <= newest.position)


def _plain(recorded: Recorded[RawEvent]) -> dict[str, Any]:
    return {
        "partition": recorded.partition,
        "position": recorded.position,
        "stream": recorded.stream,
        "version": recorded.version,
        "type": recorded.type,
        "schema_version": recorded.schema_version,
        "id": recorded.id,
        "time": recorded.time,
        "data": _data(recorded.event),
        "metadata": dict(recorded.metadata),
        "correlation_id": recorded.correlation_id,
        "causation_id": recorded.causation_id,
        "checkpoint": recorded.checkpoint,
    }


def _data(event: RawEvent) -> Any:  # noqa: ANN401 - whatever JSON says
    try:
        return json.loads(event.data)
    except ValueError:
        return event.data.decode(errors="replace")


def _line(recorded: Recorded[RawEvent]) -> str:
    data = shown(recorded.event.data.decode(errors="replace"))
    return (
        f"{recorded.position} {recorded.time:%Y-%m-%d %H:%M:%S} {shown(recorded.type)} {shown(recorded.stream)} "
        f"{recorded.version}: {data}"
    )
