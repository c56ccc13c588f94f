"""`gridsync replicate|promote|fence`: two servers, and the shell of whoever looks after them."""

# ruff: noqa: ANN401 - options of a store

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync.cli.replication import Sides, stores
from gridsync.testing.servers import RedisServer
from tests.command import called
from tests.streams.models import Order, Placed
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gridsync.streams import EventStore

pytestmark = pytest.mark.any_server


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[RedisServer]:
    """A second data centre."""
    with RedisServer() as running:
        yield running


@pytest.fixture
def there(elsewhere: RedisServer) -> RedisServer:
    """The second data centre, empty."""
    elsewhere.command("FLUSHALL")
    return elsewhere


def run(*words: str) -> tuple[int, Any, str]:
    code, output, problem = called(*words, "--store", "orders", "--namespace", NAMESPACE, "--json")
    return code, json.loads(output.splitlines()[-1]) if output else None, problem


def filled(grid: Grid, count: int = 12, **options: Any) -> EventStore[Any]:
    store = grid.events("orders", Order, **options)
    for n in range(count):
        store.append(f"order-{n % 5}", Placed(kwh=n + 1))
    return store


@pytest.mark.parametrize("options", [{}, {"partitions": 2, "partition_by": lambda stream: stream[-1], "log": "link"}])
def test_a_store_is_mirrored_watched_and_promoted_from_a_shell(
    grid: Grid, flushed: RedisServer, there: RedisServer, options: dict[str, Any]
):
    store, sides = filled(grid, **options), ("--from", flushed.url, "--to", there.url)
    code, told, _ = run("replicate", *sides, "--status")
    assert (code, told["follows"], told["events"]) == (3, False, 12)
    code, told, _ = run("replicate", *sides, "--once")
    assert (code, told["moved"]) == (0, 12)
    store.append("order-1", Placed(kwh=1))
    code, told, _ = run("replicate", *sides, "--status", "--lag-events", "0")
    assert (code, told["follows"], told["events"], told["target"]["role"]) == (1, True, 1, "mirror")
    assert told["seconds"] > 0
    assert run("replicate", *sides, "--status", "--lag-events", "1", "--lag-seconds", "3600")[0] == 0
    assert run("replicate", *sides, "--once")[0] == 0
    code, told, _ = run("promote", "--to", there.url, "--from", flushed.url)
    assert (code, told["role"], told["epoch"], told["old_side_fenced"]) == (0, "primary", 1, True)
    code, _, problem = run("replicate", *sides, "--once")
    assert code == 2
    assert "is no mirror" in problem or "older side" in problem
    with Grid(there.url, namespace=NAMESPACE) as other:
        assert other.events("orders", Order, **options).append("order-1", Placed(kwh=1)).version > 1
    code, told, _ = run("replicate", "--from", there.url, "--to", flushed.url, "--once")
    assert (code, told["moved"]) == (0, 1)


def test_a_mirror_that_is_gone_is_forgotten(grid: Grid, flushed: RedisServer, there: RedisServer):
    store = filled(grid)
    run("replicate", "--from", flushed.url, "--to", there.url, "--once")
    store.append("order-1", Placed(kwh=1))
    (holder,) = store.floor().holders
    words = ("streams", "release", "orders", holder.kind, holder.name, "--url", flushed.url, "--namespace", NAMESPACE)
    assert called(*words)[:2] == (0, f"replicator {holder.name} is forgotten\n")
    assert called(*words, "--json")[0] == 1
    assert store.floor().holders == ()


def test_what_never_crossed_is_listed_set_aside_and_appended_again(
    grid: Grid, flushed: RedisServer, there: RedisServer, tmp_path: Path
):
    store, sides = filled(grid), ("--from", flushed.url, "--to", there.url)
    run("replicate", *sides, "--once")
    lost = store.append("order-1", [Placed(kwh=70), Placed(kwh=71)], event_ids=("lost-1", "lost-2"))
    run("promote", "--to", there.url)
    file = str(tmp_path / "tail.jsonl")
    code, told, _ = run("divergence", *sides, "--export", file)
    assert (code, told["events"], told["files"], told["branches"][0]["common"]) == (1, 2, [file], 12)
    rows = [(each["position"], each["stream"], each["version"], each["id"]) for each in told["missing"]]
    assert rows == [(13, "order-1", lost.version - 1, "lost-1"), (14, "order-1", lost.version, "lost-2")]
    code, _, problem = run("divergence", *sides, "--set-aside", file)
    assert (code, "fence it first" in problem) == (2, True)
    run("fence", "--at", flushed.url, "--epoch", "1")
    code, told, _ = run("divergence", *sides, "--set-aside", file, "--reappend")
    assert (code, told["events"], told["reappended"][0]["new"]) == (0, 2, 2)
    assert run("divergence", *sides)[:2][1]["events"] == 0
    assert run("replicate", "--from", there.url, "--to", flushed.url, "--once")[1]["moved"] == 2
    assert [event.id for event in store.read("order-1")][-2:] == ["lost-1", "lost-2"]


def test_a_side_that_is_away_or_no_mirror_is_told_by_the_exit_code(
    grid: Grid, flushed: RedisServer, there: RedisServer
):
    filled(grid)
    assert run("replicate", "--from", flushed.url, "--to", flushed.url, "--once")[0] == 2
    assert run("promote", "--to", flushed.url)[0] == 2
    assert run("fence", "--at", flushed.url)[1]["role"] == "fenced"
    assert run("promote", "--to", flushed.url)[1]["epoch"] == 1
    assert run("fence", "--at", flushed.url, "--epoch", "1")[0] == 2
    there.command("FLUSHALL")
    run("replicate", "--from", flushed.url, "--to", there.url, "--once")
    code, told, problem = run("promote", "--to", there.url, "--from", "redis://127.0.0.1:1/0")
    assert (code, told["epoch"], told["old_side_fenced"]) == (1, 2, False)
    assert "the old side" in problem


@pytest.mark.parametrize(
    "words",
    [
        ("replicate", "--once"),
        ("replicate", "--status"),
        ("divergence",),
        ("fence",),
        ("fence", "--epoch", "3"),
        ("promote",),
    ],
    ids=" ".join,
)
def test_a_store_that_there_never_was_is_told_and_nothing_is_made(
    flushed: RedisServer, there: RedisServer, words: tuple[str, ...]
):
    """Who mistypes a name believes that the store is mirrored or fenced, or that nothing was lost."""
    sides = {"fence": ("--at", flushed.url), "promote": ("--to", flushed.url)}.get(
        words[0], ("--from", flushed.url, "--to", there.url)
    )
    code, told, problem = run(*words, *sides)
    assert (code, told) == (2, None)
    assert "there is no event store 'orders'" in problem
    assert "namespace are right" in problem
    assert (flushed.command("DBSIZE"), there.command("DBSIZE")) == (0, 0)


def test_a_replicator_that_waits_for_its_source_says_so(
    flushed: RedisServer, there: RedisServer, capsys: pytest.CaptureFixture[str]
):
    with stores(Sides(flushed.url, there.url, "orders", NAMESPACE), awaited=True) as (source, _):
        assert "its first event is awaited" in capsys.readouterr().err
        assert source.site().role == "primary"


def test_a_promotion_tells_what_it_leaves_behind(grid: Grid, flushed: RedisServer, there: RedisServer):
    """Who promotes in a hurry would hear of it from a customer."""
    store = filled(grid)
    run("replicate", "--from", flushed.url, "--to", there.url, "--once")
    store.append("order-1", [Placed(kwh=1)] * 3)
    code, told, problem = run("promote", "--to", there.url, "--from", flushed.url)
    assert (code, told["old_side_fenced"], told["not_crossed"]) == (0, True, 3)
    assert "3 events of the old side never crossed" in problem


def test_what_can_still_cross_is_not_set_aside(grid: Grid, flushed: RedisServer, there: RedisServer, tmp_path: Path):
    store, sides = filled(grid), ("--from", flushed.url, "--to", there.url)
    file = str(tmp_path / "tail.jsonl")
    run("fence", "--at", flushed.url)
    code, _, problem = run("divergence", *sides, "--set-aside", file)
    assert (code, "not at the other side" in problem) == (2, True)
    run("promote", "--to", flushed.url)
    run("replicate", *sides, "--once")
    store.append("order-1", Placed(kwh=1))
    run("fence", "--at", flushed.url)
    code, _, problem = run("divergence", *sides, "--set-aside", file)
    assert (code, "still a mirror" in problem) == (2, True)
    assert len(list(store.read_all())) == 13
    assert run("replicate", *sides, "--once")[1]["moved"] == 1
