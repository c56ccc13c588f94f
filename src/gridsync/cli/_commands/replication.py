"""`gridsync replicate|promote|fence|divergence`: an event store in two data centres."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gridsync.cli._commands import Json, Namespace

sites_app = typer.Typer(add_completion=False)

Store = Annotated[str, typer.Option("--store", help="The event store, which has this name at both sides.")]
ArchiveDirectory = Annotated[
    Path | None, typer.Option("--archive", help="Where the archive of the source's log is, if it has one.")
]
Source = Annotated[str, typer.Option("--from", metavar="URL", help="The server of the store that is mirrored.")]
Target = Annotated[str, typer.Option("--to", metavar="URL", help="The server of the mirror.")]


@sites_app.command("replicate")
def replicate(
    *,
    source: Source,
    target: Target,
    store: Store,
    namespace: Namespace = None,
    once: Annotated[bool, typer.Option("--once", help="Return when everything that is there has crossed.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only tell how far the mirror is behind.")] = False,
    lag_events: Annotated[int | None, typer.Option(min=0, help="With --status: exit with 1 above so many.")] = None,
    lag_seconds: Annotated[float | None, typer.Option(min=0, help="With --status: exit with 1 above so long.")] = None,
    archive: ArchiveDirectory = None,
    ready_file: Annotated[Path | None, typer.Option(help="Written when it follows, removed at the end.")] = None,
    json: Json = False,
) -> None:
    """Make the store at --to a mirror of the one at --from, and let it follow, until SIGTERM or Ctrl-C.

    Events keep their ids, streams, versions, positions and times.  The command may be killed at any time, run again,
    and run several times at once.  The mirror takes no other events until it is promoted.

    Exits with 0 if it was stopped, with 2 if the sides do not fit, a server refuses, or the histories are not one any
    more, and with 3 if the mirror was promoted, after it has fenced the source.  With --status: 0, 1 if it is further
    behind than said, 2 if a server cannot be asked, and 3 if the target does not mirror the source.
    """
    from gridsync.cli import replication  # noqa: PLC0415 - loads redis and pydantic

    sides = replication.Sides(source, target, store, namespace, archive)
    if status:
        raise typer.Exit(replication.status(sides, lag_events, lag_seconds, as_json=json))
    raise typer.Exit(replication.replicate(sides, once=once, ready_file=ready_file, as_json=json))


@sites_app.command("promote")
def promote(
    *,
    target: Target,
    store: Store,
    old: Annotated[str | None, typer.Option("--from", metavar="URL", help="The old side, to fence it at once.")] = None,
    namespace: Namespace = None,
    force: Annotated[bool, typer.Option("--force", help="Also if another copy was promoted, and is lost.")] = False,
    json: Json = False,
) -> None:
    """Let a mirror take events, in a new epoch; with --from fence the old side, if it can be reached.

    Exits with 0, with 1 if it was promoted and the old side could not be fenced, and with 2 if it takes events already
    or cannot be asked.
    """
    from gridsync.cli.replication import promote as command  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(command(target, store, old, namespace, force=force, as_json=json))


@sites_app.command("fence")
def fence(
    *,
    at: Annotated[str, typer.Option("--at", metavar="URL", help="The server of the store that is to take no events.")],
    store: Store,
    epoch: Annotated[int | None, typer.Option(min=1, help="The one that the promotion of its mirror began.")] = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Let a store take no more events: before a planned switch, or with --epoch when it comes back after one.

    Exits with 0, with 1 if it was fenced for a later epoch before and stays so, and with 2 if it is in that epoch
    itself or cannot be asked.
    """
    from gridsync.cli.replication import fence as command  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(command(at, store, epoch, namespace, as_json=json))


@sites_app.command("divergence")
def divergence(
    *,
    old: Annotated[str, typer.Option("--from", metavar="URL", help="The old side, whose last events may be missing.")],
    new: Annotated[str, typer.Option("--to", metavar="URL", help="The side that went on.")],
    store: Store,
    namespace: Namespace = None,
    export: Annotated[Path | None, typer.Option(help="Write what never crossed into this file.")] = None,
    set_aside: Annotated[Path | None, typer.Option(help="The same, and take it off the old side, if fenced.")] = None,
    reappend: Annotated[bool, typer.Option("--reappend", help="Append what is in that file at the new side.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="How many events to show at most.")] = 100,
    json: Json = False,
) -> None:
    """Tell what the old side has that never crossed to the new one: position, stream, version, id, type and time.

    Files are JSON lines; with several partitions each has one, `partition-<number>-` and the name.  What was appended
    with --reappend before is found by its id.  Exits with 0 if nothing is missing, or was set aside, with 1 if
    something is missing, and with 2 if the sides cannot be compared or asked.
    """
    from gridsync.cli import replication  # noqa: PLC0415 - loads redis and pydantic

    if export is not None and set_aside is not None:
        raise typer.BadParameter("--export and --set-aside exclude each other")
    if reappend and export is None and set_aside is None:
        raise typer.BadParameter("--reappend needs the file of --export or --set-aside")
    sides = replication.Sides(old, new, store, namespace)
    raise typer.Exit(
        replication.divergence(sides, export, set_aside, reappend=reappend, most=limit, as_json=json),
    )
