"""How the command line says that it was called in a wrong way, or cannot write: as every other error, in two lines."""

from __future__ import annotations

import errno
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WrongCall = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""What every wrong call raises; typer has no name of its own for it, and by now its own copy of click's."""
WRONG = 2
INTERRUPTED = 130
READER_GONE = 141
"""As a shell has it of a program that SIGPIPE ended: 1 would be a finding."""
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class Commands(TyperGroup):
    """The command with all commands below it."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - as the class above
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002 - as the class above
        **extra: Any,  # noqa: ANN401 - as the class above
    ) -> Any:  # noqa: ANN401 - as the class above
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)  # noqa: FBT003
        except WrongCall as error:
            if not standalone_mode:
                raise
            _tell(error)
            sys.exit(WRONG)
        except typer.Abort:
            if not standalone_mode:
                raise
            sys.exit(INTERRUPTED)
        return sys.exit(code) if standalone_mode else code

    def make_context(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401 - as the class above
        """Read the words; ``--help`` prints while it is read."""
        with _written():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as the class above
        """Run a command."""
        with _written():
            return super().invoke(ctx)


@contextmanager
def _written() -> Iterator[None]:
    """See that what the block prints is written; that it cannot be is told as every other error."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:
            code = READER_GONE
        elif error.errno in _UNWRITABLE and error.filename is None:
            what = f"gridsync: the output cannot be written: {error.strerror}\n  make room, or send it elsewhere"
            with suppress(OSError):  # the terminal may be gone, for errors too
                print(what, file=sys.stderr, flush=True)
            code = WRONG
        else:
            raise
        raise SystemExit(code) from None


def _tell(error: Any) -> None:  # noqa: ANN401 - see `WrongCall`
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    what = " ".join(error.format_message().rstrip(".").split())
    command = error.ctx.command_path if error.ctx is not None else "gridsync"
    print(f"gridsync: {what[:1].lower()}{what[1:]}\n  `{command} --help` says what there is", file=sys.stderr)
