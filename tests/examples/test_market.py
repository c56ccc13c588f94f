"""The whole market of `examples/market`, with somebody of each kind killed on the way; and that its checks can fail."""

from __future__ import annotations

import importlib
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from gridsync import AsyncGrid
from gridsync.market import Traded
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.sentinels import SentinelSet
from gridsync.testing.servers import RedisServer, server_kinds
from tests.wire.fake import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

MARKET = Path(__file__).parents[2] / "examples" / "market"


def run(url: str) -> None:
    command = [sys.executable, str(MARKET / "market.py"), url, "--quarters", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert (done.returncode, done.stdout.count("✓"), done.stdout.count("✗")) == (0, 7, 0), done.stdout + done.stderr
    assert "6 processes were killed" in done.stdout


@pytest.mark.timeout(600)
def test_a_market_whose_processes_are_killed_keeps_every_promise_and_leaves_nothing():
    with RedisServer(server_kinds()[0]) as server:
        run(server.url)
        assert [key for key in server.command("KEYS", "*") if server.command("TTL", key) == -1] == []


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_market_whose_server_is_killed_and_comes_back_keeps_every_promise():
    with (
        RedisServer(server_kinds()[0], options={"appendonly": "yes", "appendfsync": "always"}) as server,
        server.client() as client,
    ):

        def recorded(events: int) -> bool:
            streams = list(client.scan_iter(_type="stream"))
            return sum(client.xlen(stream) for stream in streams) > events

        command = [sys.executable, str(MARKET / "market.py"), server.url, "--quarters", "1", "--calm"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            try:
                for events in (20, 100):
                    eventually(partial(recorded, events), 120)
                    server.kill()
                    server.start()
                said = running.communicate(timeout=600)[0]
            finally:
                running.terminate()
        assert (running.returncode, said.count("✓"), said.count("✗")) == (0, 7, 0), said


@pytest.mark.any_server
async def test_a_gateway_says_what_is_wrong_with_a_request(gateway: ModuleType):
    """Whoever is told 500 comes again with the same, for ever."""
    good = {"order": "1", "side": "buy", "wh": 10, "price": 250_000}
    ann = {"authorization": f"Bearer {next(iter(gateway.MEMBERS))}"}
    with RedisServer(server_kinds()[0]) as server:
        async with AsyncGrid(server.url, audit=False) as grid:
            transport = httpx.ASGITransport(gateway.gateway(grid, "a secret of 16 bytes"), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:

                async def told(**order: object) -> int:
                    return (await client.post("/orders", json=good | order, headers=ann)).status_code

                assert [await told(), await told(), await told(wh=11), await told(order="2", price=-1)] == [
                    *(201, 201, 409, 201)
                ]
                for field, values in {
                    "wh": [0, -1, 10**9 + 1, 2**60, 10**30, 1.5, "10", True, None],
                    "price": [10**7 + 1, -(10**7) - 1, 10**30, "1", None],
                    "order": ["", "x" * 65, "a b", "a\n", "é", "a/b", 7, None],
                    "side": ["BUY", "", None],
                }.items():
                    assert {await told(**{field: value}) for value in values} == {422}, field
                json = {**ann, "content-type": "application/json"}
                for body in (b'{"wh": NaN}', b"[]", b'"\\ud800"', b"\xff\xfe", b""):
                    answer = await client.post("/orders", content=body, headers=json)
                    assert answer.status_code in {400, 422}, body
                for who in (
                    "",
                    "Bearer",
                    "Bearer nobody",
                    f"Bearer {'x' * 600}",
                    "Basic eDp5",
                    "Bearer \xe9".encode("latin-1"),
                ):
                    for path in ("/me", "/wallet"):
                        answer = await client.get(path, headers={"authorization": who})
                        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
                book = await client.get("/book")
                assert book.json()["bids"] == [[250_000, 10], [-1, 10]]
                server.stop()
                away = await client.get("/book")
                assert (away.status_code, away.headers["retry-after"]) == (503, "1")


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(MARKET)
    return importlib.import_module("gateway")


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("servers", [SentinelSet, RedisCluster])
def test_the_market_runs_wherever_its_url_leads(servers: Callable[[], Any]):
    with servers() as them:
        run(them.url)


@pytest.fixture
def market(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(MARKET)
    return importlib.import_module("market")


def epoch(market: ModuleType, after: int, until: int, fence: int, **paid: int) -> SimpleNamespace:
    event = market.EpochSettled(fence=fence, clerk="1", after=after, until=until, nano_eur=paid)
    return SimpleNamespace(event=event)


def test_the_checks_see_an_epoch_that_was_settled_twice_left_out_or_by_a_late_clerk(market: ModuleType):
    good = [epoch(market, 0, 5, 1), epoch(market, 5, 9, 1), epoch(market, 9, 12, 3)]
    assert market.settled_once(good, 12)
    assert not market.settled_once(good, 13), "one is missing"
    assert not market.settled_once([*good[:1], *good], 12), "one twice"
    assert not market.settled_once([good[0], good[2]], 12), "a hole"
    assert not market.settled_once([*good[:2], epoch(market, 9, 12, 0)], 12), "an older fence"


def test_the_checks_see_money_that_is_not_what_was_traded(market: ModuleType):
    trade = Traded(maker="a/1", taker="b/1", maker_owner="a", taker_owner="b", side="buy", price=30, quantity=2,
                   maker_left=0)  # fmt: skip
    owed = market.balances([SimpleNamespace(event=trade)])
    assert owed == {"a": 60, "b": -60}
    assert market.added([epoch(market, 0, 1, 1, a=60, b=-60)]) == owed
    assert market.added([epoch(market, 0, 1, 1, a=60, b=-60)] * 2) != owed


def test_the_checks_see_a_trade_beyond_its_order_its_price_or_its_answer(market: ModuleType):
    trade = Traded(maker="a/1", taker="b/1", maker_owner="a", taker_owner="b", side="buy", price=30, quantity=2,
                   maker_left=0)  # fmt: skip

    def orders(wh: int = 2, price: int = 30, filled: int = 2) -> dict[str, Any]:
        return {
            "a/1": market.Answered(side="sell", wh=2, price=30, member="a", filled_wh=0),
            "b/1": market.Answered(side="buy", wh=wh, price=price, member="b", filled_wh=filled),
        }

    assert market.kept_within(orders(), [trade])
    assert not market.kept_within(orders(wh=1, filled=1), [trade]), "more than it wanted"
    assert not market.kept_within(orders(price=29), [trade]), "dearer than it wanted"
    assert not market.kept_within(orders(), []), "less than was answered"
