"""`gridsync setup` and `gridsync rotate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gridsync.cli._commands import Json


class Server(StrEnum):
    """What the ACL files are for."""

    REDIS_7_0 = "redis-7.0"
    REDIS_8 = "redis-8"
    VALKEY_8 = "valkey-8"


Like = Annotated[str | None, typer.Option(help="Ask this running server instead which commands it knows.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The folder.")]


def setup(
    directory: Directory,
    *,
    server: Annotated[Server, typer.Option(help="Which server the users are for.")] = Server.REDIS_7_0,
    like: Like = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address of the server, once for each; clients get the first."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Where clients find it.")] = 6379,
    days: Annotated[int, typer.Option(min=1, max=36_500, help="How long the certificates are valid.")] = 825,
    maxmemory: Annotated[str, typer.Option(help="Memory for locks, limits and events, such as 512mb.")] = "1gb",
    cache_maxmemory: Annotated[str, typer.Option(help="Memory for the cache, which is a server of its own.")] = "2gb",
    namespace: Annotated[
        list[str] | None,
        typer.Option(help="Of a service that gets a user of its own, app-NAMESPACE; once for each."),
    ] = None,
    owner: Annotated[str | None, typer.Option(metavar="UID:GID", help="Whose the files shall be; for root.")] = None,
    json: Json = False,
) -> None:
    """Write passwords, users, certificates and configurations for a server, into a new folder.

    One user for each role, with what it needs; TLS with an authority of this folder's own; redis.conf, cache.conf,
    cluster.conf, sentinel.conf; and gridsync.env for clients.  Run again, it changes nothing.  It overwrites nothing.

    Exits with 0 if everything is there, written now or before, and with 2 if something else is, or a part of it.
    """
    from gridsync.cli.operation import set_up  # noqa: PLC0415 - loads redis and pydantic

    said = {"port": port, "days": days, "maxmemory": maxmemory, "cache_maxmemory": cache_maxmemory}
    said |= {"namespaces": tuple(dict.fromkeys(namespace or ()))}
    raise typer.Exit(set_up(directory, server.value, like, said, hosts=tuple(host or ()), owner=owner, as_json=json))


def rotate(
    directory: Directory,
    *,
    url: Annotated[
        list[str] | None, typer.Option(help="As an administrator; once for each server. Default is DIR's own server.")
    ] = None,
    role: Annotated[
        list[str] | None, typer.Option(help="Whose password, such as app, once for each; all by default.")
    ] = None,
    finish: Annotated[bool, typer.Option("--finish", help="Forget the old passwords, if nobody needs them.")] = False,
    cut: Annotated[
        bool, typer.Option("--cut", help="With --finish: end the connections that are from before.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="With --finish: whoever is still connected.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds for each answer of a server.")] = 5.0,
    json: Json = False,
) -> None:
    """Change passwords while everything runs: servers accept old and new until every client has moved.

    First without --finish: every server, replica, sentinel and node of a cluster accepts both, and DIR has the new
    ones.  Clients read them when they connect.  Then with --finish: the old ones are forgotten if no connection
    is from before, and else it says whose those are; --cut ends them, and gridsync's clients repeat their calls on new
    ones.  What was interrupted is run again.

    Exits with 0 if it is done, with 1 if connections from before keep the old passwords alive, and with 2 if a server
    cannot be reached or refuses.
    """
    from gridsync.cli.operation import rotate_passwords  # noqa: PLC0415 - loads redis and pydantic

    if (cut or force) and not finish:
        raise typer.BadParameter("--cut and --force are for --finish")
    if finish and role:
        raise typer.BadParameter("--finish ends what was begun, whatever the roles: leave out --role")
    raise typer.Exit(
        rotate_passwords(
            directory,
            tuple(url or ()),
            tuple(role or ()),
            finish=finish,
            cut=cut,
            force=force,
            timeout=timeout,
            as_json=json,
        )
    )
