"""The double auction of one quarter: one price for all, and nobody trades worse than its limit.

Pure arithmetic on integers.  The result depends on the set of orders alone, not on the order in which they came: so
any worker that has the whole book reaches the same settlement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gridsync.cli.demo.events import Fill

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridsync.cli.demo.events import OrderPlaced


@dataclass(frozen=True, slots=True)
class Clearing:
    """What an auction decided."""

    price: int
    """Micro-euro per kWh; 0 if nothing was traded."""
    wh: int
    """Energy that changed hands."""
    fills: list[Fill]
    """One for every order, sorted by order."""


def clear(orders: Iterable[OrderPlaced]) -> Clearing:
    """Match buyers and sellers of one quarter.

    The keenest prices come first, equal ones in the order of their names.  Trading goes on while the next buyer pays
    what the next seller asks; the price is halfway between the last two that met.
    """
    placed = sorted(orders, key=lambda order: order.order)
    buyers = sorted((o for o in placed if o.side == "buy"), key=lambda o: -o.limit)
    sellers = sorted((o for o in placed if o.side == "sell"), key=lambda o: o.limit)
    filled = dict.fromkeys((o.order for o in placed), 0)
    price = traded = buyer = seller = 0
    while buyer < len(buyers) and seller < len(sellers) and buyers[buyer].limit >= sellers[seller].limit:
        buy, sell = buyers[buyer], sellers[seller]
        wh = min(buy.wh - filled[buy.order], sell.wh - filled[sell.order])
        price = (buy.limit + sell.limit) // 2
        traded += wh
        filled[buy.order] += wh
        filled[sell.order] += wh
        buyer += filled[buy.order] == buy.wh
        seller += filled[sell.order] == sell.wh
    signs = {o.order: 1 if o.side == "buy" else -1 for o in placed}
    fills = [Fill(order=name, wh=signs[name] * wh, nano_eur=-signs[name] * wh * price) for name, wh in filled.items()]
    return Clearing(price, traded, fills)
