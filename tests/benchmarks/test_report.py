"""What `make bench` writes; the figures themselves are its own business."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks import report
from benchmarks.harness import Bench, Peer, Row, WrongReplyError, expect
from benchmarks.pair import ROWS

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize(
    ("better", "ratio", "said"),
    [("higher", 1.2, "pass"), ("higher", 1.19, "miss"), ("lower", 1.0, "pass"), ("lower", 1.5, "miss")],
)
def test_a_target_is_judged_in_the_direction_that_is_better(better: str, ratio: float, said: str) -> None:
    row = Row("row", "unit", _figure, (), better=better)
    target = 1.2 if better == "higher" else 1.0
    assert report.verdict(row, Peer("peer", _figure, target=target), ratio).endswith(said)


def test_a_wrong_reply_ends_the_run() -> None:
    """An operation that fails fast would look fast."""
    with pytest.raises(WrongReplyError, match="got False, wanted True"):
        expect(reply=False, wanted=True)


def test_every_target_has_its_row() -> None:
    targets = {(row.name, peer.package): peer.target for row in ROWS.values() for peer in row.peers if peer.target}
    assert targets == {
        ("aio-commands-100", "redis"): 8.0,
        ("aio-commands-100", "valkey-glide"): 3.0,
        ("aio-commands-1", "redis"): 1.1,
        ("aio-cluster-commands-100", "redis"): 6.0,
        ("sync-commands-1", "redis"): 1.2,
        ("sync-commands-16", "redis"): 3.0,
        ("aio-limiter-100", "limits"): 4.0,
        ("sync-lock-cycle", "redis"): 1.2,
        ("lock-cycle-commands", "limit"): 1.0,
        ("aio-append-100", "redis"): 1.2,
    }
