"""The commands and their options; what they do is imported when they run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import gridsync

app = typer.Typer(
    name="gridsync",
    help="Locks, limits and event streams through Redis or Valkey.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if wanted:
        print(f"gridsync {gridsync.__version__}")
        raise typer.Exit


@app.callback()
def gridsync_command(
    *,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Locks, limits and event streams through Redis or Valkey."""


@app.command()
def health(
    *,
    url: Annotated[
        str | None, typer.Option(help="Which server: redis://…, rediss://…, unix://…; default is REDIS_URL.")
    ] = None,
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


locks_app = typer.Typer(
    name="locks",
    help="See who holds which lock, of any kind, and take one away.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(locks_app)

Url = Annotated[str | None, typer.Option(help="Which server: redis://…, rediss://…, unix://…; default is REDIS_URL.")]
Namespace = Annotated[str | None, typer.Option(help="First part of every key; default is GRIDSYNC_NAMESPACE.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


class Start(StrEnum):
    """Where a new consumer group begins."""

    FIRST = "first"
    NOW = "now"


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


limits_app = typer.Typer(
    name="limits",
    help="See what keys have used of their limits, and let one start anew.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(limits_app)

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


streams_app = typer.Typer(
    name="streams",
    help="See what event stores hold and how far their groups have got; give back what was given up.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(streams_app)

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
    """Tell what an event store holds, and how far its groups have got.

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


@streams_app.command("floor")
def streams_floor(store: StoreName, *, url: Url = None, namespace: Namespace = None, json: Json = False) -> None:
    """Say who keeps events in the log of a store: where they are, how much they hold back, and since when.

    Exits with 0, with 1 if everybody has had everything, and with 2 if the server cannot be asked.
    """
    from gridsync.cli.keeping import floor  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(floor(store, url=url, namespace=namespace, as_json=json))


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


Partition = Annotated[int | None, typer.Option(min=0, help="Which one, of a store in several partitions.")]
EventFile = Annotated[Path, typer.Argument(help="JSON Lines; compressed if its name ends in .zst or .gz.")]


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


redlock_app = typer.Typer(
    name="redlock",
    help="See what several independent masters know of a lock, and which of them vote.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(redlock_app)

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
    under a fenced lock; one of them is killed, another frozen.  Exits with 1 if one event, watt-hour or cent was lost.
    """
    from gridsync.cli.demo import command  # noqa: PLC0415 - loads redis and pydantic

    raise typer.Exit(command(url=url, seconds=seconds, seed=seed, kill=kill, as_json=json))
