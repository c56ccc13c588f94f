"""Every decision of a limiter, held against a model that keeps all hits in a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gridsync._io.keys import limit as limit_key
from gridsync.errors import OutcomeUnknown, RateLimited, Unavailable
from gridsync.limits import AsyncLimiter, _core, _leasing
from gridsync.testing.checkers import never_more_than
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gridsync.testing.sim import Call, SimIO

    Scripts = Mapping[str, str] | None
    Rules = Sequence[tuple[int, int]]

SECOND = 1_000_000
EPOCH_US = 1_735_689_600 * SECOND
"""When the scripts' time begins."""
KEY = limit_key("sim", "w", "k")
TWO = ((12, SECOND), (30, 4 * SECOND))
BAD_DAY = Faults(
    request_lost=0.03,
    reply_lost=0.06,
    late=0.03,
    late_s=2.0,
    slow=0.03,
    slow_s=1.0,
    cut_every_s=5.0,
    pause_every_s=8.0,
    pause_s=2.0,
    restart_every_s=15.0,
    restart_s=0.5,
    flush_scripts_every_s=10.0,
)


@dataclass(slots=True)
class Model:
    """What a limiter must say, in the plainest way: all hits in a list."""

    rules: Rules
    hits: list[tuple[int, int, bytes]] = field(default_factory=list)

    def expected(self, now_us: int, hit: bytes, cost: int, told: list[int], *, is_repeat: bool) -> tuple[bool, int]:
        """Return whether the call is admitted and what then remains, and take it.

        What has left the longest window may be forgotten or not, so a repeat that comes so late may be answered both
        ways; *told* is what the script answered.
        """
        at = max(now_us, self.hits[-1][0] + 1) if self.hits else now_us
        left = [limit - sum(c for t, c, _ in self.hits if t > at - window) for limit, window in self.rules]
        before = [t for t, _, known in self.hits if known == hit and is_repeat]
        again = True, max(0, min(left))
        longest = max(window for _, window in self.rules)
        if before and (before[-1] > at - longest or (told[0] == 0, told[1]) == again):
            return again
        if min(left) < cost:
            return False, -1
        self.hits.append((at, cost, hit))
        return True, min(left) - cost

    def given_back(self, now_us: int, hit: bytes, told: int, *, is_repeat: bool) -> bool:
        """Forget the hit, and return whether *told* is a right answer to that.

        A hit whose late copy was counted as well is there twice: then the newer one goes.
        """
        longest = max(window for _, window in self.rules)
        found = [each for each in self.hits if each[2] == hit and each[0] > now_us - longest]
        if found:
            self.hits.remove(found[-1])
        return told == bool(found) or (is_repeat and told == 1)


def decisions(seed: int, scripts: Scripts = None) -> Simulation:
    """Three processes hit one subject of one rule (even seeds) or two (odd seeds) in bad weather; some give back."""
    sim = Simulation(seed, scripts=scripts, faults=BAD_DAY)
    rules: Rules = TWO if seed % 2 else TWO[:1]
    model = Model(rules)
    shas = {sim.scripts.get(script.name, script).sha.encode() for script in (_core._HIT, _core._HIT_ONE)}

    refunds = sim.scripts.get("limits.refund", _core._REFUND).sha.encode()

    def look(call: Call) -> None:
        if call.words[0] == b"EVALSHA" and call.words[1] == refunds and isinstance(call.reply, int):
            if not model.given_back(call.at_us, call.words[4], call.reply, is_repeat=call.words[5] != b"0"):
                raise sim.history.fail(f"a refund of {call.words[4]!r} was answered with {call.reply}")
            return
        if call.words[0] != b"EVALSHA" or call.words[1] not in shas or not isinstance(call.reply, list):
            return
        hit, repeat_us, cost = call.words[4], int(call.words[5]), int(call.words[6])
        admitted, remaining = model.expected(call.at_us, hit, cost, call.reply, is_repeat=repeat_us > 0)
        told = call.reply
        if (told[0] == 0) != admitted or (admitted and told[1] != remaining):
            raise sim.history.fail(f"{hit!r} of cost {cost}: the script says {told}, the model {admitted, remaining}")
        if told[0]:
            check_retry(call, cost, told[0])

    def check_retry(call: Call, cost: int, retry_us: int) -> None:
        if cost > min(limit for limit, _ in rules):
            fits = retry_us == -1
        else:
            fits = fits_at(call.at_us + retry_us, cost) and not fits_at(call.at_us + retry_us - 1, cost)
        if not fits:
            raise sim.history.fail(f"a cost of {cost} was told to come again in {retry_us} us, which is not the moment")

    def fits_at(at: int, cost: int) -> bool:
        return all(sum(c for t, c, _ in model.hits if t > at - window) + cost <= limit for limit, window in rules)

    async def work(io: SimIO) -> None:
        windows = _core.Windows(io, "sim", "w", rules)
        random = io.process.random
        given: list[tuple[str, int]] = []
        for _ in range(80):
            try:
                cost = random.choice((1, 1, 1, 2, 5, 20))
                (retry_us, *_), hit = await windows.hit("k", cost)
                wait = random.expovariate(6)
                if retry_us > 0 and random.random() < 0.3:
                    wait = retry_us / 1e6
                elif retry_us == 0:
                    given.append((hit, cost))
                if given and random.random() < 0.2:
                    await io.sleep(random.choice((0.0, 0.1, 3.0)))
                    await windows.refund("k", *random.choice(given[-3:]))
            except (OutcomeUnknown, Unavailable):
                wait = 0.1
            await io.sleep(wait)

    sim.watch(look)
    for name in "abc":
        sim.start(name, work)
    sim.run(until=60.0)
    assert len(model.hits) > 50, sim.history.story()
    return sim


def bookings(seed: int, scripts: Scripts = None) -> Simulation:
    """Three processes wait for their turn on one subject in bad weather, and some give it back or only look in."""
    sim = Simulation(seed, scripts=scripts, faults=BAD_DAY)
    rules: Rules = TWO if seed % 2 else TWO[:1]
    longest = max(window for _, window in rules)
    hits: list[tuple[int, int, bytes]] = []
    waiting: set[tuple[int, int, bytes]] = set()
    hit_shas = {sim.scripts.get(script.name, script).sha.encode() for script in (_core._HIT, _core._HIT_ONE)}
    refunds = _core._REFUND.sha.encode()
    queues = sim.scripts.get("limits.hit", _core._HIT).sha.encode()

    def moment(now: int, cost: int) -> int:
        """Return the earliest time at which every rule has room, behind everybody else."""
        first = max(now, hits[-1][0] + 1) if hits else now
        moments = {first, *(t + window for t, _, _ in hits for _, window in rules)}
        return next(
            at
            for at in sorted(moments)
            if at >= first
            and all(sum(c for t, c, _ in hits if t > at - window) + cost <= limit for limit, window in rules)
        )

    def look(call: Call) -> None:
        now = call.at_us
        if call.words[0] != b"EVALSHA":
            return
        if call.words[1] == refunds and call.reply == 1:
            gone = [each for each in hits if each[2] == call.words[4] and each[0] > now - longest]
            if gone:
                hits.remove(gone[-1])
        if call.words[1] not in hit_shas or not isinstance(call.reply, list):
            return
        hit, cost = call.words[4], int(call.words[6])
        told, delay = call.reply[0], (call.reply[4] if len(call.reply) > 4 else 0)
        before = [t for t, _, known in hits if known == hit] if call.words[5] != b"0" else []
        if before and (before[-1] > now - longest or told == 0):
            right = told == 0 and delay == max(0, *(t - now for t, _, known in waiting if known == hit), 0)
        else:
            last = hits[-1] if hits else (0, 0, b"-")
            first, at = max(now, last[0] + 1), moment(now, cost)
            needed = 0 if at == first and (last[0] < now or last not in waiting) else at - now
            most = int(call.words[8]) if call.words[1] == queues else 0
            right = (told, delay) == ((0, needed) if needed <= most else (needed, 0))
            if told == 0:
                hits.append((now + needed if needed else first, cost, hit))
            if delay:
                waiting.add(hits[-1])
        if not right:
            raise sim.history.fail(f"{hit!r} of cost {cost} was told {call.reply}, which is not the earliest moment")

    async def work(io: SimIO) -> None:
        windows = _core.Windows(io, "sim", "w", rules)
        random = io.process.random
        for _ in range(50):
            cost, began = random.choice((1, 1, 2, 5)), io.monotonic()
            try:
                if random.random() < 0.3:
                    await windows.hit("k", cost)
                elif random.random() < 0.3:
                    verdict, hit, _ = await windows.reserve("k", cost, 3 * SECOND)
                    await io.sleep(random.choice((0.0, 0.1)))
                    if verdict[0] == 0:
                        await windows.refund("k", hit, cost)
                else:
                    *_, delay = await windows.acquire("k", cost, 3 * SECOND)
                    if io.monotonic() - began < delay / 1e6:
                        raise sim.history.fail("a wait ended before its time")
            except (OutcomeUnknown, Unavailable):
                pass
            await io.sleep(random.expovariate(8))

    sim.watch(look)
    for name in "abc":
        sim.start(name, work)
    sim.run(until=120.0)
    assert len(hits) > 30, sim.history.story()
    return sim


MERGED = (
    (((60, SECOND),), (25_000,)),
    (((60, SECOND), (130, 4 * SECOND)), (25_000, 100_000)),
    (((12, SECOND), (70, 10 * SECOND)), (0, 250_000)),
)
"""Rules, and by how much a hit may leave each window late."""


@dataclass(slots=True)
class Late:
    """What a limiter whose hits share entries may say: all hits in a list, and how late they may leave."""

    rules: Rules
    late: Sequence[int]
    hits: list[tuple[int, int, bytes]] = field(default_factory=list)

    def fits(self, at: int, cost: int, *, late: bool) -> bool:
        """Whether every rule has room at that time, if all leave as *late* as they may or on time."""
        return all(
            sum(spent for then, spent, _ in self.hits if then > at - window - (tick if late else 0)) + cost <= most
            for (most, window), tick in zip(self.rules, self.late, strict=True)
        )

    def known(self, hit: bytes, now: int) -> bool:
        """Whether it must be found by its name."""
        found = [then for then, _, name in self.hits if name == hit]
        if not found or found[-1] <= now - max(window for _, window in self.rules):
            return False
        newer = sum(then > found[-1] for then, _, _ in self.hits)
        return newer < 100 and found[-1] > self.hits[-1][0] - (11 * self.late[0] or min(w for _, w in self.rules))


def merged(seed: int, scripts: Scripts = None) -> Simulation:
    """Three processes hit one subject above what is exact, in bursts and bad weather; some give back."""
    sim = Simulation(seed, scripts=scripts, faults=BAD_DAY)
    rules, late = MERGED[seed % len(MERGED)]
    model = Late(rules, late)
    hits = {sim.scripts.get(script.name, script).sha.encode() for script in (_core._HIT, _core._HIT_ONE)}
    refunds = sim.scripts.get("limits.refund", _core._REFUND).sha.encode()
    log: list[bytes] = []

    def look(call: Call) -> None:
        nonlocal log
        if call.words[0] != b"EVALSHA" or not isinstance(call.reply, list | int):
            return
        now = call.at_us - EPOCH_US
        before, log = log, sim.server.engine.execute("ZRANGE", KEY, "0", "-1", "WITHSCORES")
        gone = int(log[-1]) + max(window for _, window in rules) - now if log else 0
        if gone > 0 and (sim.server.engine.execute("PTTL", KEY) + 1) * 1_000 < gone:
            raise sim.history.fail("a log would be forgotten before its hits")
        if len(log) > 2 * 128 or any(len(member) > 64 for member in log[::2]):
            raise sim.history.fail(f"a log of {len(log) // 2} entries has left its compact form: {log}")
        hit, repeated = call.words[4], call.words[5] != b"0"
        if call.words[1] == refunds:
            found = [each for each in model.hits if each[2] == hit]
            if call.reply == 0 and model.known(hit, now):
                raise sim.history.fail(f"{hit!r} was not given back")
            if call.reply == 1 and log != before:
                if not found:
                    raise sim.history.fail(f"{hit!r} was never counted, and is given back")
                model.hits.remove(found[-1])
            elif call.reply == 1 and not repeated:
                raise sim.history.fail(f"{hit!r} is said to be given back, and is not")
        elif call.words[1] in hits:
            counted = call.reply[0] == 0 and log[-2:] != before[-2:]
            check(now, hit, int(call.words[6]), call.reply[0], counted=counted, repeated=repeated)

    def check(now: int, hit: bytes, cost: int, retry: int, *, counted: bool, repeated: bool) -> None:
        at = int(log[-1]) if counted else max(now, model.hits[-1][0] + 1 if model.hits else 0)
        if counted:
            if not model.fits(at, cost, late=False):
                raise sim.history.fail(f"{hit!r} of cost {cost} overflows a window")
            if repeated and model.known(hit, now):
                raise sim.history.fail(f"{hit!r} counts twice")
            model.hits.append((at, cost, hit))
        elif retry == 0:
            if not repeated or all(name != hit for _, _, name in model.hits):
                raise sim.history.fail(f"{hit!r} is admitted and was not counted")
        elif retry > 0 and (
            model.fits(at, cost, late=True)
            or not model.fits(now + retry, cost, late=False)
            or model.fits(now + retry - 1, cost, late=True)
        ):
            raise sim.history.fail(f"{hit!r} of cost {cost} was told to come again in {retry} us: not the moment")

    async def work(io: SimIO) -> None:
        windows = _core.Windows(io, "sim", "w", rules)
        random = io.process.random
        given: list[tuple[str, int]] = []
        for _ in range(120):
            try:
                cost = random.choice((1, 1, 1, 2, 4))
                (retry_us, *_), hit = await windows.hit("k", cost)
                wait = random.choice((0.0, 0.0, 0.002, 0.03)) if random.random() < 0.95 else random.expovariate(1)
                if retry_us > 0:
                    wait = retry_us / 1e6 if random.random() < 0.5 else random.expovariate(4)
                else:
                    given.append((hit, cost))
                if given and random.random() < 0.1:
                    await windows.refund("k", *random.choice(given[-3:]))
            except (OutcomeUnknown, Unavailable):
                wait = 0.1
            await io.sleep(wait)

    sim.watch(look)
    for name in "abc":
        sim.start(name, work)
    sim.run(until=90.0)
    assert len(model.hits) > 100, sim.history.story()
    return sim


LEASES = Faults(
    request_lost=0.02,
    reply_lost=0.06,
    slow=0.03,
    slow_s=1.5,
    cut_every_s=8.0,
    pause_every_s=15.0,
    pause_s=4.0,
    restart_every_s=30.0,
    restart_s=0.5,
    flush_scripts_every_s=15.0,
)
MOST, WINDOW_S = 100, 60


def leases(seed: int, scripts: Scripts = None) -> Simulation:
    """Six processes want more than 100 in 60 s and lease it in batches, in bad weather; one of them dies.

    Now and then they hit by themselves, or wait in line.

    What is looked at is when a permit is used, in true time, and not what the log says.
    """
    sim = Simulation(seed, scripts=scripts, faults=LEASES)
    used: list[tuple[int, int]] = []
    alone: dict[bytes, tuple[int, int]] = {}
    hits = {sim.scripts.get(script.name, script).sha.encode() for script in (_core._HIT, _core._HIT_ONE)}
    refunds = _core._REFUND.sha.encode()
    lease = sim.scripts.get("limits.lease", _leasing._LEASE).sha.encode()
    key = limit_key("sim", "w", "k")

    def look(call: Call) -> None:
        if call.words[0] != b"EVALSHA" or not isinstance(call.reply, list | int):
            return
        name = call.words[4]
        if call.words[1] == refunds and call.reply == 1:
            alone.pop(name, None)
        if isinstance(call.reply, int):
            return
        if call.words[1] in hits and call.reply[0] == 0 and name not in alone:
            delay_us = call.reply[4] if len(call.reply) > 4 else 0
            alone[name] = (int(sim.now * SECOND) + delay_us, int(call.words[6]))
        if call.words[1] == lease and call.reply[0]:
            granted, remaining, *_ = call.reply
            if call.words[5] == b"0" and granted > max(int(call.words[6]), (granted + remaining) // 2):
                raise sim.history.fail(f"{granted} were leased, and left {remaining} to everybody else")
            entries = sim.server.engine.execute("ZRANGE", key, "0", "-1")
            # Not so if the first attempt comes after its repeat was answered.
            if call.words[5] != b"0" and sum(name[1:] in entry for entry in entries) != 1:
                raise sim.history.fail(f"{name!r} is not there once")
            if sim.server.engine.execute("PTTL", key) < 60_000:
                raise sim.history.fail("the log goes before its hits have left")

    async def work(io: SimIO) -> None:
        limiter = AsyncLimiter(io, "sim", "w", f"{MOST} per {WINDOW_S} seconds")
        random = io.process.random
        permits = limiter.leased("k")
        for _ in range(220):
            for _ in range(random.choice((1, 1, 1, 8))):
                cost = random.choice((1, 1, 1, 1, 3))
                try:
                    if random.random() < 0.1:
                        await limiter.hit("k", cost)
                    elif random.random() < 0.03:
                        await limiter.acquire("k", cost, timeout=2)
                    decision = await permits.hit(cost)
                except (OutcomeUnknown, Unavailable, RateLimited):
                    break
                if decision.source == "lease":
                    used.append((int(sim.now * SECOND), cost))
            await io.sleep(random.expovariate(0.9))
            if random.random() < 0.02:
                await permits.close()
                permits = limiter.leased("k")
        await permits.close()

    sim.watch(look)
    for name in "abcdef":
        sim.start(name, work)
    sim.at(70.0, lambda: sim.kill("f"))
    sim.run(until=300.0)
    # The server's clock may run by 200 millionths faster or slower than true time.
    used.extend(alone.values())
    never_more_than(sim.history, MOST, int(WINDOW_S * SECOND * 0.999), used)
    total = sum(cost for _, cost in used)
    if total < 250:
        raise sim.history.fail(f"only {total} were used in five minutes")
    return sim


def overslept(seed: int, scripts: Scripts = None) -> Simulation:
    """A process stands still with permits in its hands, longer than it may use them."""
    sim = Simulation(seed, scripts=scripts)
    until = 0

    def look(call: Call) -> None:
        nonlocal until
        if call.words[0] == b"EVALSHA" and call.words[1] == _leasing._LEASE.sha.encode():
            until = int(sim.now * SECOND) + int(call.words[8])

    async def work(io: SimIO) -> None:
        permits = AsyncLimiter(io, "sim", "w", "1000/minute").leased("k")
        for _ in range(20):
            await permits.hit()
        for _ in range(200):
            if (await permits.hit()).source == "lease" and int(sim.now * SECOND) > until:
                raise sim.history.fail("a permit was used after it was counted")
            await io.sleep(0.01)

    sim.watch(look)
    sim.start("a", work)
    sim.at(0.5, lambda: sim.pause("a", 2.4 + seed / 10))
    sim.run(until=30.0)
    return sim
