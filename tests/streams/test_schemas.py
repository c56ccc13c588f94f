"""Events outlive their models: older schemas are lifted, newer and unknown ones are named or passed raw."""

# ruff: noqa: ANN401, D101 - models of every kind; the names say it

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, Field

from gridsync import errors
from gridsync.streams import RawEvent
from tests.streams.models import Cancelled

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import World


class First(BaseModel):
    event_type: ClassVar[str] = "order.placed"
    name: str


class Second(BaseModel):
    event_type: ClassVar[str] = "order.placed"
    schema_version: ClassVar[int] = 2
    first: str
    last: str


class Third(BaseModel):
    event_type: ClassVar[str] = "order.placed"
    schema_version: ClassVar[int] = 3
    first: str
    last: str
    country: str


def split(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data["name"].partition(" ")
    return {"first": first, "last": last}


def settle(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "country": "CH"}


def odd(**variables: Any) -> Any:
    """Return a model with these class variables."""
    return type("Odd", (Cancelled,), {**variables, "__annotations__": dict.fromkeys(variables, ClassVar[Any])})


LIFT = {("order.placed", 1): split, ("order.placed", 2): settle}


async def test_old_events_are_lifted_step_by_step_to_the_model_of_today(world: World):
    await world.store(First).append("a", First(name="Anna Blum"))
    await world.store(Second).append("a", Second(first="Bert", last="Chan"))
    store = world.store(Third, upcasters=LIFT)
    await store.append("a", Third(first="Cleo", last="Diaz", country="ES"))
    events = await store.read_all()
    assert [e.event for e in events] == [
        Third(first="Anna", last="Blum", country="CH"),
        Third(first="Bert", last="Chan", country="CH"),
        Third(first="Cleo", last="Diaz", country="ES"),
    ]
    assert [(e.type, e.schema_version) for e in events] == [("order.placed", n) for n in (1, 2, 3)]
    assert events == await store.read("a")
    seen: list[Any] = []
    await store.group("g").consume(seen.append, idle_stop=0)
    assert seen == events


async def test_the_first_version_is_stored_with_the_bare_name(world: World, raw: redis.Redis):
    await world.store(First).append("a", First(name="x"))
    await world.store(Third, upcasters=LIFT).append("a", Third(first="", last="", country=""))
    store = world.store(First)
    assert [fields[b"t"] for _, fields in raw.xrange(store.keys.log)] == [b"order.placed", b"order.placed#3"]


class Halt(BaseModel):
    kind: Literal["halt"] = "halt"


class OldQuote(BaseModel):
    kind: Literal["bid", "ask"]
    cents: int


class Quote(BaseModel):
    schema_version: ClassVar[int] = 2
    kind: Literal["bid", "ask"]
    euros: float


async def test_the_version_goes_with_the_discriminators_value(world: World, raw: redis.Redis):
    old = world.store([Annotated[OldQuote | Halt, Field(discriminator="kind")]])
    await old.append("a", [OldQuote(kind="ask", cents=750), Halt()])

    def lift(data: dict[str, Any]) -> dict[str, Any]:
        return {"kind": data["kind"], "euros": data["cents"] / 100}

    new = world.store([Annotated[Quote | Halt, Field(discriminator="kind")]], upcasters={("ask", 1): lift})
    await new.append("a", Quote(kind="bid", euros=2))
    assert [e.event for e in await new.read_all()] == [Quote(kind="ask", euros=7.5), Halt(), Quote(kind="bid", euros=2)]
    assert [fields[b"t"] for _, fields in raw.xrange(new.keys.log)] == [b"ask", b"halt", b"bid#2"]


async def test_a_newer_schema_is_named(world: World):
    """A program that was not restarted yet must not misread what its successor writes."""
    await world.store(Second).append("a", Second(first="Bert", last="Chan"))
    with pytest.raises(errors.UnknownEventType, match=r"event 1 of stream 'a'.*version 2.*has 1"):
        await world.store(First).read_all()


async def test_a_version_that_nothing_lifts_is_named(world: World):
    await world.store(First).append("a", First(name="x"))
    store = world.store(Third, upcasters={("order.placed", 2): settle})
    with pytest.raises(errors.InvalidEvent, match=r"version 1, and nothing lifts it to 3.*\('order.placed', 1\)"):
        await store.read_all()


@pytest.mark.parametrize("broken", [lambda data: data["nothing"], lambda _: {"first": 7}, lambda _: object()])
async def test_an_upcaster_that_fails_is_named_and_does_not_hide_what_stands_before(world: World, broken: Any):
    await world.store(Second).append("a", Second(first="Bert", last="Chan"))
    await world.store(First).append("a", First(name="x"))
    store = world.store(Second, upcasters={("order.placed", 1): broken})
    seen: list[int] = []
    with pytest.raises(errors.InvalidEvent, match="event 2 of stream 'a'"):
        await store.each("a", lambda event: seen.append(event.version))
    assert seen == [1]


@pytest.mark.parametrize(
    ("upcasters", "says"),
    [
        ({("order.placed", 1): split}, r"those from \[2\] are missing"),
        ({("order.placed", 3): split}, "schema_version 3"),
        ({("order.placed", 0): split}, "from version 0"),
        ({("order.lost", 1): split}, "no model of that type"),
        ({("order.placed", 2): "settle"}, "cannot be called"),
    ],
)
async def test_upcasters_that_lead_nowhere_are_refused_at_once(world: World, upcasters: Any, says: str):
    with pytest.raises(errors.UsageError, match=says):
        world.store(Third, upcasters=upcasters)


@pytest.mark.parametrize("version", [0, -1, True, "2", 1.0])
async def test_a_schema_version_that_is_none_is_refused(world: World, version: Any):
    with pytest.raises(errors.UsageError, match="schema_version"):
        world.store(odd(schema_version=version))


async def test_a_type_name_does_not_look_like_a_versioned_one(world: World):
    with pytest.raises(errors.UsageError, match="schema versions do"):
        world.store(odd(event_type="order#2"))


async def test_what_no_model_reads_is_passed_raw_to_who_asks_for_it(world: World):
    await world.store([First, Cancelled]).append("a", [First(name="x"), Cancelled(reason="y")])
    await world.store(Second).append("a", Second(first="Bert", last="Chan"))
    store = world.store([First, RawEvent])
    first, unknown, newer = await store.read_all()
    assert first.event == First(name="x")
    assert unknown.event == RawEvent(type="Cancelled", schema_version=1, data=b'{"reason":"y"}')
    assert (unknown.type, unknown.schema_version) == ("Cancelled", 1)
    assert (newer.event.type, newer.event.schema_version) == ("order.placed", 2)
    assert json.loads(newer.event.data) == {"first": "Bert", "last": "Chan"}
    with pytest.raises(errors.UnknownEventType, match="RawEvent"):
        await store.append("a", unknown.event)
    assert len(await world.store(RawEvent).read_all()) == 3, "alone it reads everything"
