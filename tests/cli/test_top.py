"""`gridsync top`: what its model reads of each wing, what a refresh may cost, and what keys do to what is shown."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from rich.console import Console

from gridsync import Grid, Unavailable
from gridsync._io.keys import tag
from gridsync.cache import Space
from gridsync.cli._shared import Walk
from gridsync.cli.top import view, vitals
from gridsync.cli.top.known import Known, Turns
from gridsync.cli.top.model import LOCKS, STEPS, CacheRow, LimitRow, LockRow, Model, Snapshot, StreamRow
from gridsync.cli.top.state import SECTIONS, State, pressed
from gridsync.cli.top.terminal import named
from gridsync.cli.top.vitals import Vitals
from gridsync.streams import Retry
from gridsync.testing.cluster import RedisCluster
from tests.command import called
from tests.streams.models import Order, Placed
from tests.wire.fake import eventually
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.streams import Recorded
    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server


@pytest.fixture
def grid(flushed: RedisServer) -> Iterator[Grid]:
    with Grid(flushed.url, namespace=NAMESPACE) as opened:
        yield opened


def refreshed(model: Model, times: int = 2) -> Snapshot:
    """Return what is shown after some refreshes: those that are met in one are asked about in it, or in the next."""
    found = model.refresh()
    for _ in range(times - 1):
        found = model.refresh()
    return found


def screen(snapshot: Snapshot | None, state: State, trouble: str = "", size: tuple[int, int] = (100, 20)) -> list[str]:
    """Return the lines of a terminal of that size."""
    width, height = size
    console = Console(width=width, height=height, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(view.screen(snapshot, state, trouble, size))
    return captured.get().splitlines()


@pytest.mark.leaves_keys
def test_locks_of_every_kind_are_seen_with_holders_fences_and_waiters(grid: Grid):
    job = grid.lock("job", note="nightly", ttl=600).try_acquire()
    pool = grid.semaphore("pool", 3, ttl=600).try_acquire()
    assert job is not None
    assert pool is not None
    model = Model(grid)
    rows = {row.id: row for row in refreshed(model).locks}
    assert rows.keys() == {"lock job", "semaphore pool"}
    assert rows["lock job"].fence == job.fence
    assert 0 < (rows["lock job"].expires_in or 0) <= 600
    assert "(nightly)" in rows["lock job"].state
    assert rows["semaphore pool"].state == "1 of 3 permits taken by 1"
    detail = model.refresh(("locks", "semaphore pool")).detail
    assert detail[0].startswith("semaphore pool: 1 of 3")
    assert "holds 1" in detail[1]
    job.release()
    assert [row.id for row in refreshed(model).locks] == ["semaphore pool"]


def test_a_limiter_is_seen_with_its_busiest_key(grid: Grid):
    limiter = grid.limiter("api", "100/minute")
    for number in range(9):
        limiter.hit("anna" if number % 3 else "bert")
    model = Model(grid)
    (row,) = refreshed(model).limits
    assert (row.limiter, row.keys, row.busiest, row.used) == ("api", 2, "anna", 6)
    assert len(model.refresh(("limits", "api")).detail) == 2


@pytest.mark.leaves_keys
def test_a_group_is_seen_with_its_lag_and_what_is_pending(grid: Grid):
    store = grid.events("orders", Order)
    store.append("order-1", Placed(kwh=1))

    def fail(_: Recorded[Any]) -> None:
        raise ValueError("not now")

    store.group("billing").consume(fail, policy=Retry(first_s=1000), on_error=lambda _: None, idle_stop=0)
    store.append("order-2", Placed(kwh=2))
    grid.events("empty", Order).append("a", Placed(kwh=1))
    model = Model(grid)
    rows = {row.id: row for row in refreshed(model).streams}
    assert rows.keys() == {"empty ", "orders billing"}
    told = rows["orders billing"]
    assert (told.events, told.lag, told.pending, told.parked) == (2, 1, 1, 1)
    detail = "\n".join(model.refresh(("streams", "orders billing")).detail)
    assert "ValueError: not now" in detail


def test_a_cache_and_the_servers_vitals_are_seen(grid: Grid, flushed: RedisServer):
    cache = grid.cache(Space("prices", int, ttl=600))
    cache.set("a", 1)
    cache.get("a")
    model = Model(grid)
    first = model.refresh()
    assert [(row.cache, row.keys) for row in first.caches] == [("prices", 1)]
    assert first.servers[0].cpu is None
    found: list[Snapshot] = []

    def rated() -> bool:
        cache.get("a")
        found.append(model.refresh())
        return found[-1].servers[0].hit_rate is not None

    eventually(rated)
    (vitals,) = found[-1].servers
    assert vitals.server == f"{flushed.host}:{flushed.port}"
    assert vitals.ops > 0
    assert vitals.cpu is not None
    assert (vitals.role, vitals.keys) == ("primary", 1)
    assert vitals.memory > 0


@pytest.mark.leaves_keys
def test_a_refresh_costs_the_same_whatever_there_is(grid: Grid, flushed: RedisServer):
    """Whoever watches a server that is busy must not make it busier."""
    with flushed.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(20_000):
            pipeline.zadd(f"{{{NAMESPACE}:limit:api:{number}}}", {"1 a": 1})
        for number in range(200):
            name = f"{{{NAMESPACE}:lock:job{number}}}"
            pipeline.hset(name, mapping={"o": "a", "t": "1", "s": "1", "m": "h\t1\tt\t"})
            pipeline.pexpire(name, 600_000)
        pipeline.execute()
    model = Model(grid)
    model.refresh()
    flushed.command("CONFIG", "RESETSTAT")
    assert not model.refresh().complete
    calls = {name: told["calls"] for name, told in flushed.command("INFO", "commandstats").items()}
    assert calls["cmdstat_scan"] == STEPS
    assert calls["cmdstat_evalsha"] <= LOCKS + 20
    while not (found := model.refresh()).complete:
        pass
    assert found.keys == 20_200
    assert found.limits[0].keys == 20_000
    eventually(lambda: len(model.refresh().locks) == 200)


def test_what_is_gone_is_forgotten_after_a_round(grid: Grid, flushed: RedisServer):
    grid.limiter("api", "100/minute").hit("anna")
    grid.cache(Space("prices", int, ttl=600)).set("a", 1)
    model = Model(grid)
    assert refreshed(model).limits
    flushed.command("FLUSHALL")
    eventually(lambda: not (found := model.refresh()).limits and not found.caches and not found.locks)


def test_a_server_that_is_away_is_told_and_comes_back(grid: Grid, flushed: RedisServer):
    model = Model(grid)
    before = model.refresh()
    flushed.stop()
    with pytest.raises(Unavailable):
        model.refresh()
    lines = screen(before, State(), "no answer for 3 s: it is away")
    assert any("no answer for 3 s" in line for line in lines)
    flushed.start()

    def back() -> bool:
        try:
            return bool(model.refresh().servers)
        except Unavailable:
            return False

    eventually(back)


@pytest.mark.leaves_keys
def test_of_a_cluster_every_primary_is_shown_and_every_slot_looked_at():
    with RedisCluster() as cluster, Grid(cluster.url, namespace=NAMESPACE) as grid, ExitStack() as held:
        names = [f"job{number}" for number in range(8)]
        for name in names:
            held.enter_context(grid.lock(name, ttl=600))
        model = Model(grid)
        eventually(lambda: len(model.refresh().locks) == len(names))
        found = model.refresh()
        assert len(found.servers) == 3
        assert {each.server for each in found.servers} == {f"{node.host}:{node.port}" for node in cluster.nodes}


@pytest.mark.leaves_keys
def test_a_cluster_with_a_node_that_hangs_or_is_away_shows_what_the_others_say():
    """An operator looks at it just then; it ended with nothing but a timeout."""
    with (
        RedisCluster(node_timeout_ms=15_000, options={"cluster-require-full-coverage": "no"}) as cluster,
        Grid(cluster.url, namespace=NAMESPACE) as grid,
    ):
        names = [f"job{number}" for number in range(8)]
        held = [grid.lock(name, ttl=600).try_acquire() for name in names]
        assert all(held)
        victim = cluster.nodes[0]
        silent = f"{victim.host}:{victim.port}"
        theirs = [name for name in names if str(grid._io.where((tag(NAMESPACE, "lock", name),))) != silent]
        assert 0 < len(theirs) < len(names)
        model = Model(grid)
        found = [model.refresh()]

        def shows(*locks: str, away: tuple[str, ...], complete: bool) -> bool:
            found.append(model.refresh())
            told = found[-1]
            seen = ([row.name for row in told.locks], tuple(each.server for each in told.away), told.complete)
            return seen == ([*locks], away, complete)

        eventually(lambda: shows(*names, away=(), complete=True))
        victim.pause()
        eventually(lambda: shows(*theirs, away=(silent,), complete=False), limit_s=60)
        assert len(found[-1].servers) == 2
        lines = screen(found[-1], State(section="servers"), size=(120, 20))
        assert f"no answer from {silent} for " in lines[2]
        assert any(silent in line and "away" in line for line in lines[3:])
        victim.resume()
        eventually(lambda: shows(*names, away=(), complete=True), limit_s=60)
        victim.kill()
        words = ("top", "--url", cluster.url, "--namespace", NAMESPACE, "--json", "--seconds", "60")
        code, output, _ = called(*words)
        told = json.loads(output)
        assert (code, told["complete"], [row["name"] for row in told["locks"]]) == (0, False, theirs)
        (away,) = told["away"]
        assert (away["server"], datetime.fromisoformat(away["since"]).tzinfo) == (silent, UTC)
        cluster.stop()
        assert called(*words)[:2] == (2, "")


def test_a_walk_goes_on_with_the_node_that_took_over():
    """It began at a primary that is gone for ever: asking on for that one would never end."""
    alive = ["first", "second"]

    class Client:
        """redis-py's for a cluster, as far as a walk uses it."""

        def get_primaries(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name=name) for name in alive]

        def execute_command(self, *_: object, target_nodes: SimpleNamespace) -> tuple[dict[str, int], list[bytes]]:
            if target_nodes.name not in alive:
                raise RedisConnectionError("refused")
            return {target_nodes.name: 0}, [target_nodes.name.encode()]

    walk = Walk(cast("Grid", SimpleNamespace(client=Client())), "*")
    assert walk.step() == ["first"]
    alive[:] = ["first", "heir"]
    with pytest.raises(Unavailable):
        walk.step()
    assert walk.silent == "second"
    assert [walk.step(), walk.step()] == [["first"], ["heir"]]
    assert walk.rounds == 1
    walk.leave_out(["first"])
    assert (walk.step(), walk.rounds) == (["heir"], 2)


@pytest.mark.leaves_keys
def test_what_another_program_wrote_under_a_name_of_ours_hides_nothing_else(grid: Grid, flushed: RedisServer):
    """One odd key ended `--once`, and left a screen that watches in trouble for ever."""
    flushed.command("SET", f"{{{NAMESPACE}:lock:wrong\x1b}}", "1")
    flushed.command("SET", f"{{{NAMESPACE}:events:odd}}:meta", "1")
    with grid.lock("job", ttl=600):
        code, output, _ = called("top", "--url", flushed.url, "--namespace", NAMESPACE, "--json")
        told = json.loads(output)
        assert (code, [row["name"] for row in told["locks"]]) == (0, ["job"])
        assert told["unreadable"] == ["locks lock wrong\x1b: WRONGTYPE", "streams odd: WRONGTYPE"]
        code, output, _ = called("top", "--url", flushed.url, "--namespace", NAMESPACE, "--once")
        assert "cannot be read: locks lock wrong\\x1b: WRONGTYPE" in output
        model = Model(grid)
        found = refreshed(model)
        assert "cannot read locks lock wrong" in screen(found, State(), size=(200, 20))[2]
        flushed.command("DEL", f"{{{NAMESPACE}:lock:wrong\x1b}}", f"{{{NAMESPACE}:events:odd}}:meta")
        assert refreshed(model, 3).unreadable == ()


def test_complete_is_said_only_of_what_is(grid: Grid):
    """A script that counts locks must not take a thousand of ten thousand for all."""
    with ExitStack() as held:
        for number in range(3):
            held.enter_context(grid.lock(f"job{number}", ttl=600))
        whole = Model(grid, 3).once(60)
        assert (len(whole.locks), whole.complete, whole.left_out) == (3, True, ())
        part = Model(grid, 2).once(60)
        assert (len(part.locks), part.complete, part.left_out) == (2, False, ("locks",))
        assert " locks 2+ " in screen(part, State())[1]
        late = Model(grid).once(0)
        assert (len(late.locks), late.complete) == (0, False)


def test_names_beyond_the_most_are_not_kept():
    """A limiter for each customer is a mistake, and `top` must show it rather than grow with it."""
    known = Known("n", ("lock",), 2)
    for _ in range(2):
        known.meet(f"{{n:{wing}:{number}:k}}" for wing in ("limit", "cache") for number in range(9))
        known.round()
    assert (len(known.names("limit")), len(known.names("cache"))) == (2, 2)
    assert known.left_out == ("limits", "caches")


def test_one_snapshot_for_scripts(grid: Grid, flushed: RedisServer):
    with grid.lock("job", ttl=600):
        code, output, _ = called("top", "--url", flushed.url, "--namespace", NAMESPACE, "--once", "--json")
        assert code == 0
        told = json.loads(output)
        (row,) = told["locks"]
        assert (row["kind"], row["name"], told["complete"]) == ("lock", "job", True)
        assert row["expires_in"] <= 600
        assert told["servers"][0]["cpu"] is not None
        code, output, _ = called("top", "--url", flushed.url, "--namespace", NAMESPACE, "--once")
        assert code == 0
        assert "job" in output
    code, output, error = called("top", "--url", flushed.url)
    assert (code, output) == (2, "")
    what, do = error.splitlines()
    assert what == "gridsync: there is no terminal to draw on"
    assert "--once" in do
    flushed.stop()
    code, output, error = called("top", "--url", flushed.url, "--json")
    flushed.start()
    assert (code, output, len(error.splitlines())) == (2, "", 2)


# -- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        (b"jk", ["j", "k"]),
        (b"\x1b[A\x1bOB", ["up", "down"]),
        (b"\t\r\x1b[Z", ["tab", "enter", "back tab"]),
        (b"\x1b[5~q", ["page up", "q"]),
        (b"\x1b[99~", ["\x1b[99~"]),
        ("ü".encode(), ["�", "�"]),
    ],
)
def test_keys_have_names(typed: bytes, names: list[str]):
    assert named(typed, more=True) == (names, b"")


def test_an_escape_waits_for_what_may_follow():
    """A slow line may cut an arrow in two, and nobody wants to leave because of that."""
    assert named(b"j\x1b", more=True) == (["j"], b"\x1b")
    assert named(b"\x1b[", more=True) == ([], b"\x1b[")
    assert named(b"\x1b[A", more=True) == (["up"], b"")
    assert named(b"\x1b", more=False) == (["escape"], b"")
    assert named(b"\x1b[", more=False) == ([], b"")
    assert named(b"", more=False) == ([], b"")


def typed(state: State, ids: list[str], *keys: str) -> State:
    for key in keys:
        state = pressed(state, key, ids)
    return state


def test_the_choice_stays_with_its_row():
    ids = ["a", "b", "c"]
    state = typed(State(), ids, "down", "j")
    assert state.place(ids) == 2
    assert state.place(["new", *ids]) == 3
    assert state.place(["a", "b"]) == 1, "it is gone: what is there now is chosen"
    assert typed(state, ids, "down").place(ids) == 2
    assert typed(state, ids, "up", "k", "k").place(ids) == 0
    assert typed(state, ids, "home", "page down", "end").place(ids) == 2
    assert typed(state, [], "down", "enter").focus([]) is None


def test_sections_inspecting_pausing_and_leaving():
    ids = ["a", "b"]
    state = typed(State(), ids, "down", "enter")
    assert state.focus(ids) == (SECTIONS[0], "b")
    assert typed(state, ids, "escape").focus(ids) is None
    assert typed(state, ids, "enter").focus(ids) is None
    following = typed(state, ids, "tab")
    assert (following.section, following.inspecting) == (SECTIONS[1], False)
    assert typed(following, ids, "back tab").place(ids) == 1
    assert typed(State(), ids, "left").section == SECTIONS[-1]
    assert typed(State(), ids, "p").paused
    assert not typed(State(), ids, "p", "p").paused
    assert typed(State(), ids, "q").over
    assert typed(State(), ids, "x") == typed(State(), ids)


# -- the picture ---------------------------------------------------------------------------------------------------


@pytest.mark.leaves_keys
@pytest.mark.parametrize("size", [(100, 20), (40, 10), (20, 6)])
def test_a_picture_fits_its_terminal(grid: Grid, size: tuple[int, int]):
    leases = [grid.lock(f"job{number:02}", ttl=600, note="\x1b[2J").try_acquire() for number in range(30)]
    model = Model(grid)
    eventually(lambda: len(model.refresh().locks) == len(leases))
    snapshot = model.refresh()
    ids = [row.id for row in snapshot.locks]
    for section in SECTIONS:
        for state in (State(section=section), State(section=section, inspecting=True, paused=True)):
            lines = screen(snapshot, state, size=size)
            assert len(lines) <= size[1]
            assert all(len(line) <= size[0] for line in lines)
            assert "\x1b" not in "".join(lines)
    if size[1] >= 10:
        lines = screen(snapshot, typed(State(), ids, "end"), size=size)
        assert any("job29" in line for line in lines), "the chosen row is on the screen"
    assert screen(None, State()) == ["asking the server ..."]


def test_nothing_that_others_wrote_steers_the_terminal():
    """Whoever may write a key, or answers for a server, chooses these words."""
    odd = "\x1b[2J\x1b]0;owned\x07"
    number = (1.0, None, None, 1, 1, 1, 1, 1, 1, 1)
    snapshot = Snapshot(
        *(odd, odd, True, 1),
        servers=(Vitals(odd, odd, "primary", *number),),
        locks=(LockRow("lock", odd, "free", 1, 1.0, 1, 0.0),),
        limits=(LimitRow(odd, 1, odd, 1),),
        streams=(StreamRow(odd, odd, 1, 1, 1, 1, 1, 1, None),),
        caches=(CacheRow(odd, 1),),
        unreadable=(odd,),
    )
    console = Console(width=200, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(view.tables(snapshot, 200))
    pictures = [captured.get(), *screen(None, State(), odd)]
    for section in SECTIONS:
        for trouble in ("", odd):
            pictures += screen(snapshot, State(section=section), trouble)
            pictures += screen(snapshot, State(section=section, inspecting=True), trouble)
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", "".join(pictures))


def test_a_server_that_was_restarted_has_no_negative_rates():
    """Its counters begin anew; what is told until the next look is what the server says itself."""
    names = ("connected_clients", "blocked_clients", "evicted_keys", "connected_slaves", "used_memory", "maxmemory")
    small = {"used_cpu_sys": 1, "used_cpu_user": 1, "keyspace_hits": 1, "keyspace_misses": 1}
    info = dict.fromkeys(names, 0) | small | {"role": "master", "redis_version": "8.2.3", "run_id": "new"}
    info |= {"instantaneous_ops_per_sec": 7, "total_commands_processed": 10}
    past = info | dict.fromkeys(small, 9) | {"total_commands_processed": 10_000, "run_id": "old"}
    found = vitals._vitals("server:1", info, 100.0, (99.0, past))
    assert (found.ops, found.cpu, found.hit_rate) == (7, None, None)


def test_names_are_asked_about_by_turns():
    turns: Turns[str] = Turns(3)
    for name in "abcd":
        turns.meet(name, 0)
    assert len(turns) == 3, "no more are kept"
    assert [turns.next(2), turns.next(2), turns.next(5)] == [["a", "b"], ["c", "a"], ["b", "c", "a"]]
    turns.meet("b", 1)
    turns.since(1)
    assert list(turns) == ["b"]


def test_keys_of_others_are_nobodys():
    known = Known("n", ("lock",))
    known.meet(["{n:lock:a}", "{m:lock:b}", "{n:what:c}", "x", "{n:limit:api:u}:bucket", "{n:cache:c%3Ad:k}"])
    assert list(known.locks) == [("lock", "a")]
    assert known.names("limit") == ["api"]
    assert known.names("cache") == ["c:d"]
    known.round()
    known.round()
    assert not known.locks
    assert known.names("cache") == []
