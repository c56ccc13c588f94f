"""`gridsync streams`: what keeps the log of a store small, and carries it elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gridsync.cli._commands import Json, Namespace, Url
from gridsync.cli._commands.streams import StoreName, streams_app

__all__ = ["streams_app"]  # with what is added to it here

Partition = Annotated[int | None, typer.Option(min=0, help="Which one, of a store in several partitions.")]
EventFile = Annotated[Path, typer.Argument(help="JSON Lines; compressed if its name ends in .zst or .gz.")]


@streams_app.command("floor")
def streams_floor(store: StoreName, *, url: Url = None, namespace: Namespace = None, json: Json = False) -> None:
    """Say who keeps events in the log of a store: where they are, how much they hold back, and since when.

    Exits with 0, with 1 if everybody has had everything, and with 2 if the server cannot be asked.
    """
    from gridsync.cli.keeping import floor  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(floor(store, url=url, namespace=namespace, as_json=json))


class Keeper(StrEnum):
    """Who can keep events in a log."""

    GROUP = "group"
    PROJECTION = "projection"
    READER = "reader"
    REPLICATOR = "replicator"


@streams_app.command("release")
def streams_release(
    store: StoreName,
    kind: Annotated[Keeper, typer.Argument(help="What it is, as `floor` says.")],
    name: Annotated[str, typer.Argument(help="Its name, as `floor` says.")],
    *,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Forget somebody who keeps events in the log and is gone for good, such as a mirror, with all that is kept for it.

    Whoever still runs it begins anew.  Exits with 0, with 1 if it was not known, and with 2 if the server cannot be
    asked.
    """
    from gridsync.cli.keeping import release  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(release(store, kind.value, name, url=url, namespace=namespace, as_json=json))


@streams_app.command("trim")
def streams_trim(
    store: StoreName,
    *,
    max_age: Annotated[float | None, typer.Option(min=0, help="What is older than so many seconds may go.")] = None,
    max_count: Annotated[int | None, typer.Option(min=1, help="What is not among so many newest may go.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="What does not fit into so much memory may go.")] = None,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Remove from the log what is beyond a limit, as far as everybody has had it; the streams keep their events.

    Exits with 0, with 1 if nothing was removed, and with 2 if no limit was given or the server cannot be asked.
    """
    from gridsync.cli.keeping import trim  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(
        trim(
            store,
            max_age=max_age,
            max_count=max_count,
            max_bytes=max_bytes,
            url=url,
            namespace=namespace,
            as_json=json,
        )
    )


@streams_app.command("archive")
def streams_archive(
    store: StoreName,
    directory: Annotated[Path, typer.Argument(help="Of this store alone; made if it is not there.")],
    *,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Copy what is new in the log into files; from then on `trim` leaves what is in no file yet.

    Exits with 0, with 1 if nothing was new, and with 2 if that failed.
    """
    from gridsync.cli.keeping import archive  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(archive(store, directory, url=url, namespace=namespace, as_json=json))


@streams_app.command("export")
def streams_export(
    store: StoreName,
    file: EventFile,
    *,
    after: Annotated[int, typer.Option(min=0, help="Only what comes after this position.")] = 0,
    partition: Partition = None,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Write the log of a store into a file: ids, streams, versions, positions, times, payloads and envelopes.

    The file has its name once it is whole.  Exits with 0, with 1 if there is no event, and with 2 if the log does not
    go back so far, or the server cannot be asked.
    """
    from gridsync.cli.keeping import export  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(export(store, file, after=after, partition=partition, url=url, namespace=namespace, as_json=json))


@streams_app.command("import")
def streams_import(
    store: StoreName,
    file: EventFile,
    *,
    partition: Partition = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, and write nothing.")] = False,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Write the events of a file into a store that is empty, or that begins as the file does.

    All keep their ids, versions, positions and times; what is there already is found, so the command may be stopped and
    run again.  A store with other events is refused, and so is a file that is torn or was changed.  Exits with 0, with
    1 if there was nothing new, and with 2 if it was refused or the server cannot be asked.
    """
    from gridsync.cli.keeping import import_  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(
        import_(store, file, partition=partition, dry_run=dry_run, url=url, namespace=namespace, as_json=json)
    )
