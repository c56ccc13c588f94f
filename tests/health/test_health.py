"""`Grid.health`: what it finds, what it says about it, and that it always comes back."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from gridsync import AsyncGrid, Grid, Health, UsageError
from gridsync._checkup import judge, questions
from gridsync._io import keeper
from gridsync._io.breaker import State
from gridsync._io.probe import Facts, Usage
from gridsync._io.wire.faults import ReplyError
from gridsync.health import LOCKS
from gridsync.testing.servers import RedisServer, server_kinds
from tests.wire.fake import soon
from tests.wire.world import opened

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = pytest.mark.parametrize("kind", ["sync", "asyncio"])
PATIENCE = 30.0
"""Seconds; for reports that shall not end because the machine is busy."""
HEALTHY = {"appendonly": "yes"}
FREE = Usage(0, 20, 0)


async def report(grid: Any, timeout: float = PATIENCE, *, age: float = 0.0) -> Health:  # noqa: ANN401
    """Return the report of a grid of either kind; a thread's report does not block the loop."""
    if inspect.iscoroutinefunction(grid.health):
        return await grid.health(timeout=timeout, max_age=age)
    return await asyncio.to_thread(grid.health, timeout=timeout, max_age=age)


def replies(*, info: str = "", **others: object) -> list[object]:
    """Return the replies of a healthy server, but for what the test says."""
    usual = {
        "TIME": [b"1000", b"0"],
        "ROLE": [b"master", 0, []],
        "CONFIG": {b"appendfsync": b"everysec"},
        "INFO": ("redis_version:7.2.4\nmaxmemory_policy:noeviction\naof_enabled:1\nrole:master\n" + info).encode(),
    }
    exists = [1] * 20
    return [
        exists if words[1:2] == ("EXISTS",) else others.get(words[0], usual.get(words[0], b"OK"))
        for words in questions("gridsync")
    ]


def judged(
    *,
    info: str = "",
    usage: Usage = FREE,
    ping_s: float = 0.001,
    asked_at: tuple[float, float] = (1000.0, 1000.0),
    sentinels: tuple[tuple[str, object], ...] = (),
    **others: object,
) -> Health:
    """Judge the replies of a server that is healthy but for what the test says."""
    facts = Facts("server:6379", 0.01, None, replies(info=info, **others), 0.001, ping_s, asked_at, sentinels=sentinels)
    return judge(facts, usage, namespace="gridsync", slow_s=0.3)


@KINDS
@pytest.mark.parametrize("program", server_kinds(), ids=str)
async def test_a_server_with_an_append_log_is_ok(kind: str, program: Any):  # noqa: ANN401 - a ServerKind
    with RedisServer(program, options=HEALTHY) as server:
        async with opened(kind, server.url) as grid:
            found = await report(grid)
        assert {item.name: item.status for item in found.items if item.name != "ping"} == dict.fromkeys(
            [
                *("connection", "version", "loading", "replication", "memory", "eviction", "snapshot", "append log"),
                *("role", "write", "scripts", "permissions", "clock", "usage"),
                *("min replicas", "clients", "fsync", "breakers"),
            ],
            "ok",
        ), str(found)
        assert program.version in str(found.item("version").value)
        assert found.server == f"{server.host}:{server.port}"
        assert server.command("KEYS", "*") == [], "whoever looks leaves nothing behind"


@KINDS
async def test_the_report_is_for_people_and_for_programs(kind: str, flushed: RedisServer):
    async with opened(kind, flushed.url) as grid:
        found = await report(grid)
    assert found.status == "degraded"
    assert found.item("append log").advice.endswith("CONFIG SET appendonly yes")
    lines = str(found).splitlines()
    assert lines[0].startswith(f"{flushed.host}:{flushed.port} is degraded (")
    assert any(line.startswith("degraded  append log   off") for line in lines)
    told = json.loads(found.to_json())
    assert told == json.loads(json.dumps(found.to_dict()))
    assert told["status"] == "degraded"
    assert {"name", "status", "value", "unit", "advice"} == set(told["items"][0])
    with pytest.raises(KeyError, match="'weather' was not looked at; this report has connection, ping"):
        found.item("weather")


@KINDS
async def test_a_server_that_is_away_is_down_and_no_exception(kind: str):
    with RedisServer() as server:
        async with opened(kind, server.url) as grid:
            server.stop()
            found = await report(grid)
    assert found.status == "down"
    assert "cannot connect" in str(found.item("connection").value)


@KINDS
async def test_a_frozen_server_is_down_when_the_deadline_ends(kind: str):
    with RedisServer() as server:
        async with opened(kind, server.url) as grid:
            server.pause()
            found = await report(grid, 0.2)
            server.resume()
    assert found.status == "down"
    assert "did not answer within" in str(found.item("connection").value)


@KINDS
async def test_a_user_without_rights_gets_a_report_that_says_so(kind: str):
    """Supervisors rarely may read INFO or CONFIG; that must neither fail nor look like an outage."""
    users = [
        "user app on >secret ~{gridsync:* &gridsync:* -@all +@read +@write +@scripting +@connection +publish +ping"
    ]
    with RedisServer(users=users, options=HEALTHY) as server:
        async with opened(kind, server.url_for("app", "secret")) as grid:
            found = await report(grid)
    for name in ("version", "loading", "replication", "memory", "eviction", "snapshot", "append log"):
        assert (found.item(name).status, found.item(name).value) == ("unknown", "not permitted"), name
        assert "+info" in found.item(name).advice
    assert found.item("role").value == "not permitted"
    assert found.item("write").status == "ok"


@KINDS
async def test_what_the_acl_refuses_is_named(kind: str):
    users = ["user app on >secret ~{gridsync:* &* +@all -xadd -publish"]
    with RedisServer(users=users, options=HEALTHY) as server:
        async with opened(kind, server.url_for("app", "secret")) as grid:
            found = await report(grid)
    assert found.item("permissions").status == "degraded"
    assert "XADD, PUBLISH" in found.item("permissions").advice


@pytest.mark.parametrize(("clustered", "needed"), [(0, "PUBLISH"), (1, "SPUBLISH")])
def test_only_the_kind_of_wake_up_that_is_used_must_be_permitted(clustered: int, needed: str):
    refused = ReplyError("NOPERM no")
    found = judged(info=f"cluster_enabled:{clustered}\n", PUBLISH=refused, SPUBLISH=refused)
    assert found.item("permissions").advice.startswith(f"the server's ACL refuses {needed} on")


@KINDS
async def test_a_replica_is_down_because_nothing_can_be_written_there(kind: str):
    with RedisServer(options={"repl-diskless-sync-delay": "0"}) as primary, RedisServer() as replica:
        replica.command("REPLICAOF", primary.host, primary.port)
        await soon(lambda: replica.command("INFO", "replication")["master_link_status"] == "up")
        async with opened(kind, replica.url) as grid:
            found = await report(grid)
    assert found.status == "down"
    assert found.item("role").value == "replica"
    assert found.item("write").advice == "this is a replica: connect to the primary"


@KINDS
async def test_a_full_server_is_down_and_says_what_to_do(kind: str, flushed: RedisServer):
    async with opened(kind, flushed.url) as grid:
        flushed.command("CONFIG", "SET", "maxmemory", "1kb")
        try:
            found = await report(grid)
        finally:
            flushed.command("CONFIG", "SET", "maxmemory", "0")
    assert found.item("memory").status == "degraded"
    assert found.item("write").status == "down"
    assert "raise maxmemory" in found.item("write").advice


@KINDS
async def test_a_certificate_that_ends_soon_is_seen(kind: str, tmp_path: Any):  # noqa: ANN401 - a Path
    program = next(kind for kind in server_kinds() if kind.tls)
    ends = dt.datetime.now(tz=dt.UTC) + dt.timedelta(days=3)
    authority = trustme.CA()
    short = authority.issue_cert("127.0.0.1", not_after=ends)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    short.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    short.private_key_pem.write_to_path(tmp_path / "server.key")
    with RedisServer(program, tls=True) as server:
        async with opened(kind, server.url) as grid:
            assert (await report(grid)).item("certificate").status == "ok"
        files = [("tls-cert-file", "server.pem"), ("tls-key-file", "server.key"), ("tls-ca-cert-file", "ca.pem")]
        server.command("CONFIG", "SET", *(word for name, file in files for word in (name, str(tmp_path / file))))
        base = f"rediss://{server.host}:{server.port}"
        async with opened(kind, f"{base}?ssl_ca_certs={quote(str(tmp_path / 'ca.pem'))}") as grid:
            item = (await report(grid)).item("certificate")
            assert (item.status, item.unit) == ("degraded", "d")
            assert 2 < float(item.value or 0) < 4
        async with opened(kind, f"{base}?ssl_cert_reqs=none&ssl_check_hostname=false") as grid:
            assert (await report(grid)).item("certificate").value == "not verified"


@pytest.mark.parametrize(
    ("found", "name", "status"),
    [
        (judged, "memory", "ok"),
        (lambda: judged(info="used_memory:95\nmaxmemory:100\n"), "memory", "degraded"),
        (lambda: judged(info="maxmemory_policy:allkeys-lru\n"), "eviction", "degraded"),
        (lambda: judged(info="rdb_last_bgsave_status:err\n"), "snapshot", "degraded"),
        (lambda: judged(info="aof_last_write_status:err\n"), "append log", "degraded"),
        (lambda: judged(info="loading:1\nloading_eta_seconds:7\n"), "loading", "down"),
        (lambda: judged(info="redis_version:6.2.1\n"), "version", "down"),
        (lambda: judged(info="server_name:valkey\nvalkey_version:8.0.1\n"), "version", "ok"),
        (lambda: judged(info="role:slave\nmaster_link_status:down\n"), "replication", "degraded"),
        (
            lambda: judged(info="role:slave\nmaster_link_status:up\nmaster_last_io_seconds_ago:60\n"),
            "replication",
            "degraded",
        ),
        (lambda: judged(info="slave0:ip=a,port=1,state=online,offset=1,lag=1\n"), "replication", "ok"),
        (lambda: judged(info="slave0:ip=a,port=1,state=online,offset=1,lag=60\n"), "replication", "degraded"),
        (lambda: judged(info="slave0:ip=a,port=1,state=wait_bgsave,offset=0,lag=0\n"), "replication", "degraded"),
        (lambda: judged(ping_s=0.5), "ping", "degraded"),
        (lambda: judged(asked_at=(1010.0, 1010.1)), "clock", "degraded"),
        (lambda: judged(asked_at=(990.0, 1010.0)), "clock", "ok"),
        (lambda: judged(usage=Usage(19, 20, 0)), "usage", "degraded"),
        (lambda: judged(usage=Usage(5, 20, 1)), "usage", "degraded"),
        (lambda: judged(usage=Usage(5, 20, 0, {"a:1": "closed", "b:1": "open"})), "breakers", "degraded"),
        (lambda: judged(usage=Usage(5, 20, 0, {"a:1": "half-open"})), "breakers", "degraded"),
        (lambda: judged(usage=Usage(5, 20, 0, {"a:1": "closed"})), "breakers", "ok"),
        (lambda: judged(info="connected_clients:95\nmaxclients:100\n"), "clients", "degraded"),
        (lambda: judged(info="connected_slaves:1\n"), "min replicas", "degraded"),
        (lambda: judged(info="connected_slaves:1\nmin_slaves_good_slaves:1\n"), "min replicas", "ok"),
        (lambda: judged(CONFIG={b"appendfsync": b"no"}), "fsync", "degraded"),
        (lambda: judged(CONFIG={b"appendfsync": b"always"}), "fsync", "ok"),
        (lambda: judged(CONFIG=ReplyError("NOPERM no")), "fsync", "unknown"),
        (lambda: judged(sentinels=(("s1", b"OK"), ("s2", b"OK"))), "sentinels", "ok"),
        (lambda: judged(sentinels=(("s1", b"OK"), ("s2", TimeoutError()))), "sentinels", "degraded"),
        (lambda: judged(sentinels=(("s1", ReplyError("NOQUORUM 1 usable")),)), "sentinels", "degraded"),
        (lambda: judged(sentinels=(("s1", ReplyError("NOPERM no")),)), "sentinels", "unknown"),
        (lambda: judged(ZADD=ReplyError("NOREPLICAS not enough")), "write", "down"),
        (lambda: judged(INFO=ReplyError("LOADING data")), "loading", "down"),
        (lambda: judged(SCRIPT=ReplyError("NOPERM no")), "scripts", "down"),
        (lambda: judged(SCRIPT=ReplyError("LOADING data")), "scripts", "down"),
        (lambda: judged(SCRIPT=ReplyError("ERR no")), "scripts", "down"),
        (
            lambda: judged(info="cluster_enabled:1\n", CLUSTER=b"cluster_state:ok\r\ncluster_slots_ok:16384\r\n"),
            "cluster",
            "ok",
        ),
        (
            lambda: judged(info="cluster_enabled:1\n", CLUSTER=b"cluster_state:ok\r\ncluster_slots_ok:16000\r\n"),
            "cluster",
            "degraded",
        ),
        (lambda: judged(info="cluster_enabled:1\n", CLUSTER=b"cluster_state:fail\r\n"), "cluster", "down"),
        (lambda: judged(info="cluster_enabled:1\n", CLUSTER=ReplyError("NOPERM no")), "cluster", "unknown"),
        (lambda: judged(TIME=ReplyError("NOPERM no")), "clock", "unknown"),
        (lambda: judged(ROLE=[b"sentinel", []]), "role", "degraded"),
    ],
)
def test_each_item_is_judged(found: Callable[[], Health], name: str, status: str):
    health = found()
    assert health.item(name).status == status, str(health)
    assert health.status == ("ok" if status == "unknown" else status), str(health)
    assert bool(health.item(name).advice) == (status != "ok")


def test_a_report_has_a_part_for_locks():
    """What a lock relies on: a full disk is its business, a slow clock is not."""
    found = judged(info="maxmemory_policy:allkeys-lru\nevicted_keys:7\n", asked_at=(1010.0, 1010.1))
    assert [item.name for item in found.findings] == ["eviction", "clock"]
    part = found.only(LOCKS)
    assert [(item.name, item.value) for item in part.findings] == [("eviction", "allkeys-lru, 7 keys dropped so far")]
    assert "maxmemory-policy noeviction" in part.findings[0].advice
    assert part.status == "degraded"
    assert {item.name for item in part.items} < set(LOCKS)
    fine = judged(asked_at=(1010.0, 1010.1))
    assert (fine.status, fine.only(LOCKS).status) == ("degraded", "ok")
    assert found.only(["weather"]).items == ()


def test_prometheus_reads_the_report():
    found = judged(ZADD=ReplyError("OOM full"), info="maxmemory_policy:allkeys-lru\n").to_prometheus()
    read = {
        (sample.name, sample.labels.get("item", "")): sample.value
        for family in text_string_to_metric_families(found)
        for sample in family.samples
    }
    assert read["gridsync_health", ""] == 2
    assert read["gridsync_health_item", "write"] == 2
    assert read["gridsync_health_item", "eviction"] == 1
    assert read["gridsync_health_item", "ping"] == 0


@KINDS
async def test_probes_that_come_often_share_a_report(kind: str, flushed: RedisServer):
    """A readiness probe of each of ten load balancers must not become ten connections a second."""

    def connections() -> int:
        return int(flushed.command("INFO", "stats")["total_connections_received"])

    async with opened(kind, flushed.url) as grid:
        before = connections()
        first = await report(grid, age=PATIENCE)
        more = await asyncio.gather(*(report(grid, age=PATIENCE) for _ in range(20)))
        assert all(found is not first and found == first for found in more)
        assert connections() == before + 2, "one for the report, one to ask"
        assert await report(grid) != first, "whoever does not say so gets a new one"
        flushed.stop()
        assert (await report(grid, age=PATIENCE)) == first
        assert (await report(grid)).status == "down"
        flushed.start()


@KINDS
async def test_of_many_that_find_no_report_one_looks(kind: str, flushed: RedisServer):
    async with opened(kind, flushed.url) as grid:
        flushed.pause()
        asking = [asyncio.ensure_future(report(grid, age=PATIENCE)) for _ in range(8)]
        await soon(grid._io._looking.locked)
        flushed.resume()
        found = await asyncio.gather(*asking)
        assert len({each.spent_s for each in found}) == 1
        assert found[0].status != "down"


@KINDS
async def test_whoever_waits_for_anothers_report_is_answered_in_time(kind: str, flushed: RedisServer):
    async with opened(kind, flushed.url) as grid:
        flushed.pause()
        first = asyncio.ensure_future(report(grid, age=PATIENCE))
        await soon(grid._io._looking.locked)
        late = await report(grid, 0.05, age=PATIENCE)
        assert (late.status, first.done()) == ("down", False)
        flushed.resume()
        assert (await first).status != "down"


@KINDS
async def test_being_alive_is_no_question_for_the_server(kind: str, flushed: RedisServer):
    async with opened(kind, flushed.url) as grid:
        flushed.stop()
        assert grid.alive()
        flushed.start()
    assert not grid.alive()


@KINDS
async def test_a_watchdog_that_is_stuck_is_not_alive(kind: str, flushed: RedisServer, monkeypatch: pytest.MonkeyPatch):
    """Its leases end one after the other, and only a restart helps."""
    async with opened(kind, flushed.url) as grid:
        lease = grid.lock("job").acquire()
        lease = await lease if inspect.isawaitable(lease) else lease
        assert grid.alive()
        now = keeper.monotonic()
        monkeypatch.setattr(keeper, "monotonic", lambda: now + 3600)
        with grid._io._keeper._condition:
            assert not grid.alive()
        monkeypatch.undo()
        assert grid.alive()
        ended = lease.release()
        await ended if inspect.isawaitable(ended) else None


@KINDS
async def test_the_report_names_the_breakers_that_are_open(kind: str, flushed: RedisServer):
    async with opened(kind, flushed.url) as grid:
        name = f"{flushed.host}:{flushed.port}"
        assert grid.stats().breakers == {name: "closed"}
        (breaker,) = grid._io._endpoint.server.guard._breakers.values()
        breaker.state = State.OPEN
        assert grid.stats().breakers == {name: "open"}
        assert grid.stats().to_dict()["breakers"] == {name: "open"}
        item = (await report(grid)).item("breakers")
        assert (item.status, item.value) == ("degraded", f"{name} open")
        flushed.stop()
        away = await report(grid)
        assert (away.status, away.item("breakers").value) == ("down", f"{name} open")
        flushed.start()


def test_a_timeout_must_be_positive(flushed: RedisServer):
    with Grid(flushed.url) as grid, pytest.raises(UsageError, match="timeout"):
        grid.health(timeout=0)


async def test_an_async_grid_that_is_not_open_says_so():
    with pytest.raises(UsageError, match="not open"):
        await AsyncGrid("redis://127.0.0.1:1").health()


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``gridsync health``."""
    return subprocess.run(
        [sys.executable, "-m", "gridsync.cli", "health", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_command_exits_with_0_1_or_2():
    with RedisServer(options=HEALTHY) as server:
        well = command("--timeout", "30", REDIS_URL=server.url)
        assert (well.returncode, well.stderr) == (0, ""), well.stdout
        assert " is ok (" in well.stdout
        server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        degraded = command("--timeout", "30", "--json", "--url", server.url)
        assert degraded.returncode == 1
        assert json.loads(degraded.stdout)["status"] == "degraded"
        audit = command("--timeout", "30", "--locks", "--url", server.url)
        assert audit.returncode == 1
        assert "CONFIG SET maxmemory-policy noeviction" in audit.stdout
        assert "clock" not in audit.stdout
        read = command("--timeout", "30", "--prometheus", "--locks", "--url", server.url)
        assert (read.returncode, read.stdout.splitlines()[2].rpartition(" ")[2]) == (1, "1")
        assert command("--json", "--prometheus").returncode == 2
        server.stop()
        away = command("--json", "--url", server.url)
        assert away.returncode == 2
        assert json.loads(away.stdout)["items"][0]["name"] == "connection"


def test_the_command_refuses_a_url_that_cannot_be_used():
    wrong = command("--url", "http://localhost")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("gridsync: ")
    assert wrong.stdout == ""


def test_the_command_shows_no_password():
    away = command("--json", "--url", "redis://someone:secret@127.0.0.1:1")
    assert away.returncode == 2
    assert "secret" not in away.stdout + away.stderr
