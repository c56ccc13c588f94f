"""``gridsync bench``: what it says, and that it leaves nothing behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from gridsync.testing.cluster import RedisCluster
from tests.command import called

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer

BRIEF = ("--seconds", "0.05", "--tasks", "3")


@pytest.mark.any_server
def test_every_row_is_measured_and_no_key_is_left(flushed: RedisServer):
    flushed.command("SET", "mine", "1", "EX", "600")
    code, output, error = called("bench", "--url", flushed.url, "--json", *BRIEF)
    assert (code, error) == (0, "")
    said = json.loads(output)
    names = ["lock, unlock", "limiter hit", "event append", "cache read"]
    assert [(row["what"], row["how"]) for row in said["rows"]] == [
        (name, how) for name in names for how in ("1 thread", "3 tasks")
    ]
    assert all(row["per_second"] > 0 and 0 < row["p50_ms"] <= row["p99_ms"] for row in said["rows"])
    assert flushed.command("KEYS", "*") == [b"mine"]


@pytest.mark.any_server
def test_people_get_a_table_and_no_password(flushed: RedisServer):
    flushed.command("ACL", "SETUSER", "bench", "on", ">secret", "~*", "&*", "+@all")
    try:
        code, output, _ = called("bench", "--url", flushed.url_for("bench", "secret"), *BRIEF)
    finally:
        flushed.command("ACL", "DELUSER", "bench")
    first, heads, *rows = output.splitlines()
    assert (code, len(rows)) == (0, 8)
    assert "secret" not in first
    assert heads.split() == ["per", "second", "p50", "ms", "p99", "ms"]
    assert {len(line) for line in (heads, *rows)} == {len(heads)}


@pytest.mark.any_server
def test_a_cluster_is_measured_and_left_as_it_was():
    with RedisCluster() as cluster:
        code, output, error = called("bench", "--url", cluster.url, "--json", *BRIEF)
        assert (code, error) == (0, "")
        assert len(json.loads(output)["rows"]) == 8
        assert [node.command("DBSIZE") for node in cluster.nodes] == [0] * len(cluster.nodes)


@pytest.mark.any_server
def test_keys_are_gone_also_if_the_server_refuses_on_the_way(flushed: RedisServer):
    flushed.command("ACL", "SETUSER", "bench", "on", ">secret", "~*", "&*", "+@all", "-xadd")
    try:
        code, output, error = called("bench", "--url", flushed.url_for("bench", "secret"), *BRIEF)
    finally:
        flushed.command("ACL", "DELUSER", "bench")
    assert (code, output, len(error.splitlines())) == (2, "", 2), error
    assert flushed.command("KEYS", "*") == []


def test_a_server_that_is_not_there_is_two_lines():
    code, output, error = called("bench", "--url", "redis://127.0.0.1:1")
    assert (code, output, len(error.splitlines())) == (2, "", 2)
