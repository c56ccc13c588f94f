"""What a server remembers of its own slowness: the slow log, the latency monitor, and how long commands take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gridsync._checkup import refused
from gridsync._io.scripts import loaded
from gridsync._io.wire.faults import ReplyError
from gridsync.health import Item

if TYPE_CHECKING:
    from gridsync.cli.doctor.server import Seen

LATELY_S: Final = 3600
"""How long ago something may have been slow and still be worth a warning."""
SLOW_US: Final = 10_000
"""How long 99 of 100 calls of a command may take."""
CALLS_MIN: Final = 100
"""Calls before a percentile says anything."""
WORST: Final = 3
"""How many are named."""


def server_now(reply: Any, otherwise: float) -> float:  # noqa: ANN401 - a reply to TIME
    """Return the server's time in seconds since 1970, or *otherwise* if it does not tell."""
    return otherwise if isinstance(reply, ReplyError) else int(reply[0]) + int(reply[1]) / 1_000_000


def age(seconds: float) -> str:
    """Return a time for people: seconds, minutes, hours or days."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def slow_log(seen: Seen) -> Item:
    """Return the worst of what the slow log has of the last hour."""
    reply = seen.replies["SLOWLOG GET"]
    if isinstance(reply, ReplyError):
        return refused("slow log", reply, "slowlog|get")
    if seen.settings.get("slowlog-log-slower-than", "").startswith("-"):
        return Item("slow log", "degraded", "off", "", "CONFIG SET slowlog-log-slower-than 10000 (µs)")
    now = server_now(seen.replies["TIME"], seen.facts.asked_at[1])
    lately = [entry for entry in reply if now - int(entry[1]) <= LATELY_S]
    if not lately:
        return Item("slow log", "ok", f"nothing in the last hour, {len(reply)} before")
    worst: dict[str, int] = {}
    for entry in lately:
        name = _called(entry[3])
        worst[name] = max(worst.get(name, 0), int(entry[2]))
    named = ", ".join(f"{name} {us / 1000:.1f} ms" for name, us in _slowest(worst))
    advice = (
        "everybody waits for a slow command: ask for less at once, and never for KEYS; SLOWLOG GET has the arguments"
    )
    return Item("slow log", "degraded", f"{len(lately)} in the last hour, worst {named}", "", advice)


def _slowest(times: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(times.items(), key=lambda pair: -pair[1])[:WORST]


def _called(words: list[bytes]) -> str:
    """Return the name of a command, or of our script that it runs; no argument, which may be a secret."""
    name = words[0].decode(errors="replace").upper()
    if name == "EVALSHA" and len(words) > 1:
        sha = words[1].decode(errors="replace")
        return next((script.name for script in loaded() if script.sha == sha), name)
    return name


def events(seen: Seen) -> Item:
    """Return what the latency monitor has seen in the last hour."""
    reply = seen.replies["LATENCY LATEST"]
    if isinstance(reply, ReplyError):
        return refused("latency events", reply, "latency|latest")
    if seen.settings.get("latency-monitor-threshold") == "0" and not reply:
        return Item("latency events", "ok", "not watched", "", "CONFIG SET latency-monitor-threshold 100 (ms) does")
    now = server_now(seen.replies["TIME"], seen.facts.asked_at[1])
    worst = {event[0].decode(): int(event[3]) for event in reply if now - int(event[1]) <= LATELY_S}
    if not worst:
        return Item("latency events", "ok", f"none in the last hour, {len(reply)} kinds before")
    named = ", ".join(f"{name} {spent} ms" for name, spent in _slowest(worst))
    return Item(
        "latency events", "degraded", f"worst ever {named}", "", "LATENCY DOCTOR says what each is, and what to do"
    )


def commands(seen: Seen) -> Item:
    """Return the commands of which 99 of 100 calls take longest."""
    reply = seen.replies["LATENCY HISTOGRAM"]
    if isinstance(reply, ReplyError):
        return refused("command times", reply, "latency|histogram")
    p99 = {}
    for name, told in reply.items():
        calls = told[b"calls"]
        if calls >= CALLS_MIN:
            # The counts add up: that of a bucket has all calls that were no longer.
            bounds = (us for us, count in told[b"histogram_usec"].items() if count >= 0.99 * calls)
            p99[name.decode()] = int(next(bounds))
    if not p99:
        return Item("command times", "ok", f"no command was called {CALLS_MIN} times yet")
    named = ", ".join(f"{name} {us / 1000:g} ms" for name, us in _slowest(p99))
    if max(p99.values()) < SLOW_US:
        return Item("command times", "ok", f"99 % within: {named}")
    advice = (
        "since the server started, or CONFIG RESETSTAT: whoever calls it holds everybody up; let it do less at once"
    )
    return Item("command times", "degraded", f"99 % within: {named}", "", advice)
