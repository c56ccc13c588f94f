"""A few events, and a retry that no test sees."""

# ruff: noqa: D101 - the names say it

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from gridsync.streams import Retry


class Placed(BaseModel):
    kwh: float = Field(gt=0)
    buyer: str = "anna"


class Cancelled(BaseModel):
    reason: str


class Renamed(BaseModel):
    event_type: ClassVar[str] = "order.renamed"
    name: str


class Bid(BaseModel):
    kind: Literal["bid"] = "bid"
    price: int


class Ask(BaseModel):
    kind: Literal["ask", "offer"] = "ask"
    price: int


Order = Placed | Cancelled
Quote = Annotated[Bid | Ask, Field(discriminator="kind")]

LATER = Retry(first_s=30_000_000, max_s=30_000_000)
"""Each pause is drawn evenly from 0 to a year: the chance of one below a second is one in thirty million."""
