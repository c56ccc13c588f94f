"""`gridsync orderbook`: what stands in a book, and how far its events have got."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import run_sync
from gridsync.cli._shared import DONE, NOTHING, asking, complain, open_grid, print_json, raw_store, shown
from gridsync.market import EVENTS
from gridsync.market._core import identifier, stream_of
from gridsync.market._look import terms

if TYPE_CHECKING:
    from gridsync.market import Depth, Metadata

_BEST: Final = ("bid", "ask", "spread")


def show(market: str, *, store: str | None, levels: int, url: str | None, namespace: str | None, as_json: bool) -> int:
    """Print what stands in a book; returns 0, 1 if there is none, 2 if the server cannot be asked."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        name = store or f"orderbook:{identifier(market, 'a market')}"
        events = raw_store(grid, name, EVENTS)
        core: Any = events._core  # noqa: SLF001 - one program
        begun = run_sync(terms(core.of(stream_of(market)), market))
        tick, lot = begun or ("1", "1")
        book = grid.orderbook(market, tick=tick, lot=lot, store=events)
        depth, metadata = book.depth(levels), book.metadata()
        if as_json:
            terms_plain = {"tick": tick, "lot": lot} if begun else {"tick": None, "lot": None}
            print_json(
                {"market": market, "store": name, "found": bool(begun), **terms_plain, **_plain(depth, metadata)}
            )
        elif begun:
            print(f"{market} in {shown(name)}: tick {tick}, lot {lot}, {depth.sequence} events")
            for side, found in (("ask", depth.asks[::-1]), ("bid", depth.bids)):
                for level in found:
                    print(f"  {side} {level.price:>14} {level.quantity:>14}")
            print(f"  {_line(metadata)}")
        if not begun and depth.sequence:
            complain(
                f"the keys of the book {market} are gone, and its {depth.sequence} events are there",
                "`book.restore()` makes it anew of them",
            )
        elif not begun:
            complain(
                f"no order has come to a book {market} in the store {shown(name)} of this namespace",
                "--store names the event store of its events, --namespace another first part of the keys",
            )
        outcome.append(DONE if begun else NOTHING)
    return outcome[0]


def _plain(depth: Depth, metadata: Metadata | None) -> dict[str, Any]:
    """Return a book as JSON has it: numbers as text, for a float would not be exact."""
    sides = {
        name: [{"price": str(level.price), "quantity": str(level.quantity)} for level in found]
        for name, found in (("bids", depth.bids), ("asks", depth.asks))
    }
    best = metadata and {
        **{name: None if (price := getattr(metadata, name)) is None else str(price) for name in _BEST},
        "sequence": metadata.sequence,
        "time": _time(metadata),
    }
    return {"sequence": depth.sequence, **sides, "metadata": best}


def _line(metadata: Metadata | None) -> str:
    if metadata is None:
        return "no metadata: nothing has happened for five minutes"
    best = ((name, getattr(metadata, name)) for name in _BEST)
    prices = (f"{name} {'-' if price is None else price}" for name, price in best)
    return f"{', '.join(prices)} since event {metadata.sequence}, {_time(metadata):%Y-%m-%d %H:%M:%S} UTC"


def _time(metadata: Metadata) -> datetime:
    return datetime.fromtimestamp(metadata.time_us / 1_000_000, UTC)
