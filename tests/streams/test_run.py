"""Handlers that are registered with `on`, and what runs them: `run` in a program, `gridsync consume` from a shell."""

from __future__ import annotations

# ruff: noqa: ANN401 - handlers and drivers of either kind
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid, errors
from gridsync._io.keys import event_partitions
from gridsync.streams import DEAD, STOP, AsyncDelivery, Consumed, Delivery, Recorded, Retry
from tests.streams.conftest import Both, until
from tests.streams.models import Bid, Cancelled, Order, Placed
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from gridsync.testing.servers import RedisServer
    from tests.streams.conftest import Store, World


def runs(store: Store) -> Any:
    """Return the store with a `run` that is awaited for both kinds."""
    return Both(store.store, is_async=store.is_async)


async def test_each_group_gets_the_events_that_it_has_handlers_for(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1), Cancelled(reason="x"), Placed(kwh=2)])
    seen: dict[str, list[Any]] = {"bills": [], "reasons": [], "mails": []}
    on = store.store.on

    @on(Placed, group="billing")
    def bill(event: Placed) -> None:
        seen["bills"].append(event.kwh)

    @on(Cancelled, group="billing")
    def note(recorded: Recorded[Cancelled]) -> None:
        seen["reasons"].append((recorded.position, recorded.event.reason))

    @on(Placed, Cancelled, group="mailing")
    def mail(event: Placed | Cancelled, delivery: Any) -> None:
        seen["mails"].append((type(event), type(delivery)))

    ready: list[Any] = []
    done = await runs(store).run(idle_stop=0, on_ready=ready.append)
    kind = AsyncDelivery if world.is_async else Delivery
    assert seen["bills"] == [1, 2]
    assert seen["reasons"] == [(2, "x")]
    assert seen["mails"] == [(Placed, kind), (Cancelled, kind), (Placed, kind)]
    assert ready == [("orders/billing", "orders/mailing")]
    assert done.groups == {"orders/billing": Consumed(3, 0, 0, 0), "orders/mailing": Consumed(3, 0, 0, 0)}
    assert not done.hurried
    # Events that nobody handles are done all the same, without a call.
    store.store.on(Cancelled, group="third")(lambda _: seen["reasons"].append("third"))
    done = await runs(store).run(groups=["third"], idle_stop=0)
    assert done.groups == {"orders/third": Consumed(3, 0, 0, 0)}
    assert seen["reasons"][1:] == ["third"]
    assert raw.xpending(store.keys.log, "third")["pending"] == 0


@pytest.mark.any_server
async def test_a_store_forgets_the_groups_of_a_run_that_has_ended(world: World):
    """A program that runs what is there every minute would keep each run's groups for ever."""
    store = world.store(Order)
    store.store.on(Placed, group="billing")(lambda _: None)
    for _ in range(2):
        await runs(store).run(idle_stop=0)
    with pytest.raises(errors.UsageError, match="no handler in nobody"):
        await runs(store).run(groups=["billing", "nobody"])
    assert store.store._routes.stop._callbacks == []


@pytest.mark.any_server
async def test_a_group_that_is_registered_as_ordered_is_run_in_order(world: World, raw: redis.Redis):
    """A failed event holds back its stream, which it does in an ordered group only."""
    store = world.store(Order, partitions=2)
    for stream in "abcd":
        await store.append(stream, [Placed(kwh=1), Placed(kwh=2), Cancelled(reason="x")])
    seen: dict[str, list[int]] = {stream: [] for stream in "abcd"}
    failed: set[str] = set()
    on = store.store.on

    @on(Placed, group="billing", ordered=True)
    def bill(recorded: Recorded[Placed]) -> None:
        if recorded.stream not in failed:
            failed.add(recorded.stream)
            raise ConnectionError
        seen[recorded.stream].append(recorded.version)

    @on(Cancelled, group="billing")
    def note(recorded: Recorded[Cancelled]) -> None:
        seen[recorded.stream].append(recorded.version)
        if sum(map(len, seen.values())) == 12:
            store.store.stop()

    policy = Retry(first_s=0.01, max_s=0.01)
    done = await runs(store).run(idle_stop=60, policy=policy, on_error=lambda _: None, concurrency=2)
    assert seen == {stream: [1, 2, 3] for stream in "abcd"}
    billing = done.groups["orders/billing"]
    assert (billing.handled, billing.failed, billing.stolen) == (12, 4, 0)
    assert raw.exists(*(keys.lease("billing") for keys in event_partitions(NAMESPACE, "orders", 2))) == 2


@pytest.mark.any_server
async def test_a_handler_that_cannot_be_used_is_refused_when_it_is_registered(world: World):
    store = world.store(Order)
    on = store.store.on
    on(Placed, group="billing")(lambda _: None)
    for types, group, handler, text in (
        ((Placed,), "billing", lambda _: None, "already"),
        ((Cancelled, Cancelled), "billing", lambda _: None, "already"),
        ((), "billing", lambda _: None, "at least one model"),
        ((Bid,), "billing", lambda _: None, "no model of this store"),
        ((Cancelled,), "", lambda _: None, "name of a consumer group"),
        ((Cancelled,), "billing", lambda: None, "cannot be a handler"),
        ((Cancelled,), "billing", None, "function"),
    ):
        with pytest.raises(errors.UsageError, match=text):
            on(*types, group=group)(handler)

    async def later(_: Any) -> None: ...

    on(Placed, group="strict", policy=DEAD)(lambda _: None)
    for policy, text in ((STOP, "another policy"), ("dead", "policy")):
        with pytest.raises(errors.UsageError, match=text):
            on(Cancelled, group="strict", policy=policy)(lambda _: None)
    if not world.is_async:
        with pytest.raises(errors.UsageError, match="AsyncGrid"):
            on(Cancelled, group="billing")(later)
    with pytest.raises(errors.UsageError, match="no handler in mailing"):
        await runs(store).run(groups=["mailing"])
    with pytest.raises(errors.UsageError, match="no handler at all"):
        await runs(world.store(Order)).run()
    with pytest.raises(errors.UsageError, match="sequence"):
        await runs(store).run(groups="billing")
    with pytest.raises(errors.UsageError, match="concurrency"):
        await runs(store).run(concurrency=0)


async def test_a_run_goes_on_until_the_store_is_stopped(world: World, raw: redis.Redis):
    store = world.store(Order)
    seen: list[float] = []
    store.store.on(Placed, group="billing")(lambda recorded: seen.append(recorded.event.kwh))
    task = asyncio.create_task(runs(store).run(concurrency=3))
    for n in range(3):
        await store.append("a", Placed(kwh=n + 1))
        await until(lambda n=n: len(seen) == n + 1)
    store.store.stop()
    done = await task
    assert done.groups["orders/billing"].handled == 3
    assert raw.xinfo_consumers(store.keys.log, "billing") == []


@pytest.mark.any_server
async def test_a_store_without_handlers_is_kept_small_and_its_outboxes_are_emptied(world: World, raw: redis.Redis):
    """A process of its own may do that; and it ends when the store is stopped."""
    store, bills = world.store(Order), world.store(Order, "bills")
    await store.append("a", [Placed(kwh=n + 1) for n in range(5)])
    store.store.retention(max_count=2)

    def send(delivery: Delivery[Any]) -> None:
        with delivery.commit() as tx:
            tx.send(outbox, "b", Placed(kwh=9))

    async def send_async(delivery: AsyncDelivery[Any]) -> None:
        async with delivery.commit() as tx:
            tx.send(outbox, "b", Placed(kwh=9))

    outbox = store.store.outbox(bills.store)
    handler = send_async if world.is_async else send
    await store.group("billing").consume(handler, idle_stop=0)
    ready: list[Any] = []
    task = asyncio.create_task(runs(store).run(on_ready=ready.append))
    await until(lambda: ready == [("orders",)] and raw.xlen(store.keys.log) == 2)
    await until(lambda: raw.exists(bills.keys.log) and raw.xlen(bills.keys.log) == 5)
    store.store.stop()
    done = await task
    assert (done.groups, done.hurried) == ({}, False)
    with pytest.raises(errors.UsageError, match=r"no handler at all.* a retention or an outbox"):
        await runs(bills).run()
    with pytest.raises(errors.UsageError, match="no handler in billing"):
        await runs(store).run(groups=["billing"])


@pytest.mark.any_server
async def test_an_error_that_ends_one_group_lets_the_others_end_in_order(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1))

    @store.store.on(Placed, group="broken", policy=STOP)
    def fail(_: Any) -> None:
        raise ValueError("never")

    store.store.on(Placed, group="billing")(lambda _: None)
    with pytest.raises(ValueError, match="never"):
        await runs(store).run(on_error=lambda _: None)
    # What it had taken and not begun it gave back.
    assert {row["name"] for row in raw.xinfo_consumers(store.keys.log, "billing")} <= {b"~free"}
    assert raw.xpending(store.keys.log, "broken")["pending"] == 1


APP = """
import asyncio, os, sys, threading
from contextlib import asynccontextmanager
from pathlib import Path
from gridsync import AsyncGrid, Grid
from gridsync.streams import STOP
from tests.streams.models import Cancelled, Order, Placed

def handlers(store, **options):
    @store.on(Placed, group="billing", **options)
    def bill(recorded):
        begun(recorded)
        go = Path("go")
        while recorded.event.kwh > 100 and not go.exists():
            threading.Event().wait(0.01)

    return store

def async_handlers(store, **options):
    @store.on(Placed, group="billing", **options)
    async def bill(recorded):
        begun(recorded)
        go = Path("go")
        while recorded.event.kwh > 100 and not go.exists():
            await asyncio.sleep(0.01)

    return store

def begun(recorded):
    with open("begun", "a") as file:
        print(recorded.position, file=file, flush=True)

def app():
    return handlers(Grid(namespace="test").events("orders", Order))

@asynccontextmanager
async def later():
    async with AsyncGrid(namespace="test") as grid:
        yield [async_handlers(grid.events("orders", Order))]

def ordered():
    return handlers(Grid(namespace="test").events("orders", Order, partitions=4), ordered=True)

@asynccontextmanager
async def later_ordered():
    async with AsyncGrid(namespace="test") as grid:
        yield [async_handlers(grid.events("orders", Order, partitions=4), ordered=True)]

def strict():
    store = app()

    @store.on(Placed, group="strict", policy=STOP)
    def fail(event: Placed):
        raise ValueError("never")

    return store

nothing = 7
"""


class Running:
    """A `gridsync consume` of its own process, and what it says to systemd."""

    def __init__(self, words: list[str], folder: Path, url: str) -> None:
        self.folder = folder
        (folder / "shop.py").write_text(APP)
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._heard.settimeout(60)
        address = str(folder / "notify")
        self._heard.bind(address)
        environment = {
            **os.environ,
            "REDIS_URL": url,
            "NOTIFY_SOCKET": address,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gridsync.cli", "consume", *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hears(self) -> str:
        return self._heard.recv(100).decode()

    def begun(self) -> list[int]:
        file = self.folder / "begun"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def end(self) -> tuple[int, str, str]:
        output, complaints = self.process.communicate(timeout=60)
        return self.process.returncode, output, complaints

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self._heard.close()


@contextmanager
def consuming(folder: Path, server: RedisServer, *words: str) -> Iterator[Running]:
    made = Running(list(words), folder, server.url)
    try:
        yield made
    finally:
        made.close()


def wait_for(condition: Any) -> None:
    """Wait until *condition* holds, in a test that has no loop."""
    asyncio.run(until(condition, timeout=60.0))


@pytest.fixture
def store(flushed: RedisServer) -> Iterator[Any]:
    with Grid(flushed.url, namespace=NAMESPACE) as grid:
        yield grid.events("orders", Order)


@pytest.mark.any_server
@pytest.mark.parametrize("app", ["shop:app", "shop:later"])
def test_the_first_signal_lets_handlers_finish_and_begins_nothing(
    app: str, store: Any, flushed: RedisServer, tmp_path: Path
):
    store.append("a", [Placed(kwh=101), Placed(kwh=1), Placed(kwh=1)])
    ready = tmp_path / "ready"
    with consuming(tmp_path, flushed, app, "--json", "--ready-file", str(ready)) as running:
        assert running.hears() == "READY=1"
        assert ready.read_text().strip() == str(running.process.pid)
        wait_for(lambda: running.begun() == [1])
        running.process.send_signal(signal.SIGTERM)
        assert running.hears() == "STOPPING=1"
        (tmp_path / "go").touch()
        code, output, complaints = running.end()
    assert (code, complaints) == (0, "")
    lines = [json.loads(line) for line in output.splitlines()]
    assert lines[0] == {"ready": ["orders/billing"]}
    assert lines[1]["groups"]["orders/billing"]["handled"] == 1
    assert not lines[1]["hurried"]
    assert running.begun() == [1]
    assert not ready.exists()
    with flushed.client() as raw:
        names = {row["name"] for row in raw.xinfo_consumers("{test:events:orders}:log", "billing")}
    assert names <= {b"~free"}


@pytest.mark.any_server
@pytest.mark.parametrize("app", ["shop:app", "shop:later"])
def test_the_second_signal_gives_everything_back_at_once(app: str, store: Any, flushed: RedisServer, tmp_path: Path):
    store.append("a", [Placed(kwh=101), Placed(kwh=1)])
    with consuming(tmp_path, flushed, app, "--claim-idle", "3600") as running:
        assert running.hears() == "READY=1"
        wait_for(lambda: running.begun() == [1])
        running.process.send_signal(signal.SIGINT)
        assert running.hears() == "STOPPING=1"
        running.process.send_signal(signal.SIGINT)
        code, output, _ = running.end()
    assert code == 3
    assert output.splitlines()[0] == "ready: orders/billing"
    assert output.splitlines()[1].startswith("orders/billing: 0 handled, 0 failed")
    # Nobody has to wait for an hour.
    seen: list[int] = []
    store.group("billing").consume(lambda recorded: seen.append(recorded.position), claim_idle=3600, idle_stop=0)
    assert sorted(seen) == [1, 2]


class Ordered:
    """A store in four partitions, of which two have events: the first of each keeps its handler busy."""

    def __init__(self, grid: Grid) -> None:
        self.store = grid.events("orders", Order, partitions=4)
        self.group = self.store.group("billing", ordered=True)
        self.streams = [next(name for name in "abcdefgh" if self.store.partition_of(name) == k) for k in (0, 3)]
        for name in self.streams:
            self.store.append(name, [Placed(kwh=101), Placed(kwh=1), Placed(kwh=1)])
        self.seen: list[tuple[str, int]] = []

    def owners(self) -> set[str | None]:
        return {owner.member for owner in self.group.owners()}

    def consume_the_rest(self) -> list[tuple[str, int]]:
        """Do what a process would that is started now, and that waits for nobody's lease to end."""
        group = self.store.group("billing", ordered=True)
        group.consume(lambda each: self.seen.append((each.stream, each.version)), claim_idle=3600, idle_stop=0)
        return sorted(self.seen)


@pytest.fixture
def orders(flushed: RedisServer) -> Iterator[Ordered]:
    with Grid(flushed.url, namespace=NAMESPACE) as grid:
        yield Ordered(grid)


@pytest.mark.any_server
@pytest.mark.parametrize("app", ["shop:ordered", "shop:later_ordered"])
def test_the_first_signal_lets_the_partitions_go_when_their_handlers_have_ended(
    app: str, orders: Ordered, flushed: RedisServer, tmp_path: Path
):
    """Those in which nothing is at work go at once; the next process begins where this one has ended."""
    ready = tmp_path / "ready"
    words = (app, "--json", "--ready-file", str(ready), "--claim-idle", "3600", "--concurrency", "1")
    with consuming(tmp_path, flushed, *words) as running:
        assert running.hears() == "READY=1"
        assert ready.read_text().strip() == str(running.process.pid)
        wait_for(running.begun)
        wait_for(lambda: None not in orders.owners())
        assert len(orders.owners()) == 1
        running.process.send_signal(signal.SIGTERM)
        assert running.hears() == "STOPPING=1"
        wait_for(lambda: sum(owner.member is not None for owner in orders.group.owners()) == 1)
        (tmp_path / "go").touch()
        code, output, complaints = running.end()
    assert (code, complaints) == (0, "")
    lines = [json.loads(line) for line in output.splitlines()]
    assert lines[0] == {"ready": ["orders/billing"]}
    told = lines[1]["groups"]["orders/billing"]
    assert (told["handled"], told["failed"], told["stolen"], lines[1]["hurried"]) == (1, 0, 0, False)
    assert running.begun() == [1]
    assert not ready.exists()
    assert orders.owners() == {None}
    rest = {(stream, version) for stream in orders.streams for version in (1, 2, 3)}
    (begun,) = rest - set(orders.consume_the_rest())
    assert begun[1] == 1
    assert sorted(orders.seen) == sorted(rest - {begun})
    for stream in orders.streams:
        versions = [version for at, version in orders.seen if at == stream]
        assert versions == sorted(versions)


@pytest.mark.any_server
@pytest.mark.parametrize("app", ["shop:ordered", "shop:later_ordered"])
def test_the_second_signal_lets_all_partitions_go_at_once(
    app: str, orders: Ordered, flushed: RedisServer, tmp_path: Path
):
    with consuming(tmp_path, flushed, app, "--claim-idle", "3600") as running:
        assert running.hears() == "READY=1"
        wait_for(running.begun)
        wait_for(lambda: None not in orders.owners())
        running.process.send_signal(signal.SIGTERM)
        assert running.hears() == "STOPPING=1"
        running.process.send_signal(signal.SIGTERM)
        code, output, _ = running.end()
    assert code == 3
    assert output.splitlines()[1].startswith("orders/billing: 0 handled, 0 failed")
    assert orders.owners() == {None}
    assert orders.consume_the_rest() == sorted((stream, version) for stream in orders.streams for version in (1, 2, 3))


@pytest.mark.any_server
def test_the_exit_code_says_how_it_ended(store: Any, flushed: RedisServer, tmp_path: Path):
    store.append("a", Placed(kwh=1))
    for words, code, text in (
        (("shop:app", "--idle-stop", "0", "--group", "billing"), 0, "1 handled"),
        (("shop:strict", "--idle-stop", "0", "--group", "strict"), 1, "ValueError: never"),
        (("shop:app", "--idle-stop", "0", "--group", "mailing"), 2, "no handler in mailing"),
        (("shop:nothing",), 2, "is no application"),
        (("shop:missing",), 2, "has no 'missing'"),
        (("nowhere:app",), 2, "no module 'nowhere'"),
        (("shop",), 2, "module:app"),
    ):
        with consuming(tmp_path, flushed, *words) as running:
            got, output, complaints = running.end()
        (tmp_path / "notify").unlink()
        assert (got, text in output + complaints) == (code, True), (words, output, complaints)


@pytest.mark.any_server
def test_signals_are_left_alone_outside_the_main_thread_and_afterwards(store: Any):
    """A program that runs consumers in a thread of its own keeps its own handlers."""
    store.append("a", Placed(kwh=1))
    store.on(Placed, group="billing")(lambda _: during.append(signal.getsignal(signal.SIGTERM)))
    during: list[Any] = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: store.run(idle_stop=0))
    thread.start()
    thread.join()
    assert during == [before]
    store.append("a", Placed(kwh=1))
    store.run(idle_stop=0)
    assert during[1] is not before
    assert signal.getsignal(signal.SIGTERM) is before
