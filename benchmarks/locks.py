"""Rows about locks: one uncontended acquire and release after the other, and the commands that this takes.

Every library makes its lock object once and uses it again, with a time to live of ten seconds.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING

from benchmarks.harness import Bench, Peer, Row, expect, pace_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from benchmarks.harness import Measure

    Cycle = Callable[[], None]
    Maker = Callable[[Bench], AbstractContextManager[Cycle]]

NAME = "bench:lock"
TTL = 10
CYCLES = 100


@contextmanager
def _ours(bench: Bench) -> Iterator[Cycle]:
    # The lease is renewed in the background while it is held, as for every user.
    from gridsync import Grid

    with Grid(bench.url) as grid:
        lock = grid.lock(NAME, ttl=TTL)

        def cycle() -> None:
            expect(lock.acquire().release(), wanted=True)

        yield cycle


@contextmanager
def _redis(bench: Bench) -> Iterator[Cycle]:
    from redis import Redis

    with Redis(host=bench.host, port=bench.port) as client:
        lock = client.lock(NAME, timeout=TTL)

        def cycle() -> None:
            expect(lock.acquire(), wanted=True)
            lock.release()  # raises when the lock was not ours

        yield cycle


@contextmanager
def _python_redis_lock(bench: Bench) -> Iterator[Cycle]:
    # Without auto_renewal, which would start a thread for every acquire.
    from redis import Redis
    from redis_lock import Lock

    with Redis(host=bench.host, port=bench.port) as client:
        lock = Lock(client, NAME, expire=TTL)

        def cycle() -> None:
            expect(lock.acquire(), wanted=True)
            lock.release()  # raises when the lock was not ours

        yield cycle


@contextmanager
def _pottery(bench: Bench) -> Iterator[Cycle]:
    # One master; pottery asks its masters from a thread pool all the same.
    from pottery import Redlock
    from redis import Redis

    with Redis(host=bench.host, port=bench.port) as client:
        lock = Redlock(key=NAME, masters={client}, auto_release_time=TTL)

        def cycle() -> None:
            expect(lock.acquire(), wanted=True)
            lock.release()  # raises when the lock was not ours

        yield cycle


def _cycles_per_second(maker: Maker) -> Measure:
    def measure(bench: Bench) -> float:
        with maker(bench) as cycle:
            return pace_threads(bench, [cycle])

    return measure


def _commands_per_cycle(maker: Maker) -> Measure:
    def measure(bench: Bench) -> float:
        # By MONITOR: INFO commandstats would also count what scripts call inside the server.
        from redis import Redis

        with maker(bench) as cycle, Redis(host=bench.host, port=bench.port) as observer, observer.monitor() as monitor:
            cycle()  # connects, and teaches the server the scripts
            observer.echo("begin")
            for _ in range(CYCLES):
                cycle()
            observer.echo("end")
            seen = takewhile(lambda line: line["command"] != "ECHO end", monitor.listen())
            sent = [line["command"] for line in seen if line["client_type"] != "lua"]
            return (len(sent) - sent.index("ECHO begin") - 1) / CYCLES

    return measure


def _limit(_bench: Bench) -> float:
    return 2.0


_PEERS = {"redis": _redis, "python-redis-lock": _python_redis_lock, "pottery": _pottery}

ROWS = (
    Row(
        "sync-lock-cycle",
        "cycles/s",
        _cycles_per_second(_ours),
        tuple(
            Peer(package, _cycles_per_second(maker), target=1.2 if package == "redis" else None)
            for package, maker in _PEERS.items()
        ),
    ),
    Row(
        "lock-cycle-commands",
        "commands",
        _commands_per_cycle(_ours),
        (
            Peer("limit", _limit, target=1.0),
            *(Peer(package, _commands_per_cycle(maker)) for package, maker in _PEERS.items()),
        ),
        better="lower",
    ),
)
