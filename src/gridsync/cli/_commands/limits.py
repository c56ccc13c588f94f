"""`gridsync limits`."""

from __future__ import annotations

from typing import Annotated

import typer

from gridsync.cli._commands import Json, Namespace, Url

limits_app = typer.Typer(
    name="limits",
    help="See what keys have used of their limits, and let one start anew.",
    no_args_is_help=True,
    add_completion=False,
)

Limiter = Annotated[str, typer.Argument(help="The limiter's name.")]
Key = Annotated[str, typer.Argument(help="Whom it limits.")]
Window = Annotated[float, typer.Option(min=0.001, max=31_622_400, help="Seconds back from now in which to count.")]


@limits_app.command("show")
def limits_show(
    limiter: Limiter,
    key: Key,
    *,
    rule: Annotated[list[str] | None, typer.Option(help='What would this rule say, such as "100/second"?')] = None,
    window: Window = 60.0,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Tell what a key has used, and what each --rule would say about it now; takes nothing.

    Rules are not stored on the server, so name those that you want to know about.  Exits with 0, with 1 if the key has
    used nothing, and with 2 if the server cannot be asked.
    """
    from gridsync.cli.limits import show  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(show(limiter, key, rules=rule or [], window=window, url=url, namespace=namespace, as_json=json))


@limits_app.command("top")
def limits_top(
    limiter: Annotated[str | None, typer.Argument(help="Only of this limiter.")] = None,
    *,
    window: Window = 60.0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many keys to list at most.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long to look for them at most.")] = 5.0,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """List the keys that used most, most first: within --window; or in their own windows; or of slots, now.

    Goes over all keys of the server, or of all primaries of a cluster, step by step (SCAN), and asks about each that is
    a limiter's; stops after --seconds, and says so.  Exits with 0, or with 2 if the server cannot be asked.
    """
    from gridsync.cli.limits import top  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(
        top(limiter, window=window, most=limit, seconds=seconds, url=url, namespace=namespace, as_json=json)
    )


@limits_app.command("reset")
def limits_reset(
    limiter: Limiter,
    key: Key,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Forget what a key has used, after asking: it may use its whole limit again at once.

    Exits with 0 if it was forgotten, with 1 if there was nothing or you said no, and with 2 if the server cannot be
    asked.
    """
    from gridsync.cli.limits import reset  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(reset(limiter, key, sure=yes, url=url, namespace=namespace, as_json=json))
