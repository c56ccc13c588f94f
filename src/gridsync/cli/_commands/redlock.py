"""`gridsync redlock`."""

from __future__ import annotations

from typing import Annotated

import typer

from gridsync.cli._commands import Json, Namespace

redlock_app = typer.Typer(
    name="redlock",
    help="See what several independent masters know of a lock, and which of them vote.",
    no_args_is_help=True,
    add_completion=False,
)

Urls = Annotated[list[str], typer.Option("--url", help="One of the masters; give it once for each.")]
MaxTtl = Annotated[float, typer.Option(min=0.01, help="The longest lease on these masters, in seconds (max_ttl).")]


@redlock_app.command("info")
def redlock_info(
    name: Annotated[str, typer.Argument(help="The lock.")],
    *,
    url: Urls,
    namespace: Namespace = None,
    max_ttl: MaxTtl = 60.0,
    json: Json = False,
) -> None:
    """Tell who holds a Redlock, and what each master says of it.

    Exits with 0 if a majority names a holder, with 1 if none does, and with 2 if less than a majority can be asked.
    """
    from gridsync.cli.redlock import info  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(info(name, urls=url, namespace=namespace, max_ttl=max_ttl, as_json=json))


@redlock_app.command("break")
def redlock_break(
    name: Annotated[str, typer.Argument(help="The lock.")],
    *,
    url: Urls,
    reason: Annotated[str, typer.Option(help="What its holder is told.")],
    owner: Annotated[str | None, typer.Option(help="Only from this holder, as `info` names it.")] = None,
    namespace: Namespace = None,
    max_ttl: MaxTtl = 60.0,
    json: Json = False,
) -> None:
    """Take a Redlock away from its holder, on a majority of the masters.

    The fence that is printed is above the holder's and below every later one.  Exits with 0 if it was taken away, with
    1 if nobody (or another than --owner) held it, and with 2 if less than a majority can be asked.
    """
    from gridsync.cli.redlock import take_away  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(
        take_away(name, reason=reason, owner=owner, urls=url, namespace=namespace, max_ttl=max_ttl, as_json=json)
    )


@redlock_app.command("health")
def redlock_health(
    *,
    url: Urls,
    max_ttl: MaxTtl = 60.0,
    timeout: Annotated[float, typer.Option(min=0.01, max=60, help="Seconds for each answer of a master.")] = 1.0,
    json: Json = False,
) -> None:
    """Tell which masters of a Redlock vote.

    Exits with 0 if all do, with 1 if a majority does, and with 2 if less than a majority does or can be asked.
    """
    from gridsync.cli.redlock import health  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(health(urls=url, max_ttl=max_ttl, timeout=timeout, as_json=json))
