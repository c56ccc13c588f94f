"""What both collectors of Prometheus metrics tell of groups and outboxes, and how a gauge is made of rows of facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

GROUP: Final = {
    "lag": "Events that were not delivered to the group yet.",
    "pending": "Events that were delivered to the group and are not settled.",
    "oldest": "Seconds since the commit of the oldest event that is not settled; 0 if all are.",
    "parked": "Failed events that are tried again later.",
    "waiting": "Events that wait behind a parked one of their stream.",
    "dead": "Dead letters.",
}
OUTBOX: Final = {
    "waiting": "Consignments that were sent to another store and are not there yet.",
    "events": "The events in them.",
    "oldest": "Seconds since the commit of the oldest of them; 0 if there is none.",
}


def gauges(
    what: str,
    labels: Sequence[str],
    texts: Mapping[str, str],
    rows: Iterable[tuple[Sequence[str], Mapping[str, float]]],
) -> Iterator[Metric]:
    """Yield a gauge for each fact: of each row its labels and its facts, of which some may be missing."""
    rows = list(rows)
    for fact, text in texts.items():
        gauge = GaugeMetricFamily(f"gridsync_{what}_{fact}", text, labels=labels)
        for values, facts in rows:
            if fact in facts:
                gauge.add_metric(values, facts[fact])
        yield gauge
