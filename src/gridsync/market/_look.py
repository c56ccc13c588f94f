"""What a tool must know of a book before it can open it: what its numbers are multiples of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gridsync._io import Category, Command
from gridsync._io.keys import orderbook
from gridsync.market._core import identifier

if TYPE_CHECKING:
    from gridsync.market._core import Journal

TERMS: Final = Command("market.terms", Category.READ, ("HGET",))


async def terms(journal: Journal, market: str) -> tuple[str, str] | None:
    """Return tick and lot with which the book *market* was begun; ``None`` if its keys are not there."""
    keys = orderbook(journal.keys.base, identifier(market, "a market"))
    said: bytes | None = await journal.io.run(TERMS, (keys.book,), ("terms",))
    if said is None:
        return None
    tick, _, lot = said.decode().partition(" ")
    return tick, lot
