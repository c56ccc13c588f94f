"""Handlers that commit what comes of their events; for shipped scripts and mutants."""

from __future__ import annotations

import asyncio
import copy
import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from gridsync._io.keys import events as event_keys
from gridsync.errors import DeliveryLost, Diverged, GridsyncError
from gridsync.streams import AsyncDelivery, AsyncEventStore, Park, Retry
from gridsync.testing.sim import Simulation
from tests.sim.failure_scenarios import LOSSY, one_event
from tests.sim.stream_scenarios import BAD_DAY, CLAIM_IDLE_S, KEYS, Placed, check_store, entries, write

if TYPE_CHECKING:
    from gridsync.testing.faults import Faults
    from gridsync.testing.sim import SimIO
    from tests.sim.stream_scenarios import Scripts

POLICY = {KeyError: Park(first_s=0.3, max_s=1.0), Exception: Retry(first_s=0.3, max_s=1.0)}


class Traded(BaseModel):
    """What the first group makes of an order."""

    item: str


def open_market(io: SimIO) -> AsyncEventStore[Any]:
    """Return the store of orders and trades."""
    return AsyncEventStore(io, "sim", "orders", [Placed, Traded])


def matching(io: SimIO) -> Any:  # noqa: ANN401 - a handler
    """Make a trade of each order, count the orders of its stream, and all of them."""
    random = io.process.random

    async def match(delivery: AsyncDelivery[Any]) -> None:
        if isinstance(delivery.event, Traded):
            return
        await io.sleep(random.uniform(0, 0.4))
        stream = delivery.recorded.stream
        seen = await delivery.state(stream, int, 0)
        if random.random() < 0.05:
            raise KeyError("not yet")
        async with delivery.commit() as tx:
            io.note("unsure", ids=tx.append("trades", Traded(item=delivery.event.item)), stream="trades")
            tx.state(stream, seen + 1)
            tx.add("orders", 1)
        if random.random() < 0.05:
            raise ValueError("after all was done")

    return match


def billing(io: SimIO) -> Any:  # noqa: ANN401 - a handler
    """Count the trades, and do nothing that would leave a trace elsewhere."""

    async def bill(delivery: AsyncDelivery[Any]) -> None:
        await io.sleep(io.process.random.uniform(0, 0.2))
        async with delivery.commit() as tx:
            tx.add("trades", int(isinstance(delivery.event, Traded)))

    return bill


async def consume(io: SimIO, group: str, concurrency: int = 2) -> None:
    """Handle events until stopped, again and again if cancelled."""
    handler = (matching if group == "matching" else billing)(io)
    while True:
        try:
            await (
                open_market(io)
                .group(group)
                .consume(
                    handler,
                    concurrency=concurrency,
                    batch=10,
                    claim_idle=CLAIM_IDLE_S,
                    policy=POLICY,
                    on_error=lambda failure: io.note("failed", decided=failure.decided, error=repr(failure.error)),
                )
            )
        except asyncio.CancelledError:
            io.note("cancelled")
        else:
            return


def state(sim: Simulation, group: str) -> dict[str, int]:
    """Return what a group has counted."""
    flat = sim.server.engine.execute("HGETALL", KEYS.state(group))
    return {key.decode(): int(value) for key, value in zip(flat[::2], flat[1::2], strict=True)}


def check_once(sim: Simulation) -> None:
    """Check that each order was traded and counted once, and that nothing is left to do."""
    check_store(sim)
    log = [facts for _, facts in entries(sim, KEYS.log)]
    orders = Counter((facts["s"], facts["i"]) for facts in log if facts["t"] == "Placed")
    trades = Counter((json.loads(facts["d"])["item"], json.loads(facts["m"])["k"]) for facts in log if "m" in facts)
    # The item of an order is its id.
    if trades != Counter((event_id, event_id) for _, event_id in orders):
        raise sim.history.fail(f"orders {orders} were traded as {trades}")
    streams = Counter(stream for stream, _ in orders)
    for group, counted in (("matching", {**streams, "orders": len(orders)}), ("billing", {"trades": len(orders)})):
        if (there := state(sim, group)) != counted:
            raise sim.history.fail(f"{group} has counted {there}, not {counted}")
        pending = sim.server.engine.execute("XPENDING", KEYS.log, group)
        left = sim.server.engine.execute("EXISTS", KEYS.retry(group), KEYS.failed(group), KEYS.waiting(group))
        if pending[0] or left:
            raise sim.history.fail(f"left over in {group}: {pending} {left}")


def chain(seed: int, scripts: Scripts = None, faults: Faults = BAD_DAY) -> Simulation:
    """One group trades, the next bills, in bad weather; members are killed and cancelled, and a group is destroyed."""
    sim = Simulation(seed, scripts=scripts, faults=replace(faults, cancel_every_s=0.0))
    sim.start("a", write, 20, 1.0)
    tasks = [sim.start(name, consume, "matching") for name in "cde"]
    tasks += [sim.start(name, consume, "billing") for name in "fg"]
    sim.at(sim.random.uniform(3, 20), lambda: sim.kill("c"))
    sim.at(sim.random.uniform(3, 20), lambda: sim.kill("f"))
    for _ in range(4):
        sim.at(sim.random.uniform(3, 35), sim.random.choice([*tasks[1:3], tasks[4]]).cancel)
    for group in ("matching", "billing", "billing"):
        when = sim.random.uniform(5, 30)
        sim.at(when, lambda group=group: sim.server.engine.execute("XGROUP", "DESTROY", KEYS.log, group))
    sim.at(60.0, lambda: sim.start("y", consume, "matching"))
    sim.at(60.0, lambda: sim.start("z", consume, "billing"))
    sim.run(until=120.0)
    check_once(sim)
    return sim


def lost_replies(seed: int, scripts: Scripts = None) -> Simulation:
    """Nobody takes anything over, the line is bad: no commit is told that its event was lost."""
    sim = Simulation(seed, scripts=scripts, faults=replace(LOSSY, calm_after_s=40.0))

    async def work(io: SimIO) -> None:
        async def handle(delivery: AsyncDelivery[Any]) -> None:
            try:
                async with delivery.commit() as tx:
                    tx.add("events", 1)
            except DeliveryLost:
                io.note("lost", position=delivery.position)
                raise
            except GridsyncError:
                io.note("open", position=delivery.position)
                raise

        await (
            open_market(io)
            .group("billing")
            .consume(handle, claim_idle=600.0, policy=POLICY, on_error=lambda _: None, consumer="billing-1")
        )

    sim.start("a", write, 20, 0.5)
    sim.start("c", work)
    sim.run(until=90.0)
    stored = check_store(sim)
    if (there := state(sim, "billing")) != {"events": len(stored)}:
        raise sim.history.fail(f"{there} of {len(stored)} events were counted")
    if lost := [event.position for event in sim.history.of("lost")]:
        raise sim.history.fail(f"told as lost, and nobody else was there: {lost}")
    if sim.server.engine.execute("XPENDING", KEYS.log, "billing")[0]:
        raise sim.history.fail("an event that was committed is pending")
    return sim


def ousted(seed: int, scripts: Scripts = None) -> Simulation:
    """A consumer stands still, another begins its event, perhaps under the same name: the first one commits nothing."""
    sim = Simulation(seed, scripts=scripts)
    name = sim.random.choice(("billing-1", None))

    async def work(io: SimIO, delay: float, work_s: float) -> None:
        async def handle(delivery: AsyncDelivery[Any]) -> None:
            if isinstance(delivery.event, Traded):
                return
            await io.sleep(work_s)
            try:
                async with delivery.commit() as tx:
                    tx.append("trades", Traded(item=io.process.name))
                    tx.add(io.process.name, 1)
            except DeliveryLost:
                io.note("lost")
                raise
            io.note("done")

        await io.sleep(delay)
        group = open_market(io).group("billing")
        done = await group.consume(
            handle, claim_idle=CLAIM_IDLE_S, idle_stop=30.0, consumer=name, on_error=lambda _: io.note("failed")
        )
        io.note("left", stolen=done.stolen, handled=done.handled)

    sim.start("w", one_event)
    # a begins at 1 s and would commit at 11; it stands still from 2 to 9 s; b comes at 5 s and works until after 25 s.
    sim.start("a", work, 1.0, 10.0)
    sim.start("b", work, 5.0, 20.0)
    sim.at(2.0 + sim.random.uniform(0, 0.5), lambda: sim.pause("a", 7.0))
    sim.run(until=120.0)
    told = [(event.process, event.kind) for event in sim.history.events if event.kind in {"lost", "done", "failed"}]
    if told != [("a", "lost"), ("b", "done")]:
        raise sim.history.fail(f"who was too late was told otherwise: {told}")
    first = next(facts for _, facts in entries(sim, KEYS.log) if facts["t"] == "Traded")
    if json.loads(first["d"]) != {"item": "b"}:
        raise sim.history.fail("who was too late has written")
    if not any(event.stolen for event in sim.history.of("left") if event.process == "a"):
        raise sim.history.fail("the lost delivery was not counted as stolen")
    return sim


def lost_in_work(seed: int, scripts: Scripts = None) -> Simulation:
    """The server forgets an event in work, and another gets its position and goes to the same consumer."""
    sim = Simulation(seed, scripts=scripts)
    data = sim.server.engine.data
    kept: dict[Any, Any] = {}

    async def work(io: SimIO) -> None:
        async def handle(delivery: AsyncDelivery[Any]) -> None:
            item = delivery.event.item
            await io.sleep(10.0 if item == "lost" else 0.0)
            try:
                async with delivery.commit() as tx:
                    tx.add(item, 1)
            except DeliveryLost:
                io.note("lost", item=item)
                raise

        group = open_market(io).group("billing")
        await group.consume(handle, claim_idle=600.0, consumer="billing-1", idle_stop=60.0, on_error=lambda _: None)

    async def put(io: SimIO, item: str) -> None:
        await open_market(io).append("anna", Placed(item=item))

    def forget() -> None:
        data._values.clear()
        data._values.update(kept)

    sim.start("w", put, "first")
    sim.start("c", work)
    sim.at(2.0, lambda: kept.update(copy.deepcopy(data._values)))
    sim.at(3.0 + sim.random.uniform(0, 1), lambda: sim.start("x", put, "lost"))
    sim.at(6.0, forget)
    sim.at(7.0, lambda: sim.start("y", put, "new"))
    # A request of the consumer that was still on its way.
    words = ("XREADGROUP", "GROUP", "billing", "billing-1", "STREAMS", KEYS.log, ">")
    sim.at(8.0 + sim.random.uniform(0, 1), lambda: sim.server.engine.execute(*words))
    sim.run(until=200.0)
    if (there := state(sim, "billing")) != {"first": 1, "new": 1}:
        raise sim.history.fail(f"the events that are there are first and new; what was made is of {there}")
    if [event.item for event in sim.history.of("lost")] != ["lost"]:
        raise sim.history.fail("who handled a lost event was not told")
    return sim


THERE = event_keys("sim", "bills")


async def send(io: SimIO) -> None:
    """Send a bill for each order to another store, again and again if cancelled."""
    bills = AsyncEventStore(io, "sim", "bills", [Traded])
    orders = open_market(io)
    outbox = orders.outbox(bills)

    async def bill(delivery: AsyncDelivery[Any]) -> None:
        await io.sleep(io.process.random.uniform(0, 0.2))
        async with delivery.commit() as tx:
            tx.send(outbox, "bills", Traded(item=delivery.event.item))
        if io.process.random.random() < 0.05:
            raise ValueError("after all was done")

    while True:
        try:
            await orders.group("billing").consume(
                bill, claim_idle=CLAIM_IDLE_S, policy=POLICY, on_error=lambda _: None, batch=10
            )
        except asyncio.CancelledError:
            io.note("cancelled")
        else:
            return


async def relay(io: SimIO) -> None:
    """Move what was sent, again and again if cancelled."""
    while True:
        try:
            bills = AsyncEventStore(io, "sim", "bills", [Traded])
            await open_market(io).outbox(bills).relay()
        except asyncio.CancelledError:
            io.note("cancelled")
        else:
            return


async def watch(io: SimIO) -> None:
    """Look each second at how much is on its way."""
    outbox = open_market(io).outbox(AsyncEventStore(io, "sim", "bills", [Traded]))
    while True:
        await io.sleep(1.0)
        try:
            (info,) = await outbox.info()
        except GridsyncError:
            continue
        io.note("on its way", info=info)


def across(seed: int, scripts: Scripts = None, faults: Faults = BAD_DAY) -> Simulation:
    """What is sent to another store is there once and in order, although relays are killed, cancelled and run twice."""
    sim = Simulation(seed, scripts=scripts, faults=replace(faults, cancel_every_s=0.0))
    sim.start("a", write, 20, 1.0)
    senders = [sim.start(name, send) for name in "cd"]
    relays = [sim.start(name, relay) for name in "rst"]
    sim.start("w", watch)
    sim.at(sim.random.uniform(3, 20), lambda: sim.kill("c"))
    sim.at(sim.random.uniform(3, 20), lambda: sim.kill("r"))
    for _ in range(4):
        sim.at(sim.random.uniform(3, 35), sim.random.choice([senders[1], *relays[1:]]).cancel)
    when = sim.random.uniform(5, 30)
    sim.at(when, lambda: sim.server.engine.execute("XGROUP", "DESTROY", KEYS.log, "billing"))
    sim.at(60.0, lambda: sim.start("y", send))
    sim.at(60.0, lambda: sim.start("z", relay))
    sim.run(until=120.0)
    check_store(sim)
    orders = [facts["i"] for _, facts in entries(sim, KEYS.log)]
    bills = [json.loads(facts["d"])["item"] for _, facts in entries(sim, THERE.log)]
    if sorted(bills) != sorted(orders):
        raise sim.history.fail(f"{orders} were billed as {bills}")
    if left := entries(sim, KEYS.outbox(THERE.base)):
        raise sim.history.fail(f"never moved: {left}")
    for told in sim.history.of("on its way"):
        if told.info.events != told.info.consignments or (told.info.oldest_age is None) != (told.info.events == 0):
            raise sim.history.fail(f"each has one event: {told}")
    return sim


def sender_fails_over(seed: int, scripts: Scripts = None) -> Simulation:
    """The sender's server forgets its last commits, some of which were moved: what it has in the end is billed once."""
    sim = Simulation(seed, scripts=scripts)
    values, kept = sim.server.engine.data._values, dict[Any, Any]()

    async def put(io: SimIO) -> None:
        for number in range(30):
            await open_market(io).append(io.process.random.choice(("anna", "bert")), Placed(item=str(number)))
            await io.sleep(io.process.random.uniform(0, 0.3))

    def ours() -> list[Any]:
        return [key for key in values if key.startswith(KEYS.base.encode())]

    def forget() -> None:
        for key in ours():
            del values[key]
        values.update(kept)

    sim.start("a", put)
    for name in "cd":
        sim.start(name, send)
    for name in "rs":
        sim.start(name, relay)
    when = sim.random.uniform(1, 4)
    sim.at(when, lambda: kept.update(copy.deepcopy({key: values[key] for key in ours()})))
    sim.at(when + sim.random.uniform(0, 0.5), forget)
    sim.run(until=60.0)
    orders = [json.loads(facts["d"])["item"] for _, facts in entries(sim, KEYS.log)]
    bills = Counter(json.loads(facts["d"])["item"] for _, facts in entries(sim, THERE.log))
    if wrong := {order: bills[order] for order in orders if bills[order] != 1}:
        raise sim.history.fail(f"not billed, or more than once: {wrong}")
    return sim


def lost_consignment(seed: int, scripts: Scripts = None) -> Simulation:
    """A part of an outbox is lost: that is told, and what comes behind it is not moved."""
    sim = Simulation(seed, scripts=scripts)

    async def look(io: SimIO) -> None:
        bills = AsyncEventStore(io, "sim", "bills", [Traded])
        try:
            await open_market(io).outbox(bills).relay(once=True)
        except Diverged:
            io.note("told")

    sim.start("a", write, 5, 0.1)
    sim.start("c", send)
    sim.at(20.0, lambda: sim.server.engine.execute("XDEL", KEYS.outbox(THERE.base), "1-0"))
    sim.at(21.0, lambda: sim.start("r", look))
    sim.run(until=30.0)
    if not sim.history.of("told") or entries(sim, THERE.log):
        raise sim.history.fail("a gap was passed over")
    return sim
