"""What is there now, for OpenTelemetry's observable instruments: connections, leases, breakers.

A callback sums up over all grids of the process by attributes, since of two observations with the same ones an SDK
keeps the last.
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from opentelemetry.metrics import Observation

from gridsync._io.copies import figures
from gridsync._io.decided import decided

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter

    from gridsync._io.aio import AsyncIO
    from gridsync._io.counts import Counts
    from gridsync._io.sync import SyncIO
    from gridsync._io.wire.endpoint import Endpoint

    Driver: TypeAlias = SyncIO | AsyncIO
    Attributes: TypeAlias = tuple[tuple[str, str], ...]
    Sums: TypeAlias = dict[Attributes, int]


GROUP = (
    ("lag", "{event}", "events that were not delivered to the group yet"),
    ("pending", "{event}", "events that were delivered to the group and are not settled"),
    ("oldest", "s", "since the commit of the oldest event that is not settled; 0 if all are"),
    ("parked", "{event}", "failed events that are tried again later"),
    ("waiting", "{event}", "events that wait behind a parked one of their stream"),
    ("dead", "{event}", "dead letters"),
)
"""What `IO.report` is told of a group, in this order: as of the last housekeeping of a consumer of this process.

Of the oldest it is told when that was committed: microseconds of the server's clock, 0 if there is none.
"""
OUTBOX = (
    ("waiting", "{consignment}", "consignments that were sent to another store and are not there yet"),
    ("events", "{event}", "the events in them"),
    ("oldest", "s", "since the commit of the oldest of them; 0 if there is none"),
)
"""What `IO.report` is told of an outbox, as of the last look of a relay of this process."""
MIRROR = (
    ("lag", "{event}", "events of a store that have not crossed to its mirror yet"),
    ("oldest", "s", "since the commit of the oldest of them; 0 if all have"),
)
"""What `IO.report` is told of a mirror, as of the last look of a replicator of this process."""
_REPORTS = {"group": GROUP, "outbox": OUTBOX, "mirror": MIRROR}


def install(meter: Meter, drivers: Iterable[Driver]) -> None:
    """Observe *drivers*, a set that changes."""
    for name, unit, field in (
        ("gridsync.inflight", "{request}", "in_flight"),
        ("gridsync.connection.open", "{connection}", "connections_open"),
        ("gridsync.lease.kept", "{lease}", "leases_kept"),
    ):
        meter.create_observable_gauge(name, [_field(drivers, field)], unit, "of all grids of this process, now")
    meter.create_observable_gauge(
        "gridsync.breaker.state",
        [_observe(drivers, _breakers)],
        "{breaker}",
        "1 for the state of each server's breaker",
    )
    for what, unit, text in (
        ("hits", "{value}", "values that were served from copies of this process"),
        ("misses", "{value}", "values that a near cache asked its server for"),
        ("invalidations", "{copy}", "copies that were dropped because their value, or a tag of it, was changed"),
        ("evictions", "{copy}", "copies that were dropped because there were too many"),
        ("drops", "{connection}", "lost connections, with which all that was read there went"),
    ):
        meter.create_observable_counter(f"gridsync.cache.near.{what}", [partial(_near, what)], unit, text)
    meter.create_observable_counter("gridsync.limit.decisions", [_decisions], "{decision}", "answers of limiters")
    for what, facts in _REPORTS.items():
        for name, unit, text in facts:
            look_at = partial(_reported, what, name)
            meter.create_observable_gauge(f"gridsync.{what}.{name}", [_observe(drivers, look_at)], unit, text)
    for name, unit, text, look in (
        ("count", "{connection}", "connections in the state that the attribute says", _connections),
        ("max", "{connection}", "the most connections that are allowed", _limits),
        ("pending_requests", "{request}", "callers that wait for a connection, or for room on it", _pending),
    ):
        meter.create_observable_up_down_counter(f"db.client.connection.{name}", [_observe(drivers, look)], unit, text)


def pool_name(endpoint: Endpoint) -> str:
    """Return the name of the connections to *endpoint*: its address and database."""
    return f"{endpoint}/{endpoint.db}"


def _field(drivers: Iterable[Driver], field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG001 - there is nothing to choose
        return [Observation(sum(getattr(driver.stats(), field) for driver in list(drivers)))]

    return observe


def _observe(
    drivers: Iterable[Driver], look: Callable[[Driver, Sums], None]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG001 - there is nothing to choose
        sums: Sums = defaultdict(int)
        for driver in list(drivers):
            look(driver, sums)
        return [Observation(value, dict(attributes)) for attributes, value in sums.items()]

    return observe


def _breakers(driver: Driver, sums: Sums) -> None:
    for server, state in driver.stats().breakers.items():
        sums[("gridsync.name", server), ("gridsync.state", state)] = 1


def reported(counts: Counts, what: str) -> dict[str, dict[str, int]]:
    """Return what is known of groups or outboxes, by their names: numbers, and the age of the oldest in seconds."""
    # Of several consumers in one partition the last that spoke is right; partitions add up, but for the oldest event.
    latest = {(name, partition): facts for (name, partition, _), facts in list(counts.reports[what].items())}
    found: dict[str, dict[str, int]] = {}
    for (name, _), facts in latest.items():
        sums = found.setdefault(name, dict.fromkeys((each for each, _, _ in _REPORTS[what]), 0))
        for (fact, _, _), value in zip(_REPORTS[what], facts, strict=True):
            if fact != "oldest":
                sums[fact] += value
            elif value:
                sums[fact] = max(sums[fact], int(time.time() - value / 1_000_000))
    return found


def _reported(what: str, fact: str, driver: Driver, sums: Sums) -> None:
    for name, facts in reported(driver.counts, what).items():
        key = (("gridsync.name", name),)
        sums[key] = max(sums[key], facts[fact]) if fact == "oldest" else sums[key] + facts[fact]


def _decisions(options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG001 - there is nothing to choose
    for limiter, who, how, number in decided():
        yield Observation(number, {"gridsync.name": limiter, "gridsync.outcome": how, "gridsync.source": who})


def _near(what: str, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG001 - there is nothing to choose
    for name, counted, number in figures():
        if counted == what:
            yield Observation(number, {"gridsync.name": name})


def _pool(endpoint: Endpoint, state: str = "") -> Attributes:
    name = ("db.client.connection.pool.name", pool_name(endpoint))
    return (name, ("db.client.connection.state", state)) if state else (name,)


def _connections(driver: Driver, sums: Sums) -> None:
    for wire in list(driver.counts.wires):
        if not wire.closed:
            sums[_pool(wire.endpoint, "used" if wire.load else "idle")] += 1
    for pool in list(driver.counts.pools):
        idle = pool.idle
        sums[_pool(pool.endpoint.known, "idle")] += idle
        sums[_pool(pool.endpoint.known, "used")] += pool.open - idle


def _limits(driver: Driver, sums: Sums) -> None:
    for pool in list(driver.counts.pools):
        sums[_pool(pool.endpoint.known)] += pool.size


def _pending(driver: Driver, sums: Sums) -> None:
    for wire in list(driver.counts.wires):
        if not wire.closed:
            sums[_pool(wire.endpoint)] += wire.line
    for pool in list(driver.counts.pools):
        sums[_pool(pool.endpoint.known)] += pool.waiting
