"""A few events."""

# ruff: noqa: D101 - the names say it

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field


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
