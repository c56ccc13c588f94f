"""What public machines run: actions named by their commit, few rights, and what the README tells users to run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

WORKFLOWS = sorted((Path(__file__).parents[2] / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_action_is_named_by_its_commit_and_its_version(path: Path):
    used = re.findall(r"uses: *(.+)", path.read_text())
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*", line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read_unless_a_job_says_more(path: Path):
    assert re.search(r"^permissions:\n  contents: read\n(?! )", path.read_text(), re.MULTILINE)


def test_the_machine_runs_what_a_user_runs():
    ci = next(path for path in WORKFLOWS if path.stem == "ci").read_text()
    assert "run: bash .ci/run\n" in ci
    assert "run: make docs\n" in ci
