"""What `make bench` writes; the figures themselves are its own business."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import report
from benchmarks.harness import Alone, Bench, Limit, Peer, Row, Together, WrongReplyError, expect
from benchmarks.pair import ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping


def _figure(_bench: Bench) -> float:
    return 1.0


def test_a_partial_run_keeps_the_rows_that_were_not_run(tmp_path: Path) -> None:
    """`make bench ROWS=…` must not throw away an hour of figures."""
    path = tmp_path / "results.json"
    one, two = Peer("one", _figure), Peer("two", _figure)
    row = Row("row", "commands/s", _figure, (one, two))
    report.write(path, {}, {}, [report.figure(row, peer, [10.0], [5.0]) for peer in row.peers])
    report.write(path, {"cpu": "new"}, {}, [report.figure(row, two, [30.0], [5.0])])
    written = json.loads(path.read_text())
    assert [(found["peer_name"], found["ratio"]) for found in written["rows"]] == [("one", 2.0), ("two", 6.0)]
    assert written["machine"] == {"cpu": "new"}
    assert set(written["rows"][0]) == {"name", "ours", "peer_name", "peer", "ratio", "unit", "better"}


def test_a_figure_is_the_median_and_its_ratio_is_ours_to_the_peers() -> None:
    row = Row("row", "commands/s", _figure, ())
    figure = report.figure(row, Peer("peer", _figure), [1.0, 90.0, 3.0], [2.0, 2.0, 2.0])
    assert (figure["ours"], figure["peer"], figure["ratio"]) == (3.0, 2.0, 1.5)


def test_a_limit_is_judged_by_every_run_or_by_the_worst_one():
    row = Row("row", "ms", _figure, better="lower", limits=(Limit(4.0), Limit(4.0, worst=True)))
    found = [report.limit_figure(row, limit, [1.0, 9.0, 2.0]) for limit in row.limits]
    assert [(each["peer_name"], each["ours"], each["ratio"]) for each in found] == [
        ("limit", 2.0, 0.5),
        ("limit of the worst", 9.0, 2.25),
    ]


def test_a_peer_that_did_nothing_right_has_no_ratio():
    row = Row("row", "calls", _figure)
    found = report.figure(row, Peer("peer", _figure), [1000.0], [0.0])
    assert found["ratio"] is None
    assert "-" in report.line(found, report.verdict(row, 2.0, found["ratio"]))


@pytest.mark.parametrize(
    ("better", "ratio", "said"),
    [("higher", 1.2, "pass"), ("higher", 1.19, "miss"), ("lower", 1.0, "pass"), ("lower", 1.5, "miss")],
)
def test_a_target_is_judged_in_the_direction_that_is_better(better: str, ratio: float, said: str) -> None:
    row = Row("row", "unit", _figure, (), better=better)
    assert report.verdict(row, 1.2 if better == "higher" else 1.0, ratio).endswith(said)


def test_the_readme_tells_the_figures_of_the_file() -> None:
    """`python -m benchmarks --headlines` prints what belongs there."""
    root = Path(__file__).parents[2]
    rows = json.loads((root / "benchmarks/results.json").read_text())["rows"]
    assert report.headlines(rows) in (root / "README.md").read_text()


def test_the_benchmarks_page_has_every_figure_of_the_file() -> None:
    """`python -m benchmarks --table` prints what belongs there."""
    root = Path(__file__).parents[2]
    rows = json.loads((root / "benchmarks/results.json").read_text())["rows"]
    assert f"\n{report.table(rows, ROWS)}```\n" in (root / "docs/benchmarks.md").read_text()


def test_every_headline_is_measured() -> None:
    measured = {(row.name, peer.package) for row in ROWS.values() for peer in row.peers}
    assert {(each.row, each.peer) for each in report.HEADLINES} <= measured


def test_one_event_gives_each_side_its_figure_once() -> None:
    events = 0

    def happen(_bench: Bench) -> Mapping[str, float]:
        nonlocal events
        events += 1
        return {"ours": events, "peer": -events}

    together, bench = Together(happen), Bench("", 0, 0.0)
    ours, peer = together.side("ours"), together.side("peer")
    assert [ours(bench), peer(bench), peer(bench), ours(bench)] == [1, -1, -2, 2]
    assert events == 2


def test_a_lock_that_lets_two_in_ends_the_run() -> None:
    """It would look fast."""
    alone = Alone()
    with alone:
        pass
    with pytest.raises(WrongReplyError), alone, alone:
        pass


def test_a_wrong_reply_ends_the_run() -> None:
    """An operation that fails fast would look fast."""
    with pytest.raises(WrongReplyError, match="got False, wanted True"):
        expect(reply=False, wanted=True)


def test_every_target_has_its_row() -> None:
    targets = {(row.name, peer.package): peer.target for row in ROWS.values() for peer in row.peers if peer.target}
    assert targets == {
        ("aio-commands-100", "redis"): 10.0,
        ("aio-commands-100", "valkey-glide"): 4.0,
        ("aio-commands-1", "redis"): 1.1,
        ("aio-cluster-commands-100", "redis"): 6.0,
        ("sync-commands-1", "redis"): 1.3,
        ("sync-commands-16", "redis"): 4.0,
        ("aio-growth-tasks-1000", "100 tasks"): 1.25,
        ("aio-growth-tasks-1000", "10 tasks"): 1.0,
        ("aio-growth-tasks-1000", "1 task"): 1.0,
        ("aio-growth-keys-100000", "1000 keys"): 1.25,
        ("aio-telemetry-off", "without the module"): 1.03,
        ("sync-limiter", "limits"): 1.3,
        ("sync-limiter", "throttled-py"): 1.2,
        ("aio-limiter-100", "limits"): 6.0,
        ("aio-limiter-100", "redis-benchmark"): 0.75,
        ("limiter-script", "a naive log"): 0.6,
        ("limiter-script-denied", "a naive log"): 0.45,
        ("limiter-growth", "limit 10"): 2.0,
        ("limiter-growth", "cost 1,000"): 2.0,
        ("limiter-growth-cost", "cost 1"): 2.0,
        ("sync-lock-cycle", "redis"): 1.3,
        ("aio-lock-cycles-100", "redis"): 6.0,
        ("lock-contended-8", "redis"): 12.0,
        ("lock-contended-8", "python-redis-lock"): 2.0,
        ("aio-cache-get-100", "aiocache"): 5.0,
        ("aio-cache-get-100", "cashews"): 5.0,
        ("fanout-1000", "channels-redis"): 5.0,
        ("aio-append-100", "redis"): 1.7,
        ("aio-append-100", "redis-benchmark"): 0.7,
        ("aio-append-10", "redis-benchmark"): 0.8,
        ("consume-aio", "faststream"): 10.0,
        ("consume-ordered", "unordered"): 0.7,
        ("consume-commit", "redis"): 0.7,
        ("event-growth", "1,000 events"): 1.25,
        ("event-growth-page", "1,000 events"): 1.25,
        ("orderbook", "redis-benchmark"): 0.7,
    }


def test_every_limit_has_its_row() -> None:
    limits = {row.name: [(limit.value, limit.worst) for limit in row.limits] for row in ROWS.values() if row.limits}
    assert limits == {
        "near-cache-reads": [(1_000_000, False)],
        "aio-near-cache-reads": [(1_000_000, False)],
        "cache-loads-per-expiry": [(1.0, True)],
        "sync-sentinel-failover-s": [(0.5, False), (0.5, True)],
        "aio-sentinel-failover-s": [(0.5, False), (0.5, True)],
        "reconnect-1000": [(1000, True)],
        "lock-cycle-commands": [(2.0, False)],
        "lock-handoff-p50-ms": [(1.0, False)],
        "lock-handoff-p99-ms": [(5.0, False)],
        "lock-handoff-commands": [(3.0, False)],
        "limiter-leased": [(500_000, False)],
        "aio-append-10": [(70_000, False)],
        "event-latency-p50-ms": [(2.0, False)],
        "orderbook": [(20_000, False)],
        "orderbook-p99-us": [(1000.0, False)],
        "event-latency-p99-ms": [(10.0, False)],
        "replication": [(20_000, False)],
        "replication-lag-s": [(1.0, False)],
        "event-bytes": [(2.6 * 264, False)],
        "event-bytes-link": [(1.6 * 264, False)],
        "limiter-bytes-100": [(2048.0, True)],
        "limiter-bytes-1000": [(2048.0, True)],
        "limiter-bytes-70000": [(2048.0, True)],
        "lock-waiters-per-connection": [(1000, False)],
        "lock-waiter-bytes": [(8192.0, False)],
        "lock-waiter-bytes-many": [(8192.0, False)],
        "lock-waiter-server-bytes": [(512.0, False)],
        "lock-waiter-server-bytes-many": [(512.0, False)],
        "lock-killed-holder-ms": [(50.0, False), (50.0, True)],
        "lock-fairness-24": [(1.2, False)],
        "top-server-cost": [(1.0, False)],
    }
