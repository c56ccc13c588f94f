"""``gridsync streams ls|info|groups|tail``: what an operator sees of stores and groups, and of events as they come."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.cli.tail import Filter, tail
from gridsync.streams import Delivery, Retry
from gridsync.testing.servers import free_port
from tests.command import Command
from tests.streams.models import Cancelled, Order, Placed
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gridsync import Grid
    from gridsync.streams import EventStore, Recorded
    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

command = Command("streams")
run, asked = command.run, command.asked


def used(grid: Grid) -> EventStore[Any]:
    """Return a store of which a group has handled one event, parked one, and not seen the last."""
    store = grid.events("orders", Order)
    store.append("order-1", Placed(kwh=1), metadata={"meter": "\x1b[2J"})
    store.append("order-1", Cancelled(reason="late\x1b[2J"))

    def handle(recorded: Recorded[Any]) -> None:
        if recorded.position == 2:
            raise ValueError("not now\x1b[2J")

    store.group("billing").consume(handle, policy=Retry(first_s=1000), on_error=lambda _: None, idle_stop=0)
    store.append("order-2", Placed(kwh=3))
    return store


@contextmanager
def tailing(server: RedisServer, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    words = command.words(server, "tail", *arguments)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_stores_are_listed_with_what_they_hold(grid: Grid, flushed: RedisServer):
    used(grid)
    # Names that look like keys of their own, and what is no store.
    for name in ("a:b", "odd {brace}%", "meta"):
        grid.events(name, Order).append("}:meta", Placed(kwh=1))
    with grid.lock("orders"):
        code, told = asked(flushed, "ls")
    assert (code, told["complete"]) == (0, True)
    assert [(each["name"], each["events"], each["streams"], each["groups"]) for each in told["stores"]] == [
        ("a:b", 1, 1, []),
        ("meta", 1, 1, []),
        ("odd {brace}%", 1, 1, []),
        ("orders", 3, 2, ["billing"]),
    ]
    code, output, _ = run(flushed, "ls")
    assert code == 0
    assert "orders: 3 events from 1 to 3, 2 streams, about " in output
    code, told = asked(flushed, "ls", "--limit", "2")
    assert (len(told["stores"]), told["complete"]) == (2, False)


def test_a_store_tells_of_its_groups(grid: Grid, flushed: RedisServer):
    used(grid)
    code, told = asked(flushed, "info", "orders")
    assert (code, told["events"], told["first"], told["last"]) == (0, 3, 1, 3)
    (group,) = told["groups"]
    assert (group["name"], group["lag"], group["pending"], group["parked"], group["dead"]) == ("billing", 1, 1, 1, 0)
    code, output, _ = run(flushed, "info", "orders")
    assert code == 0
    assert "orders billing: 1 not delivered, 1 pending (1 parked, 0 waiting, 0 given back), 0 dead letters" in output
    assert asked(flushed, "info", "nothing")[0] == 1


def test_a_store_tells_what_is_on_its_way_to_others(grid: Grid, flushed: RedisServer):
    store = used(grid)
    outbox = store.outbox(grid.events("bills\x1b", Order))

    def bill(delivery: Delivery[Any]) -> None:
        with delivery.commit() as tx:
            tx.send(outbox, "b", [Placed(kwh=1), Placed(kwh=2)])

    store.group("sending").consume(bill, idle_stop=0)
    (told,) = asked(flushed, "info", "orders")[1]["outboxes"]
    assert (told["target"], told["consignments"], told["events"], told["sent"]) == ("bills\x1b", 3, 6, 3)
    assert 0 <= told["oldest_age"] < 3600
    output = run(flushed, "info", "orders")[1]
    line = (
        r"  to bills\x1b (partition 0): 3 consignments with 6 events on their way, of 3 that were sent, the oldest is "
    )
    assert line in output
    outbox.relay(once=True)
    assert asked(flushed, "info", "orders")[1]["outboxes"][0]["oldest_age"] is None


def test_groups_tell_who_is_in_them_and_what_is_parked(grid: Grid, flushed: RedisServer):
    store = used(grid)
    with flushed.client() as client:
        client.xgroup_createconsumer(store._core.keys.log, "billing", "ghost")
    code, told = asked(flushed, "groups", "orders")
    assert code == 0
    (group,) = told["groups"]
    assert [(each["name"], each["pending"]) for each in group["consumers"]] == [("ghost", 0)]
    (event,) = group["parked_events"]
    assert (event["position"], event["type"], event["error"], event["attempts"]) == (2, "Cancelled", "ValueError", 1)
    assert asked(flushed, "groups", "orders", "billing")[1] == {
        "store": "orders", "groups": [{**group, "oldest_age": pytest.approx(group["oldest_age"], abs=60),
                                       "consumers": [{**group["consumers"][0], "idle": pytest.approx(0, abs=60)}]}],
    }  # fmt: skip
    code, output, _ = run(flushed, "groups", "orders", "--parked", "1")
    assert code == 0
    assert "  ghost: holds 0, last heard of " in output
    assert "  parked: position 2, Cancelled of order-1, 1 attempts, due 20" in output
    assert "ValueError: not now" in output
    assert "\x1b" not in output, "nothing steers the terminal"
    assert asked(flushed, "groups", "orders", "nobody") == (1, {"store": "orders", "groups": []})


@pytest.mark.parametrize(
    ("asked_for", "positions"),
    [
        (({}, Filter(None, None, None)), [1, 2, 3]),
        (({"last": 1}, Filter(None, None, None)), [3]),
        (({"last": 0}, Filter(None, None, None)), []),
        (({"after": "1"}, Filter(None, None, None)), [2, 3]),
        (({}, Filter(["Placed"], None, None)), [1, 3]),
        (({}, Filter(["Placed", "Cancelled"], "order-1", None)), [1, 2]),
        (({"after": "0"}, Filter(["Cancelled"], "order-1", None)), [2]),
        (({"last": 2}, Filter(None, None, "order")), [2, 3]),
        (({}, Filter(None, None, "bill")), []),
        (({}, Filter(None, "order-1", "bill")), []),
    ],
)
def test_a_tail_shows_the_end_of_the_log_or_what_is_chosen(
    grid: Grid,
    flushed: RedisServer,
    capsys: pytest.CaptureFixture[str],
    asked_for: tuple[dict[str, Any], Filter],
    positions: list[int],
):
    used(grid)
    options, choice = asked_for
    whole = {"last": 10, "after": None, "follow": False, "url": flushed.url, "namespace": NAMESPACE, "as_json": True}
    assert tail("orders", choice, **{**whole, **options}) == 0
    assert [json.loads(line)["position"] for line in capsys.readouterr().out.splitlines()] == positions


def test_a_tail_says_all_that_is_known_of_an_event(grid: Grid, flushed: RedisServer):
    used(grid)
    _, output, _ = run(flushed, "tail", "orders", "--no-follow", "--json", "--type", "Placed", "--type", "Cancelled")
    first, second, _ = map(json.loads, output.splitlines())
    assert (first["stream"], first["version"], first["type"], first["metadata"]) == (
        "order-1", 1, "Placed", {"meter": "\x1b[2J"},
    )  # fmt: skip
    assert second["data"] == {"reason": "late\x1b[2J"}
    code, output, _ = run(flushed, "tail", "orders", "--no-follow", "--after", first["checkpoint"])
    assert code == 0
    assert output.splitlines()[0].endswith(' Cancelled order-1 2: {"reason":"late\\u001b[2J"}')
    code, _, problem = run(flushed, "tail", "orders", "--no-follow", "--after", "7:1:x")
    assert code == 2
    assert "event '7:1:x' was read before" in problem


@pytest.mark.parametrize("empty", [False, True])
def test_a_tail_follows_without_polling_and_ends_on_ctrl_c(grid: Grid, flushed: RedisServer, *, empty: bool):
    store = grid.events("orders", Order) if empty else used(grid)
    at = 0 if empty else 3
    with tailing(flushed, "orders", "--last", "0", "--json", "--stream", "order-9") as process:
        assert process.stdout is not None
        with flushed.client() as client:
            # Nothing is printed before the first event: that it waits is seen at the server.
            while not any(each["cmd"].startswith("xread") for each in client.client_list()):
                assert process.poll() is None
        for n in range(3):
            store.append("order-8", Placed(kwh=1))
            store.append("order-9", Placed(kwh=1), event_ids=f"event-{n}")
            told = json.loads(process.stdout.readline())
            assert (told["id"], told["position"]) == (f"event-{n}", at + 2 * (n + 1))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() == ""
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_tail_into_a_closed_pipe_ends_in_silence(grid: Grid, flushed: RedisServer):
    store = used(grid)
    with tailing(flushed, "orders", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["position"] == 1
        process.stdout.close()
        # As `head` does; the next line meets nobody.
        while process.poll() is None:
            store.append("order-2", Placed(kwh=1))
        assert process.returncode == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_what_was_asked_wrongly_is_told_in_two_lines_what_it_was_and_what_to_do(
    grid: Grid, flushed: RedisServer, tmp_path: Path
):
    """An operator at night reads the first line, and does what the second one says."""
    used(grid)
    parts = grid.events("parts", Order, partitions=2)
    parts.append("a", Placed(kwh=1))
    odd = grid.events("odd", Order)
    odd.append("a", Placed(kwh=1))
    with flushed.client() as client:
        client.set(odd._core.partitions[0].keys.log, "text", px=600_000)
    none, lists = "the event store none has no events", "gridsync streams ls"
    nobody, names = "the event store orders has no consumer group nobody", "it has billing"
    file = str(tmp_path / "events.jsonl")
    for words, code, what, do in (
        (("info", "none"), 1, none, lists),
        (("groups", "none"), 1, none, lists),
        (("groups", "orders", "nobody"), 1, nobody, names),
        (("dlq", "orders", "nobody"), 1, nobody, names),
        (("dlq", "none", "billing"), 1, none, lists),
        (("replay", "orders", "nobody", "--dry-run"), 1, nobody, names),
        (("discard", "orders", "nobody", "1-0"), 1, nobody, names),
        (("tail", "none", "--no-follow"), 0, none, lists),
        (("floor", "none"), 1, none, lists),
        (("trim", "none", "--max-count", "1"), 1, none, lists),
        (("archive", "none", f"{file}.d"), 1, none, lists),
        (("export", "none", file), 1, none, lists),
        (("trim", "orders"), 2, "no limit was given", "--max-age, --max-count or --max-bytes"),
        (("info", "odd"), 2, "WRONGTYPE", "--namespace"),
        (("tail", "orders", "--after", "x"), 2, "after='x'", "--help"),
        (("tail", "orders", "--after", "99"), 2, "'99' was read before", "start again"),
        (("export", "orders", f"{file}/x/y"), 2, f"{file}/x/y: ", "a directory that may be written"),
        (("export", "parts", file), 2, "2 partitions", "--partition 0 to 1"),
        (("import", "orders", f"{file}/none"), 2, f"{file}/none: ", "one that is there"),
    ):
        found, _, problem = run(flushed, *words)
        first, second = problem.splitlines()
        assert (found, first.startswith("gridsync: ")) == (code, True), words
        assert what in first, words
        assert do in second, words


@pytest.mark.parametrize(
    "words", [("--max-count", "many"), ("--max-age", "-1"), ("--max-age", "nan"), ("--max-size", "1")]
)
def test_an_option_that_is_no_number_is_refused_before_anything_is_asked(words: tuple[str, str]):
    code, output, problem = run(f"redis://127.0.0.1:{free_port()}", "trim", "orders", *words)
    assert (code, output) == (2, "")
    assert words[0] in problem
    assert "connect" not in problem


def test_a_server_that_is_away_is_told_with_exit_code_2():
    away = f"redis://127.0.0.1:{free_port()}"
    for words in (("ls",), ("info", "orders"), ("groups", "orders"), ("tail", "orders")):
        code, output, problem = run(away, *words)
        assert (code, output) == (2, "")
        first, second = problem.splitlines()
        assert first.startswith("gridsync: cannot connect to ")
        assert "REDIS_URL" in second
