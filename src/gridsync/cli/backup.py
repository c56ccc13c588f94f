"""What `gridsync backup`, `backups` and `restore` print, and what they exit with."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from gridsync.cli._shared import DONE, NOTHING, asking, complain, open_grid, plain_errors, print_json, shown
from gridsync.cli._shared import tell as say
from gridsync.errors import UsageError
from gridsync.ops.archive import backups_in, check
from gridsync.ops.drill import drill as run_drill
from gridsync.ops.restoring import into_directory, into_server
from gridsync.ops.taking import Wanted, now_us, prune, take
from gridsync.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gridsync.ops.archive import Backup
    from gridsync.ops.drill import Drill
    from gridsync.ops.restoring import Restored
    from gridsync.ops.retention import Keep
    from gridsync.ops.taking import Tell

_STEP_S = 1.0
"""How often a line of JSON says how far it is, in seconds."""


@contextmanager
def _telling(*, as_json: bool) -> Iterator[Tell]:
    """Show how far it is: bars on a terminal, lines of JSON if asked, else nothing."""
    if as_json or not sys.stderr.isatty():
        last = [time.monotonic()]

        def tell(what: str, done: int, size: int | None) -> None:
            if as_json and time.monotonic() - last[0] >= _STEP_S:
                last[0] = time.monotonic()
                print_json({"step": what, "done": done, "of": size})
                sys.stdout.flush()

        yield tell
        return
    from rich.console import Console  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}

        def advance(what: str, done: int, size: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(shown(what), total=size)
            progress.update(tasks[what], completed=done, total=size)

        yield advance


def backup(
    to: Path,
    *,
    url: str | None,
    data: Path | None,
    recipients: Sequence[str],
    keep: Keep,
    verify: bool,
    as_json: bool,
) -> int:
    """Take a backup; returns 0, 1 if the drill found something wrong or an old one stayed, 2 if there is none."""
    with asking() as outcome:
        if verify and recipients:
            raise UsageError(
                "a drill needs the key that opens the backup; run `gridsync restore --drill` where that is"
            )
        settings = Settings(**({} if url is None else {"redis_url": url}))
        if settings.redis_url == "embedded://":
            raise UsageError("neither --url nor REDIS_URL names a server; say which one is to be backed up")
        wanted = Wanted(to, tuple(recipients), settings.redis_connection_timeout, data)
        with _telling(as_json=as_json) as tell:
            taken = take(settings.redis_url, wanted, tell, password_file=settings.redis_password_file)
        found = _drilled(taken.path, None, None, as_json=as_json) if verify else None
        wrong = found is not None and bool(found.wrong)
        # What does not restore must not displace what does.
        gone: list[Backup] = []
        left = None
        try:
            gone = [] if wrong else prune(to, keep, taken)
        except UsageError as error:
            left = error
        if as_json:
            said = {"drill": asdict(found)} if found else {}
            print_json({**_plain(taken), "removed": [each.path.name for each in gone], **said})
        else:
            print(_line(taken))
            for each in gone:
                print(f"removed {each.path.name}, as --keep says")
            if found:
                _show(found)
        if left is not None:
            say(left)
        outcome.append(NOTHING if wrong or left else DONE)
    return outcome[0]


def backups(place: Path, *, verify: bool, as_json: bool) -> int:
    """List backups; returns 0, 1 if there is none or one is broken, 2 if the directory cannot be read."""
    with asking() as outcome:
        found = backups_in(place)
        wrong = {
            each.path.name: check(each.path, each.manifest) if verify and each.manifest else [each.problem or ""]
            for each in found
        }
        wrong = {name: [what for what in whats if what] for name, whats in wrong.items()}
        if as_json:
            print_json({"backups": [{**_plain(each), "wrong": wrong[each.path.name]} for each in found]})
        else:
            for each in found:
                print(_line(each))
                for what in wrong[each.path.name]:
                    print(f"  BROKEN: {shown(what)}")
            if not found:
                complain(f"there is no backup in {place}", "`gridsync backup --to` takes one")
        outcome.append(DONE if found and not any(wrong.values()) else NOTHING)
    return outcome[0]


def restore(
    path: Path,
    *,
    to: Path | None,
    url: str | None,
    drill: bool,
    force: bool,
    identity: Path | None,
    work: Path | None,
    as_json: bool,
) -> int:
    """Restore a backup, or drill; returns 0, 1 if the drill found something wrong, 2 if it was refused or failed."""
    with asking() as outcome:
        if [to is not None, url is not None, drill].count(True) != 1:
            raise UsageError("say one of --to DIRECTORY, --url URL and --drill")
        if drill:
            found = _drilled(path, identity, work, as_json=as_json)
            if as_json:
                print_json(asdict(found))
            else:
                _show(found)
            outcome.append(NOTHING if found.wrong else DONE)
            return outcome[0]
        with _telling(as_json=as_json) as tell:
            if to is not None:
                done = into_directory(path, to.absolute(), tell, now_us=now_us(), force=force, identity=identity)
            else:
                with _scratch(work) as scratch, open_grid(url, None) as grid, plain_errors():
                    done = into_server(
                        path, grid.client, scratch, tell, now_us=now_us(), force=force, identity=identity
                    )
        if as_json:
            print_json(asdict(done))
        else:
            _tell_restored(done)
        outcome.append(DONE)
    return outcome[0]


@contextmanager
def _scratch(work: Path | None) -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix="gridsync-", dir=work, ignore_cleanup_errors=True) as name:
            yield Path(name)
    except OSError as error:
        raise UsageError(
            f"{error.filename or work}: {error.strerror or error}; say --work, with room for it"
        ) from error


def _drilled(path: Path, identity: Path | None, work: Path | None, *, as_json: bool) -> Drill:
    with _telling(as_json=as_json) as tell, _scratch(work) as scratch:
        return run_drill(path, scratch, tell, now_us=now_us(), identity=identity)


def _show(found: Drill) -> None:
    print(
        f"drill of {found.backup}: {found.keys} keys loaded by {found.server} in {found.loaded_s:.1f} s, "
        f"{found.seconds:.1f} s in all"
    )
    for what in found.compared:
        print(f"  compared: {what}")
    for what in found.unknown:
        print(f"  NOT compared: {shown(what)}")
    for what in found.wrong:
        print(f"  WRONG: {shown(what)}")
    if not found.wrong:
        print("  what was compared is right; the rest nobody has looked at" if found.unknown else "  all is well")


def _tell_restored(done: Restored) -> None:
    raised = done.raised
    print(f"restored {done.backup}: {done.keys} keys, read by {done.server}")
    print(f"  {raised.fences} fences and {raised.generations} generations were raised to {raised.floor}")
    if done.aside:
        print(f"  what was there is in {shown(done.aside)}")
    for store in raised.closed:
        print(f"  the store {shown(store)} has a second site and takes no events: `gridsync promote` one of them")


def _plain(each: Backup) -> dict[str, Any]:
    manifest = each.manifest and {**asdict(each.manifest), "taken": each.manifest.taken, "fence": each.manifest.fence}
    return {"path": str(each.path), **(manifest or {})}


def _line(each: Backup) -> str:
    if each.manifest is None:
        return each.path.name
    manifest = each.manifest
    first = manifest.parts[0]
    counted = [part.keys for part in manifest.parts]
    keys = "" if None in counted else f", {sum(filter(None, counted))} keys"
    lag = max((part.lag_s for part in manifest.parts if part.lag_s is not None), default=None)
    behind = "" if lag is None else f", of a replica that had heard of its primary {lag:.0f} s before"
    servers = f"{len(manifest.parts)} x " if len(manifest.parts) > 1 and first.method == "wire" else ""
    how = f", {manifest.encryption}" if manifest.encryption else ""
    return (
        f"{each.path.name}  {manifest.taken:%Y-%m-%d %H:%M:%S} UTC  {servers}{first.kind} {first.version}{keys}, "
        f"{manifest.size} bytes ({manifest.compression}{how}){behind}"
    )
