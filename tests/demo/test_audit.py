"""The audit can fail: each kind of damage is seen by the check that is there for it, and by no look-alike."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gridsync.cli.demo import audit
from gridsync.cli.demo.auction import clear
from gridsync.cli.demo.audit import Claims, Entry, Evidence
from gridsync.cli.demo.events import GateClosed, OrderPlaced, QuarterSettled
from gridsync.cli.demo.profiles import days, neighbourhood, order

if TYPE_CHECKING:
    from collections.abc import Callable

SEED, QUARTERS = 5, 3
POSTER = "meter-1"


def a_good_run() -> tuple[Evidence, Claims]:
    """What a run without any fault leaves behind."""
    orders: list[Entry] = []
    settlements: list[Entry] = []
    versions: dict[str, int] = {}

    def write(stream: str, event_id: str, event: OrderPlaced | GateClosed) -> None:
        versions[stream] = versions.get(stream, 0) + 1
        orders.append(Entry(len(orders) + 1, event_id, stream, versions[stream], event, 10_000 * len(orders)))

    for moment in days(SEED, QUARTERS)[:QUARTERS]:
        placed = [each for prosumer in neighbourhood(SEED) if (each := order(prosumer, moment, SEED)) is not None]
        for each in placed:
            write(each.prosumer, each.order, each)
        write("gate", f"gate@{moment.number}", GateClosed(quarter=moment.number, orders=len(placed)))
        clearing = clear(placed)
        result = QuarterSettled(
            quarter=moment.number, fence=100 + moment.number, worker="w", price=clearing.price, fills=clearing.fills
        )
        settlements.append(Entry(moment.number + 1, f"s{moment.number}", "settlements", moment.number + 1, result, 0))
    book, at = [], {}
    for entry in reversed(orders):  # as good as any: the book is written in the order of the deliveries
        stream = f"quarter-{entry.event.quarter}"
        at[stream] = at.get(stream, 0) + 1
        book.append(replace(entry, position=len(book) + 1, stream=stream, version=at[stream]))
    acknowledged = {e.event.order: e.position for e in orders if isinstance(e.event, OrderPlaced)}
    times = {POSTER: [10_000 * n for n in range(len(acknowledged))]}
    evidence = Evidence(orders, book, settlements, pending=0, undelivered=0, admitted_us=times)
    return evidence, Claims(acknowledged, {POSTER: len(acknowledged)}, QUARTERS, ["10 per 0.1 seconds", "100/second"])


def without(entries: list[Entry], index: int) -> list[Entry]:
    """Drop an entry; those behind it move up, as if it had never been written."""
    kept = [*entries[:index], *entries[index + 1 :]]
    return [replace(entry, position=number) for number, entry in enumerate(kept, 1)]


def settle(evidence: Evidence, index: int, **changes: object) -> list[Entry]:
    entries = list(evidence.settlements)
    event = entries[index].event
    assert isinstance(event, QuarterSettled)
    entries[index] = replace(entries[index], event=event.model_copy(update=changes))
    return entries


def stolen(evidence: Evidence, field: str) -> list[Entry]:
    event = evidence.settlements[1].event
    assert isinstance(event, QuarterSettled)
    index = next(n for n, fill in enumerate(event.fills) if fill.wh > 0)
    fill = event.fills[index].model_copy(update={field: getattr(event.fills[index], field) - 1})
    return settle(evidence, 1, fills=[*event.fills[:index], fill, *event.fills[index + 1 :]])


def doubled(entries: list[Entry]) -> list[Entry]:
    last = entries[-1]
    return [*entries, replace(last, position=last.position + 1, version=last.version + 1)]


ORDERS, GAPS, LIMITS = "no order lost or doubled", "positions without a gap", "limits never exceeded"
HANDLED, TWICE, FENCES = "every delivery's effect exactly once", "no quarter settled twice", "fences rise"
ALONE, ENERGY, MONEY = "the same trades as one process", "energy conserved", "money conserved"

DAMAGES: dict[str, tuple[set[str], Callable[[Evidence], Evidence]]] = {
    "an order is lost": ({ORDERS, HANDLED, GAPS, ALONE}, lambda e: replace(e, orders=without(list(e.orders), 4))),
    "an order is stored twice": ({ORDERS, HANDLED}, lambda e: replace(e, orders=doubled(list(e.orders[:-1])))),
    "a position is left out": (
        {GAPS},
        lambda e: replace(e, settlements=[*e.settlements[:-1], replace(e.settlements[-1], position=QUARTERS + 1)]),
    ),
    "an effect is missing": ({HANDLED}, lambda e: replace(e, book=e.book[:-1])),
    "an effect is doubled": ({HANDLED}, lambda e: replace(e, book=doubled(list(e.book)))),
    "a delivery is pending": ({HANDLED}, lambda e: replace(e, pending=1)),
    "the group did not get to the end": ({HANDLED}, lambda e: replace(e, undelivered=2)),
    "a quarter is settled twice": ({TWICE, FENCES}, lambda e: replace(e, settlements=doubled(list(e.settlements)))),
    "a quarter is not settled": ({TWICE}, lambda e: replace(e, settlements=e.settlements[:-1])),
    "an old fence got through": ({FENCES}, lambda e: replace(e, settlements=settle(e, 2, fence=100))),
    "a watt-hour is stolen": ({ALONE, ENERGY}, lambda e: replace(e, settlements=stolen(e, "wh"))),
    "a nano-euro is stolen": ({ALONE, MONEY}, lambda e: replace(e, settlements=stolen(e, "nano_eur"))),
    "the price is another": ({ALONE}, lambda e: replace(e, settlements=settle(e, 0, price=1))),
    "one post too many in a window": (
        {LIMITS},
        lambda e: replace(e, admitted_us={POSTER: [*e.admitted_us[POSTER][:-1], e.admitted_us[POSTER][-2] + 1]}),
    ),
    "a post without admission": ({LIMITS}, lambda e: replace(e, admitted_us={POSTER: e.admitted_us[POSTER][:-1]})),
}


def test_a_good_run_passes_every_check():
    checks = audit.check(*a_good_run())
    assert [check.name for check in checks if not check.kept] == []
    assert {check.name for check in checks} == set().union(*(names for names, _ in DAMAGES.values()))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_seen(damage: str):
    """A check that cannot fail proves nothing."""
    evidence, claims = a_good_run()
    expected, harm = DAMAGES[damage]
    broken = {check.name for check in audit.check(harm(evidence), claims) if not check.kept}
    assert broken == expected


def test_a_window_is_half_open():
    evidence, claims = a_good_run()
    on_the_edge = [100_000 * (n // 10) + n % 10 for n in range(len(evidence.admitted_us[POSTER]))]
    checks = audit.check(replace(evidence, admitted_us={POSTER: on_the_edge}), claims)
    assert next(check for check in checks if check.name == LIMITS).kept
