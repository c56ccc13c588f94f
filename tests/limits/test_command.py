"""``gridsync limits``: what an operator sees and does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from gridsync._io.keys import LIMIT_KINDS, limit, limit_of, limit_pattern, limiter_here
from gridsync.limits import ApproxWindow, Concurrency, FixedWindow
from gridsync.testing.servers import free_port
from tests.command import Command
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

command = Command("limits")
run, asked = command.run, command.asked

HOUR = ("--window", "3600")
ODD_NAMES = ["plain", "with:colon", "{braces}", "100%", "%7B", "%3A", "star*", "ünï"]


@pytest.fixture
def grid(flushed: RedisServer) -> Iterator[Grid]:
    with Grid(flushed.url, namespace=NAMESPACE) as opened:
        yield opened


def test_a_key_is_told_with_what_rules_would_say(grid: Grid, flushed: RedisServer):
    limiter = grid.limiter("orders", "5/hour")
    limiter.hit("ada", 2)
    limiter.hit("ada", 3)
    code, told = asked(flushed, "show", "orders", "ada", "--rule", "5/hour", "--rule", "100/day")
    assert (code, told["used"], told["ahead"], told["entries"], told["found"]) == (0, 5, 0, 2, True)
    now = datetime.now(UTC)
    assert now - timedelta(minutes=2) < datetime.fromisoformat(told["first"]) <= now + timedelta(minutes=2)
    assert 3600 <= told["expires_in"] <= 3600 * 1.3
    denies, admits = told["rules"]
    assert (denies["rule"], denies["allowed"], denies["remaining"]) == ("5/hour", False, 0)
    assert (admits["rule"], admits["allowed"], admits["remaining"]) == ("100/day", True, 95)
    code, output, _ = run(flushed, "show", "orders", "ada", "--rule", "5/hour")
    assert code == 0
    assert output.startswith("orders ada: 5 units in the last 60 s, 2 entries from 20")
    assert "\n  5/hour: denies for 35" in output
    assert limiter.peek("ada").remaining == 0, "looking takes nothing"


def test_a_key_that_used_nothing_is_told_so(flushed: RedisServer):
    code, output, _ = run(flushed, "show", "orders", "ada")
    assert (code, output) == (1, "orders ada: unused\n")
    code, told = asked(flushed, "show", "orders", "ada", "--rule", "5/hour")
    assert (code, told["found"], told["rules"][0]["remaining"]) == (1, False, 5)


def test_what_is_reserved_counts_as_ahead(grid: Grid, flushed: RedisServer):
    limiter = grid.limiter("orders", "1/minute")
    limiter.hit("ada")
    assert limiter.reserve("ada", max_wait=600).delay > 0
    code, told = asked(flushed, "show", "orders", "ada")
    assert (code, told["used"], told["ahead"]) == (0, 2, 1)
    _, output, _ = run(flushed, "show", "orders", "ada")
    assert "2 units in the last 60 s, 1 of them ahead (reserved or leased), 2 entries" in output


def test_the_keys_that_use_most_come_first(grid: Grid, flushed: RedisServer):
    for use, name in enumerate(ODD_NAMES, start=1):
        grid.limiter(name, "1000/hour").hit(name, use)
    grid.lock("orders").acquire().release()
    with Grid(flushed.url, namespace="other") as other:
        other.limiter("orders", "10/hour").hit("ada")
    code, listed = asked(flushed, "top", *HOUR)
    assert (code, listed["complete"]) == (0, True)
    assert [(key["limiter"], key["key"]) for key in listed["keys"]] == [(name, name) for name in reversed(ODD_NAMES)]
    assert [key["used"] for key in listed["keys"]] == list(range(len(ODD_NAMES), 0, -1))
    code, listed = asked(flushed, "top", *HOUR, "--limit", "2")
    assert [key["key"] for key in listed["keys"]] == ["ünï", "star*"]
    for name in ODD_NAMES:
        _, listed = asked(flushed, "top", name, *HOUR)
        assert [key["limiter"] for key in listed["keys"]] == [name]
    code, output, _ = run(flushed, "top", *HOUR)
    assert (code, len(output.splitlines())) == (0, len(ODD_NAMES))
    assert output.startswith("ünï ünï: 8 units in the last 3600 s, 1 entries")


def test_only_the_window_that_was_asked_for_is_counted(grid: Grid, flushed: RedisServer):
    """A key that was busy an hour ago is not on top now."""
    grid.limiter("orders", "10/hour").hit("ada")
    seconds, micros = flushed.command("TIME")
    ago = (int(seconds) - 1_735_689_600) * 1_000_000 + int(micros) - 100_000_000
    key = limit(NAMESPACE, "orders", "bob")
    flushed.command("ZADD", key, str(ago), "7:0000000000", str(ago + 99_000_000), "9:0000000001")
    flushed.command("EXPIRE", key, "600")
    _, listed = asked(flushed, "top")
    assert [(each["key"], each["used"]) for each in listed["keys"]] == [("bob", 2), ("ada", 1)]
    _, listed = asked(flushed, "top", "--window", "400")
    assert [(each["key"], each["used"]) for each in listed["keys"]] == [("bob", 9), ("ada", 1)]


def test_what_other_rules_keep_is_told_and_forgotten(grid: Grid, flushed: RedisServer):
    """An operator who resets a key means all of it."""
    for rule in ("5/hour burst 5", FixedWindow(5, 3600), ApproxWindow(5, 3600), Concurrency(5, 600)):
        assert grid.limiter("orders", rule).hit("{ada}", 5)
    code, output, _ = run(flushed, "show", "orders", "{ada}", "--rule", "5/hour burst 5")
    assert code == 0
    expected = [
        r"orders \{ada\}: a bucket, 5 units in the last 60 s, full in 35\d\d\.\d+ s",
        r"orders \{ada\}: a fixed window, 5 units, over in 35\d\d\.\d+ s",
        r"orders \{ada\}: two counters, 5 units, over in 71\d\d\.\d+ s",
        r"orders \{ada\}: 5 slots taken, all free in \d+\.\d+ s",
        r"  5/hour burst 5: denies for .*",
    ]
    assert all(map(re.fullmatch, expected, output.splitlines())), output
    code, told = asked(flushed, "show", "orders", "{ada}")
    assert (code, told["found"], list(told["kinds"])) == (0, True, ["bucket", "fixed", "approx", "slots"])
    assert all(kind["used"] == 5 for kind in told["kinds"].values())
    code, _, question = run(flushed, "reset", "orders", "{ada}", says="y\n")
    assert code == 0
    assert question.startswith("Forget a bucket and a fixed window and two counters and slots of")
    assert flushed.command("DBSIZE") == 0
    assert run(flushed, "reset", "orders", "{ada}", "--yes")[:2] == (1, "orders {ada}: nothing to forget\n")


def test_keys_of_every_rule_are_on_top_by_what_they_used(grid: Grid, flushed: RedisServer):
    """An attacker on a bucket is no less of one."""
    grid.limiter("orders", "100/hour").hit("ada", 6)
    grid.limiter("feed", "100/hour burst 100").hit("bob", 7)
    grid.limiter("export", FixedWindow(100, 3600)).hit("cyd", 8)
    grid.limiter("search", ApproxWindow(100, 3600)).hit("dan", 9)
    running = grid.limiter("render", Concurrency(100, 3600))
    running.refund(running.hit("eve", 3).ticket)
    running.hit("eve", 10)
    grid.limiter("here", "9/hour", on_error="local", share="auto").hit("fay")
    code, listed = asked(flushed, "top")
    assert (code, listed["complete"]) == (0, True)
    assert [(key["key"], key["kind"], key["used"]) for key in listed["keys"]] == [
        ("eve", "slots", 10),
        ("dan", "approx", 9),
        ("cyd", "fixed", 8),
        ("bob", "bucket", 7),
        ("ada", "log", 6),
        ("fay", "log", 1),
    ]
    _, listed = asked(flushed, "top", "feed")
    assert [key["key"] for key in listed["keys"]] == ["bob"]
    _, output, _ = run(flushed, "top", "--limit", "1")
    assert output.startswith("render eve: 10 slots taken, all free in 35")


def test_a_bucket_that_forgot_older_hits_says_that_it_took_more(grid: Grid, flushed: RedisServer):
    feed = grid.limiter("feed", "100/hour burst 100")
    for _ in range(20):
        feed.hit("ada", 2)
    _, output, _ = run(flushed, "top")
    assert output.startswith("feed ada: a bucket, 32 or more units in the last 60 s, full in ")


def test_counters_whose_window_is_over_have_used_nothing(grid: Grid, flushed: RedisServer):
    """Their key lives on for a repeat of the last hit."""
    grid.limiter("export", FixedWindow(100, 3600)).hit("ada", 8)
    flushed.command("PEXPIRE", f"{limit(NAMESPACE, 'export', 'ada')}:fixed", "4999")
    _, listed = asked(flushed, "top")
    assert [(key["used"], key["over_in"]) for key in listed["keys"]] == [(0, 0.0)]


def test_what_is_no_limiters_spoils_no_list(flushed: RedisServer):
    key = limit(NAMESPACE, "orders", "ada")
    for name in (key, *(f"{key}:{kind}" for kind in (*LIMIT_KINDS, "else"))):
        flushed.command("HSET", name, "a", "b")
        flushed.command("EXPIRE", name, "600")
    assert asked(flushed, "top") == (0, {"keys": [], "window": 60.0, "complete": True})


def test_a_key_starts_anew_only_if_somebody_is_sure(grid: Grid, flushed: RedisServer):
    limiter = grid.limiter("orders", "2/hour")
    limiter.hit("ada", 2)
    for answer in ("n\n", "", "what\n"):
        code, output, question = run(flushed, "reset", "orders", "ada", says=answer)
        assert (code, output) == (1, "orders ada: left as it is\n")
        assert question == "Forget 1 entries of orders ada? [y/N] "
        assert limiter.peek("ada").remaining == 0
    code, output, _ = run(flushed, "reset", "orders", "ada", says="y\n")
    assert (code, output) == (0, "orders ada: starts anew\n")
    assert limiter.hit("ada", 2)
    assert asked(flushed, "reset", "orders", "ada", "--yes") == (0, {"limiter": "orders", "key": "ada", "reset": True})
    assert limiter.peek("ada").remaining == 2
    code, output, _ = run(flushed, "reset", "orders", "ada", "--yes")
    assert (code, output) == (1, "orders ada: nothing to forget\n")


def test_what_others_wrote_steers_no_terminal(grid: Grid, flushed: RedisServer):
    """Keys are whatever came in from outside: one could clear the screen, or look like another line."""
    grid.limiter("a\nb", "10/hour").hit("\x1b[2Jé")
    for arguments in (("top",), ("show", "a\nb", "\x1b[2Jé"), ("reset", "a\nb", "\x1b[2Jé", "--yes")):
        _, output, _ = run(flushed, *arguments)
        assert len(output.splitlines()) == 1
        assert output.startswith("a\\nb \\x1b[2Jé: ")
    assert asked(flushed, "top") == (0, {"keys": [], "window": 60.0, "complete": True})


@pytest.mark.parametrize("arguments", [("top",), ("show", "orders", "ada"), ("reset", "orders", "ada", "--yes")])
def test_a_server_that_is_away_is_an_exit_code(arguments: tuple[str, ...]):
    code, output, errors = run(f"redis://127.0.0.1:{free_port()}", *arguments)
    assert (code, output) == (2, "")
    assert errors.startswith("gridsync: ")


def test_who_names_no_server_is_told_that_there_is_nothing_to_see():
    """A private server is started then, and an empty list of it would look like good news."""
    command = [sys.executable, "-m", "gridsync.cli", "limits", "top"]
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "gridsync: neither --url nor REDIS_URL names a server; this one is new, and empty\n"


def test_a_rule_that_cannot_be_read_is_an_exit_code(flushed: RedisServer):
    code, _, errors = run(flushed, "show", "orders", "ada", "--rule", "many")
    assert code == 2
    assert errors.startswith("gridsync: cannot read the rate limit 'many'")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_read_back_from_its_key(name: str):
    key = limit("ns", name, name)
    assert limit_of("ns", key) == (name, name, "")
    for kind in LIMIT_KINDS:
        assert limit_of("ns", f"{key}:{kind}") == (name, name, kind)
    for other in (f"{key}:", f"{key}bucket", f"{key}:else", limiter_here("ns", name)):
        assert limit_of("ns", other) is None
    assert limit_of("other", key) is None


def test_a_limiter_with_a_star_matches_only_itself():
    assert limit_pattern("a*", "b?[c]") == "{a\\*:limit:b\\?\\[c\\]:*}*"
    assert limit_pattern("ns") == "{ns:limit:*}*"
