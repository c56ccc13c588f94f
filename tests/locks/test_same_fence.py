"""Two holders with the same fence: each side of a split network grants the lock in the same microsecond.

Two namespaces stand for the two sides: each knows nothing of what the other grants.  Both remember one last fence that
is far ahead of the clock, so that both grant the next number.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import UsageError
from gridsync._io import load
from gridsync._io.keys import gate as gate_keys
from gridsync._io.keys import lock as lock_keys
from gridsync._io.keys import once as once_key
from gridsync._io.keys import share as share_keys
from gridsync.errors import ServerError, StaleFence
from gridsync.locks import Stamp
from gridsync.locks.sql import FencedTable
from tests.locks.ways import WAYS, each, made
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World

SIDES = ("minority", "majority")
LAST = 2**52
KEY = "{epoch:42}:log"
MARK = gate_keys(NAMESPACE, KEY).mark
FENCED = load("gridsync.locks", "fenced")
WING = {"write lock": "rwlock", "read lock": "rwlock", "permits": "semaphore", "election": "election"}


@pytest.fixture
def log(flushed: RedisServer) -> Iterator[Callable[[], list[bytes]]]:
    """What was written through the gate, in order."""
    yield lambda: flushed.command("LRANGE", KEY, 0, -1)  # type: ignore[no-any-return]
    flushed.command("DEL", KEY)


def gate(world: World) -> Any:  # noqa: ANN401 - either kind
    return world.locks("FenceGate", world.io(), KEY)


async def write(world: World, lease: Any, what: str) -> None:  # noqa: ANN401
    await world.do(gate(world).write, lease, ("RPUSH", KEY, what))


def fence_keys(side: str, way: str) -> list[str]:
    names = ["job", "job too"] if way == "multi-lock" else ["job"]
    make = share_keys if WING.get(way) in ("rwlock", "semaphore") else None
    return [
        make(side, WING[way], name).fence if make else lock_keys(side, name, WING.get(way, "lock")).fence
        for name in names
    ]


@pytest.mark.parametrize("way", WAYS)
async def test_of_two_holders_with_one_fence_the_later_is_admitted_and_the_other_refused_from_then_on(
    world: World, flushed: RedisServer, log: Callable[[], list[bytes]], way: str
):
    """Else both would settle the epoch, in turn, and each would take the other's work for its own."""
    held = []
    for side in SIDES:
        for key in fence_keys(side, way):
            flushed.command("SET", key, LAST, "PX", 60_000)
        held.append(await world.do(made(world.kind, world.io(), way, namespace=side).acquire))
    pairs = zip(*(each(lease) for lease in held), strict=True)
    for earlier, later in (sorted(pair, key=lambda lease: lease.owner) for pair in pairs):
        flushed.command("DEL", KEY, MARK)
        assert earlier.fence == later.fence == LAST + 1
        await write(world, earlier, "one")
        await write(world, later, "two")
        with pytest.raises(StaleFence, match=f"with fence {LAST + 1} was refused: another holder with the same fence"):
            await write(world, earlier, "three")
        await write(world, later, "four")
        assert log() == [b"one", b"two", b"four"]
    for lease in held:
        await world.do(lease.release)


async def test_two_runs_of_one_period_with_one_fence_are_told_apart(world: World, flushed: RedisServer):
    """A split network may run a job twice in a period; who reads who ran last is told the same owner."""
    turns = []
    for side in SIDES:
        once = world.locks("OncePer", world.io(), "close", 3600.0)
        once._keys = (once_key(side, "close"),)
        turns.append(await world.do(once.claim))
        flushed.command("HSET", once._keys[0], "t", LAST)
        last = await world.do(once.last)
        assert (last.owner, last.fence) == (turns[-1].owner, LAST)
    earlier, later = sorted(Stamp(LAST, turn.owner) for turn in turns)
    await write(world, later, "later")
    with pytest.raises(StaleFence):
        await write(world, earlier, "earlier")
    flushed.command("DEL", KEY)


async def test_every_gate_admits_the_same_one_of_two(world: World, flushed: RedisServer):
    """If the first to write had won, one gate would let in only the one, another only the other, and both fail."""
    for first, second in (("a", "b"), ("b", "a")):
        flushed.command("DEL", KEY, MARK)
        await write(world, Stamp(5, first), first)
        if second == "a":
            with pytest.raises(StaleFence):
                await write(world, Stamp(5, second), second)
        else:
            await write(world, Stamp(5, second), second)
        assert flushed.command("GET", MARK) == b"5 b"
    flushed.command("DEL", KEY)


async def test_a_lease_is_the_same_writer_when_it_is_resumed_or_entered_again(
    world: World, flushed: RedisServer, log: Callable[[], list[bytes]]
):
    """Whoever goes on with a lease goes on writing under it, in another process too."""
    lease = await world.do(world.locks("Lock", world.io(), "job", reentrant=True).acquire)
    await write(world, lease, "one")
    resumed = await world.do(world.locks("Lock", world.io(), "job").resume, lease.detach())
    await write(world, resumed, "two")
    await write(world, Stamp(lease.fence, lease.owner), "three")
    assert log() == [b"one", b"two", b"three"]
    await world.do(resumed.release)
    writer = await world.do(world.locks("RWLock", world.io(), "book").write.acquire)
    await write(world, writer, "four")
    assert flushed.command("GET", MARK).decode() == f"{writer.fence} {writer.owner}"
    await world.do(writer.release)


async def test_a_lock_that_was_taken_away_can_be_closed_to_its_holder_in_an_operator_s_name(
    world: World, log: Callable[[], list[bytes]]
):
    lock = world.lock(world.io())
    held = await world.do(lock.acquire)
    raised = await world.do(world.lock(world.io()).force_release, "stuck")
    await write(world, Stamp(raised, "operator"), "closed")
    with pytest.raises(StaleFence):
        await write(world, held, "late")
    later = await world.do(world.lock(world.io()).acquire)
    await write(world, later, "next")
    assert log() == [b"closed", b"next"]
    await world.do(later.release)


async def test_a_mark_without_an_owner_lets_its_fence_in_and_learns_who_it_is(
    world: World, flushed: RedisServer, log: Callable[[], list[bytes]]
):
    """It was written before gates remembered owners: the holder of that time goes on."""
    flushed.command("SET", MARK, 5, "PX", 60_000)
    with pytest.raises(StaleFence):
        await write(world, Stamp(4, "z"), "late")
    await write(world, Stamp(5, "b"), "one")
    with pytest.raises(StaleFence):
        await write(world, Stamp(5, "a"), "other")
    assert log() == [b"one"]
    assert flushed.command("GET", MARK) == b"5 b"


@pytest.mark.parametrize("wrong", [("SET", MARK, "x"), ("HSET", MARK, "a", 1), ("SET", MARK, "5 a b")])
async def test_a_mark_that_somebody_else_wrote_lets_nobody_in(
    world: World, flushed: RedisServer, log: Callable[[], list[bytes]], wrong: tuple[Any, ...]
):
    flushed.command(*wrong)
    with pytest.raises(ServerError, match=r"no mark of a fence|WRONGTYPE"):
        await write(world, Stamp(LAST, "a"), "x")
    assert log() == []
    flushed.command("DEL", MARK)


@pytest.mark.any_server
def test_a_write_that_arrives_again_after_the_other_side_wrote_is_neither_applied_nor_refused(
    flushed: RedisServer, log: Callable[[], list[bytes]]
):
    """The reply to the first attempt was lost; meanwhile a later holder wrote.  What was applied was applied."""

    def sent(write_id: str, owner: str, what: str) -> int:
        commands = (5, owner, 60_000, 60_000, 3, "RPUSH", KEY, what)
        reply: int = flushed.command("EVAL", FENCED.source, 3, MARK, f"{MARK}:{write_id}", KEY, *commands)
        return reply

    assert sent("w1", "a", "one") == 0
    assert sent("w2", "b", "two") == 0
    assert sent("w1", "a", "one") == 0
    assert sent("w3", "a", "three") == 5
    assert sent("w2", "b", "two") == 0
    assert log() == [b"one", b"two"]


# -- SQL ---------------------------------------------------------------------------------------------------------

ACCOUNTS = FencedTable("accounts", key="id")


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance, fence BIGINT NOT NULL DEFAULT 0)")
        yield connection
    connection.close()


def run(database: sqlite3.Connection, statement: Any, lease: Stamp, **values: object) -> None:  # noqa: ANN401
    cursor = database.execute(*statement.bind(lease, **values))
    statement.check(cursor.rowcount, lease)


@pytest.mark.parametrize("style", ["named", "qmark"])
def test_no_statement_changes_a_row_that_the_later_of_two_with_one_fence_wrote(
    database: sqlite3.Connection,
    style: Any,  # noqa: ANN401
):
    database.execute("ALTER TABLE accounts ADD COLUMN fence_owner VARCHAR(64) NOT NULL DEFAULT ''")
    table = FencedTable("accounts", key="id", paramstyle=style)
    upsert, update, delete = table.upsert("balance"), table.update("balance"), table.delete()
    a, b = Stamp(5, "a"), Stamp(5, "b")
    run(database, upsert, a, id=7, balance=1)
    run(database, upsert, b, id=7, balance=2)
    for statement, values in ((upsert, {"balance": 3}), (update, {"balance": 3}), (delete, {})):
        with pytest.raises(StaleFence, match="a later holder wrote it before"):
            run(database, statement, a, id=7, **values)
        run(database, update, b, id=7, balance=4)
    assert database.execute("SELECT * FROM accounts").fetchall() == [(7, 4, 5, "b")]
    run(database, delete, b, id=7)


def test_a_table_that_has_fences_already_gets_the_column_of_owners_beside_them(database: sqlite3.Connection):
    """The holder that wrote last goes on, in the moment in which the column is added."""
    database.execute("INSERT INTO accounts VALUES (7, 1, 5)")
    with pytest.raises(sqlite3.OperationalError, match="fence_owner"):
        run(database, ACCOUNTS.update("balance"), Stamp(5, "a"), id=7, balance=2)
    database.execute("ALTER TABLE accounts ADD COLUMN fence_owner VARCHAR(64) NOT NULL DEFAULT ''")
    with pytest.raises(StaleFence):
        run(database, ACCOUNTS.update("balance"), Stamp(4, "z"), id=7, balance=2)
    run(database, ACCOUNTS.update("balance"), Stamp(5, "b"), id=7, balance=2)
    with pytest.raises(StaleFence):
        run(database, ACCOUNTS.update("balance"), Stamp(5, "a"), id=7, balance=3)
    assert database.execute("SELECT * FROM accounts").fetchall() == [(7, 2, 5, "b")]


def test_a_statement_takes_a_lease_and_not_a_number():
    update = ACCOUNTS.update("balance")
    with pytest.raises(UsageError, match=r"takes the lease .*, or Stamp\(fence, owner\)"):
        update.bind(5, id=7, balance=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="takes the lease"):
        update.check(1, 5)  # type: ignore[arg-type]
