"""Reads that a replica may answer: who is chosen, what is believed, and when the primary is asked instead."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import OutcomeUnknown, Unavailable, UsageError
from gridsync._io.route import replica
from gridsync.testing.servers import free_port
from tests.sentinel.conftest import caught_up, follow, hand_over
from tests.sentinel.helpers import KINDS, FakeSentinel, Traded, do, opened
from tests.wire.fake import FakeServer, soon, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.servers import RedisServer
    from tests.sentinel.conftest import Pair

pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def behind(pair: Pair) -> Iterator[FakeSentinel]:
    """A sentinel that names the first server as primary and the second as its replica, which is in step."""
    follow(pair[1], pair[0])
    with FakeSentinel(pair[0]) as sentinel:
        sentinel.replicas[pair[1]] = {}
        yield sentinel


async def events(grid: Any, read_from: str, **options: int) -> list[int]:  # noqa: ANN401 - either kind
    """Read everything."""
    found = grid.events("orders", Traded).read_all(read_from=read_from, **options)
    if hasattr(found, "__aiter__"):
        return [recorded.event.kwh async for recorded in found]
    return [recorded.event.kwh for recorded in await asyncio.to_thread(list, found)]


async def readable(grid: Any) -> bool:  # noqa: ANN401
    try:
        await events(grid, "replica")
    except Unavailable:
        return False
    return True


async def told(kind: str, url: str, why: str) -> None:
    """Read from a replica until the error says *why*; a busy machine needs more time to find out than another one."""
    for timeout in (0.3, 3.0, 20.0):
        async with opened(kind, url, timeout=timeout) as grid:
            with pytest.raises(Unavailable) as raised:
                await events(grid, "replica")
        if why in str(raised.value):
            return
    raise AssertionError(f"it said: {raised.value}")


async def append(grid: Any, *kwh: int) -> None:  # noqa: ANN401
    await do(grid.events("orders", Traded).append, "day", [Traded(kwh=each) for each in kwh])


async def in_step(pair: Pair) -> None:
    """Return when the replica has everything."""
    await soon(lambda: caught_up(*pair))


def calls(server: RedisServer, command: str) -> int:
    """Return how often *server* ran a command."""
    with server.client() as client:
        return int(client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


@contextmanager
def unheard(server: RedisServer) -> Iterator[None]:
    """Let a replica follow a primary that is not there."""
    server.command("REPLICAOF", "127.0.0.1", free_port())
    yield


async def test_a_read_of_a_replica_costs_the_primary_nothing(kind: str, pair: Pair, behind: FakeSentinel):
    async with opened(kind, behind.url) as grid:
        await append(grid, 1, 2, 3)
        await in_step(pair)
        before, there = calls(pair[0], "xrange"), calls(pair[1], "xrange")
        for source in ("replica", "prefer_replica"):
            assert await events(grid, source) == [1, 2, 3]
            decision = await do(grid.limiter("calls", "5/minute").peek, "me", read_from=source)
            assert (decision.remaining, decision.source) == (5, "server")
        assert calls(pair[0], "xrange") == before
        assert calls(pair[1], "evalsha_ro") >= 2
        assert await events(grid, "primary") == [1, 2, 3]
        assert calls(pair[0], "xrange") > before
        stats = grid.stats()
        assert stats.replica_reads == calls(pair[1], "xrange") - there + 2
        assert stats.replica_fallbacks == 0


async def test_a_stream_is_read_from_a_replica_page_by_page(kind: str, pair: Pair, behind: FakeSentinel):
    async with opened(kind, behind.url) as grid:
        for start in (0, 1000):
            await append(grid, *range(start, start + 1000))
        await in_step(pair)
        store = grid.events("orders", Traded)
        found = store.read("day", from_version=11, read_from="replica")
        if kind == "asyncio":
            versions = [recorded.version async for recorded in found]
        else:
            versions = [recorded.version for recorded in await asyncio.to_thread(list, found)]
        assert versions == list(range(11, 2001))
        assert grid.stats().replica_reads >= 4


async def test_a_replica_that_lost_its_primary_is_not_believed(kind: str, pair: Pair, behind: FakeSentinel):
    """It answers as before, with what was true when it was cut off."""
    async with opened(kind, behind.url) as grid:
        await append(grid, 1)
        await in_step(pair)
        assert await events(grid, "replica") == [1]
        with unheard(pair[1]):
            await append(grid, 2)
            assert await events(grid, "prefer_replica") == [1, 2]
            assert grid.stats().replica_fallbacks
            await told(kind, behind.url, "has lost its primary (its link is 'connect")
        follow(pair[1], pair[0])
        await in_step(pair)
        await until(lambda: readable(grid))  # the breaker of the replicas may be open
        assert await events(grid, "replica") == [1, 2]


async def test_a_replica_that_was_promoted_is_read_as_a_replica_no_more(kind: str, pair: Pair, behind: FakeSentinel):
    async with opened(kind, behind.url) as grid:
        await append(grid, 1)
        await in_step(pair)
        assert await events(grid, "replica") == [1]
        hand_over(pair[0], pair[1])
        behind.names, behind.replicas = pair[1], {pair[0]: {}}
        await soon(lambda: pair[0].command("ROLE")[3:4] == [b"connected"])
        before = calls(pair[0], "xrange")
        assert await events(grid, "replica") == [1]
        assert calls(pair[0], "xrange") > before


@pytest.mark.parametrize(
    "facts",
    [
        {"flags": "s_down,slave"},
        {"flags": "slave,disconnected"},
        {"flags": "slave,o_down"},
        {"master-link-status": "err"},
    ],
)
async def test_a_replica_that_its_sentinel_doubts_is_not_asked(
    kind: str, pair: Pair, behind: FakeSentinel, facts: dict[str, str]
):
    behind.replicas[pair[1]] = facts
    before = calls(pair[1], "role")
    async with opened(kind, behind.url) as grid:
        assert await events(grid, "prefer_replica") == []
        assert grid.stats().replica_fallbacks
    await told(kind, behind.url, "the service 'market' has no replica that is fit to be read from")
    assert calls(pair[1], "role") == before


async def test_a_replica_that_shall_never_be_a_primary_is_good_to_read_from(
    kind: str, pair: Pair, behind: FakeSentinel
):
    behind.replicas[pair[1]] = {"slave-priority": "0"}
    async with opened(kind, behind.url) as grid:
        assert await events(grid, "replica") == []


async def test_of_two_replicas_the_one_that_is_gone_costs_nothing_but_an_attempt(
    kind: str, pair: Pair, behind: FakeSentinel
):
    behind.replicas |= {free_port(): {} for _ in range(3)}
    async with opened(kind, behind.url) as grid:
        await append(grid, 1)
        await in_step(pair)
        assert await events(grid, "replica") == [1]


async def test_a_silent_replica_takes_half_the_time_once_and_then_none(
    kind: str, pair: Pair, behind: FakeSentinel, monkeypatch: pytest.MonkeyPatch
):
    """Every further read goes to the primary at once, until the replica has had time to come back."""
    monkeypatch.setattr(replica, "DOUBT_S", 3600.0)
    with FakeServer(lambda *_: None, greeting=None) as silent:
        behind.replicas = {silent.port: {}}
        async with opened(kind, behind.url, timeout=3.0) as grid:
            for _ in range(20):
                assert await events(grid, "prefer_replica") == []
            assert len(silent.peers) == 1
            # Of an empty store: the read, and a look whether it is in several partitions.
            assert grid.stats().replica_fallbacks == 40
    assert pair[0].running


async def test_no_replica_means_the_primary_only_for_who_says_so(kind: str, pair: Pair, behind: FakeSentinel):
    behind.replicas = {}
    async with opened(kind, behind.url) as grid:
        await append(grid, 1)
        assert await events(grid, "prefer_replica") == [1]
    async with opened(kind, behind.url, timeout=0.3) as grid:
        with pytest.raises(Unavailable):
            await events(grid, "replica")
        decision = await do(grid.limiter("calls", "5/minute", on_error="deny").peek, "me", read_from="replica")
        assert decision.degraded
    assert pair[0].running


async def test_one_server_has_no_replicas_that_anybody_knows(kind: str, pair: Pair):
    async with opened(kind, pair[0].url) as grid:
        await append(grid, 1)
        assert await events(grid, "prefer_replica") == [1]
        assert grid.stats().replica_fallbacks == 0
        with pytest.raises(UsageError, match="this URL names one server and no replicas"):
            await events(grid, "replica")


async def test_a_source_that_there_is_not_is_named(kind: str, pair: Pair):
    async with opened(kind, pair[0].url) as grid:
        for call in (
            lambda: grid.events("orders", Traded).read_all(read_from="slave"),
            lambda: grid.events("orders", Traded).read("day", read_from="slave"),
        ):
            with pytest.raises(UsageError, match="read_from='slave': it must be one of 'primary', 'replica'"):
                call()
        with pytest.raises(UsageError, match="read_from='slave'"):
            await do(grid.limiter("calls", "5/minute").peek, "me", read_from="slave")


async def test_a_read_that_a_dying_replica_did_not_answer_is_repeated_elsewhere(
    kind: str, pair: Pair, behind: FakeSentinel
):
    async with opened(kind, behind.url) as grid:
        await append(grid, *range(100))
        await in_step(pair)
        reading = asyncio.gather(*(events(grid, "prefer_replica") for _ in range(50)), return_exceptions=True)
        for _ in range(3):
            pair[1].command("CLIENT", "KILL", "TYPE", "normal")
        assert all(not isinstance(found, OutcomeUnknown | Unavailable) and len(found) == 100 for found in await reading)
