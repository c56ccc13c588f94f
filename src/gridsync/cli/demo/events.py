"""What is said in the market: the events of its three stores.

``orders``
    `OrderPlaced` on one stream per prosumer, `GateClosed` on the stream ``gate``.
``book``
    The same events again on one stream per quarter, each written by the worker it was delivered to: the effect of a
    delivery.
``settlements``
    `QuarterSettled` on one stream, where version *n* + 1 is the settlement of quarter *n*.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Event(BaseModel):
    """What happened in the demo's market; it does not change any more."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class OrderPlaced(_Event):
    """A prosumer buys what it lacks or sells what it has left in one quarter."""

    order: str
    prosumer: str
    quarter: int = Field(ge=0)
    side: Literal["buy", "sell"]
    wh: int = Field(gt=0)
    limit: int = Field(gt=0, description="micro-euro per kWh: the most it pays, or the least it takes")


class GateClosed(_Event):
    """No more orders for this quarter; there were so many."""

    quarter: int = Field(ge=0)
    orders: int = Field(ge=0)


class Fill(_Event):
    """What became of one order; a fill of 0 Wh found no partner."""

    order: str
    wh: int = Field(description="bought if positive, sold if negative")
    nano_eur: int = Field(description="received if positive, paid if negative: Wh times micro-euro per kWh, exactly")


class QuarterSettled(_Event):
    """The result of one quarter's auction, written under a lock."""

    quarter: int = Field(ge=0)
    fence: int = Field(description="of the lease under which it was written")
    worker: str
    price: int = Field(ge=0, description="micro-euro per kWh; 0 if nothing was traded")
    fills: list[Fill]
