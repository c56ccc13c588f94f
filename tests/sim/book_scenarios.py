"""Programs that compare the order book with its model.

A program is what some clients do: place, cancel and replace orders of all kinds, at a few prices so that they meet, say
again what they said before, as it was or not quite, and die; requests and replies are lost or late, and the server
restarts.  The simulated server runs one script after the other, so there is one order of everything; in that order the
model must answer each request as the server did, and after each of them both must hold the same book.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from gridsync._io.keys import events, orderbook
from gridsync._io.wire.faults import ReplyError
from gridsync.errors import DuplicateOrder, NotNow, OutcomeUnknown, Unavailable, UsageError
from gridsync.market import EVENTS, AsyncOrderBook
from gridsync.market._core import CANCEL, PLACE, REPLACE, TEND
from gridsync.streams import AsyncEventStore
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation
from tests.sim.book_model import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gridsync.testing.sim import Call, SimIO

    Scripts = Mapping[str, str] | None

KEYS = events("sim", "m")
BOOK = orderbook(KEYS.base, "DE")
CLIENTS = ("a", "b", "c")
FATES = ("fine",) * 5 + ("request_lost", "reply_lost", "reply_lost", "late", "slow")
LATE = Faults(late_s=2.0, slow_s=2.0)
MOST = 6
HEAD = 5
"""How many arguments come before those of one request; those of a cancel begin one earlier."""


def open_book(io: SimIO, *, remember: float = 86_400.0) -> AsyncOrderBook[AsyncEventStore[Any]]:
    """Return the book as one process sees it."""
    store: AsyncEventStore[Any] = AsyncEventStore(io, "sim", "m", EVENTS)
    return AsyncOrderBook(store, "DE", tick="0.5", lot=1, max_fills=MOST, remember=remember)


@dataclass(frozen=True)
class Step:
    """One thing that a client does."""

    kind: str
    """``place``, ``replace``, ``cancel``, ``tend`` or ``restart``."""
    order: str = ""
    words: tuple[Any, ...] = ()
    fates: tuple[str, ...] = ()
    kill_us: int | None = None
    pause_s: float = 0.05


def program(random: Random, length: int = 16) -> list[list[Step]]:
    """Return what each client does; what is drawn first is shrunk first."""
    steps: list[list[Step]] = [[] for _ in CLIENTS]
    done: list[Step] = []
    for number in range(length):
        step = _step(random, number, done)
        fates = tuple(random.choice(FATES) for _ in range(random.randint(0, 2)))
        kill_us = random.choice((0, 700, 2500)) if random.randint(0, 11) == 11 else None
        step = replace(step, fates=fates, kill_us=kill_us, pause_s=random.choice((0.02, 0.05, 0.4)))
        if step.kind in ("place", "replace", "cancel"):
            done.append(step)
        steps[random.randrange(len(CLIENTS))].append(step)
    return steps


def _step(random: Random, number: int, done: list[Step]) -> Step:
    kind = random.choice(("place",) * 8 + ("cancel", "replace", "replace", "again", "again", "tend", "restart"))
    if kind == "again" and done:
        step = random.choice(done)
        if step.kind == "place" and random.randint(0, 3) == 0:
            return replace(step, words=_words(random))
        return step
    known = [step.order for step in done if step.order != f"o{number}"]
    if kind == "cancel":
        return Step("cancel", random.choice([*known, f"o{number + 2}"]))
    if kind == "replace" and known:
        words = (random.choice(known), random.randint(1, 7), random.randint(-2, 3), random.randint(0, 4) == 0)
        return Step("replace", f"o{number}", words)
    if kind in ("tend", "restart"):
        return Step(kind)
    return Step("place", f"o{number}", _words(random))


def _words(random: Random) -> tuple[Any, ...]:
    rule = random.choice(("gtc",) * 6 + ("post_only", "ioc", "fok", "market", "market fok"))
    price = None if rule.startswith("market") else random.randint(-2, 3)
    life = random.choice((None, None, None, 0.3, 2.0)) if rule in ("gtc", "post_only") else None
    return (
        random.choice(("buy", "sell")),
        random.randint(1, 6),
        price,
        {"market": "ioc", "market fok": "fok"}.get(rule, rule),
        random.choice(("", "", "anna", "bert")),
        random.choice(("cancel_newest", "cancel_oldest", "cancel_both", "decrement")),
        life,
    )


class Run:
    """One program against one simulated server, and the model beside it."""

    def __init__(self, seed: object, steps: list[list[Step]], scripts: Scripts = None) -> None:
        """Set the stage."""
        self.sim = Simulation(str(seed), faults=LATE, scripts=scripts)
        self.model = Model(MOST)
        self.sim.watch(self._look)
        replaced = self.sim.scripts
        self._calls: dict[bytes, tuple[int, Callable[..., list[object]]]] = {
            replaced.get(script.name, script).sha.encode(): (at, call)
            for script, at, call in (
                (PLACE, HEAD, self.model.place),
                (REPLACE, HEAD, self.model.replace),
                (CANCEL, HEAD - 1, self.model.cancel),
                (TEND, HEAD - 1, self.model.tend),
            )
        }
        self._deadly: set[str] = set()
        self._gone: set[tuple[str, str, int]] = set()
        for name, its in zip(CLIENTS, steps, strict=True):
            self._start(name, its)

    def _start(self, name: str, steps: list[Step]) -> None:
        if steps:
            self.sim.start(name, self._client, steps)

    # -- the server's side --------------------------------------------------------------------------------------------

    def _look(self, call: Call) -> None:
        """Let the model answer what the server has just answered."""
        if call.words[0].upper() != b"EVALSHA" or call.words[1] not in self._calls:
            return
        if isinstance(call.reply, ReplyError):
            if not str(call.reply).startswith("NOSCRIPT"):
                raise self.sim.history.fail(f"{call.reply}")
            return
        at, model = self._calls[call.words[1]]
        keys = int(call.words[2])
        args = [word.decode() for word in call.words[3 + keys + at :]]
        answer = model(self.sim.server.engine.data.now_ms(), *args)
        reply = [word.decode() if isinstance(word, bytes) else word for word in call.reply]  # type: ignore[union-attr]
        if reply != answer:
            raise self.sim.history.fail(f"{args} of {call.process} was answered with {reply}, not {answer}")
        self._compare(args)
        if call.process in self._deadly:
            # The server has done it, and nobody will ever hear of it.
            self.sim.kill(call.process)

    def _compare(self, args: list[str]) -> None:
        """Compare every key of the book with the model."""
        execute, fail = self.sim.server.engine.execute, self.sim.history.fail
        model, best = self.model, {}
        wanted: dict[str, str] = {}
        for side, key, sign in (("b", BOOK.buy, -1), ("s", BOOK.sell, 1)):
            queue = model.best(side)
            found: Any = execute("ZRANGE", key, "0", "-1", "WITHSCORES")
            members = [word for o in queue for word in (f"{o.place:016d}:{o.id}", str(sign * o.price))]
            if [word.decode() for word in found] != members:
                raise fail(f"after {args} side {side} is {found}, and should be {members}")
            for o in queue:
                wanted[f"{side}:{o.price}"] = str(int(wanted.get(f"{side}:{o.price}", 0)) + o.left)
            best[side] = queue[0].price if queue else None
        if best["b"] is not None and best["s"] is not None and best["b"] >= best["s"]:
            raise fail(f"after {args} the book is crossed: {best}")
        fields = {name.decode(): text.decode() for name, text in _pairs(execute("HGETALL", BOOK.book))}
        levels = {name: total for name, total in fields.items() if name[:2] in ("b:", "s:")}
        if levels != wanted:
            raise fail(f"after {args} the levels are {levels}, and should be {wanted}")
        lefts = {name[2:]: record.split(" ")[3:5] for name, record in fields.items() if name[:2] == "o:"}
        if lefts != {o.id: [str(o.quantity), str(o.left)] for o in model.open}:
            raise fail(f"after {args} the orders are {lefts}, and should be {model.open}")
        timers = {
            name.decode(): int(ends) for name, ends in _pairs(execute("ZRANGE", BOOK.expiry, "0", "-1", "WITHSCORES"))
        }
        if timers != {o.id: o.ends for o in model.open if o.ends}:
            raise fail(f"after {args} the timers are {timers}, and should be those of {model.open}")
        if int(execute("HGET", KEYS.versions, "orderbook-DE") or 0) != model.sequence:  # type: ignore[arg-type]
            raise fail(f"after {args} the sequence is not {model.sequence}")
        noted = fields.get("best", "").split(" ")
        if noted[0] == str(model.sequence):
            prices = [str(best[side]) if best[side] is not None else "null" for side in ("b", "s")]
            if noted[1:3] != prices:
                raise fail(f"after {args} the best prices are noted as {noted}, and should be {prices}")
            first = min(timers.values(), default=None)
            if first is not None and not (noted[3].isdigit() and int(noted[3]) <= first):
                raise fail(f"after {args} the first expiry is noted as {noted}, and should be {first}")
        said: Any = execute("GET", BOOK.metadata)
        metadata = json.loads(said) if said else None
        if (
            metadata
            and metadata["sequence"] == model.sequence
            and (metadata["bid"], metadata["ask"]) != (best["b"], best["s"])
        ):
            raise fail(f"after {args} the metadata is {metadata}, and should tell {best}")
        if metadata is None and model.sequence:
            raise fail(f"after {args} there is no metadata")

    # -- the clients' side --------------------------------------------------------------------------------------------

    async def _client(self, io: SimIO, steps: list[Step]) -> None:
        name = io.process.name
        book = open_book(io)
        for number, step in enumerate(steps):
            self.sim.next_requests(*step.fates)
            if step.kill_us is not None:
                # The next incarnation goes on, and repeats this step as one does who finds it in its notes.
                rest = [replace(step, kill_us=None, fates=()), *steps[number + 1 :]]
                self._die(f"{name}'", name, step, rest)
            try:
                await self._do(book, step)
            except DuplicateOrder as error:
                if error.order_id not in self.model.asked:
                    raise
            except (OutcomeUnknown, Unavailable):
                io.note("unsure", step=step)
            if step.kill_us is not None:
                # It did not die on the way, so it dies now.
                self.sim.at(self.sim.now, lambda: self.sim.kill(name))
            await io.sleep(step.pause_s)

    def _die(self, heir: str, name: str, step: Step, rest: list[Step]) -> None:
        us = step.kill_us or 0
        if us == 0:
            self._deadly.add(name)
        else:
            self.sim.at(self.sim.now + us / 1e6, lambda: self.sim.kill(name))
        self.sim.at(self.sim.now + 8.0, lambda: self._start(heir, rest))

    async def _do(self, book: AsyncOrderBook[Any], step: Step) -> None:
        if step.kind == "restart":
            self.sim.restart_server(0.3)
        elif step.kind == "tend":
            await book.tend()
        elif step.kind == "cancel":
            await book.cancel(step.order)
        else:
            if step.kind == "place":
                side, quantity, ticks, rule, owner, protect, life = step.words
                price = None if ticks is None else book.price(ticks)
                told = await book.place(
                    step.order, side, quantity, price, rule=rule, owner=owner, self_trade=protect, expires_in=life
                )
            else:
                old, quantity, ticks, post_only = step.words
                told = await book.replace(old, step.order, quantity, book.price(ticks), post_only=post_only)
            if told.reason == "cancelled":
                return
            words = [told.status, told.filled, told.left, told.reason or "", told.sequence]
            for fill in told.trades:
                words += [fill.maker, int(fill.price * 2), fill.quantity, fill.sequence]
            if ",".join(map(str, words)) != self.model.answers[step.order]:
                raise self.sim.history.fail(f"{step} was told {told}, and not {self.model.answers[step.order]}")

    # -- the end ------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Compare the whole history with the model's, and the live book with its history."""
        found = []
        execute = self.sim.server.engine.execute
        for version, (entry, fields) in enumerate(execute("XRANGE", KEYS.stream("orderbook-DE"), "-", "+"), 1):  # type: ignore[misc, arg-type]
            if entry != b"%d-0" % version:
                raise self.sim.history.fail(f"event {version} is {entry!r}")
            words = dict(_pairs(fields))
            found.append(_event(words[b"t"].decode().removeprefix("orderbook."), json.loads(words[b"d"])))
        if found != self.model.events:
            raise self.sim.history.fail(f"the events are {found}, and should be {self.model.events}")
        if any(self.model.asked.get(order) == () for order in self.model.answers):
            raise self.sim.history.fail("an order came after it was cancelled")


def _event(kind: str, data: dict[str, Any]) -> tuple[object, ...]:
    if kind == "rested":
        words = ("order", "price", "quantity", "filled", "expires_ms")
        return (kind, data["side"][0], *(data[word] for word in words))
    if kind == "traded":
        return (kind, data["taker"], data["maker"], data["price"], data["quantity"], data["maker_left"])
    if kind == "reduced":
        return (kind, data["order"], data["quantity"], data["by"])
    if kind == "replaced":
        return (kind, data["order"], data["replaced"], data["quantity"], data["by"])
    return (kind, data["order"], data["quantity"], data["reason"])


def _pairs(flat: Any) -> list[tuple[bytes, bytes]]:  # noqa: ANN401 - a reply
    return list(zip(flat[::2], flat[1::2], strict=True))


async def prove(io: SimIO) -> None:
    """Compare the live book with its events, as a process that has seen nothing of it."""
    book = open_book(io)
    verified, mirror = await book.verify(), await book.rebuild()
    io.note("verified", digest=verified.digest, differences=verified.differences, again=mirror.digest())


async def bring_back(io: SimIO) -> None:
    """Make the book anew of its events, as somebody who must."""
    while True:
        try:
            verified = await open_book(io).restore()
        except UsageError:
            break  # somebody else did
        except (NotNow, OutcomeUnknown, Unavailable):
            continue
        io.note("verified", digest=verified.digest, differences=verified.differences, again=verified.digest)
        break
    io.note("restored")


def run(seed: object, steps: list[list[Step]], scripts: Scripts = None) -> Simulation:
    """Run a program to its end and compare what is stored."""
    made = Run(seed, steps, scripts)
    made.sim.at(500.0, lambda: made.sim.start("z", prove))
    execute = made.sim.server.engine.execute
    made.sim.at(520.0, lambda: made.model.open and execute("DEL", *BOOK))
    # Two do it at about the same time, and some of what they send is lost, or late.
    random = Random(f"restore {seed}")
    made.sim.at(530.0, lambda: made.sim.next_requests(*random.choices(("fine", *FATES), k=6)))
    for name, at in (("x", 530.0), ("y", 530.0 + random.uniform(0, 0.006))):
        made.sim.at(at, lambda name=name: made.model.open and made.sim.start(name, bring_back))
    made.sim.run(until=600.0)
    made.check()
    if made.model.open:
        if len(made.sim.history.of("restored")) != 2:
            raise made.sim.history.fail("the book was not made anew")
        made._compare(["restore"])
    for proof in made.sim.history.of("verified"):
        if proof.facts["differences"] or proof.facts["digest"] != proof.facts["again"]:
            raise made.sim.history.fail(f"the live book is not what its events say: {proof.facts}")
    return made.sim


def seeded(seed: int, scripts: Scripts = None) -> Simulation:
    """Run the program of a seed; for the shipped scripts and the mutants."""
    return run(seed, program(Random(f"book {seed}"), length=40), scripts)


def forgetful(seed: int, scripts: Scripts = None) -> Simulation:
    """Scripts that do not note the best prices, older ones, change the book in between."""
    made = Run(f"forget {seed}", program(Random(f"forget {seed}"), length=30), scripts)
    random, execute = Random(f"old {seed}"), made.sim.server.engine.execute

    def forget() -> None:
        # What an older script leaves: the book as it should be, and a note of an earlier event.
        if execute("HEXISTS", BOOK.book, "best"):
            execute("HSET", BOOK.book, "best", f"{made.model.sequence - 1} 3 -2 null")

    for _ in range(20):
        made.sim.at(random.uniform(0.0, 3.0), forget)
    made.sim.run(until=600.0)
    made.check()
    return made.sim


def crowded(seed: int, scripts: Scripts = None) -> Simulation:
    """Many small orders stand in the book, and a few large ones meet more of them than they may."""
    random = Random(f"crowd {seed}")
    small = [
        Step("place", f"s{n}", ("sell", 1, random.randint(0, 2), "gtc", "", "cancel_newest", None), pause_s=0.01)
        for n in range(3 * MOST)
    ]
    large = [
        Step("place", f"b{n}", ("buy", random.randint(1, 2 * MOST), 2, "gtc", "", "cancel_newest", None), pause_s=0.01)
        for n in range(4)
    ]
    return run(f"crowd {seed}", [[*small, *large], [], []], scripts)


def lapsed(seed: int, scripts: Scripts = None) -> Simulation:
    """Orders are cancelled about when they expire, and nothing else happens."""
    random = Random(f"lapse {seed}")
    steps = [
        each
        for n in range(6)
        for each in (
            Step("place", f"o{n}", ("sell", 1, 1, "gtc", "", "cancel_newest", 0.1), pause_s=random.uniform(0, 0.2)),
            Step("cancel", f"o{n}"),
        )
    ]
    return run(f"lapse {seed}", [steps, [], []], scripts)
