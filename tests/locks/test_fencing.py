"""The other half of fencing: what a stale holder cannot write, to Redis and to a database."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import load
from gridsync._io.keys import gate as gate_keys
from gridsync.errors import LeaseLost, ServerError, StaleFence, UsageError
from gridsync.locks import Stamp
from gridsync.locks._stamp import stamp_of
from gridsync.locks.sql import FencedTable
from gridsync.testing.proxy import Break, FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World

KEY = "wallet:7"


def by(fence: Any, owner: Any = "a") -> Stamp:  # noqa: ANN401 - also what is no fence
    return Stamp(fence, owner)


def gate(world: World, io: Any, key: str = KEY) -> Any:  # noqa: ANN401 - either kind
    return world.locks("FenceGate", io, key)


@pytest.fixture
def wallet(flushed: RedisServer) -> Iterator[RedisServer]:
    """A server whose guarded keys are removed after the test: they are a user's own, and need not expire."""
    yield flushed
    flushed.command("DEL", KEY, "{wallet:7}:log", "{wallet:7}:n")


async def test_a_stale_holder_cannot_write_after_its_successor(world: World, wallet: RedisServer):
    """The story of the paused holder, with two locks' fences: the first write comes last and changes nothing."""
    lock = world.lock(world.io())
    first = await world.do(lock.acquire)
    await world.do(first.release)
    second = await world.do(lock.acquire)
    late, now = gate(world, world.io()), gate(world, world.io())
    await world.do(now.set, second, "second")
    with pytest.raises(StaleFence, match=f"fence {first.fence} was refused: fence {second.fence} wrote") as caught:
        await world.do(late.set, first, "first")
    assert (caught.value.seen, caught.value.fence, caught.value.name) == (second.fence, first.fence, KEY)
    assert isinstance(caught.value, LeaseLost)
    assert wallet.command("GET", KEY) == b"second"
    await world.do(second.release)


async def test_one_holder_writes_as_often_as_it_likes(world: World, wallet: RedisServer):
    guarded = gate(world, world.io())
    for n in range(3):
        await world.do(guarded.set, by(5), n, ttl=60)
    assert wallet.command("GET", KEY) == b"2"
    assert wallet.command("TTL", KEY) > 50


async def test_commands_are_run_together_or_not_at_all(world: World, wallet: RedisServer):
    guarded = gate(world, world.io())
    log = "{wallet:7}:log"
    await world.do(guarded.write, by(9), ("INCRBYFLOAT", KEY, 1.5), ("rpush", log, b"\x00\xff", 3))
    with pytest.raises(StaleFence):
        await world.do(guarded.write, by(8), ("INCRBY", KEY, 1), ("RPUSH", log, "late"))
    assert wallet.command("GET", KEY) == b"1.5"
    assert wallet.command("LRANGE", log, 0, -1) == [b"\x00\xff", b"3"]


async def test_a_command_that_fails_says_so_and_those_before_it_stay(world: World, wallet: RedisServer):
    """Lua does not roll back; a repeat hears of the same failure, and applies nothing twice."""
    guarded = gate(world, world.io())
    number = "{wallet:7}:n"
    await world.do(guarded.set, by(1), "text")
    with pytest.raises(ServerError, match="not an integer"):
        await world.do(guarded.write, by(1), ("INCR", number), ("INCR", KEY), ("INCR", number))
    assert wallet.command("GET", number) == b"1"


async def test_a_write_that_failed_is_a_failure_also_when_its_reply_was_lost(world: World, wallet: RedisServer):
    """The repeat finds that it was done: it must not take that for success."""
    await world.do(gate(world, world.io()).set, by(1), "text")
    with FaultProxy(world.url) as proxy:
        rule = proxy.on(Break.REPLY, load("gridsync.locks", "fenced").sha)
        with pytest.raises(ServerError, match="not an integer"):
            await world.do(gate(world, world.io(proxy.url)).write, by(1), ("INCR", "{wallet:7}:n"), ("INCR", KEY))
        assert rule.hits == 1
        await world.close()
    assert wallet.command("GET", "{wallet:7}:n") == b"1"


async def test_the_gate_keeps_its_marks_in_the_slot_of_the_key_and_forgets_them(world: World, wallet: RedisServer):
    await world.do(gate(world, world.io()).set, by(3), "x")
    marks = [key.decode() for key in wallet.command("KEYS", "*") if key != KEY.encode()]
    assert len(marks) == 2
    for mark in marks:
        assert mark.startswith("{wallet:7}:test:fence:wallet:7")
        assert wallet.command("PTTL", mark) > 0


@pytest.mark.parametrize(
    ("key", "mark"),
    [
        ("wallet:7", "{wallet:7}:n:fence:wallet:7"),
        ("{wallet}:7", "{wallet}:n:fence:{wallet}:7"),
        ("a{b}{c}", "{b}:n:fence:a{b}{c}"),
        ("a{{b}}", "{{b}:n:fence:a{{b}}"),
        ("open{brace", "{open{brace}:n:fence:open{brace"),
        ("{}:7", None),
        ("a}b", None),
    ],
)
def test_a_mark_shares_the_slot_of_its_key(key: str, mark: str | None):
    """The tag of the mark is what Redis hashes of the key; where that cannot be, the gate says so."""
    from redis.cluster import key_slot  # noqa: PLC0415 - only here

    if mark is None:
        with pytest.raises(UsageError, match="hash tag"):
            gate_keys("n", key)
        return
    assert gate_keys("n", key).mark == mark
    assert key_slot(key.encode()) == key_slot(mark.encode())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("FLUSHALL",), "commands that write to one key"),
        (("EVAL", "return 1", 0), "commands that write to one key"),
        (("MSET", KEY, 1, "other", 2), "commands that write to one key"),
        (("DEL", KEY, "other"), "DEL takes one key"),
        (("SET",), "SET takes one key"),
        (("SET", KEY, True), "text, bytes and numbers"),
        (("SET", KEY, None), "text, bytes and numbers"),
        (("SET", b"\xff", 1), "a key must be text"),
        (("SET", KEY, "\ud800"), "not valid Unicode"),
        ("SET wallet 1", "commands that write to one key"),
        ((), "commands that write to one key"),
    ],
)
async def test_a_command_that_cannot_be_guarded_is_refused_before_it_is_sent(world: World, command: Any, says: str):  # noqa: ANN401
    with pytest.raises(UsageError, match=says):
        await world.do(gate(world, world.io()).write, by(1), command)


@pytest.mark.parametrize("fence", [0, -1, 2**53, 1.5, "7", None, True])
async def test_what_cannot_be_a_fence_is_refused(world: World, fence: Any):  # noqa: ANN401
    with pytest.raises(UsageError, match="a fence is a positive integer"):
        await world.do(gate(world, world.io()).set, by(fence), "x")


@pytest.mark.parametrize("owner", ["", "a b", "A", "é", "a" * 65, "a\n", b"a", 7, None])
def test_what_cannot_be_an_owner_is_refused(owner: Any):  # noqa: ANN401
    with pytest.raises(UsageError, match="an owner is up to 64 digits and small letters"):
        stamp_of(by(1, owner))


@pytest.mark.parametrize("lease", [5, "5", None, ("SET", KEY, 1)])
def test_what_is_no_lease_is_refused(lease: Any):  # noqa: ANN401
    """Whoever gives the fence alone, or forgets the lease, is told what a write takes."""
    with pytest.raises(UsageError, match=r"takes the lease .*, or Stamp\(fence, owner\), and not"):
        stamp_of(lease)


async def test_a_write_needs_a_command_and_has_a_size(world: World, wallet: RedisServer):
    guarded = gate(world, world.io())
    with pytest.raises(UsageError, match="needs a command"):
        await world.do(guarded.write, by(1))
    with pytest.raises(UsageError, match="has 4002 words, not 4000"):
        await world.do(guarded.write, by(1), ("RPUSH", KEY, *range(4000)))
    await world.do(guarded.write, by(1), ("RPUSH", KEY, *range(3998)))
    assert wallet.command("LLEN", KEY) == 3998


# -- SQL ---------------------------------------------------------------------------------------------------------

ACCOUNTS = FencedTable("accounts", key="id")
COLUMNS = ["fence BIGINT NOT NULL DEFAULT 0", "fence_owner VARCHAR(64) NOT NULL DEFAULT ''"]


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance)")
        for column in COLUMNS:
            connection.execute(f"ALTER TABLE accounts ADD COLUMN {column}")
        yield connection
    connection.close()


def run(database: sqlite3.Connection, statement: Any, lease: Stamp, **values: object) -> None:  # noqa: ANN401
    cursor = database.execute(*statement.bind(lease, **values))
    statement.check(cursor.rowcount, lease)


@pytest.mark.parametrize("style", ["named", "qmark"])
def test_a_row_remembers_the_largest_fence_that_wrote_it(database: sqlite3.Connection, style: Any):  # noqa: ANN401
    table = FencedTable("main.accounts", key="id", paramstyle=style)
    upsert, update, delete = table.upsert("balance"), table.update("balance"), table.delete()
    run(database, upsert, by(10), id=7, balance=1)
    run(database, update, by(10), id=7, balance=2)
    run(database, upsert, by(20), id=7, balance=3)
    for late, values in ((upsert, {"balance": 4}), (update, {"balance": 5}), (delete, {})):
        with pytest.raises(StaleFence, match=r"to 'main.accounts' with fence 19 changed no row") as caught:
            run(database, late, by(19), id=7, **values)
        assert caught.value.seen is None
    assert database.execute("SELECT * FROM accounts").fetchall() == [(7, 3, 20, "a")]
    run(database, delete, by(20), id=7)
    with pytest.raises(StaleFence, match="or there is no such row"):
        run(database, update, by(21), id=7, balance=6)


def test_each_driver_gets_its_own_style():
    """PEP 249's styles, and asyncpg's numbers."""
    said = {}
    for style in ("named", "pyformat", "qmark", "format", "dollar"):
        statement = FencedTable("t", key=["a", "b"], fence="f", owner="o", paramstyle=style).update("c")
        said[style] = statement.bind(by(5, "me"), a=1, b=2, c=3)
    sets, where = "UPDATE t SET c = {}, f = {}, o = {} WHERE a = {} AND b = {}", "(f < {} OR f = {} AND o <= {})"
    text = f"{sets} AND {where}"
    by_name = {"a": 1, "b": 2, "c": 3, "fence": 5, "fence_owner": "me"}
    names = ("c", "fence", "fence_owner", "a", "b", "fence", "fence", "fence_owner")
    in_order = tuple(by_name[name] for name in names)
    assert said == {
        "named": (text.format(*(f":{name}" for name in names)), by_name),
        "pyformat": (text.format(*(f"%({name})s" for name in names)), by_name),
        "qmark": (text.format(*"????????"), in_order),
        "format": (text.format(*["%s"] * 8), in_order),
        "dollar": (text.format("$1", "$2", "$3", "$4", "$5", "$2", "$2", "$3"), in_order[:5]),
    }


@pytest.mark.parametrize("name", ["a b", "a;drop table t", "", 'a"', "1a", "a.b.", "ä"])
def test_a_name_that_could_change_the_statement_is_refused(name: str):
    for make in (
        lambda: FencedTable(name, key="id"),
        lambda: FencedTable("t", key=name),
        lambda: FencedTable("t", key="id", fence=name),
        lambda: FencedTable("t", key="id", owner=name),
        lambda: ACCOUNTS.update(name),
        lambda: ACCOUNTS.upsert("balance", name),
    ):
        with pytest.raises(UsageError, match="not a plain SQL identifier"):
            make()


def test_a_statement_says_which_values_it_takes():
    update = ACCOUNTS.update("balance")
    with pytest.raises(UsageError, match=re.escape("takes balance, id, not id")):
        update.bind(by(1), id=7)
    with pytest.raises(UsageError, match="name the columns to write"):
        ACCOUNTS.update()
    with pytest.raises(UsageError, match="each once and none of id, fence, fence_owner"):
        ACCOUNTS.update("balance", "id")
    with pytest.raises(UsageError, match="needs a key"):
        FencedTable("t", key="fence")
    with pytest.raises(UsageError, match="needs a key"):
        FencedTable("t", key=[])
    with pytest.raises(UsageError, match="needs two columns more"):
        FencedTable("t", key="id", fence="f", owner="f")
    with pytest.raises(UsageError, match="paramstyle must be one of"):
        FencedTable("t", key="id", paramstyle="numeric")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="does not say how many rows"):
        update.check(-1, by(1))
    assert repr(ACCOUNTS) == "<FencedTable 'accounts' fence='fence' owner='fence_owner'>"
