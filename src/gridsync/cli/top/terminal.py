"""A terminal that gives each key at once, and is as it was when it is left, however that happens."""

from __future__ import annotations

import os
import select
import signal
import termios
import tty
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Self

_NAMES: Final = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[Z": "back tab",
    b"\x1b": "escape",
    b"\t": "tab",
    b"\r": "enter",
    b"\n": "enter",
}
_ESCAPE: Final = 0x1B
_LOCAL, _CHARACTERS = 3, 6
"""Where `termios.tcgetattr` has what Ctrl-Z and the like do."""


class Terminal:
    """Keys from a terminal, while it is entered.

    SIGTERM ends the block like an exception, so that what it is left for is done; Ctrl-C does so by itself.
    """

    def __init__(self, descriptor: int) -> None:
        """Read from *descriptor*, which is a terminal."""
        self._descriptor = descriptor
        self._before: list[Any] = []
        self._rest = b""
        self._signals: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._descriptor)
        self._signals = {signal.SIGTERM: signal.signal(signal.SIGTERM, _end)}
        tty.setcbreak(self._descriptor)
        # Whoever came back from Ctrl-Z would find the screen of another program.
        modes = termios.tcgetattr(self._descriptor)
        modes[_CHARACTERS][termios.VSUSP] = b"\0"
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, modes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(termios.error):  # it may be gone
            termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, self._before)
        for number, handler in self._signals.items():
            signal.signal(number, handler)

    def keys(self, seconds: float) -> list[str]:
        """Return the keys that were pressed, after waiting for one for so many seconds at most.

        Raises:
            EOFError: The terminal is gone.
        """
        if not select.select([self._descriptor], [], [], seconds)[0]:
            # Nothing followed it: it was the key of that name.
            alone, self._rest = self._rest, b""
            return named(alone, more=False)[0]
        try:
            read = os.read(self._descriptor, 1024)
        except OSError as error:
            raise EOFError from error
        if not read:
            raise EOFError
        found, self._rest = named(self._rest + read, more=True)
        return found


def named(pressed: bytes, *, more: bool) -> tuple[list[str], bytes]:
    """Return the names of keys, and what is the beginning of one of which *more* may come."""
    found: list[str] = []
    while pressed:
        length = 1
        if pressed[0] == _ESCAPE:
            if len(pressed) == 1 and more:
                return found, pressed
            if pressed[1:2] in (b"[", b"O"):
                length = next((at + 1 for at in range(2, len(pressed)) if 0x40 <= pressed[at] <= 0x7E), 0)  # noqa: PLR2004 - what ends a sequence
                if not length:
                    return found, pressed if more else b""
        key, pressed = pressed[:length], pressed[length:]
        # Some terminals write an O for the bracket.
        found.append(_NAMES.get(key.replace(b"\x1bO", b"\x1b["), key.decode("ascii", "replace")))
    return found, b""


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as `signal.signal` calls it
    raise SystemExit(128 + number)
