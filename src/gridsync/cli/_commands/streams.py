"""`gridsync streams`: looking into stores and groups, and giving back what groups gave up."""

from __future__ import annotations

from typing import Annotated

import typer

from gridsync.cli._commands import Json, Namespace, Url

streams_app = typer.Typer(
    name="streams",
    help="See what event stores hold and how far their groups have got; give back what was given up.",
    no_args_is_help=True,
    add_completion=False,
)

StoreName = Annotated[str, typer.Argument(help="The event store's name.")]
GroupName = Annotated[str, typer.Argument(help="The consumer group's name.")]
OfError = Annotated[str | None, typer.Option("--error", help="Only with this class of error, as `dlq` names it.")]
OfStream = Annotated[str | None, typer.Option("--stream", help="Only events of this stream.")]
OfType = Annotated[str | None, typer.Option("--type", help="Only events of this type.")]


@streams_app.command("ls")
def streams_ls(
    *,
    url: Url = None,
    namespace: Namespace = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many stores to list at most.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long to look for them at most.")] = 5.0,
    json: Json = False,
) -> None:
    """List the event stores.

    Goes over all keys of the server, or of all primaries of a cluster, step by step (SCAN); stops at --limit stores or
    after --seconds, and says so.  Exits with 0, or with 2 if the server cannot be asked.
    """
    from gridsync.cli.stores import ls  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(ls(url=url, namespace=namespace, most=limit, seconds=seconds, as_json=json))


@streams_app.command("info")
def streams_info(store: StoreName, *, url: Url = None, namespace: Namespace = None, json: Json = False) -> None:
    """Tell what an event store holds, how far its groups have got, and what is on its way to other stores.

    Exits with 0, with 1 if it has no events, and with 2 if the server cannot be asked.
    """
    from gridsync.cli.stores import info  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(info(store, url=url, namespace=namespace, as_json=json))


@streams_app.command("groups")
def streams_groups(
    store: StoreName,
    group: Annotated[str | None, typer.Argument(help="Only this consumer group.")] = None,
    *,
    parked: Annotated[int, typer.Option(min=0, max=1000, help="How many parked events to tell of each at most.")] = 10,
    consumers: Annotated[int, typer.Option(min=1, max=1000, help="How many consumers to tell of each at most.")] = 20,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Tell how far consumer groups have got, who is in them, and what they try again later.

    Exits with 0, with 1 if there is no such group, and with 2 if the server cannot be asked.
    """
    from gridsync.cli.stores import groups  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(
        groups(store, group, parked=parked, consumers=consumers, url=url, namespace=namespace, as_json=json)
    )


@streams_app.command("tail")
def streams_tail(
    store: StoreName,
    *,
    last: Annotated[int, typer.Option(min=0, max=100_000, help="How many of the newest events to begin with.")] = 10,
    after: Annotated[str | None, typer.Option(help="Begin behind this position or checkpoint instead.")] = None,
    event_type: Annotated[
        list[str] | None, typer.Option("--type", help="Only events of this type; or of any of these.")
    ] = None,
    stream: OfStream = None,
    category: Annotated[str | None, typer.Option(help="Only streams whose name before the first - is this.")] = None,
    follow: Annotated[bool, typer.Option(help="Wait for what is appended next, until Ctrl-C.")] = True,
    url: Url = None,
    namespace: Namespace = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line and nothing else.")] = False,
) -> None:
    """Print events, and go on with what is appended next.

    It does not poll: at the end of the log it blocks at the server.  It is no consumer: no group notices it.

    Exits with 0 at the end or after Ctrl-C, and with 2 if the server cannot be asked, or what comes next was removed.
    """
    from gridsync.cli.tail import Filter, tail  # noqa: PLC0415 - loads redis and pydantic

    wanted = Filter(event_type or None, stream, category)
    raise typer.Exit(
        tail(store, wanted, last=last, after=after, follow=follow, url=url, namespace=namespace, as_json=json)
    )


@streams_app.command("dlq")
def streams_dlq(
    store: StoreName,
    group: GroupName,
    *,
    error: OfError = None,
    stream: OfStream = None,
    event_type: OfType = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to list at most, oldest first.")] = 100,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """List the dead letters of a group: events that it has given up, and why.

    Exits with 0, with 1 if there are none, and with 2 if the server cannot be asked.
    """
    from gridsync.cli.streams import Choice, dlq  # noqa: PLC0415 - loads redis and pydantic

    choice = Choice(error, stream, event_type, None)
    raise typer.Exit(dlq(store, group, choice, most=limit, url=url, namespace=namespace, as_json=json))


@streams_app.command("replay")
def streams_replay(
    store: StoreName,
    group: GroupName,
    *,
    error: OfError = None,
    stream: OfStream = None,
    event_type: OfType = None,
    letter: Annotated[str | None, typer.Option("--id", help="Only the dead letter with this id.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count those that would be.")] = False,
    rate: Annotated[float | None, typer.Option(min=0.001, help="The most events per second.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most letters to replay, oldest first.")] = None,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Give dead letters back to their group, and to no other, as if they had never been tried.

    Each is moved by itself, whole or not at all; the command may be stopped and run again.  Exits with 0, with 1 if no
    letter was chosen, and with 2 if the server cannot be asked.
    """
    from gridsync.cli.streams import Choice, replay  # noqa: PLC0415 - loads redis and pydantic

    choice = Choice(error, stream, event_type, letter)
    raise typer.Exit(
        replay(store, group, choice, dry_run=dry_run, rate=rate, most=limit, url=url, namespace=namespace, as_json=json)
    )


@streams_app.command("discard")
def streams_discard(
    store: StoreName,
    group: GroupName,
    letter: Annotated[str, typer.Argument(help="The dead letter's id, as `dlq` names it.")],
    *,
    url: Url = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Delete one dead letter for good; its event stays in the log.

    Exits with 0, with 1 if it was not there, and with 2 if the server cannot be asked.
    """
    from gridsync.cli.streams import discard  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(discard(store, group, letter, url=url, namespace=namespace, as_json=json))
