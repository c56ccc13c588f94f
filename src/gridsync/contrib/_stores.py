"""What event stores hold and how far their readers have got, for Prometheus."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily

from gridsync._units import count as counted
from gridsync.contrib._families import GROUP, OUTBOX, gauges
from gridsync.errors import GridsyncError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from gridsync.streams import EventStore, Floor, GroupInfo, OutboxInfo, StoreInfo

_STORE: Final = {
    "events": "Events in the log.",
    "removed": "Events that were removed from the log.",
    "streams": "Streams that ever had an event.",
    "bytes": "Memory of log, streams and counters, estimated; absent if the server does not tell.",
    "free": "Events of the log that everybody has had.",
    "cap": "How many events the log may hold; absent if it has no cap.",
    "groups": "Consumer groups, those beyond groups_max among them.",
    "outboxes": "Other stores that it has sent to, those beyond outboxes_max among them.",
}
_OF_GROUP: Final = GROUP | {"consumers": "Consumers of the group, dead ones that were not removed yet among them."}
MOST: Final = 10_000
"""Groups, or outboxes, of one store at most."""


class _Seen(NamedTuple):
    """What one scrape has found of one store."""

    info: StoreInfo
    floor: Floor
    groups: Sequence[GroupInfo]


class StoreCollector:
    """A Prometheus collector over what event stores hold, and how far their groups and outboxes have got.

    It asks the server at each scrape, whether anybody consumes or not: the alarm about a group that nobody consumes.

    Args:
        stores: Of a `Grid`.  A program of tasks opens one for this; models do not matter, `RawEvent` is enough.
        groups_max: Of so many groups of each store, the first by name, there are metrics.
        outboxes_max: The same of outboxes, by target.

    Raises:
        UsageError: No store, or one of an `AsyncGrid`; or a number that cannot be used.

    A store that cannot be asked has ``gridsync_store_up`` 0 and nothing else; the scrape goes on.
    Cost: for each store and partition four scripts, one look per holder of the log, and one script per group.  Streams,
    consumers and readers are no labels.
    """

    def __init__(self, *stores: EventStore[Any], groups_max: int = 100, outboxes_max: int = 100) -> None:
        if not stores or any(inspect.iscoroutinefunction(getattr(store, "info", None)) for store in stores):
            raise UsageError("StoreCollector is about event stores of a Grid: the exporter's thread asks for them")
        self._stores = stores
        self._groups_max = counted(groups_max, "groups_max", MOST)
        self._outboxes_max = counted(outboxes_max, "outboxes_max", MOST)

    def describe(self) -> Iterator[Metric]:
        """Describe nothing, so that registering does not ask the server."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, once for each scrape."""
        up = GaugeMetricFamily("gridsync_store_up", "1 if the store could be asked.", labels=["store"])
        seen: list[_Seen] = []
        for store in self._stores:
            name = store._core.name  # noqa: SLF001 - a store that cannot be asked has told its name
            try:
                seen.append(self._look(store))
            except GridsyncError:
                up.add_metric([name], 0)
            else:
                up.add_metric([name], 1)
        yield up
        yield from gauges("store", ("store",), _STORE, [_of_store(each) for each in seen])
        groups = [_of_group(group) for each in seen for group in each.groups]
        yield from gauges("store_group", ("store", "group"), _OF_GROUP, groups)
        outboxes = [row for each in seen for row in _of_outboxes(each.info)[: self._outboxes_max]]
        yield from gauges("store_outbox", ("store", "target"), OUTBOX, outboxes)

    def _look(self, store: EventStore[Any]) -> _Seen:
        info = store.info()
        groups = [store.group(name).info(consumers_max=1) for name in info.groups[: self._groups_max]]
        return _Seen(info, store.floor(), groups)


def _of_store(seen: _Seen) -> tuple[Sequence[str], Mapping[str, float]]:
    info = seen.info
    facts = {
        "events": info.events,
        "removed": info.removed,
        "streams": info.streams,
        "free": seen.floor.free,
        "groups": len(info.groups),
        "outboxes": len(_of_outboxes(info)),
    }
    known = {"bytes": info.bytes, "cap": seen.floor.cap}
    return (info.name,), facts | {fact: value for fact, value in known.items() if value is not None}


def _of_group(info: GroupInfo) -> tuple[Sequence[str], Mapping[str, float]]:
    facts = {fact: getattr(info, fact) for fact in GROUP if fact != "oldest"}
    return (info.store, info.name), {**facts, "oldest": info.oldest_age or 0, "consumers": info.consumer_count}


def _of_outboxes(info: StoreInfo) -> list[tuple[Sequence[str], Mapping[str, float]]]:
    """Return a row for each target: partitions add up, but for the oldest."""
    found: dict[str, list[OutboxInfo]] = {}
    for outbox in info.outboxes:
        found.setdefault(outbox.target, []).append(outbox)
    return [
        (
            (info.name, target),
            {
                "waiting": sum(each.consignments for each in ways),
                "events": sum(each.events for each in ways),
                "oldest": max(each.oldest_age or 0 for each in ways),
            },
        )
        for target, ways in sorted(found.items())
    ]
