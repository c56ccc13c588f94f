"""What each user may do at a real server: exactly what the table says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gridsync.ops.acl import named
from gridsync.ops.roles import DANGEROUS, ROLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ops.helpers import Configured

DOCS = Path(__file__).parents[2] / "docs" / "security.md"
ALWAYS = {"auth", "hello", "quit", "reset"}
"""What a server lets everybody do, whatever its ACL says: they open and end a session."""
ALLOWED = {
    "app": [
        ("SET", "key", "1"),
        ("GET", "key"),
        ("EVAL", "#!lua\nreturn redis.call('INCR', KEYS[1])", "1", "key"),
        ("XADD", "stream", "*", "field", "value"),
        ("XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", "stream", ">"),
        ("PUBLISH", "channel", "message"),
        ("PUBLISH", "_a_namespace:wake:123", "message"),
        ("SPUBLISH", "channel", "message"),
        ("SCRIPT", "LOAD", "#!lua\nreturn 1"),
        ("CLIENT", "UNBLOCK", "0"),
        ("WAIT", "0", "1"),
        ("INFO", "memory"),
        ("ROLE",),
        ("TIME",),
        ("SCAN", "0"),
        ("UNLINK", "key"),
    ],
    "health": [("PING",), ("INFO", "server"), ("ROLE",), ("LATENCY", "LATEST"), ("SLOWLOG", "LEN")],
    "exporter": [
        ("INFO", "all"),
        ("CONFIG", "GET", "maxmemory"),
        ("SLOWLOG", "GET", "1"),
        ("LATENCY", "HISTOGRAM"),
        ("CLIENT", "LIST"),
        ("SCAN", "0"),
        ("XINFO", "GROUPS", "stream"),
        ("MEMORY", "USAGE", "stream"),
        ("STRLEN", "key"),
    ],
    "backup": [("INFO", "persistence"), ("CONFIG", "GET", "dir"), ("LASTSAVE",), ("REPLCONF", "capa", "eof")],
    "replica": [("PING",), ("REPLCONF", "capa", "eof")],
    "sentinel": [("PING",), ("INFO", "replication"), ("ROLE",), ("PUBLISH", "__sentinel__:hello", "x")],
    "admin": [("ACL", "WHOAMI"), ("CONFIG", "GET", "maxmemory"), ("CLIENT", "LIST")],
}
REFUSED = {
    "app": [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("KEYS", "*"),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("SHUTDOWN", "NOSAVE"),
        ("REPLICAOF", "NO", "ONE"),
        ("ACL", "LIST"),
        ("MONITOR",),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("CLIENT", "LIST"),
        ("FUNCTION", "FLUSH"),
        ("SCRIPT", "FLUSH"),
        ("SWAPDB", "0", "1"),
        ("SORT", "key", "GET", "*"),
        ("EVAL", "#!lua\nreturn redis.call('FLUSHALL')", "0"),
        ("PUBLISH", "__sentinel__:hello", "x"),
        ("SPUBLISH", "__sentinel__:hello", "x"),
        ("EVAL", "#!lua\nreturn redis.call('PUBLISH', '__sentinel__:hello', 'x')", "0"),
        ("EVAL", "#!lua\nreturn redis.call('KEYS', '*')", "0"),
    ],
    "health": [("GET", "key"), ("SET", "key", "1"), ("CONFIG", "GET", "*"), ("SCAN", "0"), ("SUBSCRIBE", "channel")],
    "exporter": [("GET", "key"), ("XRANGE", "stream", "-", "+"), ("SET", "key", "1"), ("CONFIG", "SET", "save", "")],
    "backup": [("GET", "key"), ("SAVE",), ("SHUTDOWN",), ("SCAN", "0"), ("FLUSHALL",), ("DUMP", "key")],
    "replica": [("GET", "key"), ("INFO",), ("CONFIG", "GET", "masterauth"), ("PUBLISH", "channel", "x")],
    "sentinel": [("GET", "key"), ("CONFIG", "GET", "*"), ("PUBLISH", "channel", "x"), ("FLUSHALL",)],
    "admin": [],
}


@pytest.fixture(scope="module")
def users(configured: Configured) -> Iterator[dict[str, redis.Redis]]:
    """A connection of each role."""
    clients = {
        role: redis.Redis.from_url(configured.url_of(role), socket_timeout=20, retry=Retry(NoBackoff(), 0), protocol=3)
        for role in ROLES
    }
    admin = clients["admin"]
    admin.set("key", "1")
    admin.xgroup_create("stream", "g", mkstream=True)
    yield clients
    for client in clients.values():
        client.close()


def raw(client: redis.Redis, words: tuple[str, ...]) -> Any:  # noqa: ANN401 - a reply
    """Send *words*, on a connection of their own, and return the reply as it is."""
    with client.client() as one:
        return one.execute_command(*words)


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_is_for_it_may_do(role: str, users: dict[str, redis.Redis]):
    for words in ALLOWED[role]:
        raw(users[role], words)


@pytest.mark.parametrize("role", ROLES)
def test_what_is_not_its_business_it_may_not_do(role: str, users: dict[str, redis.Redis]):
    for words in REFUSED[role]:
        with pytest.raises(redis.ResponseError, match=r"permission|can't (run this command|publish)"):
            raw(users[role], words)


def test_a_service_may_hear_what_servers_tell_but_not_speak_as_one(users: dict[str, redis.Redis]):
    """Sentinels believe whoever says where the primary is: every client and every replica would follow."""
    for words in (("SUBSCRIBE", "__redis__:invalidate"), ("PSUBSCRIBE", "__keyspace@0__:*", "any*")):
        assert raw(users["admin"], ("ACL DRYRUN", "app", *words)) == b"OK"
    for command in ("PUBLISH", "SPUBLISH"):
        said = raw(users["admin"], ("ACL DRYRUN", "app", command, "__sentinel__:hello", "x"))
        assert b"channel" in said


def permitted(admin: redis.Redis, role: str, commands: set[str]) -> set[str]:
    """Return those of all *commands* that the server would run for *role*."""
    asked = sorted(commands)
    batch = admin.pipeline(transaction=False)
    # The server looks at the number of words first.
    for command, about in zip(asked, raw(admin, ("COMMAND INFO", *asked)), strict=True):
        words = command.split("|")
        batch.execute_command("ACL DRYRUN", role, *words, *["1"] * (abs(about[1]) - len(words)))
    replies = dict(zip(asked, batch.execute(raise_on_error=False), strict=True))
    assert not [command for command, reply in replies.items() if isinstance(reply, redis.ResponseError)], replies
    return {command for command, reply in replies.items() if b"permissions to run" not in reply}


def known(admin: redis.Redis) -> set[str]:
    """Return every command of the server; of one with subcommands, these."""
    batch = admin.pipeline(transaction=False)
    for category in admin.acl_cat():
        batch.execute_command("ACL CAT", category)
    commands = {command.decode() for found in batch.execute() for command in found}
    return commands - {command.partition("|")[0] for command in commands if "|" in command}


def test_nothing_outside_of_the_table_is_permitted(users: dict[str, redis.Redis]):
    """The server is asked about each of its commands; what a new version adds to a category shows here."""
    admin = users["admin"]
    commands = known(admin)
    assert {"get", "config|get"} <= commands
    for name, role in ROLES.items():
        allowed = permitted(admin, name, commands) - ALWAYS
        if name == "admin":
            assert allowed == commands - ALWAYS
        elif name == "app":
            data = {c.decode() for c in admin.acl_cat("read")} | {c.decode() for c in admin.acl_cat("write")}
            parents = {word for word in named(role.server) if any(c.startswith(f"{word}|") for c in commands)}
            below = {c for c in commands if c.partition("|")[0] in parents}
            assert allowed <= data | named(role.server) | below
        else:
            assert allowed <= named(role.server)
        if name in {"app", "health", "exporter"}:
            shown = {"exporter": {"config|get", "client|list", "slowlog|get"}}.get(name, set())
            assert allowed.isdisjoint(set(DANGEROUS) - shown)


def test_the_docs_list_every_role_as_the_table_has_it():
    text = DOCS.read_text(encoding="utf-8")
    assert [f"| `{role.name}` | {role.why} |" in text for role in ROLES.values()] == [True] * len(ROLES)
