"""`gridsync orderbook`."""

from __future__ import annotations

from typing import Annotated

import typer

from gridsync.cli._commands import Json, Namespace, Url

orderbook_app = typer.Typer(
    name="orderbook",
    help="See what stands in an order book.",
    no_args_is_help=True,
    add_completion=False,
)


@orderbook_app.callback()
def orderbook() -> None:
    """See what stands in an order book."""


@orderbook_app.command("show")
def orderbook_show(
    market: Annotated[str, typer.Argument(help="The market of the book.")],
    *,
    store: Annotated[
        str | None, typer.Option(help="The event store of its events; default is its own, orderbook:MARKET.")
    ] = None,
    levels: Annotated[int, typer.Option(min=1, max=500, help="How many prices of each side.")] = 10,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Print the best prices of both sides, what the metadata say, and the book's last event; changes nothing.

    Orders that have expired are in it until the next change takes them out.  Exits with 0, with 1 if there is no such
    book, and with 2 if the server cannot be asked.
    """
    from gridsync.cli.orderbook import show  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(show(market, store=store, levels=levels, url=url, namespace=namespace, as_json=json))
