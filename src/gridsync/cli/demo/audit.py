"""The audit: what the run promised, checked on what the server holds at its end.

It reads the raw Redis structures with a plain client, not through the code that wrote them, and compares them with what
the posters were told and with what one process alone computes from the same orders.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from gridsync.cli.demo import keys
from gridsync.cli.demo.auction import clear
from gridsync.cli.demo.events import GateClosed, OrderPlaced, QuarterSettled
from gridsync.limits import Rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import redis

PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as it lies in the log of a store."""

    position: int
    id: str
    stream: str
    version: int
    event: OrderPlaced | GateClosed | QuarterSettled
    time_us: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the checks look at."""

    orders: Sequence[Entry]
    book: Sequence[Entry]
    settlements: Sequence[Entry]
    pending: int
    """Deliveries that no worker acknowledged."""
    undelivered: int
    """Orders behind the group's last delivery."""
    admitted_us: Mapping[str, Sequence[int]]
    """Poster → when the server admitted each of its posts."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What the processes were told while it ran."""

    acknowledged: Mapping[str, int]
    """Order → the position that its poster was given."""
    posted: Mapping[str, int]
    """Poster → how many orders it posted."""
    quarters: int
    """How many quarters were opened, and so are to be settled."""
    limits: Sequence[str]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, and whether it was kept."""

    name: str
    kept: bool
    told: str
    """The numbers, for people."""


def gather(client: redis.Redis, namespace: str, posters: Iterable[str]) -> Evidence:
    """Read everything from the server, a page at a time."""
    group: dict[str, Any] = {}
    log = keys.log(namespace, "orders")
    if client.exists(log):
        groups: Any = client.xinfo_groups(log)
        group = {str(name): value for name, value in next(iter(groups), {}).items()}
    orders = list(_entries(client, namespace, "orders", {"OrderPlaced": OrderPlaced, "GateClosed": GateClosed}))
    delivered = int(_text(group.get("last-delivered-id", "0-0")).partition("-")[0])
    return Evidence(
        orders=orders,
        book=list(_entries(client, namespace, "book", {"OrderPlaced": OrderPlaced, "GateClosed": GateClosed})),
        settlements=list(_entries(client, namespace, "settlements", {"QuarterSettled": QuarterSettled})),
        pending=int(group.get("pending", 0)),
        undelivered=max((entry.position for entry in orders), default=0) - delivered,
        admitted_us={poster: _admitted(client, namespace, poster) for poster in posters},
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _entries(client: redis.Redis, namespace: str, store: str, models: Mapping[str, Any]) -> Iterator[Entry]:
    log, after = keys.log(namespace, store), "-"
    while True:
        page: Any = client.xrange(log, after, "+", count=PAGE)
        for entry_id, fields in page:
            number, _, rest = _text(entry_id).partition("-")
            yield Entry(
                # An id that is no position counts as none.
                position=int(number) if rest == "0" else 0,
                id=_text(fields[b"i"]),
                stream=_text(fields[b"s"]),
                version=int(fields[b"v"]),
                event=models[_text(fields[b"t"])].model_validate_json(fields[b"d"]),
                time_us=int(fields[b"w"]),
            )
        if len(page) < PAGE:
            return
        after = f"({_text(page[-1][0])}"


def _admitted(client: redis.Redis, namespace: str, poster: str) -> list[int]:
    """Return the times in the poster's log of admissions; the longest of its windows outlives the run."""
    key, times, first = keys.admissions(namespace, poster), [], 0
    while page := client.zrange(key, first, first + PAGE - 1, withscores=True):
        rows: Any = page
        times += [int(score) for _, score in rows]
        first += PAGE
    return times


def check(evidence: Evidence, claims: Claims) -> list[Check]:
    """Return one `Check` for each promise, in the order in which things happen."""
    return [
        _limits(evidence, claims),
        _nothing_lost(evidence, claims),
        _gapless(evidence),
        _handled(evidence),
        _settled_once(evidence, claims),
        _fences(evidence),
        _same_as_alone(evidence),
        _energy(evidence),
        _money(evidence),
    ]


def _placed(entries: Iterable[Entry]) -> list[OrderPlaced]:
    return [entry.event for entry in entries if isinstance(entry.event, OrderPlaced)]


def _results(evidence: Evidence) -> list[QuarterSettled]:
    return [entry.event for entry in evidence.settlements if isinstance(entry.event, QuarterSettled)]


def _limits(evidence: Evidence, claims: Claims) -> Check:
    rates = [Rate.parse(limit) for limit in claims.limits]
    logs = evidence.admitted_us.values()
    most = [max((_fullest(times, rate.window_us) for times in logs), default=0) for rate in rates]
    counts = {poster: len(times) for poster, times in evidence.admitted_us.items()}
    kept = counts == dict(claims.posted) and all(found <= rate.limit for found, rate in zip(most, rates, strict=True))
    shown = [f"{found} of {rate.limit} in any {rate.per_s:g} s" for found, rate in zip(most, rates, strict=True)]
    told = f"{', '.join(shown[:2])}, {sum(counts.values()):,} admitted"
    return Check("limits never exceeded", kept, told)


def _fullest(times: Sequence[int], window_us: int) -> int:
    """Return the most entries in any half-open window of that length."""
    ordered, first, most = sorted(times), 0, 0
    for last, time in enumerate(ordered):
        while ordered[first] <= time - window_us:
            first += 1
        most = max(most, last - first + 1)
    return most


def _nothing_lost(evidence: Evidence, claims: Claims) -> Check:
    stored = {entry.event.order: entry.position for entry in evidence.orders if isinstance(entry.event, OrderPlaced)}
    count = len(_placed(evidence.orders))
    lost = len(claims.acknowledged.keys() - stored.keys())
    doubled = count - len(stored)
    kept = stored == dict(claims.acknowledged) and not doubled
    told = f"{len(claims.acknowledged):,} acknowledged, {count:,} stored, {lost} lost, {doubled} doubled"
    return Check("no order lost or doubled", kept, told)


def _gapless(evidence: Evidence) -> Check:
    logs = {"orders": evidence.orders, "book": evidence.book, "settlements": evidence.settlements}
    kept, told = True, []
    for name, entries in logs.items():
        kept &= [entry.position for entry in entries] == list(range(1, len(entries) + 1))
        versions: dict[str, int] = {}
        for entry in entries:
            kept &= entry.version == versions.get(entry.stream, 0) + 1
            versions[entry.stream] = entry.version
        told.append(f"{name} 1 to {len(entries):,}")
    return Check("positions without a gap", kept, ", ".join(told))


def _handled(evidence: Evidence) -> Check:
    effects = Counter(entry.id for entry in evidence.book)
    wanted = Counter(entry.id for entry in evidence.orders)
    missing = sum((wanted - effects).values())
    doubled = sum((effects - wanted).values())
    kept = effects == wanted and evidence.pending == 0 and evidence.undelivered == 0
    told = f"{len(effects):,} effects, {missing} missing, {doubled} doubled, {evidence.pending} pending"
    return Check("every delivery's effect exactly once", kept, told)


def _settled_once(evidence: Evidence, claims: Claims) -> Check:
    quarters = [result.quarter for result in _results(evidence)]
    twice = len(quarters) - len(set(quarters))
    kept = quarters == list(range(claims.quarters))
    return Check("no quarter settled twice", kept, f"{len(set(quarters))} of {claims.quarters} settled, {twice} twice")


def _fences(evidence: Evidence) -> Check:
    fences = [result.fence for result in _results(evidence)]
    falls = sum(after <= before for before, after in pairwise(fences))
    return Check("fences rise", falls == 0, f"{len(fences)} leases in order, {falls} out of order")


def _same_as_alone(evidence: Evidence) -> Check:
    """The workers together reached what one process computes from the orders."""
    orders: dict[int, list[OrderPlaced]] = {}
    for placed in _placed(evidence.orders):
        orders.setdefault(placed.quarter, []).append(placed)
    different = 0
    for result in _results(evidence):
        alone = clear(orders.get(result.quarter, ()))
        different += (alone.price, alone.fills) != (result.price, result.fills)
    told = f"{len(evidence.settlements)} auctions repeated, {different} differ"
    return Check("the same trades as one process", different == 0, told)


def _energy(evidence: Evidence) -> Check:
    bought = sum(fill.wh for result in _results(evidence) for fill in result.fills if fill.wh > 0)
    sold = -sum(fill.wh for result in _results(evidence) for fill in result.fills if fill.wh < 0)
    told = f"{bought / 1000:,.3f} kWh bought, {sold / 1000:,.3f} kWh sold"
    kept = bought == sold and not any(sum(fill.wh for fill in result.fills) for result in _results(evidence))
    return Check("energy conserved", kept, told)


def _money(evidence: Evidence) -> Check:
    received = sum(fill.nano_eur for result in _results(evidence) for fill in result.fills if fill.nano_eur > 0)
    paid = -sum(fill.nano_eur for result in _results(evidence) for fill in result.fills if fill.nano_eur < 0)
    told = f"{paid / 1e9:,.4f} € paid, {received / 1e9:,.4f} € received"
    kept = paid == received and not any(sum(fill.nano_eur for fill in result.fills) for result in _results(evidence))
    return Check("money conserved", kept, told)
