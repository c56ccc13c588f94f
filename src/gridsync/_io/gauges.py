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

from gridsync._io.decided import decided

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter

    from gridsync._io.aio import AsyncIO
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
"""What `IO.report` is told, in this order: as of the last housekeeping of a consumer of this process."""
_OLDEST = 2


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
    meter.create_observable_counter("gridsync.limit.decisions", [_decisions], "{decision}", "answers of limiters")
    for place, (name, unit, text) in enumerate(GROUP):
        meter.create_observable_gauge(f"gridsync.group.{name}", [_observe(drivers, partial(_group, place))], unit, text)
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


def _group(place: int, driver: Driver, sums: Sums) -> None:
    # Of several consumers in one partition the last that spoke is right; partitions add up, but for the oldest event.
    latest = {(name, partition): facts[place] for (name, partition, _), facts in list(driver.counts.groups.items())}
    for (name, _), fact in latest.items():
        key = (("gridsync.name", name),)
        if place != _OLDEST:
            sums[key] += fact
        else:
            sums[key] = max(sums[key], int(time.time() - fact / 1_000_000) if fact else 0)


def _decisions(options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG001 - there is nothing to choose
    for limiter, who, how, number in decided():
        yield Observation(number, {"gridsync.name": limiter, "gridsync.outcome": how, "gridsync.source": who})


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
