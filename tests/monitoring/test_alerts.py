"""Each alert fires when its fault is made, on real servers and programs, as a real Prometheus sees them.

For-times are cut to nothing, and the thresholds of `rules.CUTS`; what cannot be made here has its reason in `cases.py`.
Each test waits until its alert does not fire, makes the fault, waits until it does, and repairs what it broke.
"""

from __future__ import annotations

import resource
import signal
import threading
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis

from gridsync import Grid, LeaseLost, Settings
from gridsync.errors import GridsyncError, LogFull
from gridsync.streams import DEAD
from gridsync.testing.proxy import FaultProxy
from tests.monitoring.cases import CASES
from tests.monitoring.observatory import name_of, wait_for
from tests.streams.models import Placed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gridsync.streams import Delivery
    from gridsync.testing.servers import RedisServer
    from tests.monitoring.conftest import World

HEARD: set[str] = set()
"""The alerts that some test has heard."""


@contextmanager
def alarm(world: World, *names: str, **labels: str) -> Iterator[Callable[[], None]]:
    """Say that none of the alerts *names* fires before what is done inside, and that all have fired after it.

    Gives what waits for them, for faults that last no longer than what is done inside.
    """
    heard = set[str]()

    def hear() -> None:
        for name in names:
            if name not in heard:
                world.eye.hear(name, **labels)
                heard.add(name)

    for name in names:
        world.eye.quiet(name, **labels)
    yield hear
    hear()
    HEARD.update(heard)


@contextmanager
def configured(server: RedisServer, **options: str | int) -> Iterator[None]:
    """Change the configuration of a server for a while."""
    names = [name.replace("_", "-") for name in options]
    with server.client(decode_responses=True) as client:
        before: dict[str, Any] = {name: client.config_get(name)[name] for name in names}
        client.config_set(*[word for pair in zip(names, options.values(), strict=True) for word in pair])
        try:
            yield
        finally:
            client.config_set(*[word for pair in before.items() for word in pair])


def fill(server: RedisServer, until: str) -> None:
    """Write until the server refuses, or has evicted something."""
    with server.client() as client:
        for n in range(100_000):
            try:
                client.set(f"fill:{n}", b"x" * 10_000, px=600_000)
            except redis.exceptions.OutOfMemoryError:
                assert until == "refused"
                return
            if until == "evicted" and client.info("stats")["evicted_keys"]:
                return
        pytest.fail(f"nothing was {until}")


def test_memory(world: World):
    """The limit is near, then it is reached, then something is evicted; and then there is none."""
    victim, at = world.victim, name_of(world.victim)
    limit = int(victim.command("INFO", "memory")["used_memory"]) + 3_000_000
    try:
        with configured(victim, maxmemory=limit):
            with alarm(world, "RedisMemoryHigh", "RedisRefusesWrites", instance=at):
                fill(victim, "refused")
            may, does = alarm(world, "RedisMayEvict", instance=at), alarm(world, "RedisEvicts", instance=at)
            with may as hear, does, configured(victim, maxmemory_policy="allkeys-lru"):
                fill(victim, "evicted")
                hear()
        with alarm(world, "RedisMemoryUnlimited", instance=at) as hear, configured(victim, maxmemory=0):
            hear()
    finally:
        victim.command("FLUSHALL")


def test_clients(world: World):
    victim, at = world.victim, name_of(world.victim)
    with configured(victim, maxclients=40), ExitStack() as stack:
        with alarm(world, "RedisClientsNearMax", instance=at):
            for _ in range(34):
                stack.enter_context(victim.client()).ping()
        with alarm(world, "RedisRefusesClients", instance=at):
            wait_for(lambda: is_refused(stack.enter_context(victim.client())), lambda: "nobody is refused")
            stack.close()  # so that the exporter is let in, and sees it


def is_refused(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.exceptions.ConnectionError:
        return True
    return False


BUSY = """
local function now() local t = redis.call('TIME'); return t[1] * 1000000 + t[2] end
local start = now()
while now() - start < 30000 do end
"""


def test_slow_commands(world: World):
    victim, at = world.victim, name_of(world.victim)
    names = ("RedisSlowCommands", "RedisLongCommands")
    with alarm(world, *names, instance=at):
        victim.command("EVAL", BUSY, 0)
        world.eye.until(f'redis_commands_total{{instance="{at}", cmd="eval"}}')

        def slow() -> bool:
            victim.command("EVAL", BUSY, 0)
            return all(world.eye.rings(name, instance=at) for name in names)

        wait_for(slow, lambda: "thirty milliseconds are not slow")


def test_persistence(world: World):
    """The disk is full: no file may grow, which the server is told as an error."""
    victim, at = world.victim, name_of(world.victim)
    status = partial(victim.command, "INFO", "persistence")
    names = "RedisAppendLogFails", "RedisRewriteFails", "RedisSnapshotFails"
    with alarm(world, *names, instance=at) as hear, limited_files(victim):
        victim.command("SET", "more", b"x" * 10_000, "PX", 600_000)
        victim.command("BGSAVE")
        wait_for(lambda: status()["rdb_last_bgsave_status"] == "err", lambda: f"it was saved: {status()}")
        with suppress(redis.exceptions.ResponseError):
            victim.command("BGREWRITEAOF")
        hear()
    with alarm(world, "RedisForgets", instance=at) as forgets, configured(victim, appendonly="no"):
        forgets()


@contextmanager
def limited_files(server: RedisServer) -> Iterator[None]:
    """Let no file of *server* grow, and afterwards let it save again what it has."""
    whole = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (64, whole[1]))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, whole)


def test_a_server_that_is_down_and_comes_back(world: World):
    victim, at = world.victim, name_of(world.victim)
    world.eye.until(f'redis_uptime_in_seconds{{instance="{at}"}} > 3')
    with alarm(world, "RedisRestarted", instance=at):
        try:
            with alarm(world, "RedisDown", instance=at):
                victim.kill()
        finally:
            victim.start()


def test_replication(world: World):
    primary, replica = world.primary, world.replica
    at, there = name_of(primary), name_of(replica)
    port = str(primary.port)
    with frozen(replica) as freeze, alarm(world, "RedisReplicaLags", instance=at):
        freeze()
    with alarm(world, "RedisReplicaCutOff", instance=there):
        replica.command("REPLICAOF", "127.0.0.1", str(replica.port))  # to itself, which is no primary
    replica.command("REPLICAOF", "127.0.0.1", port)
    world.eye.until(f'redis_instance_info{{instance="{there}", role="slave"}}')
    world.eye.until(f'redis_instance_info{{instance="{there}", role="slave"}} offset 8s')
    with alarm(world, "RedisPrimaryChanged", instance=there):
        replica.command("REPLICAOF", "NO", "ONE")
    replica.command("REPLICAOF", "127.0.0.1", port)
    world.eye.until(f'redis_connected_slaves{{instance="{at}"}} == 1')
    with alarm(world, "RedisReplicaLost", instance=at):
        replica.kill()
    replica.start()


def impatient(server: RedisServer, **options: Any) -> Grid:  # noqa: ANN401 - settings
    return Grid(settings=Settings(redis_url=server.url, **options))


def test_a_server_that_is_away_for_a_program(world: World):
    """Calls fail, the breaker opens, limiters decide alone, stores cannot be asked, and the patient wait in line."""
    victim, port = world.victim, f"127.0.0.1:{world.shown.port}"
    patience = {"redis_command_timeout": 100, "redis_pool_size": 1, "gridsync_breaker": False}
    with (
        impatient(victim, redis_command_timeout=1) as grid,
        impatient(victim, **patience) as patient,
        frozen(victim) as freeze,
    ):
        limiter = grid.limiter("away", "1000000/second", on_error="local")
        limiter.hit("me")
        patient.limiter("away", "100/second").hit("me")
        orders = grid.events("away", Placed)
        orders.info()
        world.shown.show("away", grid, orders)
        world.shown.show("patient", patient)
        world.eye.until('gridsync_store_up{store="away"} == 1 and on () gridsync_requests_total{grid="patient"}')
        hits = [threading.Thread(target=ask, args=(patient,)) for _ in range(15)]
        away = "GridsyncServerAway", "GridsyncStoreUnreachable", "GridsyncDegraded", "GridsyncAttemptsFail"
        with alarm(world, *away, "GridsyncCallersInLine", instance=port) as hear:
            freeze()
            for hit in hits:
                hit.start()
            wait_for(lambda: limiter.hit("me").source == "local" and grid.stats().servers_away, lambda: "it is there")
            hear()
        victim.resume()
        for hit in hits:
            hit.join()


def ask(grid: Grid) -> None:
    with suppress(GridsyncError):  # the grid is closed if the test fails
        grid.limiter("away", "100/second").hit("you")


@contextmanager
def frozen(server: RedisServer) -> Iterator[Callable[[], None]]:
    """Give what freezes *server* until the end."""
    try:
        yield server.pause
    finally:
        server.resume()


def test_a_way_that_breaks_again_and_again(world: World):
    """Every repeat costs the budget something, until there is none left."""
    port = f"127.0.0.1:{world.shown.port}"
    with FaultProxy(world.victim.url) as proxy:
        settings = Settings(redis_url=proxy.url, gridsync_retry_burst=1, gridsync_retry_ratio=0, gridsync_breaker=False)
        with Grid(settings=settings) as grid:
            world.shown.show("cut", grid)
            world.eye.until('gridsync_repeats_refused_total{grid="cut"} == 0')

            def refused() -> int:
                proxy.cut()
                with suppress(GridsyncError):
                    grid.limiter("cut", "100/second").hit("me")
                return grid.stats().repeats_refused

            with alarm(world, "GridsyncRepeatsRefused", instance=port):
                wait_for(refused, lambda: "the budget is never used up")


def test_locks(world: World):
    """A lease is taken away, as a server that forgets would; and somebody waits for a lock."""
    port = f"127.0.0.1:{world.shown.port}"
    with Grid(world.victim.url) as grid:
        world.shown.show("locks", grid)
        grid.lock("warm").acquire().release()
        world.eye.until('gridsync_lock_wait_seconds_count{grid="locks"}')
        with alarm(world, "GridsyncLeasesLost", instance=port):
            lease = grid.lock("job", ttl=3).acquire()
            world.victim.command("FLUSHALL")
            wait_for(lambda: grid.stats().leases_lost, lambda: "nobody has noticed")
            with suppress(LeaseLost):
                lease.release()
        with alarm(world, "GridsyncLockWaitsLong", instance=port, grid="locks"):
            for _ in range(3):
                held = grid.lock("job").acquire()
                waiter = threading.Thread(target=lambda: grid.lock("job").acquire().release())
                waiter.start()
                wait_for(lambda: grid.stats().ears, lambda: "nobody waits")
                waiter.join(0.3)
                held.release()
                waiter.join()


def test_events(world: World):
    """Nobody consumes; a handler gives up; nobody relays; and a log fills up because somebody holds it."""
    group_of = {"store": "stuck", "group": "billing"}
    with Grid(world.victim.url) as grid:
        stuck, bills, full = (grid.events(name, Placed) for name in ("stuck", "bills", "full"))
        world.shown.show("events", grid, stuck, bills, full)
        group, outbox = stuck.group("billing"), stuck.outbox(bills)

        def handle(delivery: Delivery[Any]) -> None:
            if delivery.event.kwh == 7:
                raise ValueError("nobody buys seven")
            with delivery.commit() as tx:
                tx.send(outbox, "bill", [Placed(kwh=1)])

        def consume() -> None:
            group.consume(handle, idle_stop=0, policy={ValueError: DEAD}, on_error=lambda _: None)

        stuck.append("a", Placed(kwh=1))
        full.append("a", Placed(kwh=1))
        full.group("late").consume(lambda _: None, idle_stop=0)
        full.retention(cap_count=20).run(once=True)
        world.eye.until('gridsync_store_group_lag{store="stuck"} == 0 or gridsync_store_events{store="full"} == 1')
        with alarm(world, "GridsyncDeadLetters", **group_of), alarm(world, "GridsyncOutboxStuck", store="stuck"):
            consume()
            world.eye.until('gridsync_store_group_dead{store="stuck"} == 0')
            stuck.append("a", Placed(kwh=7))
            consume()
        with alarm(world, "GridsyncGroupStuck", "GridsyncGroupFallsBehind", **group_of):
            stuck.append("a", [Placed(kwh=1)] * 30)
        with alarm(world, "GridsyncLogNearCap", "GridsyncLogHeld", store="full"):
            full.append("a", [Placed(kwh=1)] * 19)
        with alarm(world, "GridsyncLogFull"), pytest.raises(LogFull):
            full.append("a", [Placed(kwh=1)] * 5)


def test_a_group_that_has_expired(world: World):
    with Grid(world.victim.url) as grid:
        world.shown.show("expired", grid)
        store = grid.events("silent", Placed)
        store.append("a", [Placed(kwh=1)] * 5)
        store.group("old").consume(lambda _: None, idle_stop=0)
        store.append("a", [Placed(kwh=1)] * 5)
        world.eye.until('grid:gridsync_stream_expired:sum{grid="expired"} == 0')
        with alarm(world, "GridsyncGroupExpired", grid="expired"):
            policy = store.retention(max_count=2, expire_after=1)

            def given_up() -> int:
                policy.run(once=True)
                return grid.stats().tallies.get("stream.expired", {}).get("silent/old", 0)

            wait_for(given_up, lambda: "the group is kept")


def test_a_mirror_that_falls_behind(world: World):
    """The other data centre is cut off, while the load goes on."""
    with frozen(world.elsewhere) as freeze, alarm(world, "GridsyncMirrorBehind", grid="load"):
        freeze()


def test_subscribers_that_miss_messages(world: World):
    with Grid(world.victim.url) as grid:
        world.shown.show("fanout", grid)
        world.eye.until('gridsync_channel_gap_total{grid="fanout"} == 0')
        with alarm(world, "GridsyncSubscribersMiss", grid="fanout"), grid.channel("c").subscribe(queue=1) as slow:
            for n in range(15):
                for k in range(3):
                    grid.channel("c").publish(f"{n}.{k}")
                slow.next(timeout=20)
                slow.next(timeout=20)


def test_a_program_that_ends(world: World):
    with alarm(world, "GridsyncProgramDown", instance=f"127.0.0.1:{world.brief.port}"):
        world.brief.close()


def test_an_exporter_that_hangs(world: World):
    exporter = world.eye.exporter
    try:
        with alarm(world, "RedisExporterDown", instance=name_of(world.elsewhere)):
            exporter.send_signal(signal.SIGSTOP)
    finally:
        exporter.send_signal(signal.SIGCONT)


@pytest.mark.usefixtures("world")
def test_every_alert_was_heard_or_cannot_be_made(request: pytest.FixtureRequest):
    """The last one: it knows what the others have heard."""
    here = [item for item in request.session.items if item.path == request.path]
    if len(here) != len([name for name in globals() if name.startswith("test_")]):
        pytest.skip("only some tests of this file were asked for")
    assert HEARD | {name for name, case in CASES.items() if case.why_not_real} == set(CASES)
