"""Rows about what a limiter costs the server: its script beside the usual one, how that grows, and the memory of a key.

The script is sent by redis-benchmark, always the same call and pipelined, so that the server is the bottleneck.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from redis import Redis

from benchmarks import pipelined
from benchmarks.harness import Limit, Peer, Row, aio, expect
from benchmarks.pipelined import RANDOM
from gridsync.limits._core import COMPACT, Windows

if TYPE_CHECKING:
    from benchmarks.harness import Bench

KEY = "bench:limit"
HOUR_US = 3_600_000_000
PLENTY = 10**9
"""A limit that no run reaches."""
FULL = 1_000
"""A limit that is reached before the run begins."""
CALLS_PER_S = 60_000
"""About as many as a server runs: a run sends so many for each second that it may take."""
ROUNDS_MAX = 1_000

NAIVE = """#!lua
-- A sliding window as it is usually written: a member for each hit, and what has left the window is removed first.
-- It knows no costs and no repeats, and does not say when to come again.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return {1} end
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3] / 1000)
return {0}
"""


def hit(most: int, cost: int = 1, window_us: int = HOUR_US) -> tuple[str, ...]:
    """Return the script of a limiter with one rule, and its arguments."""
    script, _, args = pipelined.told(lambda io: Windows(io, "bench", "w", [(most, window_us)]).hit("k", cost))
    return script.source, *map(str, args)


def _naive(most: int) -> tuple[str, ...]:
    return NAIVE, RANDOM, str(most), str(HOUR_US)


# -- the script by itself ---------------------------------------------------------------------------------------------


def per_s(bench: Bench, words: tuple[str, ...], *, admitted: bool, key: str = KEY, among: int = 10**9) -> float:
    """Return how many of these calls the server runs in a second; the first `FULL` of them are admitted.

    *among* is how many numbers `RANDOM` stands for.
    """
    source, *args = words
    with Redis(host=bench.host, port=bench.port) as client:
        sha = client.script_load(source)

        def ask(number: int) -> bool:
            reply: list[int] = client.evalsha(sha, 1, key, *(str(number) if arg is RANDOM else arg for arg in args))
            return reply[0] == 0

        for number in range(FULL):
            expect(ask(number), wanted=True)
        expect(ask(FULL), admitted)
        found = pipelined.per_s(bench, ("EVALSHA", sha, "1", key, *args), CALLS_PER_S, among)
        expect(ask(-1), admitted)
    return found


# -- growth: the server's time, as it tells it itself -----------------------------------------------------------------


def _us_per_decision(bench: Bench, *, most: int, cost: int = 1) -> float:
    """Fill a window and go on for as many denied calls, again and again; microseconds of the server for each call."""
    source, *args = hit(most, cost)
    calls = most // cost
    rounds = min(ROUNDS_MAX, max(1, int(bench.seconds * CALLS_PER_S / calls / 2)))
    with Redis(host=bench.host, port=bench.port) as client:
        sha = client.script_load(source)
        client.config_resetstat()
        for _ in range(rounds):
            for wanted in (True, False):
                for first in range(0, calls, FULL):
                    with client.pipeline(transaction=False) as pipeline:
                        for _ in range(min(FULL, calls - first)):
                            pipeline.evalsha(sha, 1, KEY, *args)
                        expect({reply[0] == 0 for reply in pipeline.execute()}, {wanted})
            client.unlink(KEY)
        told: float = client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
    return told


# -- memory -----------------------------------------------------------------------------------------------------------


async def _bytes(bench: Bench, *, most: int) -> float:
    """Use up a limit as fast as can be."""
    from gridsync import AsyncGrid  # noqa: PLC0415 - as the other rows

    async with AsyncGrid(bench.url) as grid:
        limiter = grid.limiter("bench", f"{most}/hour")
        for first in range(0, most, FULL):
            decisions = await asyncio.gather(*(limiter.hit("subject") for _ in range(min(FULL, most - first))))
            expect(all(decisions), wanted=True)
        expect((await limiter.hit("subject")).allowed, wanted=False)
    with Redis(host=bench.host, port=bench.port) as client:
        (key,) = client.keys()
        return float(client.memory_usage(key, samples=0))


def _script_row(name: str, most: int, target: float, *, admitted: bool) -> Row:
    measure = partial(per_s, admitted=admitted)
    naive = Peer("a naive log", partial(measure, words=_naive(most)), target=target)
    return Row(name, "decisions/s", partial(measure, words=hit(most)), (naive,))


ROWS = (
    _script_row("limiter-script", PLENTY, 0.6, admitted=True),
    _script_row("limiter-script-denied", FULL, 0.45, admitted=False),
    Row(
        "limiter-growth",
        "µs/decision",
        partial(_us_per_decision, most=100_000),
        (
            Peer("limit 10", partial(_us_per_decision, most=10), target=2.0),
            Peer("cost 1,000", partial(_us_per_decision, most=100_000, cost=1_000), target=2.0),
        ),
        better="lower",
    ),
    Row(
        "limiter-growth-cost",
        "µs/decision",
        partial(_us_per_decision, most=100_000, cost=1_000),
        (Peer("cost 1", partial(_us_per_decision, most=100_000), target=2.0),),
        better="lower",
    ),
    *(
        Row(
            f"limiter-bytes-{most}",
            "bytes",
            aio(partial(_bytes, most=most)),
            better="lower",
            limits=(Limit(float(COMPACT), worst=True),),
        )
        for most in (100, 1_000, 70_000)
    ),
)
