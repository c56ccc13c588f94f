"""What type checkers must find out by themselves; `make lint` runs mypy over this file, nobody imports it."""

from typing import Annotated, Any, Literal, assert_type

from pydantic import BaseModel, Field

from gridsync import AsyncGrid, Grid
from gridsync.streams import AsyncEventStore, EventStore


class Charged(BaseModel):
    """One event."""

    kind: Literal["charged"] = "charged"


class Discharged(BaseModel):
    """Another."""

    kind: Literal["discharged"] = "discharged"


Either = Charged | Discharged
Told = Annotated[Charged | Discharged, Field(discriminator="kind")]


def the_store_knows_its_models(grid: Grid, aio: AsyncGrid) -> None:
    """`events` passes its model on, a union too, so that `recorded.event` has a type."""
    assert_type(grid.events("batteries", Charged), EventStore[Charged])
    assert_type(grid.events("batteries", Either), EventStore[Charged | Discharged])
    assert_type(grid.events("batteries", Told), EventStore[Charged | Discharged])
    assert_type(grid.events("batteries", [Charged, Discharged]), EventStore[Any])
    assert_type(aio.events("batteries", Charged), AsyncEventStore[Charged])
    assert_type(aio.events("batteries", Either), AsyncEventStore[Charged | Discharged])
    for recorded in grid.events("batteries", Charged).read("battery-7"):
        assert_type(recorded.event, Charged)
