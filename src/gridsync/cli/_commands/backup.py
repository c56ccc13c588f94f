"""`gridsync backup`, `backups` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gridsync.cli._commands import Url

Json = Annotated[bool, typer.Option("--json", help="Print lines of JSON: how far it is, and at last what came of it.")]
Identity = Annotated[Path | None, typer.Option(help="The file with age's key, for a backup encrypted with age.")]
Work = Annotated[
    Path | None,
    typer.Option(help="Where a server of our own has its files meanwhile; default is the temporary directory."),
]


def backup(
    *,
    to: Annotated[Path, typer.Option(help="The directory of backups; made if it is not there.")],
    url: Url = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Take the append log from this data directory of the server, instead of a snapshot by wire."),
    ] = None,
    recipient: Annotated[
        list[str] | None,
        typer.Option(help="Encrypt for this public key: age1…, ssh-…, or one of GnuPG's; once for each."),
    ] = None,
    keep_last: Annotated[int, typer.Option(min=0, help="Then keep so many of the newest.")] = 0,
    keep_daily: Annotated[int, typer.Option(min=0, help="And the last one of each of so many days.")] = 0,
    keep_weekly: Annotated[int, typer.Option(min=0, help="And the last one of each of so many weeks.")] = 0,
    keep_monthly: Annotated[int, typer.Option(min=0, help="And the last one of each of so many months.")] = 0,
    verify: Annotated[bool, typer.Option("--verify", help="Drill it at once, as `restore --drill` does.")] = False,
    json: Json = False,
) -> None:
    """Take a backup: a consistent snapshot of each server, checksummed, compressed and, if asked, encrypted.

    It is listed once it is whole.  Without --keep-… none is ever removed; with it, the newest good one never is.  Exits
    with 0, with 1 if the drill found something wrong, and with 2 if there is no backup.
    """
    from gridsync.cli.backup import backup as command  # noqa: PLC0415
    from gridsync.ops.retention import Keep  # noqa: PLC0415

    keep = Keep(keep_last, keep_daily, keep_weekly, keep_monthly)
    raise typer.Exit(
        command(to, url=url, data=data, recipients=recipient or [], keep=keep, verify=verify, as_json=json)
    )


def backups(
    *,
    place: Annotated[Path, typer.Option("--from", help="The directory that `backup --to` was given.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file, and compare it with its checksum.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List the backups, the oldest first, with what is wrong with them.

    Exits with 0, with 1 if there is none or one is broken, and with 2 if the directory cannot be read.
    """
    from gridsync.cli.backup import backups as command  # noqa: PLC0415

    raise typer.Exit(command(place, verify=verify, as_json=json))


def restore(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="The directory of one backup.")],
    *,
    to: Annotated[Path | None, typer.Option(help="Into this data directory of a server that does not run.")] = None,
    url: Annotated[str | None, typer.Option(help="Into this running server, key by key.")] = None,
    drill: Annotated[
        bool, typer.Option("--drill", help="Nowhere: try it on a server of our own, and compare.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even if there is data: files are kept aside, keys go.")
    ] = False,
    identity: Identity = None,
    work: Work = None,
    json: Json = False,
) -> None:
    """Restore a backup, and raise all fences beyond every one that was ever given; or try out whether that would work.

    Exits with 0, with 1 if the drill found something wrong, and with 2 if it was refused or failed.
    """
    from gridsync.cli.backup import restore as command  # noqa: PLC0415

    raise typer.Exit(
        command(backup, to=to, url=url, drill=drill, force=force, identity=identity, work=work, as_json=json)
    )
