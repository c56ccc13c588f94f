"""The command line as a whole: what it loads, what it says of bad input, and that its page tells of every command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from gridsync import Grid, Unavailable
from gridsync.cli._app import app
from gridsync.cli._shared import tell
from tests.command import called
from tests.streams.models import Order, Placed
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
HEAVY = {
    *("asyncio", "email", "hiredis", "http", "logging", "multiprocessing", "opentelemetry", "prometheus_client"),
    *("pydantic", "pydantic_settings", "redis", "rich", "socket", "ssl", "tenacity"),
}
"""What is slow to import, or brings in what is."""


def commands(group: Any, before: tuple[str, ...] = ("gridsync",)) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yield the words and the object of each command that does something."""
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, (*before, name))
        else:
            yield " ".join((*before, name)), one


COMMANDS = dict(commands(typer.main.get_command(app)))


def loaded(code: str) -> set[str]:
    """Return the packages that a new interpreter has loaded after *code*."""
    told = "{name.partition('.')[0] for name in sys.modules}, 'gridsync.grid' in sys.modules"
    script = f"import sys\n{code}\nprint(*{told})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy():
    """A help text that takes a second is not asked for twice; so is completion, at each press of the key."""
    called = "from gridsync.cli import main\nsys.argv = ['gridsync', '--help']"
    found = loaded(f"{called}\ntry:\n    main()\nexcept SystemExit:\n    pass")
    assert not found & HEAVY
    assert "True" not in found


def test_importing_gridsync_loads_nothing_heavy():
    """Whoever only raises or catches our errors must not wait for a client of a server."""
    assert not loaded("import gridsync") & HEAVY


# -- completion ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [("gridsync lo", {"locks"}), ("gridsync locks ", {"ls", "info", "break"}), ("gridsync top --on", {"--once"})],
)
def test_words_are_completed(words: str, found: set[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    monkeypatch.setenv("_GRIDSYNC_COMPLETE", "complete_bash")
    script = "from gridsync.cli._app import app\napp(prog_name='gridsync')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert set(done.stdout.split()) == found, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_and_installed(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What `--show-completion` prints is what `--install-completion` puts where the shell looks for it."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    script = "from gridsync.cli._app import app\napp(prog_name='gridsync')"
    words = [sys.executable, "-c", script]
    shown = subprocess.run(
        [*words, "--show-completion", shell], capture_output=True, text=True, check=True, timeout=120
    )
    assert "_GRIDSYNC_COMPLETE" in shown.stdout
    done = subprocess.run(
        [*words, "--install-completion", shell], capture_output=True, text=True, check=True, timeout=120
    )
    assert f"{shell} completion installed in" in done.stdout
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "_GRIDSYNC_COMPLETE" in written


def test_bash_reads_the_completion():
    bash = shutil.which("bash")
    assert bash is not None, "every machine that runs these tests has one"
    script = "from gridsync.cli._app import app\napp(prog_name='gridsync')"
    line = f'eval "$("{sys.executable}" -c "{script}" --show-completion bash)"; complete -p gridsync'
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([bash, "-c", line], capture_output=True, text=True, check=True, timeout=120, env=environment)
    assert done.stdout.split()[-1] == "gridsync"


# -- bad input -----------------------------------------------------------------------------------------------------

BROKEN = "raise RuntimeError('at import')\n"
APPS = "def needs(store): pass\n\ndef boom():\n    raise ValueError('no')\n\nnumber = 3\n"
NOWHERE = ("--url", "redis://127.0.0.1:1")
NO_URL = ("--url", "http://localhost")
BAD: list[tuple[int, tuple[str, ...], str]] = [
    (2, ("nonsense",), "no such command 'nonsense'"),
    (2, ("locks", "nonsense"), "no such command 'nonsense'"),
    (2, ("locks", "info"), "missing argument"),
    (2, ("locks", "info", "a", "--nope"), "no such option: --nope"),
    (2, ("locks", "info", "a", "--kind", "spoon"), "'spoon' is not one of"),
    (2, ("doctor", "--timeout", "soon"), "--timeout"),
    *((2, (*words, *NO_URL), "is not a connection URL") for words in (("health",), ("doctor",), ("top", "--json"))),
    *((2, (*words, *NOWHERE), "cannot connect") for words in (("doctor",), ("top", "--once"), ("locks", "ls"))),
    (2, ("health", "--url", "redis://h:port"), "cannot be read"),
    (2, ("locks", "info", "wrong", "@"), "WRONGTYPE"),
    (2, ("limits", "show", "api", "anna", "--rule", "spoon", "@"), "cannot read the rate limit"),
    *((1, ("streams", words, "nope", "@"), "has no events") for words in ("info", "groups", "floor")),
    (1, ("streams", "groups", "old", "@"), "the event store old has no consumer group"),
    (1, ("streams", "dlq", "nope", "g", "@"), "has no events"),
    (1, ("streams", "discard", "orders", "nobody", "1-0", "@"), "no consumer group nobody"),
    (1, ("streams", "discard", "orders", "billing", "junk", "@"), "there is no dead letter junk"),
    (2, ("streams", "info", "wrong", "@"), "WRONGTYPE"),
    (2, ("promote", "--to", "@url", "--store", "orders", "@namespace"), "takes events already"),
    (2, ("replicate", "--once", "--from", "@url", "--to", "@url", "--store", "nope", "@namespace"), "nope"),
    (1, ("fence", "--epoch", "1", "--at", "@url", "--store", "old", "@namespace"), "--epoch 1 is an old one"),
    (1, ("orderbook", "show", "nope", "@"), "no order has come"),
    (2, ("consume", "apps"), "names no application"),
    (2, ("consume", "nomodule:app"), "there is no module 'nomodule'"),
    (2, ("consume", "apps:needs"), "cannot be called without arguments"),
    (2, ("consume", "apps:boom"), "raised ValueError: no"),
    (2, ("consume", "apps:number"), "3 is no application"),
    (2, ("consume", "apps:nothing"), "has no 'nothing'"),
    (2, ("consume", "broken:app"), "raised RuntimeError: at import"),
]


@pytest.mark.leaves_keys
@pytest.mark.parametrize(
    ("code", "words", "what"), BAD, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_bad_input_is_one_line_of_what_and_one_of_what_to_do(
    flushed: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    code: int,
    words: tuple[str, ...],
    what: str,
):
    (tmp_path / "apps.py").write_text(APPS)
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    with Grid(flushed.url, namespace=NAMESPACE) as grid, ExitStack() as tidy:
        for name in ("apps", "broken"):
            tidy.callback(sys.modules.pop, name, None)
        grid.client.set(f"{{{NAMESPACE}:lock:wrong}}", "1", px=600_000)
        grid.client.set(f"{{{NAMESPACE}:events:wrong}}:meta", "1")
        store = grid.events("orders", Order)
        store.append("order-1", Placed(kwh=1))
        store.group("billing").consume(lambda _: None, idle_stop=0)
        grid.events("old", Order).append("order-1", Placed(kwh=1))
        grid.events("old", Order).fence(3)
        given = {
            "@": ("--url", flushed.url, "--namespace", NAMESPACE),
            "@url": (flushed.url,),
            "@namespace": ("--namespace", NAMESPACE),
        }
        exit_code, output, error = called(*(each for word in words for each in given.get(word, (word,))))
    assert exit_code == code, (output, error)
    lines = error.splitlines()
    assert len(lines) == 2, error
    assert lines[0].startswith("gridsync: ")
    assert what in lines[0]
    assert re.match(r"  \S", lines[1]), error
    assert "--help says what may be given" not in lines[1], "the error knows better"
    assert "Traceback" not in output + error


def test_an_error_within_an_error_is_told_in_one_piece(capsys: pytest.CaptureFixture[str]):
    tell(Unavailable("it has been away for 2 s (cannot connect: refused; is a server there?); calls fail at once"))
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "gridsync: it has been away for 2 s (cannot connect: refused; is a server there?)",
        "  calls fail at once",
    ]


# -- where it prints to ----------------------------------------------------------------------------------------------


def elsewhere(server: RedisServer | None, output: int, **environment: str) -> tuple[int, str | None, str]:
    """Return exit code, output and errors of ``gridsync doctor``, or ``--help``, that prints to that descriptor."""
    words = ["doctor", "--url", server.url, "--timeout", "30"] if server else ["--help"]
    command = [sys.executable, "-m", "gridsync.cli", *words]
    done = subprocess.run(
        command,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=110,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


def test_a_reader_who_went_away_is_no_finding(flushed: RedisServer):
    """``gridsync doctor | head -1``: a script with pipefail must not take it for a warning."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert elsewhere(flushed, writer) == elsewhere(None, writer) == (141, None, "")
    finally:
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_is_no_finding(flushed: RedisServer):
    for server in (flushed, None):
        with Path("/dev/full").open("w") as output:
            code, _, error = elsewhere(server, output.fileno())
        assert code == 2
        what, do = error.splitlines()
        assert what.startswith("gridsync: the output cannot be written: ")
        assert do.startswith("  ")


def test_signs_that_a_terminal_has_not_are_no_error(flushed: RedisServer):
    """A container often speaks only ASCII; a report with an arrow must not end as a traceback and a warning."""
    _, output, error = elsewhere(flushed, subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert output is not None
    assert "this program" in output
    assert error == ""


def test_ctrl_c_while_modules_are_loaded_shows_no_traceback():
    code = "import sys; from gridsync.cli import main\nclass Stop:\n def __getattr__(self, _): raise KeyboardInterrupt"
    script = f"{code}\nsys.modules['gridsync.cli._app'] = Stop()\nmain()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=110)
    assert (done.returncode, done.stderr) == (130, "")


# -- the page ------------------------------------------------------------------------------------------------------


def test_the_page_tells_of_every_command_and_of_no_other():
    rows = re.findall(r"^\| `(gridsync[^`]*)` \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(COMMANDS)
    for name, line, codes in rows:
        assert len(line) > 10, name
        assert re.search(r"\b0\b", codes), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_exits_with(name: str):
    help_text = " ".join((COMMANDS[name].help or "").split())
    assert re.search(r"[Ee]xits with ", help_text), f"{name} --help tells no exit code"
