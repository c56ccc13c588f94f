"""Backups of every form of data, of sentinels and clusters, and encrypted ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import redis

from gridsync import Grid
from gridsync.ops.rdb import inspect, unpacked
from gridsync.ops.snapshot import Snapshot, servers_of
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.sentinels import SentinelSet
from gridsync.testing.servers import RedisServer, ServerKind, server_kinds
from tests.command import called
from tests.ops.backing import AT_ONCE, backup_of, drilled, fill, restored
from tests.streams.models import Order

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.leaves_keys


def write_every_form(raw: redis.Redis) -> None:
    """Each type, small and large, as each is written in another way."""
    for many in (3, 2000):
        words = {f"w{number}": f"value {number}" for number in range(many)}
        raw.hset(f"hash-{many}", mapping=words)
        raw.zadd(f"zset-{many}", {word: number * 1.5 for number, word in enumerate(words)})
        raw.sadd(f"set-{many}", *words)
        raw.sadd(f"numbers-{many}", *range(many))
        raw.rpush(f"list-{many}", *words, os.urandom(9000))
        for number in range(many):
            raw.xadd(f"stream-{many}", {"field": number}) if number < 300 else None
        raw.xgroup_create(f"stream-{many}", "group", "0")
        raw.xreadgroup("group", "one", {f"stream-{many}": ">"}, count=2)
    for number in (1, 300, 70_000, 2**40, "text", "x" * 500, os.urandom(100_000)):
        raw.set(f"string {str(number)[:9]!r}", number)
    raw.set("a name that is so long and so even that it is packed " + "n" * 200, "1", ex=1000)
    with suppress(redis.ResponseError):  # older servers do not have this
        raw.execute_command("HPEXPIRE", "hash-3", "1000000", "FIELDS", "1", "w1")
        raw.execute_command("HPEXPIRE", "hash-2000", "1000000", "FIELDS", "1", "w1")
    raw.function_load("#!lua name=mine\nredis.register_function('f', function() return 1 end)")


@pytest.mark.parametrize("kind", server_kinds(), ids=str)
def test_every_form_of_a_value_is_counted(kind: ServerKind):
    with RedisServer(kind, options=AT_ONCE) as server, server.client() as raw:
        write_every_form(raw)
        ((endpoint, _),) = servers_of(server.url, timeout=10)
        snapshot = iter(Snapshot(endpoint))
        found = inspect(lambda: next(snapshot, b""))
        assert found.unknown == ""
        assert found.keys == raw.dbsize()
        assert found.wings["other"].expiring == 1


def test_a_packed_string_is_unpacked():
    assert unpacked(b"\x04abcde", 5) == b"abcde"
    assert unpacked(b"\x00a\xe0\x02\x00", 12) == b"a" * 12


@pytest.mark.faults
@pytest.mark.any_server
def test_of_sentinels_a_replica_is_taken_and_its_lag_is_said(tmp_path: Path):
    with SentinelSet(options=AT_ONCE) as running, Grid(running.url, audit=False) as grid:
        there = fill(grid)
        grid.client.wait(2, 60_000)
        backup = backup_of(running.url, tmp_path)
        assert backup.manifest is not None
        (part,) = backup.manifest.parts
        assert part.role == "slave"
        assert part.lag_s is not None
        with RedisServer() as other:
            restored(backup.path, "--url", other.url)
            with Grid(other.url, audit=False) as again:
                assert [each.id for each in again.events("orders", Order).read_all()] == there["events"]


@pytest.mark.any_server
def test_a_cluster_is_one_backup_that_comes_back_to_a_cluster_and_to_one_server(tmp_path: Path):
    with RedisCluster() as cluster:
        with Grid(cluster.url, audit=False) as grid:
            there = fill(grid)
            with grid.lock("settlement", ttl=60) as lease:
                fence = lease.fence
        backup = backup_of(cluster.url, tmp_path)
        assert backup.manifest is not None
        assert [part.slots for part in backup.manifest.parts] == ["0-5460", "5461-10921", "10922-16383"]
        code, found = drilled(backup.path)
        assert (code, found["wrong"], found["books"]) == (0, [], 1)
        assert called("restore", str(backup.path), "--url", cluster.url)[0] == 2
        restored(backup.path, "--url", cluster.url, "--force")
        with RedisServer() as single:
            restored(backup.path, "--url", single.url)
            for url in (cluster.url, single.url):
                with Grid(url, audit=False) as grid:
                    assert [each.id for each in grid.events("orders", Order).read_all()] == there["events"]
                    with grid.lock("settlement") as lease:
                        assert lease.fence > fence


@pytest.mark.any_server
@pytest.mark.parametrize("tool", ["age", pytest.param("gpg", marks=pytest.mark.faults)])
def test_an_encrypted_backup_is_read_with_its_key_only(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian: apt install {'gnupg' if tool == 'gpg' else tool})")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    key = home / "key"
    if tool == "age":
        for words in (["age-keygen", "-o", str(key)], ["age-keygen", "-y", str(key)]):
            recipient = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    else:
        recipient = "backup@example.org"
        words = ["gpg", "--batch", "--passphrase", "", "--quick-generate-key", recipient, "default", "default", "never"]
        subprocess.run(words, check=True, capture_output=True)
    secret = "what nobody else shall read " * 100
    with RedisServer(options=AT_ONCE) as server:
        server.command("SET", "mine", secret)
        backup = backup_of(server, tmp_path / "to", "--recipient", recipient)
        server.command("FLUSHALL")
        words = ["--identity", str(key)] if tool == "age" else []
        assert drilled(backup.path, *words)[0] == 0
        restored(backup.path, "--url", server.url, *words)
        assert server.command("GET", "mine") == secret.encode()
    assert backup.manifest is not None
    assert backup.manifest.encryption == tool
    assert called("backups", "--from", str(tmp_path / "to"), "--verify")[0] == 0
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(other))
    code, _, error = called(
        "restore", str(backup.path), "--drill", *(["--identity", "/dev/null"] if tool == "age" else [])
    )
    assert code == 2
    assert "cannot be decrypted" in error
    assert len(error.splitlines()) == 2


@pytest.mark.any_server
def test_a_recipient_that_is_none_leaves_no_backup(tmp_path: Path):
    """Whether the tool refuses it, or is not there at all."""
    with RedisServer(options=AT_ONCE) as server:
        code, _, error = called("backup", "--to", str(tmp_path), "--url", server.url, "--recipient", "age1nobody")
    assert (code, len(error.splitlines())) == (2, 2)
    assert list(tmp_path.iterdir()) == []
