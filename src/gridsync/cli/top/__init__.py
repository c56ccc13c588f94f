"""`gridsync top`: what is held, used and consumed now, on a terminal or once."""

from __future__ import annotations

import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.live import Live

from gridsync.cli._shared import DONE, FAILED, asking, complain, open_grid, print_json
from gridsync.cli.top import view
from gridsync.cli.top.model import ONCE_NAMES, Model
from gridsync.cli.top.state import State, pressed
from gridsync.errors import GridsyncError

if TYPE_CHECKING:
    from gridsync.cli.top.model import Focus, Snapshot
    from gridsync.cli.top.terminal import Terminal
    from gridsync.grid import Grid

LOOK_S: Final = 0.1
"""How long a key, or a new size of the terminal, waits to be noticed at most."""
INTERRUPTED: Final = 130


def command(
    *, url: str | None, namespace: str | None, interval: float, once: bool, seconds: float, as_json: bool
) -> int:
    """Show it; returns 0, or 2 if there is no terminal or no server."""
    once = once or as_json
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        complain("there is no terminal to draw on", "`gridsync top --once` prints it once, with --json for programs")
        return FAILED
    with asking() as outcome, open_grid(url, namespace) as grid:
        if once:
            snapshot = Model(grid, ONCE_NAMES).once(seconds)
            print_json(snapshot.to_dict()) if as_json else _print(snapshot)
            outcome.append(DONE)
        else:
            outcome.append(_watch(grid, interval))
    return outcome[0]


def _print(snapshot: Snapshot) -> None:
    console = Console()
    with console.capture() as captured:
        console.print(view.tables(snapshot, console.width))
    print(captured.get(), end="")


def _watch(grid: Grid, interval: float) -> int:
    from gridsync.cli.top.terminal import Terminal  # noqa: PLC0415 - there is no termios on Windows

    console = Console()
    try:
        with Terminal(sys.stdin.fileno()) as terminal, Live(console=console, screen=True, auto_refresh=False) as live:
            Screen(console, live, Reader(Model(grid)), terminal).run(interval)
    except KeyboardInterrupt:
        return INTERRUPTED
    except EOFError:
        return FAILED
    return DONE


class Reader:
    """A thread that reads when it is asked to: whoever watches a server that is away can still press a key."""

    def __init__(self, model: Model) -> None:
        """Let *model* be used by this thread alone."""
        self._model = model
        self._asked: queue.SimpleQueue[Focus | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._busy = False
        threading.Thread(target=self._run, name="gridsync-top", daemon=True).start()

    def _run(self) -> None:
        while True:
            focus = self._asked.get()
            try:
                self._answers.put(self._model.refresh(focus))
            except Exception as error:  # noqa: BLE001 - raised where it is taken
                self._answers.put(error)

    def ask(self, focus: Focus | None) -> bool:
        """Ask for a snapshot; false if the one before is still being read."""
        if self._busy:
            return False
        self._busy = True
        self._asked.put(focus)
        return True

    def take(self) -> Snapshot | None:
        """Return the snapshot that was asked for, once it is there.

        Raises:
            GridsyncError: The server does not answer, or refuses.
        """
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            return None
        self._busy = False
        if isinstance(answer, Exception):
            raise answer
        snapshot: Snapshot = answer
        return snapshot


class Screen:
    """Puts together what is read, what is chosen, and what is drawn."""

    def __init__(self, console: Console, live: Live, reader: Reader, terminal: Terminal) -> None:
        """Draw on *live*; nothing is drawn yet."""
        self._console = console
        self._live = live
        self._reader = reader
        self._terminal = terminal
        self._snapshot: Snapshot | None = None
        self._state = State()
        self._trouble = ""
        self._away_since = 0.0

    def run(self, interval: float) -> None:
        """Draw until q is pressed; reads every *interval* seconds."""
        due = 0.0
        drawn: object = None
        while not self._state.over:
            if time.monotonic() >= due and not self._state.paused and self._reader.ask(self._state.focus(self._ids())):
                due = time.monotonic() + interval
            new = self._take()
            before = self._state
            for key in self._terminal.keys(0 if new else LOOK_S):
                self._state = pressed(self._state, key, self._ids())
            if before.focus(self._ids()) != self._state.focus(self._ids()):
                due = 0.0  # at once, what was asked is about something else
            if new or drawn != (now := (self._console.size, self._state)):
                drawn = now if not new else (self._console.size, self._state)
                picture = view.screen(self._snapshot, self._state, self._told(), self._console.size)
                self._live.update(picture, refresh=True)

    def _ids(self) -> list[str]:
        if self._snapshot is None:
            return []
        return [row.id for row in view.rows(self._snapshot, self._state.section, 0.0)]

    def _take(self) -> bool:
        """Take what was read, if anything was; true if there is something new to show."""
        try:
            snapshot = self._reader.take()
        except GridsyncError as error:
            self._away_since = self._away_since or time.monotonic()
            self._trouble = str(error).partition("; ")[0]
            return True
        if snapshot is None:
            return False
        self._snapshot, self._trouble, self._away_since = snapshot, "", 0.0
        return True

    def _told(self) -> str:
        if not self._trouble:
            return ""
        return f"no answer for {time.monotonic() - self._away_since:.0f} s: {self._trouble}"
