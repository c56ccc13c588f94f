"""The store: what an append promises, and what a reader sees."""

# ruff: noqa: ANN401 - events and expectations of every kind

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, Field

from gridsync import errors
from gridsync.streams import ANY, EXISTS, NO_STREAM, Appended, Write
from gridsync.streams._core import APPEND, RECENT
from gridsync.streams._pages import PAGE
from tests.streams.models import Ask, Bid, Cancelled, Order, Placed, Quote, Renamed

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import World


async def test_an_append_answers_with_version_and_position(world: World):
    store = world.store(Order)
    first = await store.append("a", Placed(kwh=1), expected_version=NO_STREAM)
    second = await store.append("b", [Placed(kwh=2), Cancelled(reason="late")])
    third = await store.append("a", Cancelled(reason="rain"), expected_version=1)
    assert [(r.version, r.position, r.replayed) for r in (first, second, third)] == [
        (1, 1, False),
        (2, 3, False),
        (2, 4, False),
    ]
    assert [(e.version, e.position, e.type, e.event) for e in await store.read("a")] == [
        (1, 1, "Placed", Placed(kwh=1)),
        (2, 4, "Cancelled", Cancelled(reason="rain")),
    ]
    log = await store.read_all()
    assert [(e.stream, e.version, e.position) for e in log] == [("a", 1, 1), ("b", 1, 2), ("b", 2, 3), ("a", 2, 4)]
    assert [e.id for e in log] == [*first.event_ids, *second.event_ids, *third.event_ids]
    assert abs(log[0].time.timestamp() - log[-1].time.timestamp()) < 60


@pytest.mark.parametrize(
    ("before", "expected", "fits"),
    [
        (0, ANY, True),
        (0, NO_STREAM, True),
        (0, 0, True),
        (0, EXISTS, False),
        (0, 1, False),
        (2, ANY, True),
        (2, NO_STREAM, False),
        (2, EXISTS, True),
        (2, 1, False),
        (2, 2, True),
        (2, 3, False),
    ],
)
async def test_an_append_is_written_only_at_the_version_it_expects(
    world: World,
    before: int,
    expected: Any,
    fits: bool,  # noqa: FBT001 - a table
):
    store = world.store(Order)
    for _ in range(before):
        await store.append("a", Placed(kwh=1))
    if fits:
        assert (await store.append("a", Placed(kwh=2), expected_version=expected)).version == before + 1
    else:
        with pytest.raises(errors.WrongVersion) as caught:
            await store.append("a", Placed(kwh=2), expected_version=expected)
        assert (caught.value.stream, caught.value.actual) == ("a", before)
        assert len(await store.read("a")) == before


# KurrentDB's table of idempotent appends.  A step is (event ids, expected version); their -1 (no stream yet) is our 0,
# their n is our n + 1.  The last step is the question: "same" answers with the first result and writes nothing.
MATRIX = {
    "0em1 1e0 2e1 3e2 4e3 5e4 0em1": ([("0", 0), ("1", 1), ("2", 2), ("3", 3), ("4", 4), ("5", 5)], ("0", 0), "same"),
    "0em1 1e0 2e1 3e2 4e3 4e4 0any": ([("0", 0), ("1", 1), ("2", 2), ("3", 3), ("4", 4), ("4", 5)], ("0", ANY), "same"),
    "0em1 1e0 2e1 3e2 4e3 5e4 0e5": ([("0", 0), ("1", 1), ("2", 2), ("3", 3), ("4", 4), ("5", 5)], ("0", 6), "new"),
    "0em1 1e0 2e1 3e2 4e3 5e4 0e6": ([("0", 0), ("1", 1), ("2", 2), ("3", 3), ("4", 4), ("5", 5)], ("0", 7), "wrong"),
    "0em1 1e0 2e1 3e2 4e3 5e4 0e4": ([("0", 0), ("1", 1), ("2", 2), ("3", 3), ("4", 4), ("5", 5)], ("0", 5), "wrong"),
    "0em1 0e0": ([("0", 0)], ("0", 1), "new"),
    "0em1 0any": ([("0", 0)], ("0", ANY), "same"),
    "0em1 0em1": ([("0", 0)], ("0", 0), "same"),
    "0em1 1e0 2e1 1any 1any": ([("0", 0), ("1", 1), ("2", 2), ("1", ANY)], ("1", ANY), "same"),
    "[0em1 1em1] [0em1]": ([("01", 0)], ("0", 0), "same"),
    "[0em1 1em1] [0any]": ([("01", 0)], ("0", ANY), "same"),
    "[0em1 1em1] [1e0]": ([("01", 0)], ("1", 1), "same"),
    "[0em1 1em1] [1any]": ([("01", 0)], ("1", ANY), "same"),
    "[0em1 1em1] [0em1 1em1 2em1]": ([("01", 0)], ("012", 0), "wrong"),
    # Beyond that table.
    "a whole commit again": ([("01", 0)], ("01", 0), "same"),
    "a whole commit again, any": ([("01", ANY)], ("01", ANY), "same"),
    "a whole commit again, exists": ([("0", 0), ("12", EXISTS)], ("12", EXISTS), "same"),
    "two commits as one": ([("0", 0), ("1", 1)], ("01", 0), "same"),
    "other order": ([("01", 0)], ("10", 0), "wrong"),
    "other order, any": ([("01", 0)], ("10", ANY), "wrong"),
    "a part and a new one, any": ([("01", 0)], ("012", ANY), "wrong"),
    "a new one and a part, any": ([("01", 0)], ("20", ANY), "wrong"),
    "others in the same place": ([("01", 0)], ("23", 0), "wrong"),
    "ids of another stream": ([("other:01", 0)], ("01", ANY), "new"),
    "both streams have it": ([("0", ANY), ("other:0", ANY)], ("0", ANY), "same"),
}


@pytest.mark.parametrize("through", ["append", "commit"])
@pytest.mark.parametrize("case", MATRIX)
async def test_a_commit_sent_again_is_recognised(world: World, case: str, through: str):
    """Both ways, and one after the other: a commit of one stream is an append."""
    steps, (ids, expected), answer = MATRIX[case]
    store = world.store(Order)

    async def append(ids: str, expected: Any) -> Appended:
        stream, _, ids = ids.rpartition(":")
        events = [Placed(kwh=int(i) + 1) for i in ids]
        if through == "commit":
            part = Write(stream or "a", events, expected, list(ids))
            done: Appended = (await store.commit([part])).appended[part.stream]
            return done
        return await store.append(stream or "a", events, expected_version=expected, event_ids=list(ids))

    first: dict[str, Appended] = {}
    for step in steps:
        result = await append(*step)
        first.setdefault(step[0], result)
    before = [(e.stream, e.id) for e in await store.read_all()]
    if answer == "wrong":
        with pytest.raises(errors.WrongVersion):
            await append(ids, expected)
    else:
        result = await append(ids, expected)
        assert result.replayed is (answer == "same")
        if answer == "same":
            assert (result.version, result.position) == next(
                (e.version, e.position) for e in await store.read("a") if e.id == ids[-1]
            )
    after = [(e.stream, e.id) for e in await store.read_all()]
    assert after == before + ([("a", i) for i in ids] if answer == "new" else [])


async def test_the_id_decides_not_the_payload(world: World):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1), event_ids="x", expected_version=0)
    assert (await store.append("a", Placed(kwh=2), event_ids="x", expected_version=0)).replayed
    assert [e.event for e in await store.read("a")] == [Placed(kwh=1)]


async def test_with_a_version_a_replay_is_recognised_for_ever_without_one_in_a_window(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1), event_ids="old", expected_version=0)
    for n in range(RECENT // 1000 + 1):
        await store.append("b", [Placed(kwh=1)] * 1000, expected_version=n * 1000)
    assert RECENT <= raw.zcard(store.keys.recent) < RECENT + 64
    newest = (await store.read("b", from_version=RECENT + 1000))[0]
    assert (await store.append("b", Placed(kwh=1), event_ids=newest.id)).replayed
    assert (await store.append("a", Placed(kwh=1), event_ids="old", expected_version=0)).replayed
    assert not (await store.append("a", Placed(kwh=1), event_ids="old")).replayed


async def test_a_lost_reply_does_not_write_twice(world: World, raw: redis.Redis):
    """The very same request arrives twice, which is what a repeat after a lost reply is."""
    store = world.store(Order)
    keys = (*store.keys[:4], store.keys.stream("a"))
    raw.script_load(APPEND.source)
    for expected in (0, -1):
        args = ("a", expected, RECENT, "", "", "id1", "Placed", '{"kwh":1}', "id2", "Placed", '{"kwh":2}')
        assert raw.execute_command(*APPEND.words(keys, args))[1:] == [2, 2]
    args = ("a", -2, RECENT, "", "", "id3", "Placed", '{"kwh":3}')
    assert [raw.execute_command(*APPEND.words(keys, args)) for _ in range(2)] == [[0, 3, 3], [1, 3, 3]]
    assert [e.id for e in await store.read_all()] == ["id1", "id2", "id3"]


async def test_eight_writers_leave_no_gap(world: World):
    stores = [world.store(Order) for _ in range(8)]

    async def write(store: Any, seed: int) -> list[Appended]:
        choose = random.Random(seed)
        return [
            await store.append(f"s{choose.randrange(5)}", [Placed(kwh=1)] * choose.randint(1, 3)) for _ in range(25)
        ]

    results = await asyncio.gather(*(write(store, seed) for seed, store in enumerate(stores)))
    log = await stores[0].read_all()
    assert [e.position for e in log] == list(range(1, len(log) + 1))
    assert len(log) == sum(len(r.event_ids) for batch in results for r in batch)
    for name in {e.stream for e in log}:
        versions = [e.version for e in log if e.stream == name]
        assert versions == list(range(1, len(versions) + 1))
        assert [(e.id, e.version, e.position) for e in await stores[0].read(name)] == [
            (e.id, e.version, e.position) for e in log if e.stream == name
        ]


async def test_of_many_that_expect_one_version_one_wins(world: World):
    stores = [world.store(Order) for _ in range(8)]
    results = await asyncio.gather(
        *(store.append("a", Placed(kwh=1), expected_version=0) for store in stores), return_exceptions=True
    )
    assert sum(isinstance(r, Appended) for r in results) == 1
    assert sum(isinstance(r, errors.WrongVersion) for r in results) == 7


async def test_reading_goes_page_by_page_and_stops_where_it_is_told(world: World):
    store = world.store(Order)
    total = 2 * PAGE + 7
    for start in range(0, total, 1000):
        await store.append("a", [Placed(kwh=1)] * min(1000, total - start))
    everything = list(range(1, total + 1))
    assert [e.version for e in await store.read("a")] == everything
    assert [e.position for e in await store.read_all()] == everything
    assert [e.position for e in await store.read_all(after=PAGE)] == everything[PAGE:]
    assert [e.version for e in await store.read("a", from_version=PAGE, limit=PAGE + 2)] == everything[
        PAGE - 1 : 2 * PAGE + 1
    ]
    assert await store.read("a", limit=0) == await store.read("nobody") == await store.read_all(after=total) == []


async def test_a_discriminated_union_and_a_class_variable_name_the_type(world: World):
    store = world.store([Quote, Renamed])
    await store.append("q", [Bid(price=1), Ask(price=2), Ask(kind="offer", price=3), Renamed(name="x")])
    log = await store.read_all()
    assert [e.type for e in log] == ["bid", "ask", "offer", "order.renamed"]
    assert [e.event for e in log] == [Bid(price=1), Ask(price=2), Ask(kind="offer", price=3), Renamed(name="x")]


@pytest.mark.parametrize(
    ("events", "error", "says"),
    [
        (Bid(price=1), errors.UnknownEventType, "Bid"),
        ([Placed(kwh=1), Bid(price=1)], errors.UnknownEventType, "Placed, Cancelled"),
        ({"kwh": 1}, errors.InvalidEvent, "dict"),
        ("Placed", errors.InvalidEvent, "str"),
        (None, errors.InvalidEvent, "NoneType"),
        (Placed.model_construct(kwh="lots"), errors.InvalidEvent, "kwh"),
        (Placed.model_construct(kwh=-1.0), errors.InvalidEvent, "kwh"),
        (Placed.model_construct(buyer="bob"), errors.InvalidEvent, "kwh"),
        (Placed.model_construct(kwh=object()), errors.InvalidEvent, "Placed"),
        ([], errors.UsageError, "1 to 1000"),
        ([Placed(kwh=1)] * 1001, errors.UsageError, "1001"),
    ],
)
async def test_a_bad_event_is_refused_before_anything_is_written(
    world: World, raw: redis.Redis, events: Any, error: type[Exception], says: str
):
    store = world.store(Order)
    with pytest.raises(error, match=says):
        await store.append("a", events)
    assert raw.keys() == []


@pytest.mark.parametrize(
    "options",
    [
        {"expected_version": -1},
        {"expected_version": True},
        {"expected_version": "1"},
        {"event_ids": ["a", "b"]},
        {"event_ids": [""]},
        {"event_ids": [1]},
    ],
)
async def test_a_bad_argument_is_refused(world: World, options: dict[str, Any]):
    store = world.store(Order)
    with pytest.raises(errors.UsageError):
        await store.append("a", Placed(kwh=1), **options)
    with pytest.raises(errors.UsageError):
        await store.append("", Placed(kwh=1))
    for call in (store.read("a", from_version=0), store.read("a", limit=-1), store.read_all(after=-1)):
        with pytest.raises(errors.UsageError):
            await call
    with pytest.raises(errors.UsageError):
        world.store(int)
    with pytest.raises(errors.UsageError, match="Placed"):
        world.store([Placed, type("Placed", (Cancelled,), {})])


async def test_what_cannot_be_read_is_named_and_does_not_hide_what_stands_before_it(world: World):
    store = world.store([Placed, Bid])
    await store.append("a", [Placed(kwh=1), Bid(price=1)])
    for reader in (world.store(Placed), world.store([Placed, type("bid", (Cancelled,), {})])):
        seen: list[int] = []
        with pytest.raises((errors.UnknownEventType, errors.InvalidEvent), match=r"event 2 of stream 'a'.*position 2"):
            await reader.each("a", lambda event: seen.append(event.version))  # noqa: B023 - called at once
        assert seen == [1]


@pytest.mark.leaves_keys
@pytest.mark.parametrize("which", ["meta", "versions", "log", "recent", "stream"])
async def test_a_key_of_a_wrong_type_fails_and_leaves_no_half_commit(world: World, raw: redis.Redis, which: str):
    store = world.store(Order)
    key = store.keys.stream("a") if which == "stream" else getattr(store.keys, which)
    raw.set(key, "not ours")
    with pytest.raises(errors.ServerError, match="WRONGTYPE"):
        await store.append("a", Placed(kwh=1))
    assert raw.keys() == [key.encode()]


@pytest.mark.parametrize("which", ["meta", "versions"])
async def test_lost_counters_are_reported_and_not_begun_again(world: World, raw: redis.Redis, which: str):
    """An eviction that took a counter must not let two histories grow into one another."""
    store = world.store(Order)
    await store.append("a", Placed(kwh=1))
    raw.delete(getattr(store.keys, which))
    with pytest.raises(errors.ServerError, match="INCONSISTENT"):
        await store.append("a", Placed(kwh=2))
    assert len(await store.read_all()) == 1


async def test_names_cannot_reach_other_keys(world: World, raw: redis.Redis):
    odd = world.store(Order, name="x}:log{")
    await odd.append("{s}:%7B", Placed(kwh=1), event_ids="id with spaces \0 and ümläuts")
    assert [(e.stream, e.id) for e in await odd.read_all()] == [("{s}:%7B", "id with spaces \0 and ümläuts")]
    assert (await odd.append("{s}:%7B", Placed(kwh=1), event_ids="id with spaces \0 and ümläuts")).replayed
    assert all(key.startswith(odd.keys.base.encode()) for key in raw.scan_iter())


async def test_after_a_flush_a_store_begins_anew(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1)] * 3)
    raw.flushall()
    assert (await store.append("a", Placed(kwh=1), expected_version=NO_STREAM)).position == 1


class OneWay(BaseModel):
    """Written under a name under which it is not read."""

    value: int = Field(0, serialization_alias="w")


class Measured(BaseModel):
    """A number that JSON may not have."""

    value: float | None = None


@pytest.mark.parametrize("event", [OneWay(value=5), Measured(value=float("nan"))])
async def test_an_event_that_would_be_read_back_as_another_is_refused(world: World, event: BaseModel):
    """It was validated, and its JSON is valid, too: only that it is another event."""
    store = world.store(type(event))
    with pytest.raises(errors.InvalidEvent, match="would be read back as"):
        await store.append("a", event)
    assert await store.read_all() == []


async def test_what_a_model_leaves_out_on_purpose_may_be_left_out(world: World):
    class Noted(BaseModel):
        kept: int
        scratch: str = Field("", exclude=True)

    store = world.store(Noted)
    await store.append("a", Noted(kept=1, scratch="not stored"))
    assert (await store.read_all())[0].event == Noted(kept=1)
