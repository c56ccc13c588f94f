"""`gridsync consume`: the handlers of an application, run until somebody ends the process."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import socket
import sys
import traceback
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Literal

from gridsync.cli._shared import DONE, FAILED, print_json, shown, tell
from gridsync.errors import GridsyncError, HistoryBroken, Misconfigured, ServerError, UsageError
from gridsync.streams import AsyncEventStore, EventStore
from gridsync.streams._run import RunOptions, planned, run, run_async

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from gridsync.streams import Ran

BROKEN: Final = 1
"""A handler's error ended a group."""
HURRIED: Final = 3
"""A second signal came before the handlers had ended."""


class Told:
    """Whoever wants to know when the consumers are ready, and what they did."""

    def __init__(self, ready_file: Path | None, *, as_json: bool) -> None:
        """Nothing is told yet."""
        self._file = ready_file
        self._as_json = as_json

    def ready(self, names: Sequence[str]) -> None:
        """Say that all groups are there."""
        if self._file is not None:
            self._file.write_text(f"{os.getpid()}\n", encoding="utf-8")
        notify("READY=1")
        if self._as_json:
            print_json({"ready": list(names)})
        else:
            print(f"ready: {', '.join(map(shown, names))}")
        sys.stdout.flush()

    def ended(self, ran: Ran) -> None:
        """Say what was done."""
        if self._as_json:
            print_json({"groups": {name: asdict(each) for name, each in ran.groups.items()}, "hurried": ran.hurried})
            return
        for name, each in ran.groups.items():
            counts = ", ".join(f"{count} {what}" for what, count in asdict(each).items())
            print(f"{shown(name)}: {counts}")

    def stopping(self) -> None:
        """Say that nothing new is begun."""
        notify("STOPPING=1")

    def close(self) -> None:
        """Leave nothing behind."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def command(
    target: str,
    groups: Sequence[str] | None,
    start: Literal["first", "now"],
    said: Mapping[str, Any],
    *,
    ready_file: Path | None,
    as_json: bool,
) -> int:
    """Run an application's handlers; returns the exit code."""
    told = Told(ready_file, as_json=as_json)
    options = RunOptions(**said, on_ready=told.ready, on_stop=told.stopping)
    try:
        made = load(target)
        if inspect.isawaitable(made) or hasattr(made, "__aenter__"):
            ran = asyncio.run(_serve_async(made, groups, start, options))
        else:
            ran = _serve(made, groups, start, options)
    except (UsageError, Misconfigured, ServerError, HistoryBroken) as error:
        tell(error)
        return FAILED
    except Exception:  # noqa: BLE001 - a handler's, which the policy lets end its group
        traceback.print_exc()
        return BROKEN
    finally:
        told.close()
    told.ended(ran)
    return HURRIED if ran.hurried else DONE


def load(target: str) -> Any:  # noqa: ANN401 - whatever an application is
    """Return what *target* names, or what it returns if it is a function.

    Raises:
        UsageError: There is no such thing, or it raises.
    """
    module, colon, path = target.partition(":")
    if not (module and colon and path):
        raise UsageError(f"{target!r} names no application; write module:app, as in shop.events:app")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _raised(target, error) from error
        raise UsageError(
            f"there is no module {error.name!r}, from here or installed; see its name, or run this in its folder"
        ) from error
    except Exception as error:
        raise _raised(target, error) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise UsageError(f"{module!r} has no {path!r}; name something that it has") from None
    if isinstance(found, EventStore | AsyncEventStore) or not callable(found):
        return found
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise UsageError(
            f"{target!r} cannot be called without arguments: {error}; name a function without parameters"
        ) from error
    try:
        return found()
    except GridsyncError:
        raise
    except Exception as error:
        raise _raised(target, error) from error


def _raised(target: str, error: Exception) -> UsageError:
    """Return what to say of an application that cannot even be made."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return UsageError(f"{target!r} raised {type(error).__name__}: {error}; see {last.filename}, line {last.lineno}")


def _serve(made: Any, groups: Sequence[str] | None, start: Literal["first", "now"], options: RunOptions) -> Ran:  # noqa: ANN401
    with ExitStack() as stack:
        if hasattr(made, "__enter__"):
            made = stack.enter_context(made)
        return run(planned(_stores(made, EventStore), groups, start), options)


async def _serve_async(
    made: Any,  # noqa: ANN401
    groups: Sequence[str] | None,
    start: Literal["first", "now"],
    options: RunOptions,
) -> Ran:
    async with AsyncExitStack() as stack:
        if inspect.isawaitable(made):
            made = await made
        if hasattr(made, "__aenter__"):
            made = await stack.enter_async_context(made)
        return await run_async(planned(_stores(made, AsyncEventStore), groups, start), options)


def _stores(made: Any, kind: type[Any]) -> list[Any]:  # noqa: ANN401
    """Return the stores that an application has.

    Raises:
        UsageError: It has none, or something else.
    """
    stores = [made] if isinstance(made, EventStore | AsyncEventStore) else made
    if not isinstance(stores, list | tuple | set | frozenset) or not all(isinstance(each, kind) for each in stores):
        raise UsageError(
            f"{made!r:.100} is no application; name an EventStore, several of them, or a function that returns such, "
            f"for asyncio a coroutine function or an asynchronous context manager with AsyncEventStores"
        )
    return list(stores)


def notify(state: str) -> None:
    """Tell systemd, if it wants to know."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
