"""An embedded server lives exactly as long as somebody uses it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gridsync import embedded
from gridsync._embedded.descriptors import close
from gridsync.embedded import open_embedded
from gridsync.errors import UsageError
from tests.embedded.helpers import USER, alive, ask, can_lock, eventually, executable, kill

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.embedded.helpers import User

    MakeUser = Callable[..., User]


def test_gone_after_sigkill_of_its_only_user(user: MakeUser) -> None:
    """Otherwise every killed test run would leave a server and a directory behind."""
    one = user("embedded://")
    got = one.got
    assert ask(got["url"], "PING") == b"+PONG\r\n"
    one.kill()
    eventually(lambda: not alive(got["pid"]) and not alive(got["supervisor"]))
    eventually(lambda: not Path(got["directory"]).exists())


def test_gone_after_sigkill_of_all_users_of_a_directory(user: MakeUser, tmp_path: Path) -> None:
    """Otherwise a shared server would outlive the service that shared it."""
    users = [user(f"embedded://{tmp_path}") for _ in range(3)]
    pids = {one.got["pid"] for one in users}
    for one in users:
        one.kill()
    eventually(lambda: not any(alive(pid) for pid in pids))


def test_two_processes_share_one_directory(user: MakeUser, tmp_path: Path) -> None:
    """Otherwise what one process writes is not there for the other."""
    one, other = user(f"embedded://{tmp_path}"), user(f"embedded://{tmp_path}/")
    assert one.got["pid"] == other.got["pid"]
    assert ask(one.got["url"], "SET", "k", "v") == b"+OK\r\n"
    assert ask(other.got["url"], "GET", "k") == b"$1\r\nv\r\n"


def test_private_servers_are_not_shared() -> None:
    """Otherwise two tests that ask for a server of their own would see each other's keys."""
    with open_embedded("embedded://") as one, open_embedded("embedded://") as other:
        assert one.pid != other.pid
        assert one.directory != other.directory


def test_twenty_processes_start_one_server(user: MakeUser, tmp_path: Path) -> None:
    """Otherwise a service that starts twenty workers would split in two."""
    users = [user(f"embedded://{tmp_path}") for _ in range(20)]
    assert len({(one.got["pid"], one.got["url"]) for one in users}) == 1


def test_the_last_user_turns_it_off(user: MakeUser, tmp_path: Path) -> None:
    """Otherwise the server would go too early for the second, or never."""
    first, second = user(f"embedded://{tmp_path}"), user(f"embedded://{tmp_path}")
    got = second.got
    assert first.got == got
    first.leave()
    assert ask(got["url"], "PING") == b"+PONG\r\n"
    second.leave()
    eventually(lambda: not alive(got["pid"]) and not alive(got["supervisor"]))
    assert not (tmp_path / "redis.sock").exists()


def test_data_survives_when_appendonly(tmp_path: Path) -> None:
    """Otherwise a development database would be empty every morning."""
    url = f"embedded://{tmp_path}?appendonly=yes&appendfsync=always"
    with open_embedded(url) as server:
        assert ask(server.url, "SET", "k", "v") == b"+OK\r\n"
        first = server.pid
    eventually(lambda: not alive(first))
    with open_embedded(url) as server:
        assert server.pid != first
        assert ask(server.url, "GET", "k") == b"$1\r\nv\r\n"
    assert "Received SIGTERM" in (tmp_path / "server.log.old").read_text()


def test_data_survives_a_kill_of_everybody_when_appendonly(user: MakeUser, tmp_path: Path) -> None:
    """Otherwise a power cut of one container would cost what was acknowledged."""
    url = f"embedded://{tmp_path}?appendonly=yes&appendfsync=always"
    one = user(url)
    assert ask(one.got["url"], "SET", "k", "v") == b"+OK\r\n"
    for pid in (one.got["supervisor"], one.got["pid"]):
        kill(pid)
    one.kill()
    with open_embedded(url) as server:
        assert ask(server.url, "GET", "k") == b"$1\r\nv\r\n"


def test_without_appendonly_nothing_is_kept(tmp_path: Path) -> None:
    """Otherwise a test would see the keys of the run before."""
    with open_embedded(f"embedded://{tmp_path}") as server:
        assert ask(server.url, "SET", "k", "v") == b"+OK\r\n"
        first = server.pid
    eventually(lambda: not alive(first))
    with open_embedded(f"embedded://{tmp_path}") as server:
        assert ask(server.url, "GET", "k") == b"$-1\r\n"


def test_a_killed_supervisor_takes_the_server_with_it(tmp_path: Path) -> None:
    """Otherwise the out-of-memory killer could leave a server that nobody will ever stop."""
    with open_embedded(f"embedded://{tmp_path}") as server:
        kill(server.supervisor_pid)
        eventually(lambda: not alive(server.pid))
        assert not server.running
        with open_embedded(f"embedded://{tmp_path}") as again:
            assert ask(again.url, "PING") == b"+PONG\r\n"


def test_a_private_directory_goes_even_if_the_supervisor_was_killed() -> None:
    """Otherwise temporary directories would pile up."""
    server = open_embedded("embedded://")
    kill(server.supervisor_pid)
    eventually(lambda: not server.running)
    server.close()
    assert not server.directory.exists()


def test_a_private_directory_stays_while_somebody_else_is_served_there() -> None:
    """Otherwise a parent that closes would pull the directory from under a server that its child has started."""
    server = open_embedded("embedded://")
    kill(server.supervisor_pid)
    eventually(lambda: not server.running)
    with open_embedded(f"embedded://{server.directory}") as again:
        server.close()
        assert ask(again.url, "PING") == b"+PONG\r\n"
        assert server.directory.exists()
    eventually(lambda: not alive(again.supervisor_pid))
    shutil.rmtree(server.directory)


def test_a_terminated_supervisor_ends_the_server(tmp_path: Path) -> None:
    """Otherwise an orderly stop of all processes would end with a kill."""
    with open_embedded(f"embedded://{tmp_path}") as server:
        os.kill(server.supervisor_pid, signal.SIGTERM)
        eventually(lambda: not alive(server.pid) and not alive(server.supervisor_pid))


def test_after_a_crash_the_next_open_starts_anew(tmp_path: Path) -> None:
    """Otherwise one crash would spoil the directory while anybody still holds the dead server."""
    with open_embedded(f"embedded://{tmp_path}") as server:
        kill(server.pid)
        eventually(lambda: not server.running)
        with open_embedded(f"embedded://{tmp_path}") as again:
            assert again.pid != server.pid
            assert ask(again.url, "PING") == b"+PONG\r\n"


def test_fork_does_not_keep_it_alive(user: MakeUser) -> None:
    """Otherwise a forked worker that hangs would keep the server of its dead parent."""
    fork_first = USER.replace(
        "sys.stdin.read()",
        "import os, signal\n"
        "child = os.fork()\n"
        "if not child: signal.alarm(100), signal.pause()\n"
        "print(child, flush=True)\n"
        "sys.stdin.read()",
    )
    one = user("embedded://", fork_first)
    got = one.got
    assert one.process.stdout is not None
    child = int(one.process.stdout.readline())
    one.kill()
    try:
        eventually(lambda: not alive(got["pid"]))
        assert alive(child)
    finally:
        kill(child)


def test_a_fork_in_the_middle_of_an_open_keeps_nothing_alive(user: MakeUser, tmp_path: Path) -> None:
    """Otherwise a thread that forks at the wrong moment would hand its child the lock of the directory."""
    fork_meanwhile = (
        "import json, os, signal, sys, threading, warnings\n"
        "from gridsync import embedded\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"  # 3.12 and later: fork with threads
        "embedded.GRACE_S = 0.0\n"
        "def come_and_go():\n"
        "    for _ in range(8): embedded.open_embedded(sys.argv[1], timeout=30).close()\n"
        "thread = threading.Thread(target=come_and_go)\n"
        "thread.start()\n"
        "children = []\n"
        "while thread.is_alive():\n"
        "    if len(children) == 100: os.kill(children[0], signal.SIGKILL); os.waitpid(children.pop(0), 0)\n"
        "    children.append(os.fork())\n"
        "    if not children[-1]: signal.alarm(100), signal.pause()\n"
        "print(json.dumps({'children': children}), flush=True)\n"
        "sys.stdin.read()\n"
    )
    one = user(f"embedded://{tmp_path}", fork_meanwhile)
    children = one.got["children"]
    one.kill()
    try:
        with (tmp_path / "gridsync.lock").open("rb") as lock:
            eventually(lambda: can_lock(lock.fileno()))
        assert all(alive(child) for child in children)
    finally:
        for child in children:
            kill(child)


def test_a_forked_child_cannot_take_the_server_from_its_parent() -> None:
    """Otherwise a child that tidies up at exit would stop its parent's server."""
    with open_embedded("embedded://") as server:
        child = os.fork()
        if child == 0:
            server.close()
            os._exit(0 if not server.running else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert server.running
        assert ask(server.url, "PING") == b"+PONG\r\n"


def test_a_child_that_opens_the_directory_is_a_user(user: MakeUser) -> None:
    """Otherwise nobody could hand a private server on to its workers."""
    with open_embedded("embedded://") as server:
        child = user(f"embedded://{server.directory}")
        assert child.got["pid"] == server.pid
    assert ask(child.got["url"], "PING") == b"+PONG\r\n"
    child.leave()
    eventually(lambda: not alive(server.pid) and not server.directory.exists())


def test_a_user_coming_while_the_last_one_leaves_gets_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a quick restart of a service would fail now and then."""
    monkeypatch.setattr(embedded, "GRACE_S", 0.0)
    for _ in range(25):
        with open_embedded(f"embedded://{tmp_path}", timeout=20) as server:
            assert ask(server.url, "PING") == b"+PONG\r\n"


def test_a_user_at_the_door_of_a_dying_supervisor_tries_again(tmp_path: Path) -> None:
    """Otherwise who comes in the last moment would get a broken connection instead of a server."""
    with open_embedded(f"embedded://{tmp_path}") as server:
        os.kill(server.supervisor_pid, signal.SIGSTOP)
        waiting = embedded._join_or_start(tmp_path, {}, None, private=False)
        assert waiting is not None
        kill(server.supervisor_pid)
        assert embedded._greeting(waiting, time.monotonic() + 20) is None
        with open_embedded(f"embedded://{tmp_path}") as again:
            assert ask(again.url, "PING") == b"+PONG\r\n"


def test_a_user_let_in_and_never_greeted_tries_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same when the supervisor goes while its server is still loading."""
    script = 'case "$1" in --version) echo "Redis server v=8.0.0";; *) exec sleep 600;; esac'
    monkeypatch.setenv("GRIDSYNC_REDIS_SERVER", str(executable(tmp_path / "server", script)))
    starter, other = (embedded._join_or_start(tmp_path, {}, None, private=False) for _ in range(2))
    assert starter is not None
    assert other is not None
    close(starter)
    other.shutdown(socket.SHUT_WR)
    assert embedded._greeting(other, time.monotonic() + 20) is None


def test_users_that_come_and_go_always_find_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with rivals: each of four processes opens and closes ten times, without any grace."""
    monkeypatch.setattr(embedded, "GRACE_S", 0.0)
    come_and_go = (
        "import sys, socket\n"
        "from gridsync import embedded\n"
        "embedded.GRACE_S = 0.0\n"
        "for _ in range(10):\n"
        "    with embedded.open_embedded(sys.argv[1], timeout=30) as server, socket.socket(socket.AF_UNIX) as link:\n"
        "        link.connect(server.url.removeprefix('unix://'))\n"
        "        link.sendall(b'PING\\r\\n')\n"
        "        assert link.recv(64) == b'+PONG\\r\\n'\n"
    )
    rivals = [subprocess.Popen([sys.executable, "-c", come_and_go, f"embedded://{tmp_path}"]) for _ in range(4)]
    assert [rival.wait() for rival in rivals] == [0] * 4


def test_a_user_within_the_grace_keeps_the_server(user: MakeUser, tmp_path: Path) -> None:
    """Otherwise every restart of the only user would lose the data."""
    patient = USER.replace("server =", "import gridsync.embedded\ngridsync.embedded.GRACE_S = 60.0\nserver =")
    one = user(f"embedded://{tmp_path}", patient)
    got = one.got
    one.leave()
    assert user(f"embedded://{tmp_path}").got == got
    os.kill(got["supervisor"], signal.SIGTERM)


def test_close_twice_is_close_once(tmp_path: Path) -> None:
    """Otherwise a second close could take away somebody else's descriptor."""
    with ExitStack() as stack:
        one = stack.enter_context(open_embedded(f"embedded://{tmp_path}"))
        other = stack.enter_context(open_embedded(f"embedded://{tmp_path}"))
        one.close()
        one.close()
        assert not one.running
        assert other.running


def test_other_options_than_the_running_ones_are_refused(tmp_path: Path) -> None:
    """Otherwise somebody who asks for persistence would not get it, and not know."""
    with open_embedded(f"embedded://{tmp_path}") as server:
        with pytest.raises(UsageError, match="runs already with appendonly=no, and this URL asks for appendonly=yes"):
            open_embedded(f"embedded://{tmp_path}?appendonly=yes")
        with open_embedded(f"embedded://{tmp_path}?appendonly=no") as other:
            assert other.pid == server.pid
