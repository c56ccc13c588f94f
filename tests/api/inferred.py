"""What type checkers must find out by themselves; `make lint` runs mypy over this file, nobody imports it."""

from typing import Annotated, Any, Literal, assert_type

from pydantic import BaseModel, Field

import gridsync
from gridsync import AsyncGrid, Grid
from gridsync.cache import AsyncCache, Cache, Space
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


def a_cache_knows_its_values(grid: Grid, aio: AsyncGrid) -> None:
    """`Space` passes its model on, a union or a container too."""
    assert_type(Space("charges", Charged), Space[Charged])
    assert_type(Space("charges", Charged | None), Space[Charged | None])
    assert_type(Space("charges", list[Charged]), Space[list[Charged]])
    assert_type(grid.cache(Space("charges", Charged)), Cache[Charged])
    assert_type(grid.cache(Space("charges", Charged)).get("battery-7"), Charged | None)
    assert_type(aio.cache(Space("kWh", int)), AsyncCache[int])


def a_misspelt_name_is_found() -> object:
    """Were it not, the ignored error would be an unused one, which is an error too."""
    return gridsync.Gird  # type: ignore[attr-defined]
