"""The recipe of the documentation: a view in a database, whose checkpoint moves in the same transaction."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from gridsync import Grid
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from pathlib import Path

    from gridsync.testing.servers import RedisServer

EVENTS = 60


class Crash(Exception):
    """The process ends here."""


def book(db: sqlite3.Connection, recorded: Any, before: str, choose: random.Random) -> bool:  # noqa: ANN401
    """Count one event, and die now and then before, in the middle of and after the transaction."""
    with db:
        moved = db.execute("UPDATE place SET checkpoint = ? WHERE checkpoint = ?", (recorded.checkpoint, before))
        if moved.rowcount == 0:
            return False
        if choose.random() < 0.1:
            raise Crash
        db.execute(
            "INSERT INTO view VALUES (?, 1, ?)"
            " ON CONFLICT (stream) DO UPDATE SET count = count + 1, last = excluded.last",
            (recorded.stream, recorded.position),
        )
    if choose.random() < 0.1:
        raise Crash
    return True


def follow(url: str, path: Path, seed: int) -> None:
    """Run the projection until all events are in, as a process that is started again whenever it dies."""
    choose = random.Random(seed)
    with Grid(url) as grid, closing(sqlite3.connect(path, timeout=30)) as db:
        store = grid.events("orders", Order)
        while True:
            (at,) = db.execute("SELECT checkpoint FROM place").fetchone()
            if at.startswith(f"{EVENTS}:"):
                return
            try:
                for recorded in store.read_all(after=at):
                    if not book(db, recorded, at, choose):
                        break
                    at = recorded.checkpoint
            except Crash:
                continue


async def test_every_event_counts_once_in_a_database(flushed: RedisServer, tmp_path: Path):
    """Three runners that die at any place: no total is too high or too low."""
    path = tmp_path / "view.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE view (stream TEXT PRIMARY KEY, count INTEGER NOT NULL, last INTEGER NOT NULL)")
        db.execute("CREATE TABLE place (checkpoint TEXT NOT NULL)")
        db.execute("INSERT INTO place VALUES ('0')")
    with Grid(flushed.url) as grid:
        store = grid.events("orders", Order)
        for n in range(EVENTS):
            store.append("ab"[n % 2], Placed(kwh=1))
    await asyncio.gather(*(asyncio.to_thread(follow, flushed.url, path, seed) for seed in range(3)))
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT stream, count, last FROM view ORDER BY stream").fetchall()
    assert found == [("a", EVENTS // 2, EVENTS - 1), ("b", EVENTS // 2, EVENTS)]
