"""``gridsync streams``: what an operator sees of dead letters, and does with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.streams import DEAD
from gridsync.testing.servers import free_port
from tests.command import Command
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from gridsync import Grid
    from gridsync.streams import EventStore, Recorded
    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

command = Command("streams")
run, asked = command.run, command.asked


def give_up(grid: Grid) -> EventStore[Any]:
    """Return a store of which a group has given up three events."""
    store = grid.events("orders", Order)
    store.append("anna", [Placed(kwh=1), Placed(kwh=2)])
    store.append("bert", Placed(kwh=3))

    def fail(recorded: Recorded[Any]) -> None:
        raise (ValueError, KeyError, ValueError)[recorded.position - 1](f"no {recorded.position}\x1b[2J")

    store.group("billing").consume(fail, policy=DEAD, on_error=lambda _: None, idle_stop=0)
    return store


def test_dead_letters_are_told_with_their_cause(grid: Grid, flushed: RedisServer):
    give_up(grid)
    code, told = asked(flushed, "dlq", "orders", "billing")
    assert (code, told["total"]) == (0, 3)
    assert [(each["position"], each["stream"], each["error"], each["attempts"]) for each in told["letters"]] == [
        (1, "anna", "ValueError", 1),
        (2, "anna", "KeyError", 1),
        (3, "bert", "ValueError", 1),
    ]
    assert json.loads(told["letters"][1]["raw"]["d"])["kwh"] == 2
    code, output, _ = run(flushed, "dlq", "orders", "billing")
    assert code == 0
    assert "position 3, Placed of bert, 1 attempts from 20" in output
    assert output.endswith("3 of 3 dead letters of orders billing\n")
    assert "\x1b" not in output, "nothing steers the terminal"


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        (("--error", "ValueError"), [1, 3]),
        (("--stream", "anna"), [1, 2]),
        (("--stream", "anna", "--error", "ValueError"), [1]),
        (("--type", "Nobody"), []),
        (("--limit", "2"), [1, 2]),
    ],
)
def test_a_choice_is_listed_and_replayed_alike(
    grid: Grid, flushed: RedisServer, options: tuple[str, ...], positions: list[int]
):
    store = give_up(grid)
    code, told = asked(flushed, "dlq", "orders", "billing", *options)
    assert [each["position"] for each in told["letters"]] == positions
    assert code == (0 if positions else 1)
    code, told = asked(flushed, "replay", "orders", "billing", *options, "--dry-run")
    assert (code, told["matched"], told["replayed"]) == (0 if positions else 1, len(positions), 0)
    assert asked(flushed, "dlq", "orders", "billing")[1]["total"] == 3
    code, told = asked(flushed, "replay", "orders", "billing", *options, "--rate", "1000")
    assert (code, told["replayed"]) == (0 if positions else 1, len(positions))
    seen: list[int] = []
    store.group("billing").consume(lambda event: seen.append(event.position), idle_stop=0)
    assert seen == positions


def test_one_letter_is_replayed_and_one_discarded_for_good(grid: Grid, flushed: RedisServer):
    give_up(grid)
    first, second, _ = asked(flushed, "dlq", "orders", "billing")[1]["letters"]
    code, output, _ = run(flushed, "replay", "orders", "billing", "--id", second["id"])
    assert code == 0
    assert output.startswith("1 of 1 dead letters were given back")
    assert asked(flushed, "discard", "orders", "billing", first["id"]) == (
        0, {"store": "orders", "group": "billing", "id": first["id"], "discarded": True},
    )  # fmt: skip
    assert asked(flushed, "discard", "orders", "billing", first["id"])[0] == 1
    assert [each["position"] for each in asked(flushed, "dlq", "orders", "billing")[1]["letters"]] == [3]


def test_without_dead_letters_it_says_so(flushed: RedisServer):
    code, told = asked(flushed, "dlq", "orders", "nobody")
    assert (code, told["total"], told["letters"]) == (1, 0, [])
    code, told = asked(flushed, "replay", "orders", "nobody")
    assert (code, told["matched"]) == (1, 0)
    assert flushed.command("DBSIZE") == 0, "who looks leaves nothing behind"


def test_a_server_that_is_away_and_a_bad_argument_are_told_with_exit_code_2():
    assert run(f"redis://127.0.0.1:{free_port()}", "dlq", "orders", "billing")[0] == 2
    code, _, problem = run("redis://127.0.0.1:1", "discard", "orders", "billing", "nonsense")
    assert code == 2
    assert problem.startswith("gridsync: ")
    assert run("redis://127.0.0.1:1", "dlq", "", "billing")[0] == 2


def test_the_commands_see_all_partitions_of_a_store(grid: Grid, flushed: RedisServer):
    """They are told only its name; how many partitions it has, and what decides, is noted on the server."""
    store = grid.events("orders", Order, partitions=3, partition_by="category")
    names = [f"{name}-1" for name in ("anna", "bert", "carl", "dora")]
    for name in names:
        store.append(name, Placed(kwh=1))

    def fail(recorded: Recorded[Any]) -> None:
        raise ValueError(recorded.stream)

    store.group("billing").consume(fail, policy=DEAD, on_error=lambda _: None, idle_stop=0)
    code, told = asked(flushed, "dlq", "orders", "billing")
    assert (code, told["total"]) == (0, 4)
    assert sorted((each["stream"], each["partition"]) for each in told["letters"]) == [
        (name, store.partition_of(name)) for name in names
    ]
    assert asked(flushed, "discard", "orders", "billing", told["letters"][0]["id"])[1]["discarded"]
    assert asked(flushed, "replay", "orders", "billing")[1]["replayed"] == 3
    _, listed = asked(flushed, "ls")
    assert [(each["name"], each["partitions"], each["events"]) for each in listed["stores"]] == [("orders", 3, 4)]
    _, told = asked(flushed, "groups", "orders")
    assert [(each["name"], each["pending"]) for each in told["groups"]] == [("billing", 3)]
    code, output, _ = run(flushed, "tail", "orders", "--no-follow", "--last", "3", "--json")
    assert (code, len(output.splitlines())) == (0, 3)
    code, output, _ = run(flushed, "tail", "orders", "--no-follow", "--stream", "dora-1", "--json")
    assert [json.loads(line)["stream"] for line in output.splitlines()] == ["dora-1"]
