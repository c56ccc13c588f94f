"""Is the server fit for what gridsync promises on it?  `Grid.health` asks, and this says what the answers mean.

Each item is ``ok``, ``degraded`` (it works, and a promise or a reserve is missing), ``down`` (it does not work) or
``unknown`` (it was not looked at, because the server's ACL forbids it).  The report is as bad as its worst item; what
is unknown makes it no worse.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from gridsync._io.keys import health as health_keys
from gridsync._io.keys import wake_prefix
from gridsync._io.wire.faults import ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gridsync._io.probe import Facts, Usage

__all__ = ["Health", "Item", "Status"]

Status = Literal["ok", "degraded", "down", "unknown"]

PING_SLOW = 0.1
"""The part of the command timeout that one round trip may take."""
MEMORY_HIGH = 0.9
"""The part of ``maxmemory`` that may be used."""
USAGE_HIGH = 0.9
"""The part of the connections, or of the requests under way on one, that may be in use."""
LAG_MAX_S = 10
"""How long a replica may be silent."""
SKEW_MAX_S = 1.0
"""How far this machine's clock may be from the server's."""
CERTIFICATE_DAYS = 14
"""How long the server's certificate must still be valid."""
VERSION_MIN = (7, 0)
PROBE_TTL_MS = 10_000

_SCRIPT = "#!lua\nreturn 1"
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_RANK = {"unknown": 0, "ok": 0, "degraded": 1, "down": 2}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was looked at."""

    name: str
    """What, such as ``memory``."""
    status: Status
    """``ok``, ``degraded``, ``down``, or ``unknown`` if the server's ACL forbids to look."""
    value: str | float | None
    """What was found."""
    unit: str = ""
    """The unit of a number, in UCUM: ``ms``, ``s``, ``d`` or ``%``."""
    advice: str = ""
    """Why it is not ok, and what to do."""

    def __str__(self) -> str:
        """One line."""
        value = f"{self.value:g}" if isinstance(self.value, float) else str(self.value)
        return f"{self.status:<8}  {self.name:<12} {value} {self.unit}".rstrip() + (
            f"\n          → {self.advice}" if self.advice else ""
        )


@dataclass(frozen=True, slots=True)
class Health:
    """What a look at the server found; ``str()`` is for people, `to_json` for programs."""

    status: Literal["ok", "degraded", "down"]
    """That of the worst item."""
    server: str
    """Host and port, or the socket's path."""
    spent_s: float
    """How long the report took, in seconds."""
    items: tuple[Item, ...]
    """Everything that was looked at."""

    def item(self, name: str) -> Item:
        """Return the item *name*.

        Raises:
            KeyError: It was not looked at.
        """
        for item in self.items:
            if item.name == name:
                return item
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the same as one JSON object."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def __str__(self) -> str:
        """A headline, and a line for each item."""
        head = f"{self.server} is {self.status} ({self.spent_s * 1000:.0f} ms)"
        return "\n".join([head, *map(str, self.items)])


_Ask = dict[str, tuple[str | int, ...]]


def _permissions(namespace: str) -> _Ask:
    """Return something of every family of commands that changes nothing: the key is not there."""
    key = health_keys(namespace).absent
    return {
        "EVALSHA": ("EVALSHA", _SHA, 1, key),
        "GET": ("GET", key),
        "UNLINK": ("UNLINK", key),
        "PEXPIRE": ("PEXPIRE", key, 1),
        "HGET": ("HGET", key, "f"),
        "HDEL": ("HDEL", key, "f"),
        "ZRANGE": ("ZRANGE", key, 0, 0),
        "ZADD": ("ZADD", key, "XX", 0, "m"),
        "ZREM": ("ZREM", key, "m"),
        "XADD": ("XADD", key, "NOMKSTREAM", "*", "f", "v"),
        "XRANGE": ("XRANGE", key, "-", "+", "COUNT", 1),
        "XREADGROUP": ("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", key, ">"),
        "XAUTOCLAIM": ("XAUTOCLAIM", key, "g", "c", 60_000, "0-0", "COUNT", 1),
        "XACK": ("XACK", key, "g", "0-0"),
        "PUBLISH": ("PUBLISH", wake_prefix(namespace) + "health", ""),
        "CLIENT UNBLOCK": ("CLIENT", "UNBLOCK", 0),
    }


def _asked(namespace: str) -> _Ask:
    return {
        "TIME": ("TIME",),
        "ROLE": ("ROLE",),
        "INFO": ("INFO", "server", "memory", "persistence", "replication", "cluster"),
        "CLUSTER INFO": ("CLUSTER", "INFO"),
        "SET": ("SET", health_keys(namespace).probe, "1", "PX", PROBE_TTL_MS),
        "SCRIPT LOAD": ("SCRIPT", "LOAD", _SCRIPT),
        **_permissions(namespace),
    }


def questions(namespace: str) -> list[tuple[str | int, ...]]:
    """Return what to ask the server, in one batch."""
    return list(_asked(namespace).values())


def judge(facts: Facts, usage: Usage, *, namespace: str, slow_s: float) -> Health:
    """Say what *facts* mean; a round trip above *slow_s* seconds is slow."""
    if facts.failure is not None:
        return unreachable(facts.server, facts.failure, facts.spent_s)
    replies = dict(zip(_asked(namespace), facts.replies, strict=True))
    found = [
        Item("connection", "ok", _ms(facts.connect_s), "ms"),
        _ping(facts.ping_s, slow_s),
        *_from_info(replies["INFO"]),
        *_cluster(replies["INFO"], replies["CLUSTER INFO"]),
        _role(replies["ROLE"]),
        _write(replies["SET"]),
        _scripts(replies["SCRIPT LOAD"]),
        _permitted({name: replies[name] for name in _permissions(namespace)}),
        _clock(replies["TIME"], *facts.asked_at),
        _usage(usage),
    ]
    if facts.tls:
        found.append(_certificate(facts.certificate_ends, facts.asked_at[1]))
    return Health(_worst(found), facts.server, facts.spent_s, tuple(found))


def unreachable(server: str, error: Exception, spent_s: float = 0.0) -> Health:
    """Return the report on a *server* that gave no answers, and why."""
    item = Item("connection", "down", str(error), "", "no call succeeds until this does")
    return Health("down", server, spent_s, (item,))


def _worst(items: Iterable[Item]) -> Literal["ok", "degraded", "down"]:
    rank = max(_RANK[item.status] for item in items)
    return "down" if rank == _RANK["down"] else "degraded" if rank else "ok"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _refused(name: str, reply: ReplyError, command: str) -> Item:
    """Return what an error reply means for an item that needs it."""
    if reply.code == "NOPERM":
        return Item(name, "unknown", "not permitted", "", f"grant this user +{command} to have it looked at")
    if reply.code == "LOADING":
        return Item(name, "down", str(reply), "", "the server reads its data from disk; wait")
    return Item(name, "unknown", str(reply))


def _ping(seconds: float, slow_s: float) -> Item:
    if seconds <= slow_s:
        return Item("ping", "ok", _ms(seconds), "ms")
    advice = (
        f"a round trip takes more than {PING_SLOW:.0%} of REDIS_COMMAND_TIMEOUT; look for slow commands "
        f"(SLOWLOG GET), a busy machine or a long way"
    )
    return Item("ping", "degraded", _ms(seconds), "ms", advice)


def _info(reply: Any) -> dict[str, str]:  # noqa: ANN401 - bytes, or text from a verbatim string
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def _from_info(reply: Any) -> list[Item]:  # noqa: ANN401 - as above
    readers: dict[str, Callable[[Mapping[str, str]], Item]] = {
        "version": _version,
        "loading": _loading,
        "replication": _replication,
        "memory": _memory,
        "eviction": _eviction,
        "snapshot": _snapshot,
        "append log": _append_log,
    }
    if isinstance(reply, ReplyError):
        return [_refused(name, reply, "info") for name in readers]
    info = _info(reply)
    return [read(info) for read in readers.values()]


def _version(info: Mapping[str, str]) -> Item:
    product = info.get("server_name", "redis")
    text = info.get(f"{product}_version") or info.get("redis_version", "")
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if numbers >= VERSION_MIN:
        return Item("version", "ok", f"{product} {text}")
    return Item("version", "down", f"{product} {text}", "", "gridsync needs Redis or Valkey 7.0 or newer")


def _loading(info: Mapping[str, str]) -> Item:
    if info.get("loading", "0") == "0":
        return Item("loading", "ok", "no")
    rest = info.get("loading_eta_seconds", "?")
    return Item("loading", "down", "yes", "", f"the server reads its data from disk, for {rest} s more; wait")


def _replication(info: Mapping[str, str]) -> Item:
    if info.get("role") == "slave":
        silent = int(info.get("master_last_io_seconds_ago", -1))
        if info.get("master_link_status") != "up":
            return Item("replication", "degraded", "link down", "", "this replica does not hear its primary")
        status: Status = "ok" if silent <= LAG_MAX_S else "degraded"
        return Item(
            "replication", status, silent, "s", "" if status == "ok" else "the primary has been silent since then"
        )
    replicas = [
        dict(pair.split("=", 1) for pair in value.split(","))
        for name, value in info.items()
        if name.startswith("slave") and name[5:].isdigit()
    ]
    late = [one for one in replicas if one.get("state") != "online" or int(one.get("lag", 0)) > LAG_MAX_S]
    wanted = info.get("min_slaves_good_slaves")
    text = f"{len(replicas)} replicas, {len(late)} of them late" if replicas else "no replica"
    if late:
        addresses = ", ".join(f"{one.get('ip')}:{one.get('port')}" for one in late)
        return Item("replication", "degraded", text, "", f"look at {addresses}: a failover would lose what they lack")
    return Item("replication", "ok", text if wanted is None else f"{text}, {wanted} good")


def _memory(info: Mapping[str, str]) -> Item:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most:
        return Item("memory", "ok", f"{used / 1e6:.0f} MB, no limit")
    share = round(100 * used / most, 1)
    if used <= MEMORY_HIGH * most:
        return Item("memory", "ok", share, "%")
    advice = f"{used / 1e6:.0f} of {most / 1e6:.0f} MB are used; at 100 % writes are refused: raise maxmemory or delete"
    return Item("memory", "degraded", share, "%", advice)


def _eviction(info: Mapping[str, str]) -> Item:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return Item("eviction", "ok", policy)
    advice = (
        "a full server may drop a lock that is held, hits that count or events; CONFIG SET maxmemory-policy noeviction"
    )
    return Item("eviction", "degraded", policy, "", advice)


def _snapshot(info: Mapping[str, str]) -> Item:
    status = info.get("rdb_last_bgsave_status", "ok")
    if status == "ok":
        return Item("snapshot", "ok", status)
    return Item("snapshot", "degraded", status, "", "the last BGSAVE failed; the server's log and disk say why")


def _append_log(info: Mapping[str, str]) -> Item:
    if info.get("aof_enabled", "0") == "0":
        advice = "a restart forgets locks, hits and events since the last snapshot; CONFIG SET appendonly yes"
        return Item("append log", "degraded", "off", "", advice)
    failed = [name for name in ("aof_last_write_status", "aof_last_bgrewrite_status") if info.get(name, "ok") != "ok"]
    if failed:
        return Item("append log", "degraded", f"{failed[0]} is not ok", "", "the server's log and disk say why")
    return Item("append log", "ok", "on")


def _cluster(info: Any, reply: Any) -> list[Item]:  # noqa: ANN401 - replies
    if isinstance(info, ReplyError) or _info(info).get("cluster_enabled") != "1":
        return []
    if isinstance(reply, ReplyError):
        return [_refused("cluster", reply, "cluster|info")]
    found = _info(reply)
    state = found.get("cluster_state", "?")
    if state == "ok":
        return [
            Item("cluster", "ok", f"{found.get('cluster_known_nodes')} nodes, {found.get('cluster_size')} primaries")
        ]
    lost = 16_384 - int(found.get("cluster_slots_ok", 0))
    advice = f"{lost} of 16384 slots are served by nobody: start their nodes, or promote their replicas"
    return [Item("cluster", "down", state, "", advice)]


def _role(reply: Any) -> Item:  # noqa: ANN401 - a reply
    if isinstance(reply, ReplyError):
        return _refused("role", reply, "role")
    role = reply[0].decode()
    if role == "master":
        return Item("role", "ok", "primary")
    return Item(
        "role", "degraded", "replica" if role == "slave" else role, "", "gridsync writes: connect to the primary"
    )


def _write(reply: Any) -> Item:  # noqa: ANN401 - a reply
    if not isinstance(reply, ReplyError):
        return Item("write", "ok", "yes")
    advice = {
        "READONLY": "this is a replica: connect to the primary",
        "NOPERM": "grant this user the namespace's keys and +@write",
        "OOM": "the server is full: raise maxmemory or delete",
        "MISCONF": "the server cannot save to disk and so refuses writes; its log says why",
        "NOREPLICAS": "too few replicas are in step (min-replicas-to-write)",
        "LOADING": "the server reads its data from disk; wait",
    }
    return Item("write", "down", str(reply), "", advice.get(reply.code, "no call that writes succeeds"))


def _scripts(reply: Any) -> Item:  # noqa: ANN401 - a reply
    if not isinstance(reply, ReplyError):
        return Item("scripts", "ok", "can be loaded")
    advice = "every primitive is a script: grant this user +@scripting" if reply.code == "NOPERM" else ""
    return Item("scripts", "down", str(reply), "", advice)


def _permitted(replies: Mapping[str, Any]) -> Item:
    # Any other error, such as NOGROUP or NOSCRIPT, comes from a command that was permitted.
    refused = [name for name, reply in replies.items() if isinstance(reply, ReplyError) and reply.code == "NOPERM"]
    if not refused:
        return Item("permissions", "ok", f"{len(replies)} of {len(replies)} commands")
    advice = f"the server's ACL refuses {', '.join(refused)} on this namespace; what needs them fails"
    return Item("permissions", "degraded", f"{len(replies) - len(refused)} of {len(replies)} commands", "", advice)


def _clock(reply: Any, before: float, after: float) -> Item:  # noqa: ANN401 - a reply
    if isinstance(reply, ReplyError):
        return _refused("clock", reply, "time")
    server = int(reply[0]) + int(reply[1]) / 1_000_000
    # The server looked at its clock at some time between the two: only what lies outside is surely skew.
    skew = max(before - server, server - after, 0.0)
    if skew <= SKEW_MAX_S:
        return Item("clock", "ok", _ms(skew), "ms")
    advice = (
        "this machine and the server disagree about the time; gridsync decides by the server's clock and by intervals, "
        "but times in events and logs will look wrong: see to NTP on both"
    )
    return Item("clock", "degraded", _ms(skew), "ms", advice)


def _usage(usage: Usage) -> Item:
    text = f"{usage.in_flight} of {usage.capacity} in use" + (f", {usage.line} wait" if usage.line else "")
    if usage.line or usage.in_flight > USAGE_HIGH * usage.capacity:
        advice = "callers wait for each other: raise REDIS_POOL_SIZE (threads) or GRIDSYNC_INFLIGHT_MAX (asyncio)"
        return Item("usage", "degraded", text, "", advice)
    return Item("usage", "ok", text)


def _certificate(ends: float | None, now: float) -> Item:
    if ends is None:
        return Item("certificate", "degraded", "not verified", "", "remove ssl_cert_reqs=none from the URL")
    days = round((ends - now) / 86_400, 1)
    if days >= CERTIFICATE_DAYS:
        return Item("certificate", "ok", days, "d")
    return Item("certificate", "degraded", days, "d", "the server's certificate ends soon: renew it")
