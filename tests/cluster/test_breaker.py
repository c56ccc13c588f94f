"""One node of a cluster is away: it has a breaker of its own, and the others go on."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from gridsync import AsyncGrid, Grid, Settings
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.testing.cluster import RedisCluster
from tests.wire.outage import LONG_S, bounded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync._io.breaker import StateChange
    from gridsync.testing.servers import RedisServer


@pytest.fixture(scope="module")
def patient() -> Iterator[RedisCluster]:
    """A cluster whose nodes wait for a silent one longer than any test takes: nothing but the client gives it up."""
    with RedisCluster(node_timeout_ms=120_000) as running:
        yield running


def key_on(cluster: RedisCluster, node: RedisServer) -> str:
    """Return a limiter's key whose state lives on *node*."""
    names = (f"member-{n}" for n in count())
    return next(name for name in names if cluster.owner(key_slot(f"gridsync:limit:calls:{name}".encode())) is node)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
async def test_a_node_that_is_away_is_refused_alone(patient: RedisCluster, kind: str):
    """A third of the keys fails at once, the rest is served; report and counters name the node."""
    settings = Settings(
        redis_url=patient.url,
        redis_command_timeout=0.4,
        redis_connection_timeout=2,
        gridsync_breaker_pause=LONG_S,
    )
    away, *others = patient.nodes
    names = {node.port: f"{node.host}:{node.port}" for node in patient.nodes}
    keys = {node.port: key_on(patient, node) for node in patient.nodes}
    heard: list[StateChange] = []
    with Grid(settings=settings) as sync_grid:
        async with AsyncGrid(settings=settings) as async_grid:
            grid: Any = sync_grid if kind == "sync" else async_grid
            grid.on_state_change(heard.append)

            async def hit(node: RedisServer, *, budget: float | None = None) -> Any:  # noqa: ANN401
                limiter = grid.limiter("calls", "1000/hour", budget=budget)
                if kind == "sync":
                    return await asyncio.to_thread(limiter.hit, keys[node.port])
                return await limiter.hit(keys[node.port])

            for node in patient.nodes:
                assert await hit(node, budget=LONG_S)
            assert grid.stats().breakers == dict.fromkeys(names.values(), "closed")
            away.pause()
            try:
                while not heard:
                    with pytest.raises((Unavailable, OutcomeUnknown)):
                        await hit(away)
                refused = await bounded(*(hit(away, budget=LONG_S) for _ in range(20)))
                assert all("calls fail at once" in str(error) for error in refused)
                assert all(names[away.port] in str(error) for error in refused)
                for node in others:
                    assert await hit(node, budget=LONG_S)
                assert {change.endpoint for change in heard} == {names[away.port]}
                states = grid.stats().breakers
                assert {name for name, state in states.items() if state != "closed"} == {names[away.port]}
                assert grid.stats().servers_away == 1
            finally:
                away.resume()
