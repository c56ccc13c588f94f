"""What the doctor asks each server beyond a health report, and what the answers mean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from gridsync._checkup import fsync, ms, read_info, refused
from gridsync._io.wire.faults import ReplyError
from gridsync.cli.doctor import times
from gridsync.health import Item

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync._io.probe import Facts

PINGS: Final = 20
"""Round trips that are measured, one after the other."""
SLOWEST: Final = 32
"""How many entries of the slow log are read."""
SETTINGS: Final = (
    *("appendfsync", "save", "disable-thp", "maxclients"),
    *("slowlog-log-slower-than", "latency-monitor-threshold"),
)
QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "INFO": ("INFO",),
    "CONFIG GET": ("CONFIG", "GET", *SETTINGS),
    "TIME": ("TIME",),
    "ACL WHOAMI": ("ACL", "WHOAMI"),
    "SLOWLOG GET": ("SLOWLOG", "GET", str(SLOWEST)),
    "LATENCY LATEST": ("LATENCY", "LATEST"),
    "LATENCY HISTOGRAM": ("LATENCY", "HISTOGRAM"),
    "CLUSTER SHARDS": ("CLUSTER", "SHARDS"),
}
LUA_FLAW: Final = "CVE-2025-49844"
MENDED: Final = {
    "redis": {(7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
"""From which patch on a release has no `LUA_FLAW`; later releases never had it, earlier ones were not mended."""
RESIDENT_HIGH: Final = 0.75
"""The part of the machine's memory that the server may have."""
FRAGMENTED: Final = 1.5
FRAGMENTED_FROM: Final = 100_000_000
"""Bytes in use from which fragmentation is worth a word: below, what the program itself needs counts most."""
BUFFER_HIGH: Final = 32_000_000
"""Bytes that wait for one client."""
FORK_SLOW_S: Final = 1.0
DELAYS_PER_HOUR: Final = 1.0
HIT_RATE_LOW: Final = 0.5
LOOKUPS_MIN: Final = 10_000
"""Lookups before a hit rate says anything."""


class Seen:
    """The replies of one server."""

    def __init__(self, facts: Facts) -> None:
        """Take what *facts* have, which is no failure."""
        self.facts = facts
        self.replies: dict[str, Any] = dict(zip(QUESTIONS, facts.replies, strict=True))
        info = self.replies["INFO"]
        self.info: Mapping[str, str] = {} if isinstance(info, ReplyError) else read_info(info)
        self.settings: dict[str, str] = {}
        if not isinstance(self.replies["CONFIG GET"], ReplyError):
            self.settings = {name.decode(): value.decode() for name, value in self.replies["CONFIG GET"].items()}

    def number(self, field: str) -> int:
        """Return a field of INFO that is a number; 0 if there is none."""
        return int(self.info.get(field, 0))

    @property
    def clustered(self) -> bool:
        """Whether it is a node of a cluster."""
        return self.info.get("cluster_enabled") == "1"


def more_of(seen: Seen, *, slow_s: float, local: bool) -> list[Item]:
    """Return what a health report has not: of one server, in the order in which it is shown."""
    found = [_round_trip(seen.facts.pings_s, slow_s)]
    if isinstance(seen.replies["INFO"], ReplyError):
        found.append(refused("keys", seen.replies["INFO"], "info"))
    else:
        found += [_flaws(seen), _machine_memory(seen), _fragmentation(seen)]
        found += [_blocked(seen), _buffers(seen), _refused_clients(seen)]
        found += [_last_save(seen), _fork(seen), *_delays(seen), _hit_rate(seen), _keys(seen)]
    found += [times.slow_log(seen), times.events(seen), times.commands(seen)]
    return [*found, _user(seen, local=local), _encryption(seen, local=local)]


def persistence(seen: Seen) -> list[Item]:
    """Return how often it writes its append log to disk."""
    return fsync(seen.replies["INFO"], seen.replies["CONFIG GET"])


def _round_trip(times_s: Any, slow_s: float) -> Item:  # noqa: ANN401 - a sequence of seconds
    ordered = sorted(times_s)
    median, most = ordered[len(ordered) // 2], ordered[-1]
    text = f"{ms(median):g} ms in the middle, {ms(most):g} ms at most, of {len(ordered)}"
    if median <= slow_s:
        return Item("round trip", "ok", text)
    advice = "a tenth of REDIS_COMMAND_TIMEOUT is gone by the way alone: look at the network, or raise the timeout"
    return Item("round trip", "degraded", text, "", advice)


def _flaws(seen: Seen) -> Item:
    product = seen.info.get("server_name", "redis")
    text = seen.info.get(f"{product}_version") or seen.info.get("redis_version", "")
    numbers = [int(part) for part in re.findall(r"\d+", text)[:3]]
    mended = MENDED.get(product)
    if mended is None or len(numbers) < 3:  # noqa: PLR2004 - major, minor, patch
        return Item("known flaws", "ok", "none that we know of")
    line, patch = (numbers[0], numbers[1]), numbers[2]
    if line > max(mended) or patch >= mended.get(line, 10_000):
        return Item("known flaws", "ok", "none that we know of")
    targets = [f"{major}.{minor}.{least}" for (major, minor), least in mended.items() if (major, minor) >= line]
    advice = (
        f"who may run scripts, as every program with gridsync may, can take the server over: update to {targets[0]} or "
        f"newer, or to a package of your distribution whose changelog names {LUA_FLAW}"
    )
    return Item("known flaws", "degraded", LUA_FLAW, "", advice)


def _machine_memory(seen: Seen) -> Item:
    resident, whole, most = (seen.number(name) for name in ("used_memory_rss", "total_system_memory", "maxmemory"))
    text = f"{resident / 1e6:.0f} of {whole / 1e6:.0f} MB resident, peak {seen.number('used_memory_peak') / 1e6:.0f} MB"
    if whole and resident > RESIDENT_HIGH * whole:
        advice = "a fork for a snapshot may need as much again: give the machine more memory, or set maxmemory lower"
        return Item("machine memory", "degraded", text, "", advice)
    if whole and most > whole:
        advice = f"maxmemory is {most / 1e6:.0f} MB: the kernel ends the server before it is full; set it lower"
        return Item("machine memory", "degraded", text, "", advice)
    hint = "" if most else "no maxmemory: CONFIG SET maxmemory to at most half of it, so that a full server says so"
    return Item("machine memory", "ok", text, "", hint)


def _fragmentation(seen: Seen) -> Item:
    ratio = float(seen.info.get("mem_fragmentation_ratio", 1.0))
    if seen.number("used_memory") < FRAGMENTED_FROM:
        return Item("fragmentation", "ok", "too little data to tell")
    if ratio > FRAGMENTED:
        advice = "memory lies fallow between values: CONFIG SET activedefrag yes where it is built in, or restart"
        return Item("fragmentation", "degraded", ratio, "x", advice)
    if ratio < 1:
        advice = "a part of the data was swapped out, and each touch of it waits for a disk: give it more memory"
        return Item("fragmentation", "degraded", ratio, "x", advice)
    return Item("fragmentation", "ok", ratio, "x")


def _blocked(seen: Seen) -> Item:
    return Item("blocked clients", "ok", f"{seen.number('blocked_clients')} wait for something")


def _buffers(seen: Seen) -> Item:
    largest, cut = (
        seen.number("client_recent_max_output_buffer"),
        seen.number("client_output_buffer_limit_disconnections"),
    )
    text = f"{largest / 1e6:.1f} MB for one client at most" + (f", {cut} were cut off" if cut else "")
    if largest <= BUFFER_HIGH and not cut:
        return Item("output buffers", "ok", text)
    advice = (
        "a client reads too slowly or asks for too much: CLIENT LIST has it in omem; see client-output-buffer-limit"
    )
    return Item("output buffers", "degraded", text, "", advice)


def _refused_clients(seen: Seen) -> Item:
    number = seen.number("rejected_connections")
    if not number:
        return Item("refused clients", "ok", "none since the start")
    advice = "maxclients was reached: look for programs that leave connections open, or raise it (and ulimit -n)"
    return Item("refused clients", "degraded", f"{number} since the start", "", advice)


def _now(seen: Seen) -> float:
    return times.server_now(seen.replies["TIME"], seen.facts.asked_at[1])


def _last_save(seen: Seen) -> Item:
    if seen.number("rdb_bgsave_in_progress"):
        return Item("last save", "ok", "under way")
    age = max(_now(seen) - seen.number("rdb_last_save_time"), 0)
    changes = seen.number("rdb_changes_since_last_save")
    return Item("last save", "ok", f"{times.age(age)} ago or at the start, {changes:,} changes since")


def _fork(seen: Seen) -> Item:
    spent = seen.number("latest_fork_usec") / 1_000_000
    if spent <= FORK_SLOW_S:
        return Item("fork", "ok", ms(spent), "ms")
    advice = "everybody waits meanwhile, and leases may run out: less data on one server, or memory without huge pages"
    return Item("fork", "degraded", ms(spent), "ms", advice)


def _delays(seen: Seen) -> list[Item]:
    if not seen.number("aof_enabled"):
        return []
    delayed, hours = seen.number("aof_delayed_fsync"), max(seen.number("uptime_in_seconds") / 3600, 1.0)
    text = f"{delayed} in {times.age(seen.number('uptime_in_seconds'))}"
    if delayed <= DELAYS_PER_HOUR * hours:
        return [Item("fsync delays", "ok", text)]
    advice = "the disk does not keep up with the append log, and writes wait for it: a faster disk, or one of its own"
    return [Item("fsync delays", "degraded", text, "", advice)]


def _hit_rate(seen: Seen) -> Item:
    hits, misses = seen.number("keyspace_hits"), seen.number("keyspace_misses")
    if not hits + misses:
        return Item("hit rate", "ok", "nothing was looked up")
    rate = hits / (hits + misses)
    evicts = seen.info.get("maxmemory_policy", "noeviction") != "noeviction"
    if evicts and hits + misses >= LOOKUPS_MIN and rate < HIT_RATE_LOW:
        advice = "this server evicts as a cache does, and misses most: more memory, longer TTLs, or what is it for?"
        return Item("hit rate", "degraded", round(100 * rate, 1), "%", advice)
    return Item("hit rate", "ok", round(100 * rate, 1), "%")


def _keys(seen: Seen) -> Item:
    spaces = [dict(pair.split("=") for pair in v.split(",")) for n, v in seen.info.items() if re.fullmatch(r"db\d+", n)]
    keys, expire = (sum(int(space.get(name, 0)) for space in spaces) for name in ("keys", "expires"))
    return Item("keys", "ok", f"{keys:,}, {expire:,} of them expire")


def _user(seen: Seen, *, local: bool) -> Item:
    reply = seen.replies["ACL WHOAMI"]
    if isinstance(reply, ReplyError):
        return refused("user", reply, "acl|whoami")
    name = reply.decode(errors="replace")
    if name != "default" or local:
        return Item("user", "ok", name)
    advice = "it may do everything: give each program a user of its own with what it needs, and turn this one off"
    return Item("user", "degraded", name, "", advice)


def _encryption(seen: Seen, *, local: bool) -> Item:
    if seen.facts.tls:
        return Item("encryption", "ok", "TLS")
    if local:
        return Item("encryption", "ok", "none, and none needed on one machine")
    advice = "passwords and data cross the network in the clear: let the server listen with TLS, and write rediss://"
    return Item("encryption", "degraded", "none", "", advice)
