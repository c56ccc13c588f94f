"""The look at the server after the first lease: what locks rely on and the server does not give."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid, Settings
from gridsync._io import keeper
from gridsync.testing.proxy import FaultProxy
from gridsync.testing.servers import RedisServer
from tests.wire.fake import soon
from tests.wire.world import KINDS, done

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

POOR = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "FIRST_S", 0.01)


@pytest.fixture(scope="module")
def poor() -> Iterator[RedisServer]:
    """A server that evicts, and forgets everything when it is restarted."""
    with RedisServer(options=POOR, users=["user blind on >secret ~* &* +@all -info"]) as server:
        yield server


@pytest.fixture(params=KINDS)
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Any]]:
    """Open grids of one kind."""
    made: list[Any] = []

    async def make(url: str, **options: Any) -> Any:  # noqa: ANN401 - either kind
        grid: Any = (Grid if request.param == "sync" else AsyncGrid)(url, **options)
        made.append(grid)
        if request.param != "sync":
            await grid.open()
        return grid

    yield make
    for grid in made:
        await done(grid.close())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "locks rely on" in record.message]


async def cycle(grid: Any) -> None:  # noqa: ANN401 - either kind
    lease = await done(grid.lock("job").acquire())
    assert grid.stats().leases_kept == 1, "the look is no lease"
    await done(lease.release())


async def renewed(grid: Any) -> None:  # noqa: ANN401 - either kind
    """Return when the watchdog had two turns, both after the look was due."""
    lease = await done(grid.lock("other").acquire())
    for _ in range(2):
        due = grid._io.monotonic() + 2 * keeper.FIRST_S
        lease._hold.due = lease._hold.renew_at = due
        grid._io.keep(lease._hold)
        await soon(lambda due=due: lease._hold.renew_at > due)
    await done(lease.release())


async def test_what_is_missing_is_said_once_and_told_in_stats(
    opened: Callable[..., Any], poor: RedisServer, caplog: pytest.LogCaptureFixture
):
    """Who runs locks on a cache learns it from the log, and not from two holders."""
    grid = await opened(poor.url)
    assert grid.stats().findings == ()
    with caplog.at_level(logging.WARNING, "gridsync"):
        await cycle(grid)
        await soon(lambda: grid.stats().findings)
        for _ in range(3):
            await cycle(grid)
    assert grid.stats().findings == ("eviction: allkeys-lru, 0 keys dropped so far", "append log: off")
    assert grid.stats().to_dict()["findings"] == list(grid.stats().findings)
    (said,) = warnings(caplog)
    assert f"what {poor.host}:{poor.port} does not give: eviction allkeys-lru" in said
    assert "CONFIG SET maxmemory-policy noeviction" in said
    assert "CONFIG SET appendonly yes" in said


async def test_it_is_asked_once_and_beside_a_renewal(opened: Callable[..., Any], poor: RedisServer):
    with FaultProxy(poor.url) as proxy:
        grid = await opened(proxy.url)
        assert not proxy.requests("INFO")
        await cycle(grid)
        await soon(lambda: grid.stats().findings)
        await renewed(grid)
        assert len(proxy.requests("INFO")) == 1
        await done(grid.close())


@pytest.mark.parametrize("how", ["argument", "environment", "settings"])
async def test_it_can_be_turned_off(
    opened: Callable[..., Any], poor: RedisServer, how: str, monkeypatch: pytest.MonkeyPatch
):
    options: dict[str, Any] = {}
    if how == "argument":
        options = {"audit": False}
    elif how == "environment":
        monkeypatch.setenv("GRIDSYNC_AUDIT", "0")
    else:
        options = {"settings": Settings(gridsync_audit=False)}
    with FaultProxy(poor.url) as proxy:
        grid = await opened(proxy.url, **options)
        await renewed(grid)
        await renewed(grid)
        assert not proxy.requests("INFO")
        assert grid.stats().findings == ()
        await done(grid.close())


async def test_a_server_that_may_not_be_asked_costs_nothing(
    opened: Callable[..., Any], poor: RedisServer, caplog: pytest.LogCaptureFixture
):
    with FaultProxy(poor.url_for("blind", "secret")) as proxy:
        grid = await opened(proxy.url)
        with caplog.at_level(logging.WARNING, "gridsync"):
            await cycle(grid)
            await soon(lambda: proxy.requests("INFO"))
            await renewed(grid)
        assert len(proxy.requests("INFO")) == 1
        assert (warnings(caplog), grid.stats().findings) == ([], ())
        await done(grid.close())


async def test_a_server_that_is_fit_is_no_news(opened: Callable[..., Any], caplog: pytest.LogCaptureFixture):
    with RedisServer(options={"appendonly": "yes"}) as server, FaultProxy(server.url) as proxy:
        grid = await opened(proxy.url)
        with caplog.at_level(logging.WARNING, "gridsync"):
            await cycle(grid)
            await soon(lambda: proxy.requests("INFO"))
            await renewed(grid)
        assert (warnings(caplog), grid.stats().findings) == ([], ())
        await done(grid.close())


async def test_who_holds_nothing_looks_at_nothing(opened: Callable[..., Any], poor: RedisServer):
    with FaultProxy(poor.url) as proxy:
        grid = await opened(proxy.url)
        await done(grid.limiter("calls", "5/second").hit("me"))
        await done(grid.lock("job").info())
        assert grid.stats().leases_kept == 0
        assert not proxy.requests("INFO")
        await done(grid.close())


async def test_an_embedded_server_is_not_looked_at(opened: Callable[..., Any]):
    """It is a test's, or a notebook's."""
    grid = await opened("embedded://")
    assert grid._io._keeper.first is None
