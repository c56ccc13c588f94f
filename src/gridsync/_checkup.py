"""What a health report asks a server, and what the answers mean; `health.py` has the report itself."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from gridsync._io.keys import health as health_keys
from gridsync._io.keys import shard_wake_prefix, wake_prefix
from gridsync._io.scripts import loaded
from gridsync._io.wire.faults import FULL, ReplyError
from gridsync.health import LOCKS, Health, Item, Status, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gridsync._io.probe import Facts, Usage

PING_SLOW = 0.1
"""The part of the command timeout that one round trip may take."""
MEMORY_HIGH = 0.9
"""The part of ``maxmemory`` that may be used."""
CLIENTS_HIGH = 0.9
"""The part of ``maxclients`` that may be connected."""
USAGE_HIGH = 0.9
"""The part of the connections, or of the requests under way on one, that may be in use."""
LAG_MAX_S = 10
"""How long a replica may be silent."""
SKEW_MAX_S = 1.0
"""How far this machine's clock may be from the server's."""
CERTIFICATE_DAYS = 14
"""How long the server's certificate must still be valid."""
VERSION_MIN = (7, 0)
SLOTS = 16_384

_SCRIPT = "#!lua\nreturn 1"
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

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
        "XREVRANGE": ("XREVRANGE", key, "+", "-", "COUNT", 1),
        "XREAD": ("XREAD", "COUNT", 1, "STREAMS", key, 0),
        "XREADGROUP": ("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", key, ">"),
        "XCLAIM": ("XCLAIM", key, "g", "c", 60_000, "0-0"),
        "XACK": ("XACK", key, "g", "0-0"),
        "PUBLISH": ("PUBLISH", wake_prefix(health_keys(namespace).probe) + "health", ""),
        "SPUBLISH": ("SPUBLISH", shard_wake_prefix(health_keys(namespace).probe) + "health", ""),
        "CLIENT UNBLOCK": ("CLIENT", "UNBLOCK", 0),
    }


def _asked(namespace: str) -> _Ask:
    return {
        "TIME": ("TIME",),
        "ROLE": ("ROLE",),
        "INFO": ("INFO", "server", "clients", "memory", "persistence", "stats", "replication", "cluster"),
        "CONFIG GET": ("CONFIG", "GET", "appendfsync"),
        "CLUSTER INFO": ("CLUSTER", "INFO"),
        "SCRIPT LOAD": ("SCRIPT", "LOAD", _SCRIPT),
        "SCRIPT EXISTS": ("SCRIPT", "EXISTS", _SHA, *(script.sha for script in loaded())),
        **_permissions(namespace),
    }


def questions(namespace: str) -> list[tuple[str | int, ...]]:
    """Return what to ask the server, in one batch."""
    return list(_asked(namespace).values())


def judge(facts: Facts, usage: Usage, *, namespace: str, slow_s: float) -> Health:
    """Say what *facts* mean; a round trip above *slow_s* seconds is slow."""
    if facts.failure is not None:
        away = Item("connection", "down", str(facts.failure), "", "no call succeeds until this does")
        found = [away, *_sentinels(facts.sentinels), _breakers(usage.breakers)]
        return Health(worst(found), facts.server, facts.spent_s, tuple(found))
    replies = dict(zip(_asked(namespace), facts.replies, strict=True))
    found = [
        Item("connection", "ok", ms(facts.connect_s), "ms"),
        _ping(facts.ping_s, slow_s),
        *from_info(replies["INFO"]),
        *fsync(replies["INFO"], replies["CONFIG GET"]),
        *_cluster(replies["INFO"], replies["CLUSTER INFO"]),
        *_sentinels(facts.sentinels),
        _role(replies["ROLE"]),
        _write(replies["ZADD"]),
        _scripts(replies["SCRIPT LOAD"], replies["SCRIPT EXISTS"]),
        _permitted({name: replies[name] for name in _permissions(namespace) if name != _unused(replies["INFO"])}),
        clock(replies["TIME"], *facts.asked_at),
        _usage(usage),
        _breakers(usage.breakers),
    ]
    if facts.tls:
        found.append(certificate(facts.certificate_ends, facts.asked_at[1]))
    return Health(worst(found), facts.server, facts.spent_s, tuple(found))


def audit(info: object) -> list[Item]:
    """Return what of a reply to INFO decides whether a lock that was granted stays granted, and is not ok."""
    return [item for item in from_info(info) if item.name in LOCKS and item.status in {"degraded", "down"}]


def ms(seconds: float) -> float:
    """Return milliseconds, as a report tells them."""
    return round(seconds * 1000, 3)


def refused(name: str, reply: ReplyError, command: str) -> Item:
    """Return what an error reply means for an item that needs it."""
    if reply.code == "NOPERM":
        return Item(name, "unknown", "not permitted", "", f"grant this user +{command} to have it looked at")
    if reply.code == "LOADING":
        return Item(name, "down", str(reply), "", "the server reads its data from disk; wait")
    return Item(name, "unknown", str(reply))


def _ping(seconds: float, slow_s: float) -> Item:
    if seconds <= slow_s:
        return Item("ping", "ok", ms(seconds), "ms")
    advice = (
        f"a round trip takes more than {PING_SLOW:.0%} of REDIS_COMMAND_TIMEOUT; look for slow commands "
        f"(SLOWLOG GET), a busy machine or a long way"
    )
    return Item("ping", "degraded", ms(seconds), "ms", advice)


def read_info(reply: Any) -> dict[str, str]:  # noqa: ANN401 - bytes, or text from a verbatim string
    """Return the fields of a reply to INFO, or to CLUSTER INFO."""
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def replicas_of(info: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what INFO tells of each replica.  Its ``ip`` is whatever the replica has called itself."""
    return [
        dict(pair.split("=", 1) for pair in value.split(",") if "=" in pair)
        for name, value in info.items()
        if name.startswith("slave") and name[5:].isdigit()
    ]


def from_info(reply: Any) -> list[Item]:  # noqa: ANN401 - as above
    """Return what a reply to INFO tells of one server, whatever its role."""
    readers: dict[str, Callable[[Mapping[str, str]], Item]] = {
        "version": _version,
        "loading": _loading,
        "replication": _replication,
        "min replicas": _min_replicas,
        "clients": _clients,
        "memory": _memory,
        "eviction": _eviction,
        "snapshot": _snapshot,
        "append log": _append_log,
    }
    if isinstance(reply, ReplyError):
        return [refused(name, reply, "info") for name in readers]
    info = read_info(reply)
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
    replicas = replicas_of(info)
    late = [one for one in replicas if one.get("state") != "online" or int(one.get("lag", 0)) > LAG_MAX_S]
    text = f"{len(replicas)} replicas, {len(late)} of them late" if replicas else "no replica"
    if late:
        addresses = ", ".join(f"{one.get('ip')}:{one.get('port')}" for one in late)
        return Item("replication", "degraded", text, "", f"look at {addresses}: a failover would lose what they lack")
    return Item("replication", "ok", text)


def _min_replicas(info: Mapping[str, str]) -> Item:
    # The server shows how many replicas are good only while min-replicas-to-write is set.
    good = info.get("min_slaves_good_slaves")
    if good is not None:
        return Item("min replicas", "ok", f"set, {good} good")  # too few of them is what `_write` meets
    if info.get("role") == "slave" or not int(info.get("connected_slaves", 0)):
        return Item("min replicas", "ok", "no replica")
    advice = (
        "a primary that is cut off goes on granting what a failover will not know of; "
        "CONFIG SET min-replicas-to-write 1 bounds that by min-replicas-max-lag (10 s)"
    )
    return Item("min replicas", "degraded", "not set", "", advice)


def _clients(info: Mapping[str, str]) -> Item:
    now, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    if now <= CLIENTS_HIGH * most or not most:
        return Item("clients", "ok", f"{now} of {most}" if most else str(now))
    advice = "the server will soon refuse connections: look for programs that leave some open, or raise maxclients"
    return Item("clients", "degraded", f"{now} of {most}", "", advice)


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
    policy, evicted = info.get("maxmemory_policy", "noeviction"), int(info.get("evicted_keys", 0))
    if policy == "noeviction":
        return Item("eviction", "ok", policy)
    advice = (
        "a full server may drop a lock that is held, hits that count or events; CONFIG SET maxmemory-policy noeviction"
    )
    return Item("eviction", "degraded", f"{policy}, {evicted} keys dropped so far", "", advice)


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


def fsync(info: Any, reply: Any) -> list[Item]:  # noqa: ANN401 - replies
    """Return how often a server that has an append log writes it to disk."""
    if isinstance(info, ReplyError) or read_info(info).get("aof_enabled", "0") == "0":
        return []
    if isinstance(reply, ReplyError):
        return [refused("fsync", reply, "config|get")]
    policy = reply[b"appendfsync"].decode()
    if policy != "no":
        return [Item("fsync", "ok", policy)]
    advice = "a machine that crashes forgets half a minute or more of what it granted; CONFIG SET appendfsync everysec"
    return [Item("fsync", "degraded", policy, "", advice)]


def _sentinels(answers: Sequence[tuple[str, object]]) -> list[Item]:
    if not answers:
        return []
    # A sentinel that may not be asked about the quorum has answered all the same.
    missing = [name for name, answer in answers if isinstance(answer, Exception) and not isinstance(answer, ReplyError)]
    text = f"{len(answers) - len(missing)} of {len(answers)} answer"
    lost = [f"{name}: {answer}" for name, answer in answers if getattr(answer, "code", "") == "NOQUORUM"]
    if lost:
        return [Item("sentinels", "degraded", text, "", f"no failover can happen now: {lost[0]}")]
    if missing:
        advice = f"start {', '.join(missing)}: each one that is missing makes a failover less likely"
        return [Item("sentinels", "degraded", text, "", advice)]
    if any(isinstance(answer, ReplyError) for _, answer in answers):
        advice = "grant the sentinels' user +sentinel|ckquorum to have the quorum looked at"
        return [Item("sentinels", "unknown", f"{text}, not permitted", "", advice)]
    return [Item("sentinels", "ok", f"{text}, quorum reached")]


def _cluster(info: Any, reply: Any) -> list[Item]:  # noqa: ANN401 - replies
    if isinstance(info, ReplyError) or read_info(info).get("cluster_enabled") != "1":
        return []
    if isinstance(reply, ReplyError):
        return [refused("cluster", reply, "cluster|info")]
    found = read_info(reply)
    state = found.get("cluster_state", "?")
    served = int(found.get("cluster_slots_ok", 0))
    if state != "ok":
        advice = f"{SLOTS - served} of {SLOTS} slots are served by nobody: start their nodes, or promote their replicas"
        return [Item("cluster", "down", state, "", advice)]
    text = f"{found.get('cluster_known_nodes')} nodes, {found.get('cluster_size')} primaries"
    if served < SLOTS:
        advice = f"{SLOTS - served} of {SLOTS} slots have no healthy owner; see CLUSTER NODES"
        return [Item("cluster", "degraded", text, "", advice)]
    return [Item("cluster", "ok", text)]


def _role(reply: Any) -> Item:  # noqa: ANN401 - a reply
    if isinstance(reply, ReplyError):
        return refused("role", reply, "role")
    role = reply[0].decode()
    if role == "master":
        return Item("role", "ok", "primary")
    return Item(
        "role", "degraded", "replica" if role == "slave" else role, "", "gridsync writes: connect to the primary"
    )


def _write(reply: Any) -> Item:  # noqa: ANN401 - a reply
    # It would write if there were such a key: the server looks whether it may, whether there is memory, and so on.
    if not isinstance(reply, ReplyError):
        return Item("write", "ok", "yes")
    advice = {
        "READONLY": "this is a replica: connect to the primary",
        "NOPERM": "grant this user the namespace's keys and +@write",
        "OOM": FULL,
        "MISCONF": "the server cannot save to disk and so refuses writes; its log says why",
        "NOREPLICAS": "too few replicas are in step (min-replicas-to-write)",
        "LOADING": "the server reads its data from disk; wait",
    }
    return Item("write", "down", str(reply), "", advice.get(reply.code, "no call that writes succeeds"))


def _scripts(reply: Any, there: Any) -> Item:  # noqa: ANN401 - replies
    if isinstance(reply, ReplyError):
        advice = {
            "NOPERM": "every primitive is a script: grant this user +@scripting",
            "LOADING": "the server reads its data from disk; wait",
        }
        return Item("scripts", "down", str(reply), "", advice.get(reply.code, "every primitive is a script: none runs"))
    if isinstance(there, ReplyError):
        return Item("scripts", "ok", "can be loaded")
    # The first is this report's own; those that are missing are loaded by the first call.
    return Item("scripts", "ok", f"can be loaded, {sum(there[1:])} of {len(there) - 1} are")


def _unused(info: Any) -> str:  # noqa: ANN401 - a reply
    """Return the command that wakes nobody on this server."""
    return (
        "PUBLISH" if not isinstance(info, ReplyError) and read_info(info).get("cluster_enabled") == "1" else "SPUBLISH"
    )


def _permitted(replies: Mapping[str, Any]) -> Item:
    # Any other error, such as NOGROUP or NOSCRIPT, comes from a command that was permitted.
    denied = [name for name, reply in replies.items() if isinstance(reply, ReplyError) and reply.code == "NOPERM"]
    if not denied:
        return Item("permissions", "ok", f"{len(replies)} of {len(replies)} commands")
    advice = f"the server's ACL refuses {', '.join(denied)} on this namespace; what needs them fails"
    return Item("permissions", "degraded", f"{len(replies) - len(denied)} of {len(replies)} commands", "", advice)


def clock(reply: Any, before: float, after: float) -> Item:  # noqa: ANN401 - a reply
    """Return how far this machine's clock is from the server's; it was asked between *before* and *after*."""
    if isinstance(reply, ReplyError):
        return refused("clock", reply, "time")
    server = int(reply[0]) + int(reply[1]) / 1_000_000
    # The server looked at its clock at some time between the two: only what lies outside is surely skew.
    skew = max(before - server, server - after, 0.0)
    if skew <= SKEW_MAX_S:
        return Item("clock", "ok", ms(skew), "ms")
    advice = (
        "this machine and the server disagree about the time; gridsync decides by the server's clock and by intervals, "
        "but times in events and logs will look wrong: see to NTP on both"
    )
    return Item("clock", "degraded", ms(skew), "ms", advice)


def _usage(usage: Usage) -> Item:
    text = f"{usage.in_flight} of {usage.capacity} in use" + (f", {usage.line} wait" if usage.line else "")
    if usage.line or usage.in_flight > USAGE_HIGH * usage.capacity:
        advice = "callers wait for each other: raise REDIS_POOL_SIZE (threads) or GRIDSYNC_INFLIGHT_MAX (asyncio)"
        return Item("usage", "degraded", text, "", advice)
    return Item("usage", "ok", text)


def _breakers(states: Mapping[str, str]) -> Item:
    away = {name: state for name, state in sorted(states.items()) if state != "closed"}
    if not away:
        return Item("breakers", "ok", f"{len(states)} closed" if states else "none")
    advice = "calls to it fail at once until it can be connected to: look whether it runs, and at the network between"
    return Item("breakers", "degraded", ", ".join(f"{name} {state}" for name, state in away.items()), "", advice)


def certificate(ends: float | None, now: float) -> Item:
    """Return for how long the certificate of a server is valid."""
    if ends is None:
        return Item("certificate", "degraded", "not verified", "", "remove ssl_cert_reqs=none from the URL")
    days = round((ends - now) / 86_400, 1)
    if days >= CERTIFICATE_DAYS:
        return Item("certificate", "ok", days, "d")
    return Item("certificate", "degraded", days, "d", "the server's certificate ends soon: renew it")
