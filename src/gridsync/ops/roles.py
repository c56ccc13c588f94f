"""Who may do what at a server: one table, from which the ACL files are written, the tests ask and the docs are checked.

Each role begins with nothing (``-@all``) and names what it gets.  A rule for a command that an old server does not know
stays in the table: `gridsync.ops.acl` leaves it out of that server's file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DANGEROUS", "ROLES", "Role", "narrowed", "roles"]

_SESSION: Final = ("+ping", "+hello", "+auth", "+client|setname", "+client|setinfo")
"""What opens and keeps a connection."""


@dataclass(frozen=True, slots=True)
class Role:
    """A user of the servers, and perhaps of the sentinels."""

    name: str
    why: str
    """Who it is for, and what it can do: a line of the docs."""
    server: tuple[str, ...]
    """Its rules at a server; none if it is no user there."""
    sentinel: tuple[str, ...] = ()
    """Its rules at a sentinel; none if it is no user there."""


_APP: Final = Role(
    "app",
    "your services: every command on data, scripts, transactions, pub/sub and what a client asks about its server",
    (
        # Who publishes as a sentinel tells the others where the primary is, and they believe it: then every client goes
        # there, and every replica copies it.  What begins with two underscores is the servers' own; it may be heard.
        *("~*", "&[^_]*", "&_[^_]*", "(&* +subscribe +psubscribe +ssubscribe)", "-@all", "+@read", "+@write"),
        # Commands on data that wipe, list or move everything; SORT reads keys that its key patterns do not name.
        *("-@dangerous", "-@admin"),
        # FUNCTION LOAD counts as a write, and a function stays at the server for everybody.
        "-function",
        *("+multi", "+exec", "+discard", "+watch", "+unwatch"),
        *("+eval", "+eval_ro", "+evalsha", "+evalsha_ro", "+script|load", "+script|exists"),
        *("+publish", "+subscribe", "+unsubscribe", "+psubscribe", "+punsubscribe"),
        *("+spublish", "+ssubscribe", "+sunsubscribe", "+pubsub|numsub", "+pubsub|shardnumsub"),
        *(*_SESSION, "+client|id", "+client|info", "+client|getname", "+select", "+echo", "+quit", "+reset"),
        *("+client|tracking", "+client|trackinginfo", "+client|caching", "+client|getredir", "+client|unblock"),
        *("+time", "+wait", "+waitaof", "+info", "+role", "+command"),
        *("+asking", "+readonly", "+readwrite", "+cluster|slots", "+cluster|shards", "+cluster|nodes"),
        *("+cluster|info", "+cluster|myid", "+cluster|keyslot"),
    ),
    (
        *("&*", "-@all", *_SESSION, "+info", "+role", "+command", "+subscribe", "+unsubscribe", "+client|id"),
        *("+sentinel|get-master-addr-by-name", "+sentinel|replicas", "+sentinel|slaves", "+sentinel|sentinels"),
        *("+sentinel|master", "+sentinel|masters", "+sentinel|myid", "+sentinel|ckquorum"),
    ),
)

_HEALTH: Final = Role(
    "health",
    "the container's health check: whether the server answers, in which role, and how it is",
    ("-@all", *_SESSION, "+info", "+role", "+lastsave", "+latency|latest", "+slowlog|len", "+cluster|info"),
    ("-@all", *_SESSION, "+info", "+role", "+sentinel|ckquorum", "+sentinel|master", "+sentinel|masters"),
)

_EXPORTER: Final = Role(
    "exporter",
    "redis_exporter: figures about the server and the sizes of keys; guard its password as that of `backup`, see below",
    (
        *("%R~*", "-@all", *_SESSION, "+select", "+info", "+role", "+config|get", "+scan", "+dbsize", "+type"),
        *("+memory|usage", "+strlen", "+llen", "+scard", "+zcard", "+hlen", "+xlen", "+pfcount"),
        *("+xinfo|stream", "+xinfo|groups", "+xinfo|consumers", "+client|list", "+cluster|info", "+cluster|nodes"),
        *("+slowlog|get", "+slowlog|len", "+latency|latest", "+latency|histogram", "+latency|history"),
    ),
    ("-@all", *_SESSION, "+info", "+role", "+sentinel|masters", "+sentinel|sentinels", "+sentinel|slaves"),
)

_BACKUP: Final = Role(
    "backup",
    "`gridsync backup`: copies the data as a replica does, and asks about the server; reads no key by its name",
    (
        *("-@all", *_SESSION, "+info", "+role", "+time", "+config|get", "+cluster|info", "+cluster|nodes"),
        *("+psync", "+replconf", "+bgsave", "+bgrewriteaof", "+lastsave"),
    ),
)

_REPLICA: Final = Role(
    "replica",
    "a replica at its primary (`masteruser`, `masterauth`): the copy of the data, and nothing besides",
    ("-@all", "+psync", "+replconf", "+ping", "+auth"),
)

_SENTINEL: Final = Role(
    "sentinel",
    "a sentinel at the servers that it watches, and at the other sentinels",
    (
        *("&__sentinel__:hello", "-@all", "+auth", "+ping", "+info", "+role", "+publish", "+subscribe"),
        *("+multi", "+exec", "+slaveof", "+replicaof", "+config|rewrite", "+client|setname", "+client|kill"),
        "+script|kill",
    ),
    (
        *("&__sentinel__:hello", "-@all", "+auth", "+ping", "+info", "+role", "+publish", "+subscribe"),
        *("+client|setname", "+sentinel|is-master-down-by-addr"),
    ),
)

_ADMIN: Final = Role(
    "admin",
    "a person, `gridsync rotate` and `gridsync doctor`: everything",
    ("~*", "&*", "+@all"),
    ("~*", "&*", "+@all"),
)

ROLES: Final = {role.name: role for role in (_APP, _HEALTH, _EXPORTER, _BACKUP, _REPLICA, _SENTINEL, _ADMIN)}
"""Every role, by its name."""


def narrowed(namespace: str) -> Role:
    """Return the role of one service: `app`, but with the keys and channels of *namespace* alone.

    Those are what gridsync makes, ``{namespace:…``, ``namespace:wake:…`` and, on a cluster, ``{namespace:…:wake:…``;
    and what the service makes itself, if it begins with ``namespace:``.

    Args:
        namespace: Letters, digits, dots, hyphens and underscores; so nothing in it means something to the server.
    """
    patterns = [f"{sign}{start}{namespace}:*" for sign in "~&" for start in ("{", "")]
    rules = [rule for rule in _APP.server if rule[0] not in "~&("]
    why = f"the service of the namespace {namespace}: as `app`, with its keys and channels alone"
    return replace(_APP, name=f"app-{namespace}", why=why, server=(*patterns, *rules))


def roles(namespaces: Iterable[str] = ()) -> dict[str, Role]:
    """Return `ROLES` and the role of the service of each namespace, by their names."""
    return ROLES | {role.name: role for role in map(narrowed, namespaces)}


DANGEROUS: Final = (
    *(
        "flushall",
        "flushdb",
        "keys",
        "swapdb",
        "migrate",
        "restore",
        "sort",
        "sort_ro",
        "debug",
        "shutdown",
        "failover",
    ),
    *("replicaof", "slaveof", "psync", "sync", "monitor", "save", "bgsave", "bgrewriteaof", "acl|setuser", "acl|list"),
    *("config|get", "config|set", "config|rewrite", "module|load", "function|load", "function|flush", "script|flush"),
    *("script|kill", "client|kill", "client|list", "client|pause", "cluster|reset", "cluster|failover", "slowlog|get"),
)
"""What no service may ever do; commands that stop, empty, copy or reconfigure a server, or look into other clients."""
