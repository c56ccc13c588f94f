"""Every example runs, and says what its text promises."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from gridsync.testing.servers import RedisServer, server_kinds

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "lock.py": ["lock 'report' still held", "fence is larger: True", "ten tasks counted to 10"],
    "limiter.py": ["mail 3: sent, 0 left", "mail 4: not now", "at least 0.2 s: True, some were denied: True"],
    "orderbook.py": ["buys 0.67 kWh of roof-1 at 0.074", "its events say: True", "7.50 kWh were sold in 75 trades"],
    "events.py": ["at version 2, expected 0", "it holds 650 Wh", "positions 1 to 100, 100 in all"],
}


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=110, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_no_example_is_forgotten():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_on_a_private_server(name: str):
    told = run(name)
    assert [words for words in SAYS[name] if words not in told] == []


def test_the_examples_leave_nothing_that_does_not_expire():
    with RedisServer(server_kinds()[0]) as server:
        for name in SAYS:
            run(name, server.url)
        assert [key for key in server.command("KEYS", "*") if server.command("TTL", key) == -1] == []


def run_gateway(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "gateway" / "run.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_gateway_under_load_admits_no_more_than_it_promised_and_its_keys_expire():
    with RedisServer(server_kinds()[0]) as server:
        done = run_gateway(server.url, "--seconds", "1.5")
        assert [key for key in server.command("KEYS", "*") if server.command("TTL", key) == -1] == []
    assert (done.returncode, done.stdout.count("✓"), done.stdout.count("✗")) == (0, 5, 0), done.stdout


def test_the_load_sees_gateways_that_do_not_share_their_limits():
    """Else it would prove nothing: each of the two processes admits the whole limit."""
    done = run_gateway("--seconds", "0.5", "--unshared", "--market-window", "90")
    assert done.returncode == 1, done.stdout
    assert "✗ market" in done.stdout
    assert "✓ who waited as told got 30 of 30 answers" in done.stdout


def test_the_load_counts_only_what_surely_lies_in_one_window(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(EXAMPLES / "gateway")
    most_within = importlib.import_module("load").most_within
    assert most_within([], 2.0) == 0
    assert most_within([(0.0, 0.5), (1.0, 1.9), (1.5, 2.0), (1.9, 2.1)], 2.0) == 3, "from 1.0 on"
    random = Random(7)
    for _ in range(200):
        hits = sorted(random.uniform(0, 4) for _ in range(12))
        spans = [(hit - random.uniform(0, 0.3), hit + random.uniform(0, 0.3)) for hit in hits]
        true = max(sum(begin <= hit < begin + 1 for hit in hits) for begin in hits)
        assert most_within(spans, 1.0) <= true
        assert most_within([(hit, hit) for hit in hits], 1.0) == true


@pytest.mark.timeout(300)
def test_a_ledger_whose_processes_are_killed_balances_its_books_from_its_events():
    with RedisServer(server_kinds()[0]) as server:
        command = [sys.executable, str(EXAMPLES / "ledger" / "ledger.py"), server.url, "--orders", "20"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        assert [key for key in server.command("KEYS", "*") if server.command("TTL", key) == -1] == []
    assert (done.returncode, done.stdout.count("✓"), done.stdout.count("✗")) == (0, 7, 0), done.stdout + done.stderr
    assert "5 processes were killed on the way; 6 dead letters" in done.stdout
