"""`gridsync doctor`: what it finds on real servers, what it makes of each answer, and that it leaves nothing behind."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trustme
from redis.exceptions import TimeoutError as RedisTimeoutError

from gridsync import Grid, Settings, Unavailable
from gridsync._io.keys import health
from gridsync._io.probe import Facts, probe
from gridsync._io.route.lanes import slot_of
from gridsync._io.scripts import load
from gridsync._io.wire.faults import Fault, ReplyError
from gridsync.cli.doctor import keyspace, machine, nodes, sentinels, server
from gridsync.cli.doctor.nodes import Servers
from gridsync.cli.doctor.report import SECTIONS, Finding, Report
from gridsync.cli.doctor.server import QUESTIONS, Seen, more_of
from gridsync.health import Item
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.sentinels import SentinelSet
from gridsync.testing.servers import RedisServer, server_kinds
from tests.command import called, forget_test_run
from tests.wire.fake import endpoint, eventually
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = "30"
"""Seconds; for looks that shall not end because the machine is busy."""
NOTHING_IS_SLOW = {"slowlog-log-slower-than": "600000000"}
"""A machine that stalls must not make a server look slow."""
DOCS = Path(__file__).parents[2] / "docs"
STARTED = 1_000_000


@pytest.fixture(autouse=True)
def _sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let this machine, its packages and its environment be no cause of a warning."""
    forget_test_run(monkeypatch)
    monkeypatch.setattr(server, "MENDED", {})
    monkeypatch.setattr(machine.kernel, "__defaults__", (tmp_path,))
    monkeypatch.setattr(machine, "DESCRIPTORS_MIN", 0)
    monkeypatch.setattr(machine, "SPARE", -1_000_000)
    monkeypatch.delenv("REDIS_URL", raising=False)


def examined(url: str, *words: str) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    """Return the exit code and the findings of ``gridsync doctor --json``, by where and what."""
    code, output, error = called(
        "doctor", "--url", url, "--namespace", NAMESPACE, "--timeout", PATIENCE, "--json", *words
    )
    assert output, error
    told = json.loads(output)
    assert told["severity"] == ("ok", "warn", "fail")[code]
    found = {(each["where"], each["what"]): each for each in told["findings"]}
    assert len(found) == len(told["findings"]), "nothing is said twice of the same"
    return code, found


def where(running: RedisServer) -> str:
    return f"{running.host}:{running.port}"


def test_the_exit_code_is_0_1_or_2():
    """A script that deploys must tell a server that is well from one that works, and from one that does not."""
    with RedisServer(options={"appendonly": "yes", **NOTHING_IS_SLOW}) as running:
        code, found = examined(running.url)
        assert code == 0, [each for each in found.values() if each["severity"] not in ("ok", "unknown")]
        running.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        code, found = examined(running.url)
        assert code == 1
        eviction = found[where(running), "eviction"]
        assert (eviction["severity"], eviction["link"]) == ("warn", "docs/doctor.md#memory")
        assert "noeviction" in eviction["advice"]
        running.command("CONFIG", "SET", "maxmemory", "1kb")
        code, found = examined(running.url)
        assert code == 2
        assert found[where(running), "write"]["severity"] == "fail"
        running.stop()
        code, output, error = called("doctor", "--url", running.url, "--timeout", PATIENCE)
    assert (code, output) == (2, "")
    what, do = error.splitlines()
    assert what.startswith("gridsync: cannot connect to")
    assert do.startswith("  ")


def test_a_server_that_goes_away_while_it_is_looked_at_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    """It answered the health report; what was not looked at after that must not count as sound."""
    with RedisServer(options={"appendonly": "yes", **NOTHING_IS_SLOW}) as running:

        def ended(*words: Any, **options: Any) -> Facts:  # noqa: ANN401 - whatever it is called with
            running.stop()
            return probe(*words, **options)

        monkeypatch.setattr(nodes, "probe", ended)
        code, found = examined(running.url)
    assert code == 2
    assert found[where(running), "connection"]["severity"] == "fail"


def test_a_server_that_hangs_at_its_keys_is_a_failure(flushed: RedisServer, monkeypatch: pytest.MonkeyPatch):
    def hung(*_: object) -> None:
        raise Unavailable("the server does not answer")

    monkeypatch.setattr(keyspace, "_staying", hung)
    with Grid(flushed.url) as grid:
        at, item = keyspace.sample(grid, "here", ())
    assert (at, item.status) == ("here", "down")


def test_the_node_of_a_cluster_that_hangs_at_its_keys_is_the_one_that_is_named():
    """It was said of the node that the others are known from, which is sound."""
    primaries = [SimpleNamespace(name=name) for name in ("sound:1", "hung:1")]

    def answer(*_: object, target_nodes: SimpleNamespace) -> tuple[dict[str, int], list[bytes]]:
        if target_nodes.name == "hung:1":
            raise RedisTimeoutError("Timeout reading from socket")
        return {target_nodes.name: 0}, []

    client = SimpleNamespace(get_primaries=lambda: primaries, execute_command=answer)
    grid = cast("Grid", SimpleNamespace(client=client, namespace="n"))
    at, item = keyspace.sample(grid, "sound:1", ())
    assert (at, item.status) == ("hung:1", "down")


def test_people_see_what_to_do_and_where_it_is_explained():
    with RedisServer(options=NOTHING_IS_SLOW) as running:
        code, output, _ = called("doctor", "--url", running.url, "--timeout", PATIENCE)
    assert code == 1
    lines = output.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("warn     append log"))
    assert lines[at + 1].strip().endswith("CONFIG SET appendonly yes")
    assert lines[at + 2].strip() == "→ docs/doctor.md#persistence"
    assert lines[0] == where(running)
    assert "this program" in lines
    assert re.fullmatch(rf"{re.escape(running.url)} is warn: \d+ ok, 1 warn \(\d+ ms\)", lines[-1]), lines[-1]


def test_it_writes_nothing_and_its_cost_does_not_grow_with_the_data(flushed: RedisServer):
    """Whoever looks for the cause of a slow server must not be one."""
    with flushed.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(5000):
            pipeline.set(f"{{{NAMESPACE}:limit:api:{number}}}", 1, px=600_000)
        pipeline.execute()
    before = flushed.command("DBSIZE")
    flushed.command("CONFIG", "RESETSTAT")
    with flushed.client() as client:
        connections = client.info("stats")["total_connections_received"]
        _, found = examined(flushed.url)
        assert client.info("stats")["total_connections_received"] <= connections + 4
    calls = {name: told["calls"] for name, told in flushed.command("INFO", "commandstats").items()}
    assert flushed.command("DBSIZE") == before
    assert calls["cmdstat_scan"] == keyspace.STEPS
    assert calls["cmdstat_pttl"] <= keyspace.STEPS * keyspace.COUNT * 2
    assert sum(number for name, number in calls.items() if name != "cmdstat_pttl") < 100
    assert found[where(flushed), "keys that stay"]["value"].endswith("of the namespace, a sample")


@pytest.mark.leaves_keys
def test_a_key_that_would_stay_for_ever_is_named(flushed: RedisServer):
    with Grid(flushed.url, namespace=NAMESPACE) as grid:
        grid.lock("job").try_acquire()
    flushed.command("SET", f"{{{NAMESPACE}:lock:old}}", "1")
    flushed.command("HSET", f"{{{NAMESPACE}:events:orders}}:meta", "pos", "1")
    flushed.command("SET", "another", "1")
    _, found = examined(flushed.url)
    staying = found[where(flushed), "keys that stay"]
    assert staying["severity"] == "warn"
    assert staying["value"].startswith("1 of ")
    assert f"{{{NAMESPACE}:lock:old}}" in staying["advice"]


def test_a_slow_script_is_known_by_its_name():
    script = load("gridsync.locks", "acquire")
    slow = seen(SLOWLOG_GET=[entry(60, 20_000, b"EVALSHA", script.sha.encode(), b"1", b"secret")])
    (item,) = [item for item in more_of(slow, slow_s=1, local=True) if item.name == "slow log"]
    assert item.value == "1 in the last hour, worst locks.acquire 20.0 ms"


def test_what_was_slow_lately_is_found(flushed: RedisServer):
    flushed.command("CONFIG", "SET", "slowlog-log-slower-than", "0")
    try:
        with Grid(flushed.url, namespace=NAMESPACE) as grid, grid.lock("job"):
            flushed.command("CONFIG", "SET", "slowlog-log-slower-than", "10000000")
        _, found = examined(flushed.url_for(None, None))
    finally:
        flushed.command("CONFIG", "SET", "slowlog-log-slower-than", "10000")
        flushed.command("SLOWLOG", "RESET")
    slow = found[where(flushed), "slow log"]
    assert slow["severity"] == "warn"
    assert "in the last hour, worst" in slow["value"]


def test_a_user_without_rights_gets_unknowns_that_name_the_permission():
    rights = f"~{{{NAMESPACE}:* &* -@all +@read +@write +@scripting +@connection +@pubsub +client|unblock"
    with RedisServer(users=[f"user app on >secret {rights}"], options={"appendonly": "yes"}) as running:
        code, found = examined(running.url_for("app", "secret"))
        assert code == 0, [each for each in found.values() if each["severity"] not in ("ok", "unknown")]
        for what, permission in {
            "slow log": "+slowlog|get",
            "latency events": "+latency|latest",
            "command times": "+latency|histogram",
            "keys": "+info",
        }.items():
            told = found[where(running), what]
            assert (told["severity"], permission in told["advice"]) == ("unknown", True), told


def test_every_node_of_a_cluster_is_examined():
    with RedisCluster(replicas=1) as cluster:
        code, found = examined(cluster.url)
        assert code, "a primary without a replica is a warning; a replica may still load its data"
        all_nodes = {where(node) for node in cluster.nodes}
        assert {at for at, what in found if what == "round trip"} == all_nodes
        assert {at for at, what in found if what == "clock"} == all_nodes
        assert {found[at, "role"]["value"] for at in all_nodes} == {"primary", "replica"}
        (shards,) = [told for (_, what), told in found.items() if what == "shards"]
        assert (shards["severity"], shards["value"]) == ("warn", "3 primaries, 1 replicas")


def test_a_cluster_with_a_primary_away_is_examined_all_the_same():
    """The others tell most of what an operator must know then."""
    with RedisCluster() as cluster:
        victim = cluster.owner(slot_of(health(NAMESPACE).probe))
        victim.kill()
        code, found = examined(cluster.url)
        others = {where(each) for each in cluster.nodes} - {where(victim)}
    assert code == 2
    assert found[where(victim), "connection"]["severity"] == "fail"
    assert {at for at, what in found if what == "round trip"} == others
    ((at, keys),) = [(at, told) for (at, what), told in found.items() if what == "keys that stay"]
    assert at in others
    assert (keys["severity"], keys["value"]) == ("ok", "0 of 0 of the namespace, a sample")


def test_behind_sentinels_replicas_are_examined_too():
    with SentinelSet(replicas=1, sentinels=1) as servers:
        _, found = examined(servers.url)
        master = where(servers.master)
        assert found[master, "role"]["value"] == "primary"
        assert found[master, "sentinels"]["severity"] in ("ok", "warn")
        others = {at for at, what in found if what == "role"} - {master}
        assert len(others) == 1
        (replica,) = others
        assert found[replica, "role"]["value"] == "replica"
        assert (replica, "slow log") in found


def test_every_sentinel_is_asked_and_what_one_lacks_is_found():
    """A set that could not carry out a failover looks well as long as nothing happens."""
    with SentinelSet(replicas=1, sentinels=3, down_after=60.0) as servers:
        first, second, third = map(where, servers.sentinels)
        url = servers.url.replace(f",{second},{third}", "")

        def told() -> list[dict[str, Any]]:
            _, found = examined(url)
            return [found[name, "sentinel"] for name in (first, second, third)]

        # They have heard of everything, but may not be connected to all of it yet.
        eventually(lambda: [each["severity"] for each in told()] == ["ok"] * 3, 60)
        assert told()[0]["value"].startswith(f"{where(servers.master)}, 1 replicas, 2 other sentinels, configuration ")
        servers.sentinels[1].command("SENTINEL", "SET", servers.service, "quorum", "3")
        servers.sentinels[2].kill()
        _, found = examined(url)
    assert found[first, "sentinel"]["severity"] == "ok"
    assert (found[second, "sentinel"]["severity"], found[third, "sentinel"]["severity"]) == ("warn", "warn")
    assert "most have quorum 2" in found[second, "sentinel"]["advice"]
    assert "see whether it runs" in found[third, "sentinel"]["advice"]


def view(name: str, **differs: Any) -> sentinels.View:  # noqa: ANN401 - a field of a view
    """Return what a sentinel of a sound set of three knows, but for what the test says."""
    others = tuple((id_, "10.0.0.9", 1) for id_ in "abc" if id_ != name)
    sound = sentinels.View(
        endpoint(host=name, port=1),
        id=name,
        primary="10.0.0.1:6379",
        flags=frozenset({"master"}),
        quorum=2,
        epoch=4,
        replicas=frozenset({"10.0.0.2:6379", "10.0.0.3:6379"}),
        others=others,
    )
    return replace(sound, **differs)


@pytest.mark.parametrize(
    ("differs", "status", "told"),
    [
        ({}, "ok", ""),
        ({"primary": "10.0.0.2:6379"}, "degraded", "most name 10.0.0.1:6379"),
        ({"flags": frozenset({"master", "s_down"})}, "degraded", "does not reach the primary"),
        ({"epoch": 3}, "degraded", "others have configuration 4"),
        ({"quorum": 3}, "degraded", "most have quorum 2"),
        ({"replicas": frozenset({"10.0.0.2:6379"})}, "degraded", "does not know the replica 10.0.0.3:6379"),
        ({"others": (("a", "10.0.0.9", 1),)}, "degraded", "does not know the sentinel b:1"),
        ({"down": frozenset({"10.0.0.3:6379"})}, "degraded", "does not reach the replica 10.0.0.3:6379"),
        ({"failure": Fault("no route", applied=False)}, "degraded", "see whether it runs"),
        ({"failure": ReplyError("ERR No such master with that name")}, "degraded", "let it monitor"),
        ({"failure": ReplyError("NOPERM no")}, "unknown", "+sentinel|replicas"),
    ],
)
def test_what_a_sentinel_knows_is_judged(differs: dict[str, Any], status: str, told: str):
    mine = view("c", **differs)
    others = [view("a"), view("b")]
    item = sentinels._judged(mine, [*others, mine])
    assert (item.name, item.status) == ("sentinel", status), item
    assert told in item.advice
    assert [sentinels._judged(each, [*others, mine]).status for each in others] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("left", "status", "told"),
    [(40, "ok", ""), (5, "degraded", "ends soon"), (-1, "degraded", "has ended"), (None, "degraded", "cannot be read")],
)
def test_a_client_certificate_that_ends_is_a_warning(left: int | None, status: str, told: str, tmp_path: Path):
    """The server's side looks well until the day on which nobody can connect any more."""
    file = tmp_path / "client.crt"
    if left is None:
        file.write_text("none")
    else:
        ends = dt.datetime.now(tz=dt.UTC) + dt.timedelta(days=left)
        trustme.CA().issue_cert("client@example.org", not_after=ends).cert_chain_pems[0].write_to_path(file)
    item = machine.certificate(file, time.time())
    assert (item.name, item.status, told in f"{item.value} {item.advice}") == ("client certificate", status, True), item


def test_the_client_certificate_of_the_url_is_the_one_that_is_looked_at():
    kind = next(kind for kind in server_kinds() if kind.tls)
    with RedisServer(kind, tls=True, client_certificates=True) as running:
        _, found = examined(running.url)
    assert found["this program", "client certificate"]["unit"] == "d"


def test_a_replica_that_cannot_be_reached_is_a_warning(flushed: RedisServer):
    with Grid(flushed.url) as grid:
        servers = Servers(grid, 30)
        assert servers.seen is not None
        servers.seen.info = {"slave0": "ip=127.0.0.1,port=1,state=online,offset=1,lag=0"}
        servers._others = list(servers._found())
        ((name, (item,)),) = servers.others(1.0)
    assert (name, item.name, item.status) == ("127.0.0.1:1", "connection", "degraded")


NAMES = {"pings_s": (0.001,) * 5, "asked_at": (STARTED, STARTED)}
INFO = "redis_version:7.2.11\r\nmaxmemory_policy:noeviction\r\nused_memory:200000000\r\nmem_fragmentation_ratio:1.1\r\n"


def seen(
    *, info: str = "", settings: dict[str, str] | None = None, facts: dict[str, Any] | None = None, **others: object
) -> Seen:
    """Return the replies of a sound server, but for what the test says; the names of commands have underscores."""
    replies = {
        "INFO": (INFO + info.replace(" ", "\r\n")).encode(),
        "CONFIG GET": {
            n.encode(): v.encode() for n, v in ({"latency-monitor-threshold": "100"} | (settings or {})).items()
        },
        "TIME": [str(STARTED).encode(), b"0"],
        "ACL WHOAMI": b"app",
        "SLOWLOG GET": [],
        "LATENCY LATEST": [],
        "LATENCY HISTOGRAM": {},
        "CLUSTER SHARDS": ReplyError("ERR This instance has cluster support disabled"),
    }
    replies |= {name.replace("_", " "): reply for name, reply in others.items()}
    return Seen(Facts("server:6379", 0.01, None, [replies[name] for name in QUESTIONS], **{**NAMES, **(facts or {})}))


def times(calls: int, us: int) -> dict[bytes, Any]:
    return {b"evalsha": {b"calls": calls, b"histogram_usec": {8: calls // 2, us: calls}}}


def entry(ago_s: int, us: int, *words: bytes) -> list[Any]:
    return [1, STARTED - ago_s, us, list(words), b"", b""]


@pytest.mark.parametrize(
    ("found", "name", "status"),
    [
        (seen, "round trip", "ok"),
        (lambda: seen(facts={"pings_s": (1.0, 1.0, 0.001)}), "round trip", "degraded"),
        (lambda: seen(facts={"pings_s": (1.0, 0.001, 0.001)}), "round trip", "ok"),
        (lambda: seen(info="redis_version:7.2.10"), "known flaws", "degraded"),
        (lambda: seen(info="redis_version:7.0.15"), "known flaws", "degraded"),
        (lambda: seen(info="redis_version:8.4.0"), "known flaws", "ok"),
        (lambda: seen(info="redis_version:8.2.2"), "known flaws", "ok"),
        (lambda: seen(info="server_name:valkey valkey_version:8.0.5"), "known flaws", "degraded"),
        (lambda: seen(info="server_name:valkey valkey_version:8.0.6"), "known flaws", "ok"),
        (lambda: seen(info="server_name:other other_version:1.0.0"), "known flaws", "ok"),
        (lambda: seen(info="used_memory_rss:80 total_system_memory:100"), "machine memory", "degraded"),
        (lambda: seen(info="maxmemory:200 total_system_memory:100"), "machine memory", "degraded"),
        (lambda: seen(info="mem_fragmentation_ratio:2.5"), "fragmentation", "degraded"),
        (lambda: seen(info="mem_fragmentation_ratio:0.5"), "fragmentation", "degraded"),
        (lambda: seen(info="used_memory:1000 mem_fragmentation_ratio:13"), "fragmentation", "ok"),
        (lambda: seen(info="client_recent_max_output_buffer:64000000"), "output buffers", "degraded"),
        (lambda: seen(info="client_output_buffer_limit_disconnections:1"), "output buffers", "degraded"),
        (lambda: seen(info="rejected_connections:2"), "refused clients", "degraded"),
        (lambda: seen(info="latest_fork_usec:2000000"), "fork", "degraded"),
        (lambda: seen(info="aof_enabled:1 aof_delayed_fsync:90 uptime_in_seconds:60"), "fsync delays", "degraded"),
        (lambda: seen(info="aof_enabled:1 aof_delayed_fsync:9 uptime_in_seconds:90000"), "fsync delays", "ok"),
        (lambda: seen(info="keyspace_hits:10 keyspace_misses:90000"), "hit rate", "ok"),
        (
            lambda: seen(info="maxmemory_policy:allkeys-lru keyspace_hits:10 keyspace_misses:90000"),
            "hit rate",
            "degraded",
        ),
        (lambda: seen(SLOWLOG_GET=[entry(60, 20_000, b"keys", b"*")]), "slow log", "degraded"),
        (lambda: seen(SLOWLOG_GET=[entry(7200, 20_000, b"keys", b"*")]), "slow log", "ok"),
        (lambda: seen(settings={"slowlog-log-slower-than": "-1"}), "slow log", "degraded"),
        (lambda: seen(LATENCY_LATEST=[[b"fork", STARTED - 60, 200, 300]]), "latency events", "degraded"),
        (lambda: seen(LATENCY_LATEST=[[b"fork", STARTED - 7200, 200, 300]]), "latency events", "ok"),
        (lambda: seen(settings={"latency-monitor-threshold": "0"}), "latency events", "ok"),
        (lambda: seen(LATENCY_HISTOGRAM=times(200, 16_777)), "command times", "degraded"),
        (lambda: seen(LATENCY_HISTOGRAM=times(200, 16)), "command times", "ok"),
        (lambda: seen(LATENCY_HISTOGRAM=times(50, 16_777)), "command times", "ok"),
        (lambda: seen(ACL_WHOAMI=b"default"), "user", "degraded"),
        (seen, "user", "ok"),
        (seen, "encryption", "degraded"),
        (lambda: seen(facts={"tls": True}), "encryption", "ok"),
        (lambda: seen(INFO=ReplyError("NOPERM no")), "keys", "unknown"),
        (lambda: seen(ACL_WHOAMI=ReplyError("NOPERM no")), "user", "unknown"),
    ],
)
def test_each_answer_is_judged(found: Callable[[], Seen], name: str, status: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()  # the flaws that are known
    item = next(item for item in more_of(found(), slow_s=0.3, local=False) if item.name == name)
    assert item.status == status, item
    assert item.advice or status == "ok"


def test_the_slow_log_shows_no_argument():
    """They may be passwords, or what a customer has written."""
    slow = seen(SLOWLOG_GET=[entry(1, 20_000, b"auth", b"secret"), entry(1, 30_000, b"EVALSHA", b"0" * 40, b"secret")])
    (item,) = [item for item in more_of(slow, slow_s=1, local=True) if item.name == "slow log"]
    assert item.value == "2 in the last hour, worst EVALSHA 30.0 ms, AUTH 20.0 ms"


def node(port: int, role: str, health: str = "online") -> dict[bytes, Any]:
    return {
        b"endpoint": b"10.0.0.1",
        b"ip": b"10.0.0.1",
        b"port": port,
        b"role": role.encode(),
        b"health": health.encode(),
    }


@pytest.mark.parametrize(
    ("listed", "status"),
    [
        ([node(1, "master"), node(2, "replica")], "ok"),
        ([node(1, "master")], "degraded"),
        ([node(1, "master"), node(2, "replica", "failed")], "degraded"),
    ],
)
def test_a_primary_without_a_sound_replica_is_seen(flushed: RedisServer, listed: list[Any], status: str):
    with Grid(flushed.url) as grid:
        servers = Servers(grid, 30)
        servers.clustered = True
        assert servers.seen is not None
        servers.seen.replies["CLUSTER SHARDS"] = [{b"slots": [0, 16383], b"nodes": listed}]
        (item,) = servers.topology()
    assert (item.name, item.status) == ("shards", status)


@pytest.mark.parametrize("slots", [[[], [0, 16383]], [[0, 16383]]])
def test_a_primary_whose_replica_took_over_fails_nothing(flushed: RedisServer, slots: list[list[int]]):
    """Redis 7.0 lists it alone and without slots, newer ones beside the node that took over; no call fails any more."""
    gone, heir = node(1, "master", "fail"), node(2, "master")
    shards = [[gone], [heir]] if len(slots) > 1 else [[gone, heir]]
    with Grid(flushed.url) as grid:
        servers = Servers(grid, 30)
        servers.clustered = True
        assert servers.seen is not None
        servers.seen.replies["CLUSTER SHARDS"] = [
            {b"slots": own, b"nodes": those} for own, those in zip(slots, shards, strict=True)
        ]
        roles = {found.endpoint.port: found.role for found in servers._found()}
    assert roles == {1: nodes.IDLE, 2: "primary"}
    away = nodes._away(nodes.Node(servers._endpoint, nodes.IDLE), Unavailable("refused"))
    assert (away.status, "others serve its slots" in away.advice) == ("degraded", True)
    assert nodes._role(gone, {b"slots": [0, 16383], b"nodes": [gone, node(3, "replica")]}) == "primary"


def test_the_clock_and_the_certificate_of_every_server_are_looked_at(
    flushed: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    soon = {"tls": True, "certificate_ends": STARTED + 86_400, "asked_at": (STARTED + 60, STARTED + 60)}
    with Grid(flushed.url) as grid:
        servers = Servers(grid, 30)
        servers._others = [nodes.Node(replace(servers._endpoint, port=1), "replica")]
        monkeypatch.setattr(nodes, "probe", lambda *_, **__: seen(facts=soon).facts)
        ((_, items),) = servers.others(1.0)
    assert {item.name: item.status for item in items if item.name in ("clock", "certificate")} == {
        "clock": "degraded",
        "certificate": "degraded",
    }


@pytest.mark.parametrize(
    ("overcommit", "pages", "optout", "found"),
    [
        ("1", "always [madvise] never", "yes", {"overcommit": "ok", "huge pages": "ok"}),
        ("0", "[always] madvise never", "yes", {"overcommit": "degraded", "huge pages": "ok"}),
        ("1", "[always] madvise never", "no", {"overcommit": "ok", "huge pages": "degraded"}),
    ],
)
def test_the_kernel_is_asked_where_the_server_shares_it(
    tmp_path: Path, overcommit: str, pages: str, optout: str, found: dict[str, str]
):
    for name, text in (
        ("proc/sys/vm/overcommit_memory", overcommit),
        ("sys/kernel/mm/transparent_hugepage/enabled", pages),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text + "\n")
    assert {
        item.name: item.status for item in machine.kernel(seen(settings={"disable-thp": optout}), tmp_path)
    } == found
    assert machine.kernel(seen(), tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, ""),
        ({"gridsync_breaker": False, "gridsync_breaker_pause": 2.0}, "GRIDSYNC_BREAKER_PAUSE change nothing"),
        ({"gridsync_retry_ratio": 0, "gridsync_retry_burst": 0}, "no failed attempt is ever repeated"),
        ({"gridsync_breaker_pause": 60.0}, "ten times as long"),
        ({"redis_pool_size": 5000}, "the server takes 5000 clients"),
    ],
)
def test_settings_that_contradict_each_other_are_seen(given: dict[str, Any], told: str):
    items = machine.program(Settings(**given), seen(settings={"maxclients": "5000"}), {})
    (item,) = [item for item in items if item.name == "settings"]
    assert (told in item.advice, item.status) == (True, "degraded" if told else "ok"), item


def test_a_misspelt_variable_is_found():
    """Nothing else would ever say that it was not read."""
    environment = {"REDIS_POOLSIZE": "5", "GRIDSYNC_COLOUR": "red", "REDIS_URL": "redis://h", "REDIS_TLS_PORT": "1"}
    (item,) = [item for item in machine.program(Settings(), None, environment) if item.name == "environment"]
    assert item.advice == "GRIDSYNC_COLOUR is no setting; REDIS_POOLSIZE is no setting (is REDIS_POOL_SIZE meant?)"


def test_too_few_descriptors_are_a_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "DESCRIPTORS_MIN", 1 << 40)
    (item,) = [item for item in machine.program(Settings(), None, {}) if item.name == "descriptors"]
    assert item.status == "degraded"


def test_what_others_wrote_steers_no_terminal():
    found = Finding.of("h:1", Item("keys that stay", "degraded", "1", "", "see \x1b[2J"))
    assert "\x1b" not in str(Report("redis://h", 0.1, (found,)))


@pytest.mark.parametrize("command", ["doctor", "health"])
def test_a_replica_that_calls_itself_odd_neither_steers_a_terminal_nor_ends_the_look(
    flushed: RedisServer, command: str
):
    """The address in INFO is whatever a replica has said."""
    with flushed.client() as client:
        replica = client.connection_pool.get_connection()
        try:
            replica.send_command("REPLCONF", "ip-address", "\x1b[2J,odd")
            replica.read_response()
            replica.send_command("REPLCONF", "listening-port", "1")
            replica.read_response()
            replica.send_command("PSYNC", "?", "-1")
            replica.read_response()
            assert "odd" in str(client.info("replication"))
            code, output, _ = called(command, "--url", flushed.url, "--timeout", PATIENCE)
        finally:
            replica.disconnect()
    assert code in (1, 2)
    assert "\x1b" not in output
    assert "replication" in output


def test_every_finding_is_explained():
    page = (DOCS / "doctor.md").read_text()
    parts = {
        re.sub(r"[^a-z0-9 ]", "", part.partition("\n")[0].lower()).replace(" ", "-"): part
        for part in page.split("\n## ")[1:]
    }
    for anchor, names in SECTIONS.items():
        for name in names:
            assert f"`{name}`" in parts[anchor], f"{name} is not explained in #{anchor}"
