"""The process that owns an embedded server: started by `gridsync.embedded`, stdlib only, run as a script.

It is a file of its own, run with ``python -I -S``, because it must be up soon: it imports neither the package nor
site, and not pathlib and typing either, which took 8 ms of 36.  States and failure points are described in
`gridsync.embedded`; this is the loop that keeps them::

    starting ── the server answers PING ──▶ serving ── nobody for `grace_s` ──▶ leaving ──▶ gone
       └──────────── the server ended, or SIGTERM ────────┴──────────────────────▲

Every user is one open connection; the kernel closes it when the user dies, however it dies.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLL_S = 0.003
"""How often a server that is still starting is asked for a PONG."""
STOP_S = 5.0
"""How long a server may take to end after SIGTERM before it is killed; a script that never returns ignores SIGTERM."""
LOG = "server.log"
LOG_LINES = 8
USERS_SOCKET = "users.sock"
SERVER_SOCKET = "redis.sock"


def log_tail(directory: str) -> str:
    """Return the last lines of the server's log, or a word on its absence."""
    try:
        with open(f"{directory}/{LOG}", encoding="utf-8", errors="replace") as log:
            lines = log.readlines()[-LOG_LINES:]
    except OSError:
        return "(no log)"
    return "".join(lines).strip() or "(the log is empty)"


class Supervisor:
    """One server process and the connections of its users."""

    def __init__(self, order: dict[str, Any]) -> None:
        """Take over the listening socket and the lock, and start the server."""
        self.directory: str = order["directory"]
        self.sockets: str = order["sockets"]
        self.private: bool = order["private"]
        self.grace_s: float = order["grace_s"]
        self.hello: dict[str, Any] = order["hello"]
        self.lock: int = order["lock"]
        # Both came through an exec and are inheritable: the server must not inherit the listener, or it would stay
        # connectable after this process is gone.
        os.set_inheritable(self.lock, False)  # noqa: FBT003 - it takes no keyword
        os.set_inheritable(order["listener"], False)  # noqa: FBT003
        self.listener = socket.socket(fileno=order["listener"])
        self.listener.settimeout(0)
        self.users: dict[int, socket.socket] = {}
        self.ready = False
        self.asked_to_leave = False
        self.alarm, self.waker = socket.socketpair()
        self.catch_signals()
        self.leash: int | None = None
        self.server = self.start(order["command"])

    def catch_signals(self) -> None:
        """Let SIGCHLD and SIGTERM interrupt the wait; the starter's mask and dispositions were inherited."""
        self.alarm.settimeout(0)
        self.waker.settimeout(0)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self.leave_soon)
        signal.signal(signal.SIGINT, self.leave_soon)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def leave_soon(self, *_: object) -> None:
        """End at the next turn of the loop."""
        self.asked_to_leave = True

    def start(self, command: list[str]) -> int:
        """Start the server so that it dies with this process; return its process id.

        The server inherits the lock: the directory is free when both are dead, not before.
        """
        die_with_parent = parent_death_signal()
        parent = os.getpid()
        # An unknown LC_ALL ends redis-server at once; C is always there.
        environment = os.environ | {"LC_ALL": "C"}
        pid = os.fork()
        if pid == 0:
            try:
                if die_with_parent is not None:
                    die_with_parent()
                os.set_inheritable(self.lock, True)  # noqa: FBT003
                if os.getppid() == parent:
                    os.execve(command[0], command, environment)  # noqa: S606 - no shell is what is wanted
            except OSError as error:
                sys.stderr.write(f"cannot run {command[0]}: {error}\n")
            finally:
                os._exit(127)
        if die_with_parent is None:
            self.leash = leash(pid)
        return pid

    def run(self) -> None:
        """Serve until the server ends, SIGTERM comes or nobody has been connected for `grace_s`."""
        empty_since = time.monotonic()
        while not self.asked_to_leave:
            self.turn(empty_since)
            if self.ended():
                if not self.ready:
                    self.tell_all({"error": f"it ended at once; its log says:\n{log_tail(self.directory)}"})
                return
            if not self.ready and self.answers():
                self.ready = True
                self.tell_all(self.hello | {"pid": self.server, "supervisor_pid": os.getpid()})
            if self.users:
                empty_since = time.monotonic()
            elif time.monotonic() - empty_since >= self.grace_s:
                return

    def turn(self, empty_since: float) -> None:
        """Wait for something to happen, then let users in and out."""
        poll = select.poll()
        for fd in (self.alarm.fileno(), self.listener.fileno(), *self.users):
            poll.register(fd, select.POLLIN)
        wait_s: float | None = None
        if not self.ready:
            wait_s = POLL_S
        elif not self.users:
            wait_s = max(0.0, empty_since + self.grace_s - time.monotonic())
        # Rounded up: a wait of 0 ms would spin through the last millisecond of the grace.
        for fd, _ in poll.poll(None if wait_s is None else int(wait_s * 1000) + 1):
            if fd == self.alarm.fileno():
                self.alarm.recv(4096)
            elif fd == self.listener.fileno():
                self.let_in()
            else:
                self.hear(fd)

    def let_in(self) -> None:
        """Accept everybody who is waiting at the door."""
        with suppress(OSError):
            while True:
                user, _ = self.listener.accept()
                user.settimeout(0)
                self.users[user.fileno()] = user
                if self.ready:
                    self.tell(user, self.hello | {"pid": self.server, "supervisor_pid": os.getpid()})

    def hear(self, fd: int) -> None:
        """Forget a user whose connection has ended; users never say anything."""
        with suppress(BlockingIOError):
            try:
                gone = not self.users[fd].recv(4096)
            except ConnectionError:
                gone = True
            if gone:
                self.users.pop(fd).close()

    def tell(self, user: socket.socket, message: dict[str, Any]) -> None:
        """Send one line; a user who cannot take it is gone, and its connection will say so."""
        with suppress(OSError):
            user.send(json.dumps(message).encode() + b"\n")

    def tell_all(self, message: dict[str, Any]) -> None:
        """Send one line to every user."""
        for user in self.users.values():
            self.tell(user, message)

    def answers(self) -> bool:
        """Tell whether the server answers PING: not while it loads its data."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(f"{self.sockets}/{SERVER_SOCKET}")
            probe.sendall(b"PING\r\n")
            return probe.recv(64) == b"+PONG\r\n"
        return False

    def ended(self) -> bool:
        """Tell whether the server has ended, and reap it once."""
        if self.server and os.waitpid(self.server, os.WNOHANG)[0]:
            self.server = 0
        return not self.server

    def leave(self) -> None:
        """End the server, then clean up; the lock goes with this process, after everything else."""
        # Whoever still waits at the door is sent away without a hello, and tries again until the lock is free.
        self.listener.close()
        if self.server:
            os.kill(self.server, signal.SIGKILL if self.private else signal.SIGTERM)
            limit = time.monotonic() + STOP_S
            alarm = select.poll()
            alarm.register(self.alarm.fileno(), select.POLLIN)
            while not self.ended():
                left_s = limit - time.monotonic()
                if left_s <= 0:
                    os.kill(self.server, signal.SIGKILL)
                    limit = time.monotonic() + STOP_S
                elif alarm.poll(int(left_s * 1000) + 1):
                    self.alarm.recv(4096)
        if self.leash is not None:
            with suppress(BrokenPipeError):
                os.write(self.leash, b"\n")
        remove_sockets(self.sockets, self.directory)
        if self.private:
            import shutil  # noqa: PLC0415 - 5 ms that nobody should wait for at the start

            shutil.rmtree(self.directory, ignore_errors=True)


def remove_sockets(sockets: str, directory: str) -> None:
    """Remove what a start made for its sockets; only the lock's holder may."""
    for name in (USERS_SOCKET, SERVER_SOCKET):
        with suppress(OSError):
            os.unlink(f"{sockets}/{name}")
    if sockets != directory:
        with suppress(OSError):
            os.rmdir(sockets)


def parent_death_signal() -> Any:  # noqa: ANN401 - a C function
    """Return a call that has the kernel kill the caller when its parent dies, or ``None`` where there is none."""
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 - before the fork: an import in a forked child may fail

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    set_parent_death_signal = 1
    return lambda: prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0)


def leash(pid: int) -> int:
    """Have a shell kill *pid* when this process dies; return the pipe that lets the shell go when written to.

    For kernels without a parent-death signal.  The shell waits for a line; end of file means that we were killed.
    """
    readable, writable = os.pipe()
    os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'read -r _ || kill -9 "$1"', "leash", str(pid)],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, readable, 0)],
    )
    os.close(readable)
    return writable


def main() -> None:
    """Detach from the starter, run, and leave nothing behind."""
    # The starter reaps its child at once; the grandchild belongs to init and is nobody's zombie.
    if os.fork():
        os._exit(0)
    supervisor = Supervisor(json.loads(sys.argv[1]))
    try:
        supervisor.run()
    finally:
        supervisor.leave()


if __name__ == "__main__":
    main()
