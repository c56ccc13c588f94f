"""What pages tell people to type at a shell, as the command line takes it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gridsync.cli._app import app
from gridsync.cli._group import WrongCall

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *```(?:console|sh|bash|cron|ini)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
COMMAND: Any = typer.main.get_command(app)
ELLIPSIS = "…"
"""Where it stands for a word of its own, what is left out is named before."""


def typed() -> Iterator[tuple[str, str]]:
    """Yield the page and the line of every call of ours that stands in an example for a shell."""
    for page in PAGES:
        for fence in FENCE.findall(page.read_text(encoding="utf-8")):
            for line in re.sub(r"\\\n\s*", " ", fence).splitlines():
                for part in re.split(r"[;|]|&&|\$ |ExecStart=/usr/bin/", line):
                    words = part.strip().partition("  #")[0].removeprefix("sudo ")
                    if words.startswith("gridsync ") and f" {ELLIPSIS}" not in words:
                        yield page.name, words


def refusal(words: list[str]) -> str:
    """Return why the command line does not take *words*, or nothing; the command does not run."""
    command, context, rest = COMMAND, None, words
    try:
        while True:
            name = rest.pop(0)
            context = command.make_context(name, rest, parent=context)
            if not hasattr(command, "resolve_command"):
                return ""
            name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            rest = [name, *rest]
    except WrongCall as error:
        return str(error.format_message())  # type: ignore[attr-defined] # see `WrongCall`


def test_every_command_on_a_page_is_one_that_can_be_typed():
    """Somebody who copies the line of a runbook at night gets no usage message."""
    lines = list(typed())
    assert len(lines) > 60
    asked = {(page, line): refusal(shlex.split(line)) for page, line in lines if "--version" not in line}
    assert {where: why for where, why in asked.items() if why} == {}


def test_a_command_that_cannot_be_typed_is_found():
    assert "argument" in refusal(["gridsync", "streams", "groups"]).lower()
    assert "no such" in refusal(["gridsync", "locks", "ls", "--nope"]).lower()
    assert refusal(["gridsync", "locks", "ls", "--json"]) == ""
