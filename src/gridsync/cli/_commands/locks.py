"""`gridsync locks`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from gridsync.cli._commands import Json, Namespace, Url

locks_app = typer.Typer(
    name="locks",
    help="See who holds which lock, of any kind, and take one away.",
    no_args_is_help=True,
    add_completion=False,
)


class Kind(StrEnum):
    """What can be held or waited for."""

    LOCK = "lock"
    SEMAPHORE = "semaphore"
    RWLOCK = "rwlock"
    ELECTION = "election"
    REDLOCK = "redlock"
    LATCH = "latch"
    BARRIER = "barrier"
    ONCE = "once"


Which = Annotated[Kind, typer.Option(help="What it is, as `ls` says; of a Redlock one master has one vote.")]


@locks_app.command("ls")
def locks_ls(
    *,
    url: Url = None,
    namespace: Namespace = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many locks to list at most.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long to look for them at most.")] = 5.0,
    json: Json = False,
) -> None:
    """List what is held: locks, semaphores, reader-writer locks, elections and the votes of a Redlock.

    Also latches that are closed, barriers where somebody waits or that are broken, and the last run of each period.

    Goes over all keys of the server, or of all primaries of a cluster, step by step (SCAN); stops at --limit locks or
    after --seconds, and says so.  Exits with 0, or with 2 if the server cannot be asked.
    """
    from gridsync.cli.locks import ls  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(ls(url=url, namespace=namespace, most=limit, seconds=seconds, as_json=json))


@locks_app.command("info")
def locks_info(
    name: Annotated[str, typer.Argument(help="Its name.")],
    *,
    kind: Which = Kind.LOCK,
    url: Url = None,
    namespace: Namespace = None,
    waiters: Annotated[int, typer.Option(min=0, max=1000, help="How many waiters to tell at most.")] = 20,
    json: Json = False,
) -> None:
    """Tell who holds a lock, or permits, and who waits for it, first come first; or how a latch or barrier stands.

    Exits with 0 if it is held (or closed, or waited for), with 1 if it is free (or open), and with 2 if the server
    cannot be asked.
    """
    from gridsync.cli.locks import info  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(info(name, kind=kind.value, url=url, namespace=namespace, waiters=waiters, as_json=json))


@locks_app.command("break")
def locks_break(
    name: Annotated[str, typer.Argument(help="Its name.")],
    *,
    kind: Which = Kind.LOCK,
    reason: Annotated[str, typer.Option(help="What its holder is told.")],
    owner: Annotated[str | None, typer.Option(help="Only from this holder, as `info` names it.")] = None,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Take a lock, or permits, away from one holder, who is told at once, and serve the next waiter.

    A semaphore or a reader-writer lock that several hold needs --owner.  The fence that is printed is above that of
    everyone who held it and below every later one.  Exits with 0 if it was taken away,
    with 1 if nobody (or another than --owner) held it, and with 2 if the server cannot be asked.
    """
    from gridsync.cli.locks import take_away  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(
        take_away(name, kind=kind.value, reason=reason, owner=owner, url=url, namespace=namespace, as_json=json)
    )
