"""`gridsync demo`: a small energy market that checks its own promises.

::

    2 meters  ─┐  limiter        ┌─ 3 workers: a consumer group matches orders, and settles each
    2 traders ─┴──────► orders ──┤  quarter of an hour under one fenced lock ──► book, settlements
    the clock ───gates──►        └─ one is killed on the way, one is frozen

Prosumers are built from real load profiles and real sunshine (`profiles`); what they lack or have left in a quarter of
an hour is an order (`events`).  Posters (`posters`) send them through a sliding-window limit into an event store,
workers (`workers`) match them in a double auction (`auction`).  The parent (`run`) is the clock; at the end it
reads the server with a plain client, checks every promise (`audit`) and deletes what was written (`keys`).
"""

from __future__ import annotations

import io
import random
import signal
import sys
from typing import TYPE_CHECKING

import redis
from rich.console import Console

from gridsync.cli._shared import FAILED, complain, plain_errors, tell
from gridsync.cli.demo import audit, keys, report, view
from gridsync.cli.demo.children import DemoFailed
from gridsync.cli.demo.run import LIMITS, Market
from gridsync.errors import GridsyncError
from gridsync.grid import Grid

if TYPE_CHECKING:
    from gridsync.cli.demo.report import Report

__all__ = ["command"]

INTERRUPTED = 130


def command(*, url: str, seconds: int, seed: int | None, kill: bool, as_json: bool) -> int:
    """Run the demo and show it.

    Returns:
        The exit code: 0 if every promise was kept, 1 if one was broken, 2 if the server was not there, refused or
            could not be meant, or a process of the demo failed, and 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without these characters shows their numbers instead of ending the run.
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console()
    show = view.Silent() if as_json else view.Terminal(console) if console.is_terminal else view.Plain(console)
    before = {each: signal.signal(each, _interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with plain_errors():
            result = _hold(show, url, seconds, random.randrange(1000) if seed is None else seed, kill=kill)
    except KeyboardInterrupt:
        print("gridsync demo: stopped, and all its processes with it", file=sys.stderr)
        return INTERRUPTED
    except GridsyncError as error:
        tell(error)
        return FAILED
    except DemoFailed as error:
        complain(str(error), "nothing was checked: run it again when the machine has time for it")
        return FAILED
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    show.finish(result)
    return 0 if result.kept else 1


def _interrupt(*_: object) -> None:
    # What follows is bounded and tidies up; a second Ctrl-C shall not break it off.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _hold(show: view.Silent, url: str, seconds: int, seed: int, *, kill: bool) -> Report:
    with Grid(url, namespace=keys.new_namespace()) as grid:
        where = url if grid.embedded is None else grid.embedded.url
        try:
            market = Market(grid, where, show, seconds=seconds, seed=seed, kill=kill)
            with show:
                market.run()
            return _audited(grid, market)
        finally:
            _tidy_up(grid)


def _tidy_up(grid: Grid) -> None:
    if grid.embedded is not None:
        # The server goes with its last user.
        return
    try:
        keys.sweep(grid.client, grid.namespace)
    except redis.RedisError as error:
        told = f"gridsync demo: its keys {{{grid.namespace}:* are still there, for they could not be deleted: {error}"
        print(told, file=sys.stderr)


def _audited(grid: Grid, market: Market) -> Report:
    posters = [child for child in market.children if child.role != "worker"]
    evidence = audit.gather(grid.client, grid.namespace, [child.name for child in posters])
    positions = {child.name: (child.final or {}).get("positions", {}) for child in posters}
    claims = audit.Claims(
        acknowledged={order: position for each in positions.values() for order, position in each.items()},
        posted={name: len(each) for name, each in positions.items()},
        quarters=market.opened,
        limits=LIMITS,
    )
    checks = [*audit.check(evidence, claims), *market.mishaps.checks()]
    return report.build(market, evidence, checks)
