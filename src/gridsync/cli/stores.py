"""`gridsync streams ls|info|groups`: what event stores hold, and how far their groups have got."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gridsync._io.keys import store_of, store_pattern
from gridsync.cli._shared import (
    DONE,
    NOTHING,
    Scan,
    asking,
    complain,
    open_grid,
    print_json,
    raw_store,
    shown,
    tell_missing,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.grid import Grid
    from gridsync.streams import GroupInfo, OutboxInfo, ParkedEvent, StoreInfo


_LOGS = {"copy": "copies", "link": "links"}


def ls(*, url: str | None, namespace: str | None, most: int, seconds: float, as_json: bool) -> int:
    """Print the stores; returns 0, or 2 if the server cannot be asked."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        names, complete = _names(grid, most, seconds)
        found = [raw_store(grid, name).info() for name in sorted(names)]
        if as_json:
            print_json({"stores": [asdict(each) for each in found], "complete": complete})
        else:
            for each in found:
                print(line(each))
            if not complete:
                print(f"... and perhaps more: stopped at {most} stores or {seconds:g} s", file=sys.stderr)
        outcome.append(DONE)
    return outcome[0]


def info(store: str, *, url: str | None, namespace: str | None, as_json: bool) -> int:
    """Print what a store holds; returns 0, 1 if it has no events, 2 if the server cannot be asked."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        opened = raw_store(grid, store)
        found = opened.info()
        groups = [opened.group(name).info(consumers_max=1) for name in found.groups]
        if as_json:
            print_json({**asdict(found), "groups": [_progress(group) for group in groups]})
        else:
            print(line(found))
            for group in groups:
                print(f"  {group_line(group)}")
            for outbox in found.outboxes:
                print(f"  {_outbox_line(outbox, found.partitions)}")
            tell_missing(found)
        outcome.append(DONE if found.last else NOTHING)
    return outcome[0]


def groups(
    store: str,
    group: str | None,
    *,
    parked: int,
    consumers: int,
    url: str | None,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Print how far groups have got; returns 0, 1 if there is none, 2 if the server cannot be asked."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        opened = raw_store(grid, store)
        found: list[tuple[GroupInfo, tuple[ParkedEvent, ...]]] = []
        for name in opened.info().groups if group is None else (group,):
            one = opened.group(name)
            told = one.info(consumers_max=consumers)
            if told.exists or told.dead:
                found.append((told, one.parked(limit=parked) if parked and told.parked else ()))
        if as_json:
            plain = [{**asdict(told), "parked_events": [asdict(each) for each in aside]} for told, aside in found]
            print_json({"store": store, "groups": plain})
        else:
            for told, aside in found:
                print(group_line(told), *about(told, aside), sep="\n  ")
            if not found and not tell_missing(opened.info(), group):
                complain(
                    f"the event store {shown(store)} has no consumer group", "a group is made by its first consumer"
                )
        outcome.append(DONE if found else NOTHING)
    return outcome[0]


def _names(grid: Grid, most: int, seconds: float) -> tuple[set[str], bool]:
    """Return the stores that were found, and whether those are all."""
    names: set[str] = set()
    keys = Scan(grid, store_pattern(grid.namespace), seconds, "hash")
    for key in keys:
        name = store_of(grid.namespace, key)
        if name is not None:
            names.add(name)
        if len(names) >= most:
            break
    return names, keys.complete


def about(told: GroupInfo, aside: tuple[ParkedEvent, ...] = ()) -> Iterator[str]:
    """Yield a line for each consumer of a group, and for each of the events that it has put aside."""
    for consumer in told.consumers:
        yield f"{shown(consumer.name)}: holds {consumer.pending}, last heard of {consumer.idle:.1f} s ago"
    if told.consumer_count > len(told.consumers):
        yield f"... and {told.consumer_count - len(told.consumers)} more consumers"
    for each in aside:
        cause = f"{shown(each.error)}: {shown(each.text)}" if each.error else "waited behind another"
        yield (
            f"parked: position {each.position}, {shown(each.type)} of {shown(each.stream)}, {each.attempts} attempts,"
            f" due {each.due:%Y-%m-%d %H:%M:%S} UTC: {cause}"
        )
    if aside and told.parked > len(aside):
        yield f"... and {told.parked - len(aside)} more parked events"


def line(found: StoreInfo) -> str:
    """Return what a store holds, for one line."""
    size = "" if found.bytes is None else f", about {found.bytes:,} bytes"
    names = ", ".join(shown(name) for name in found.groups) or "none"
    where = f" from {found.first} to {found.last}" if found.events else ""
    return (
        f"{shown(found.name)}: {found.events} events{where}, {found.streams} streams{size}, a log of "
        f"{_LOGS[found.log]}; groups: {names}"
    )


def group_line(told: GroupInfo) -> str:
    """Return how far a group has got, for one line."""
    age = "" if told.oldest_age is None else f", the oldest unsettled event is {told.oldest_age:.1f} s old"
    return (
        f"{shown(told.store)} {shown(told.name)}: {told.lag} not delivered, {told.pending} pending ({told.parked} "
        f"parked, {told.waiting} waiting, {told.returned} given back), {told.dead} dead letters, {told.consumer_count} "
        f"consumers{age}"
    )


def _outbox_line(told: OutboxInfo, partitions: int) -> str:
    age = "" if told.oldest_age is None else f", the oldest is {told.oldest_age:.1f} s old"
    here = f" from partition {told.partition}" if partitions > 1 else ""
    return (
        f"to {shown(told.target)} (partition {told.target_partition}){here}: {told.consignments} consignments with "
        f"{told.events} events on their way, of {told.sent} that were sent{age}"
    )


def _progress(told: GroupInfo) -> dict[str, Any]:
    """Return a group without its consumers."""
    return {name: value for name, value in asdict(told).items() if name != "consumers"}
