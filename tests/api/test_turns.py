"""Each test runs on one kind of server by turns, or on all of them if `--every-server` says so."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from gridsync.testing.servers import server_kinds

ROOT = Path(__file__).parents[2]


def collected(*options: str) -> list[str]:
    """Return the tests of one file that are written for all kinds of server."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *options, "tests/streams/test_commit.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if "::" in line]


def kind_of(test: str) -> str:
    return next((str(kind) for kind in server_kinds() if str(kind) in test), "")


def case_of(test: str) -> str:
    return re.sub("|".join(re.escape(str(kind)) for kind in server_kinds()), "", test)


def test_each_case_runs_on_one_kind_and_no_kind_is_spared():
    chosen, every = collected(), collected("--every-server")
    kinds = Counter(map(kind_of, chosen))
    assert {case_of(test) for test in chosen} == {case_of(test) for test in every}
    assert len(chosen) == len({case_of(test) for test in chosen})
    assert Counter(map(case_of, every)).most_common()[0][1] == len(server_kinds())
    assert all(kinds[str(kind)] for kind in server_kinds())
