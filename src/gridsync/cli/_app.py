"""The command and what it has of its own; the commands of each wing are in `gridsync.cli._commands`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import gridsync
from gridsync.cli._commands import Json, Namespace, Url
from gridsync.cli._commands.backup import backup, backups, restore
from gridsync.cli._commands.keeping import streams_app
from gridsync.cli._commands.limits import limits_app
from gridsync.cli._commands.locks import locks_app
from gridsync.cli._commands.operation import rotate, setup
from gridsync.cli._commands.orderbook import orderbook_app
from gridsync.cli._commands.redlock import redlock_app
from gridsync.cli._commands.replication import sites_app
from gridsync.cli._group import Commands

app = typer.Typer(
    name="gridsync",
    cls=Commands,
    help="Locks, limits and event streams through Redis or Valkey.",
    no_args_is_help=True,
    rich_markup_mode=None,  # formatting the help would take longer than everything else together
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if wanted:
        print(f"gridsync {gridsync.__version__}")
        raise typer.Exit


@app.callback()
def gridsync_command(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    """Locks, limits and event streams through Redis or Valkey."""


@app.command()
def health(
    *,
    url: Url = None,
    timeout: Annotated[float, typer.Option(min=0.01, max=60, help="Seconds for the whole report.")] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Print Prometheus' text format instead.")] = False,
    locks: Annotated[bool, typer.Option("--locks", help="Look only at what locks rely on.")] = False,
) -> None:
    """Say whether a server is fit for locks, limits and events, and what to do if it is not.

    Exits with 0 if all is well, with 1 if it works but a promise or a reserve is missing, and with 2 if it does not
    work, cannot be reached, or its URL cannot be used.
    """
    from gridsync.cli.health import command  # noqa: PLC0415 - loads redis and pydantic

    if json and prometheus:
        raise typer.BadParameter("--json and --prometheus exclude each other")
    form = "json" if json else "prometheus" if prometheus else "text"
    raise typer.Exit(command(url=url, timeout=timeout, form=form, locks=locks))


@app.command()
def doctor(
    *,
    url: Url = None,
    namespace: Namespace = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds for each server.")] = 5.0,
    json: Json = False,
) -> None:
    """Examine every server and this program: what is wrong, how bad it is, and what to do about it.

    Looks at connection, memory, clients, slow commands, persistence, replicas, keys, users, encryption and settings; of
    a cluster and behind sentinels at every server.  Writes no key, and costs each server a few milliseconds.

    Exits with 0 if all is ok, with 1 if there are warnings, and with 2 if something fails or no server can be reached.
    """
    from gridsync.cli.doctor import command  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(command(url=url, namespace=namespace, timeout=timeout, as_json=json))


@app.command()
def top(
    *,
    url: Url = None,
    namespace: Namespace = None,
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print everything once; needs no terminal.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="With --once: how long to look at most.")] = 5.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, once, and nothing else.")] = False,
) -> None:
    """Watch locks, limiters, streams, caches and the servers live.

    Arrows or j and k select, enter shows more, tab goes to the next section, p pauses, q quits.  Looks at a part of the
    keys each time, so that it costs a server less than a hundredth of its time, whatever it holds.

    Exits with 0, with 2 if there is no terminal, or no server when it begins, and with 130 after Ctrl-C.
    """
    from gridsync.cli.top import command  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(command(url=url, namespace=namespace, interval=interval, once=once, seconds=seconds, as_json=json))


app.add_typer(locks_app)
app.add_typer(limits_app)
app.add_typer(streams_app)
app.add_typer(sites_app)
app.add_typer(orderbook_app)


class Start(StrEnum):
    """Where a new consumer group begins."""

    FIRST = "first"
    NOW = "now"


@app.command()
def consume(
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the stores are, as in `shop.events:app`.")],
    *,
    group: Annotated[list[str] | None, typer.Option(help="Run only this group; give it once for each.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Handlers of each group at the same time.")] = 1,
    start: Annotated[Start, typer.Option(help="Where a new group begins.")] = Start.FIRST,
    claim_idle: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which a dead consumer's events go on.")
    ] = 30,
    idle_stop: Annotated[float | None, typer.Option(min=0, help="End after so many seconds without an event.")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Written when ready, removed at the end.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON when ready, and one at the end.")] = False,
) -> None:
    """Run the handlers that stores have registered with `on`, until SIGTERM or Ctrl-C.

    APP is a store, several of them, or a function without parameters that returns such or a context manager around
    them, for asyncio an asynchronous one.  When all groups are there, a line says so; under systemd READY=1 is sent.
    At the first signal running handlers finish, at the second everything goes back at once.

    Exits with 0 if it was stopped or idle, with 1 if an error of the app ended it, with 2 if the app cannot be used or
    the server refuses, and with 3 after a second signal.
    """
    from gridsync.cli.consume import command  # noqa: PLC0415 - loads redis and pydantic

    said = {"concurrency": concurrency, "claim_idle": claim_idle, "idle_stop": idle_stop}
    raise typer.Exit(command(target, group, start.value, said, ready_file=ready_file, as_json=json))


app.add_typer(redlock_app)
for operation in (setup, rotate, backup, backups, restore):
    app.command()(operation)


@app.command()
def demo(
    *,
    url: Annotated[
        str, typer.Option(help="Where to run it: redis://…, valkey://…, unix://…; its keys are deleted at the end.")
    ] = "embedded://",
    seconds: Annotated[int, typer.Option(min=2, max=300, help="How long the market is open.")] = 20,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same day, orders and trades.")] = None,
    kill: Annotated[bool, typer.Option(help="Kill one worker on the way, and freeze another.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end and nothing else.")] = False,
) -> None:
    """Watch a small energy market run on a private Redis, and check what it promised.

    Processes post orders through a shared limit, match them as a consumer group, and settle each quarter of an hour
    under a fenced lock; one of them is killed, another frozen.

    Exits with 0, with 1 if one event, watt-hour or cent was lost, and with 2 if it could not run to its end.
    """
    from gridsync.cli.demo import command  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(command(url=url, seconds=seconds, seed=seed, kill=kill, as_json=json))


@app.command()
def bench(
    *,
    url: Url = None,
    seconds: Annotated[float, typer.Option(min=0.05, max=60, help="How long each row is measured.")] = 1.0,
    tasks: Annotated[int, typer.Option(min=1, max=1000, help="How many asyncio tasks call at the same time.")] = 100,
    json: Json = False,
) -> None:
    """Measure how much gridsync does in a second with a server, from here: locks, limits, appends and cache reads.

    Each as fast as it goes, in one thread and from many tasks: a server that has customers is slow meanwhile.  What is
    written is in a namespace of its own, and deleted in the end.

    Exits with 0, with 2 if the server cannot be asked, and with 130 after Ctrl-C.
    """
    from gridsync.cli.bench import command  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(command(url=url, seconds=seconds, tasks=tasks, as_json=json))
