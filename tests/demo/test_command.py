"""`gridsync demo` as its user sees it: whole runs in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import gridsync
from gridsync.testing.servers import RedisServer, server_kinds
from tests.command import called
from tests.demo.helpers import Running, alive, run, run_on_a_terminal, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHECKS = 11


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server with a password, as somebody's own would be."""
    with RedisServer(server_kinds()[0], password="s3cret") as running:
        running.command("SET", "somebody", "else")
        yield running


def test_a_run_without_a_terminal_prints_lines_and_keeps_every_promise():
    """A worker dies with the lock and deliveries in its hands, another wakes too late, and nobody loses anything."""
    done = run("--seconds", "4", "--seed", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[-CHECKS:]] == ["✓"] * CHECKS
    assert any(" quarters settled, " in line for line in lines)
    assert sum(line.startswith("worker-3 ") and "got SIGKILL" in line for line in lines) == 1
    assert sum("took the lock over" in line for line in lines) == 1
    assert sum("got SIGSTOP" in line for line in lines) == 2  # when it happened, and in the summary


def test_a_run_on_a_given_server_tells_as_json_and_leaves_nothing_there(server: RedisServer):
    done = run("--url", server.url, "--seconds", "3", "--seed", "7", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is True
    assert [check["kept"] for check in told["checks"]] == [True] * CHECKS
    killed, frozen = told["mishaps"]["killed"], told["mishaps"]["frozen"]
    assert (killed["worker"], killed["taken_over"]) == ("worker-3", True)
    assert killed["pending"] > 0
    assert (frozen["worker"], frozen["refused"]) == ("worker-1", True)
    assert frozen["fence"] > killed["fence"]
    assert told["counts"]["denied"] > 0
    assert told["seed"] == 7
    assert {latency["name"] for latency in told["latencies"]} > {"limiter decision", "event append"}
    assert server.command("KEYS", "*") == [b"somebody"]


def test_on_a_terminal_it_draws_a_picture():
    code, shown = run_on_a_terminal("--seconds", "2", "--seed", "7", "--no-kill")
    assert code == 0
    for words in ("worker-3", "posting", "quarters settled", "orders/s", "✓ fences rise"):
        assert words in shown


BUGS = {
    "limits never exceeded": """
import gridsync.limits
from gridsync.limits import Rate
def generous(text, parse=Rate.parse):
    rate = parse(text)
    return Rate(rate.limit + 5, rate.per_s) if "gridsync.cli.demo.posters" in sys.modules and child else rate
Rate.parse = generous
""",
    "energy conserved": """
import gridsync.cli.demo.workers as workers
def steal(orders, clear=workers.clear):
    clearing = clear(orders)
    for fill in clearing.fills:
        if fill.wh < 0:
            object.__setattr__(fill, "wh", fill.wh + 1)
            break
    return clearing
workers.clear = steal
""",
}


@pytest.mark.parametrize("promise", BUGS)
def test_a_planted_bug_breaks_its_promise_and_the_exit_code(promise: str, tmp_path: Path):
    """The processes have the bug, the audit does not: it looks at what they left behind."""
    child = "import sys\nchild = 'gridsync.cli.demo.child' in sys.orig_argv\nif child:\n"
    body = "".join(f"    {line}\n" for line in BUGS[promise].strip().splitlines())
    (tmp_path / "sitecustomize.py").write_text(child + body, encoding="utf-8")
    done = run("--seconds", "2", "--seed", "7", "--no-kill", path=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"✗ {promise}" in done.stdout
    assert "✓ fences rise" in done.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_all_processes_end_with_the_demo_and_its_keys_with_them(how: signal.Signals, server: RedisServer):
    """Ctrl-C, and a kill that nobody can catch."""
    with Running("--url", server.url, "--seconds", "60", "--no-kill") as demo:
        demo.read_until("processes ready")
        demo.read_until("quarters settled")
        children = demo.children()
        assert len(children) == 7
        demo.process.send_signal(how)
        until(lambda: not any(map(alive, children)), "all processes are gone")
        code = demo.process.wait(20)
        rest = demo.output.read()
    assert code == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    assert "Traceback" not in rest
    assert server.command("KEYS", "*") == [b"somebody"]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "carrier-pigeon://loft"])
def test_a_server_that_cannot_be_used_is_one_line_of_what_and_one_of_what_to_do(url: str):
    code, output, error = called("demo", "--url", url)
    what, do = error.splitlines()
    assert (code, output) == (2, "")
    assert what.startswith("gridsync: ")
    assert url.partition("://")[2] in what
    assert do.startswith("  ")


def gridsync_command(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    program = f"{before}\nfrom gridsync.cli import main\nmain()"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


def test_the_command_names_its_version():
    assert gridsync_command("--version").stdout == f"gridsync {gridsync.__version__}\n"


def test_help_starts_no_client():
    """`gridsync --help` answers at once: what takes long to import is imported when it is used."""
    before = "import atexit, sys\natexit.register(lambda: print(*sorted({'redis', 'pydantic'} & set(sys.modules))))"
    done = gridsync_command("--help", before=before)
    assert "demo" in done.stdout
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_says_what_to_install(missing: str):
    done = gridsync_command("demo", before=f"import sys\nsys.modules[{missing!r}] = None")
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == ["  pip install 'gridsync-redis[cli]'"]
