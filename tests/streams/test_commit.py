"""Commits of several streams: all of it or nothing, checked streams, and what a repeat is answered."""

# ruff: noqa: ANN401 - expectations of every kind

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import ANY, EXISTS, NO_STREAM, Check, Committed, Write
from tests.streams.models import Bid, Order, Placed

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import Store, World


async def told(store: Store) -> list[tuple[str, int, str]]:
    """Return what the log has, after seeing that the streams say the same."""
    log = await store.read_all()
    assert [e.position for e in log] == list(range(1, len(log) + 1))
    for stream in {e.stream for e in log}:
        assert await store.read(stream) == [e for e in log if e.stream == stream]
    return [(e.stream, e.version, e.id) for e in log]


def writes(*parts: tuple[str, str, Any]) -> list[Write[Placed] | Check]:
    """Return parts: stream, one letter per event id (none for a check), expected version."""
    return [
        Write(stream, [Placed(kwh=1)] * len(ids), expected, list(ids)) if ids else Check(stream, expected)
        for stream, ids, expected in parts
    ]


async def test_a_commit_answers_for_each_stream(world: World):
    store = world.store(Order)
    await store.append("b", Placed(kwh=1), event_ids="z")
    done: Committed = await store.commit(writes(("a", "xy", 0), ("b", "x", 1)))
    assert (done.position, done.replayed) == (4, False)
    assert [(s, one.version, one.position, one.event_ids) for s, one in done.appended.items()] == [
        ("a", 2, 3, ("x", "y")),
        ("b", 2, 4, ("x",)),
    ]
    assert await told(store) == [("b", 1, "z"), ("a", 1, "x"), ("a", 2, "y"), ("b", 2, "x")]


async def test_ids_are_made_for_those_who_gave_none(world: World):
    store = world.store(Order)
    parts: list[Any] = [
        Write("a", [Placed(kwh=1)] * 2),
        Write("b", Placed(kwh=1), 0, "mine"),
        Write("c", Placed(kwh=1)),
    ]
    done = await store.commit(parts)
    ids = [event_id for one in done.appended.values() for event_id in one.event_ids]
    assert len(set(ids)) == 4
    assert ids[2] == "mine"
    assert [event_id for _, _, event_id in await told(store)] == ids


# What is there before (a: ids p q, b: id r), a commit, and its answer: "new", "same", or the stream that refuses it.
TABLE: dict[str, tuple[list[tuple[str, str, Any]], str]] = {
    "both fit": ([("a", "x", 2), ("b", "x", 1)], "new"),
    "both at any version": ([("a", "x", ANY), ("b", "x", EXISTS)], "new"),
    "a new stream and an old one": ([("c", "x", NO_STREAM), ("b", "x", 1)], "new"),
    "the first is at another version": ([("a", "x", 1), ("b", "x", 1)], "a"),
    "the second is at another version": ([("a", "x", 2), ("b", "x", 0)], "b"),
    "the second does not exist": ([("a", "x", 2), ("c", "x", EXISTS)], "c"),
    "a checked stream fits": ([("a", "x", 2), ("b", "", 1)], "new"),
    "a checked stream exists": ([("a", "x", 2), ("b", "", EXISTS)], "new"),
    "a checked stream is still empty": ([("a", "x", 2), ("c", "", NO_STREAM)], "new"),
    "a checked stream has moved on": ([("a", "x", 2), ("b", "", 0)], "b"),
    "a checked stream is behind": ([("a", "x", 2), ("b", "", 2)], "b"),
    "a checked stream does not exist": ([("c", "", EXISTS), ("a", "x", 2)], "c"),
    "the same again": ([("a", "pq", 0), ("b", "r", 0)], "same"),
    "the same again, in another order of streams": ([("b", "r", 0), ("a", "pq", 0)], "same"),
    "the same again, at any version": ([("a", "pq", ANY), ("b", "r", ANY)], "same"),
    "the same again, one at any version": ([("a", "pq", 0), ("b", "r", EXISTS)], "same"),
    "a replay wins over a check": ([("a", "pq", 0), ("b", "r", 0), ("c", "", EXISTS)], "same"),
    "a replay of one stream wins over a check": ([("b", "", 0), ("a", "pq", 0)], "same"),
    "one stream of them again is a replay of it": ([("b", "r", 0)], "same"),
    "one was written before, the other is new": ([("a", "pq", 0), ("b", "x", 1)], "a"),
    "one is new, the other was written before": ([("a", "x", 2), ("b", "r", 0)], "b"),
    "one was written before, the other does not fit": ([("a", "pq", 0), ("b", "x", 0)], "b"),
    "one was written before at any version, the other is new": ([("a", "pq", ANY), ("c", "x", 0)], "a"),
    "a part of one stream's events again": ([("a", "q", ANY), ("b", "s", 1)], "a"),
    "more than was written": ([("a", "pqs", 0), ("b", "r", 0)], "a"),
    "reordered ids": ([("a", "qp", 0), ("b", "r", 0)], "a"),
    "the ids changed streams": ([("a", "r", 0), ("b", "pq", 0)], "a"),
}


@pytest.mark.parametrize("case", TABLE)
async def test_a_commit_is_written_whole_or_not_at_all(world: World, case: str):
    parts, answer = TABLE[case]
    store = world.store(Order)
    first = await store.commit(writes(("a", "pq", 0), ("b", "r", 0)))
    before = await told(store)
    if answer in ("new", "same"):
        done = await store.commit(writes(*parts))
        assert done.replayed is (answer == "same")
        assert all(one.replayed is done.replayed for one in done.appended.values())
        if answer == "same":
            assert all(
                (one.version, one.position) == (first.appended[stream].version, first.appended[stream].position)
                for stream, one in done.appended.items()
            )
    else:
        with pytest.raises(errors.WrongVersion) as caught:
            await store.commit(writes(*parts))
        assert caught.value.stream == answer
    new = [(stream, event_id) for stream, ids, _ in parts for event_id in ids] if answer == "new" else []
    after = await told(store)
    assert after[: len(before)] == before
    assert [(stream, event_id) for stream, _, event_id in after[len(before) :]] == new


@pytest.mark.parametrize(
    ("parts", "error", "says"),
    [
        ([], errors.UsageError, "1 to 1000"),
        ([Check("a", 0)], errors.UsageError, "1 to 1000"),
        ([Write("a", [])], errors.UsageError, "Check"),
        ([Write("a", Placed(kwh=1)), Check("b", ANY)], errors.UsageError, "checks nothing"),
        ([Write("a", Placed(kwh=1)), Check("a", 0)], errors.UsageError, "one part"),
        ([Write("a", Placed(kwh=1)), Write("a", Placed(kwh=2))], errors.UsageError, "one part"),
        ([Write("a", [Placed(kwh=1)] * 600), Write("b", [Placed(kwh=1)] * 401)], errors.UsageError, "1001"),
        ([Write("a", Placed(kwh=1)), *(Check(f"c{n}", 0) for n in range(1000))], errors.UsageError, "1001"),
        ([Write("a", Placed(kwh=1)), Write("", Placed(kwh=1))], errors.UsageError, "name of a stream"),
        ([Write("a", Placed(kwh=1), -1)], errors.UsageError, "expected_version"),
        ([Write("a", [Placed(kwh=1)] * 2, 0, "x")], errors.UsageError, "event_ids"),
        ([Write("a", Placed(kwh=1)), Write("b", Bid(price=1))], errors.UnknownEventType, "Bid"),
        ([("a", Placed(kwh=1))], errors.UsageError, "Write"),
    ],
)
async def test_a_bad_commit_is_refused_before_anything_is_sent(
    world: World, raw: redis.Redis, parts: Any, error: type[Exception], says: str
):
    with pytest.raises(error, match=says):
        await world.store(Order).commit(parts)
    assert raw.keys() == []


@pytest.mark.leaves_keys
@pytest.mark.parametrize("which", ["meta", "versions", "log", "recent", "first", "second"])
async def test_a_key_of_a_wrong_type_fails_and_leaves_no_half_commit(world: World, raw: redis.Redis, which: str):
    """A script does not roll back: what the second stream refuses must not stand in the first."""
    store = world.store(Order)
    keys = store.keys
    key = {"first": keys.stream("a"), "second": keys.stream("b")}.get(which) or getattr(keys, which)
    raw.set(key, "not ours")
    with pytest.raises(errors.ServerError, match="WRONGTYPE"):
        await store.commit(writes(("a", "x", ANY), ("b", "y", ANY)))
    assert raw.keys() == [key.encode()]


@pytest.mark.parametrize("which", ["meta", "versions"])
async def test_lost_counters_are_reported_and_not_begun_again(world: World, raw: redis.Redis, which: str):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1))
    raw.delete(getattr(store.keys, which))
    with pytest.raises(errors.ServerError, match="INCONSISTENT"):
        await store.commit(writes(("b", "x", ANY), ("a", "y", ANY)))
    assert len(await store.read_all()) == 1


async def test_of_many_that_depend_on_the_same_streams_one_wins(world: World):
    """Two accounts, eight transfers decided at the same moment: one of them is booked, whole."""
    stores = [world.store(Order) for _ in range(8)]
    results = await asyncio.gather(
        *(store.commit(writes(("a", f"{n}", 0), ("b", f"{n}", 0))) for n, store in enumerate(stores)),
        return_exceptions=True,
    )
    assert sum(isinstance(r, Committed) for r in results) == 1
    assert sum(isinstance(r, errors.WrongVersion) for r in results) == 7
    assert len({event_id for _, _, event_id in await told(stores[0])}) == 1


@pytest.mark.any_server
async def test_an_id_that_cannot_be_stored_is_refused(world: World):
    """It would be an error of the encoder, from deep inside."""
    store = world.store(Order)
    with pytest.raises(errors.UsageError, match="surrogates"):
        await store.append("a", Placed(kwh=1), event_ids="\ud800")
    assert (await store.append("a", Placed(kwh=1), event_ids="é")).version == 1
