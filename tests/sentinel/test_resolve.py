"""Who is asked, what is believed, and what moves when; by a scripted sentinel."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from gridsync import AuthenticationFailed, GridsyncError, Misconfigured, Unavailable
from gridsync._io import Category, Command
from gridsync._io.route import listener
from gridsync._io.route.open import open_place
from gridsync.testing.sentinels import SentinelSet
from gridsync.testing.servers import free_port
from tests.sentinel.conftest import follow, hand_over
from tests.sentinel.helpers import KINDS, FakeSentinel, Traded, do, opened, url_of
from tests.wire.fake import FakeServer, soon

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer
    from tests.sentinel.conftest import Pair

pytestmark = pytest.mark.parametrize("kind", KINDS)
INCR = Command("test.incr", Category.ACCUMULATING, ("INCR",))


def connections(server: RedisServer) -> list[str]:
    """Return the addresses of gridsync's connections to *server*."""
    with server.client() as client:
        return sorted(entry["addr"] for entry in client.client_list() if entry["name"] == "gridsync")


async def increment(grid: object) -> int:
    """Run what may not be repeated unless it surely did not happen."""
    io = grid._io  # type: ignore[attr-defined]
    if hasattr(grid, "open"):
        return int(await io.run(INCR, ("n",)))
    return int(await asyncio.to_thread(lambda: _drive(io.run(INCR, ("n",)))))


def _drive(coroutine: object) -> object:
    from gridsync._io import run_sync  # noqa: PLC0415

    return run_sync(coroutine)  # type: ignore[arg-type]


async def refused(kind: str, url: str, **options: float) -> GridsyncError:
    """Return the error of an attempt to open *url*, which must not wait for a connection's timeout of a minute."""

    async def attempt() -> None:
        async with opened(kind, url, connect_timeout=options.get("connect_timeout", 60.0)):
            pass

    with pytest.raises(GridsyncError) as raised:
        await asyncio.wait_for(attempt(), 20)
    return raised.value


# -- who is asked ---------------------------------------------------------------------------------------------------


async def test_the_primary_is_where_the_sentinel_says(kind: str, pair: Pair):
    with FakeSentinel(pair[1]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            assert await increment(grid) == 1
        assert pair[1].command("GET", "n") == b"1"
        assert pair[0].command("GET", "n") is None


async def test_a_sentinel_that_is_gone_is_passed_over_and_asked_last_from_then_on(kind: str, pair: Pair):
    with FakeSentinel(pair[0]) as sentinel:
        dead = free_port()
        place = open_place(url_of(dead, sentinel), connect_timeout=5.0)
        found = await asyncio.to_thread(place.find, 5.0) if kind == "sync" else await place.seek()
        assert (found.host, found.port) == (pair[0].host, pair[0].port)
        assert [s.port for s in place.sentinels] == [sentinel.port, dead]  # type: ignore[attr-defined]
        place.close()  # type: ignore[attr-defined]


async def test_a_sentinel_that_knows_nothing_is_passed_over(kind: str, pair: Pair):
    with FakeSentinel(None) as ignorant, FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, url_of(ignorant, sentinel)) as grid:
            assert await increment(grid) == 1


async def test_each_new_connection_asks_again(kind: str, pair: Pair):
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            await increment(grid)
            sentinel.names = pair[1]
            pair[0].command("CLIENT", "KILL", "TYPE", "normal")
            await do(grid.lock("job").acquire, timeout=10)
            assert connections(pair[1])


# -- what is believed -----------------------------------------------------------------------------------------------


async def test_a_sentinel_that_names_a_replica_is_not_believed(kind: str, pair: Pair):
    """A sentinel that was cut off goes on naming the primary of yesterday."""
    follow(pair[1], pair[0])
    with FakeSentinel(pair[1]) as stale, FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, url_of(stale, sentinel)) as grid:
            assert await increment(grid) == 1
        assert pair[0].command("GET", "n") == b"1"


async def test_if_all_sentinels_name_a_replica_the_error_says_so(kind: str, pair: Pair):
    follow(pair[1], pair[0])
    with FakeSentinel(pair[1]) as stale:
        error = await refused(kind, stale.url, connect_timeout=1.5)
    assert type(error) is Unavailable
    assert f"127.0.0.1:{pair[1].port} is no primary, its role is 'slave'" in str(error)


async def test_a_message_about_a_replica_moves_nobody(kind: str, pair: Pair):
    follow(pair[1], pair[0])
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            await increment(grid)
            await soon(lambda: sentinel.listeners)
            before = connections(pair[0])
            seen = _accepted(pair[1])
            sentinel.announce(pair[1])
            # The listener looks for itself; every look of ours is a connection, too.
            looks = iter(range(1, 10_000))
            await soon(lambda: _accepted(pair[1]) > seen + next(looks))
            assert connections(pair[0]) == before
            sentinel.names = pair[0]
            assert await increment(grid) == 2


def _accepted(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("stats")["total_connections_received"])


# -- what moves -----------------------------------------------------------------------------------------------------


async def test_an_idle_process_moves_by_the_message_alone(kind: str, pair: Pair, monkeypatch: pytest.MonkeyPatch):
    """The old primary may go on for seconds, and what is written to it is lost."""
    monkeypatch.setattr(listener, "HEARTBEAT_S", 3600.0)
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            lease = await do(grid.lock("kept", ttl=60).acquire)
            waiter = asyncio.create_task(do(grid.lock("kept").acquire, timeout=30))
            await soon(lambda: sentinel.listeners and len(connections(pair[0])) >= 2)
            sentinel.announce(pair[1])
            # Nobody asked for anything: the connection for commands is cut, and the waiter finds the new primary.
            await waiter
            await soon(lambda: not connections(pair[0]))
            assert connections(pair[1])
            assert lease.fence < waiter.result().fence


async def test_a_promotion_moves_as_a_switch_does(kind: str, pair: Pair, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listener, "HEARTBEAT_S", 3600.0)
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            await increment(grid)
            await soon(lambda: sentinel.listeners)
            sentinel.announce(pair[1], promoted=True)
            await soon(lambda: not connections(pair[0]))


async def test_a_server_that_was_demoted_behind_our_back_is_left_at_its_first_refusal(kind: str, pair: Pair):
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            assert await increment(grid) == 1
            follow(pair[1], pair[0])
            hand_over(pair[0], pair[1])
            sentinel.names = pair[1]
            # Refused is not applied, so that even what may never be sent twice is sent again, and counted once.
            assert await increment(grid) == 2
            assert (await do(grid.limiter("calls", "5/minute").hit, "x")).remaining == 4


async def test_a_held_lease_is_renewed_at_the_new_primary(kind: str, pair: Pair):
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            lease = await do(grid.lock("job", ttl=3).acquire)
            follow(pair[1], pair[0])
            hand_over(pair[0], pair[1])
            sentinel.announce(pair[1])
            await soon(lambda: connections(pair[1]))
            owner = lease.owner.encode()
            await soon(lambda: owner in pair[1].command("HVALS", "{gridsync:lock:job}"))
            before = pair[1].command("PTTL", "{gridsync:lock:job}")
            await soon(lambda: pair[1].command("PTTL", "{gridsync:lock:job}") > before)
            lease.check()
            assert await do(lease.release)


async def test_a_consumer_goes_on_at_the_new_primary(kind: str, pair: Pair):
    handled: list[int] = []

    async def handle_async(recorded: object) -> None:
        handled.append(recorded.event.kwh)  # type: ignore[attr-defined]

    def handle(recorded: object) -> None:
        handled.append(recorded.event.kwh)  # type: ignore[attr-defined]

    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            store = grid.events("orders", Traded)
            group = store.group("all")
            consuming = asyncio.create_task(do(group.consume, handle if kind == "sync" else handle_async))
            await do(store.append, "day", [Traded(kwh=1)])
            await soon(lambda: handled == [1])
            follow(pair[1], pair[0])
            hand_over(pair[0], pair[1])
            sentinel.announce(pair[1])
            await do(store.append, "day", [Traded(kwh=2)])
            await soon(lambda: handled[-1] == 2)
            group.stop()
            await asyncio.wait_for(consuming, 30)
            assert sorted(set(handled)) == [1, 2]


async def test_a_listener_whose_sentinel_dies_goes_to_the_next(kind: str, pair: Pair):
    with ExitStack() as stack:
        first, second = (stack.enter_context(FakeSentinel(pair[0])) for _ in range(2))
        async with opened(kind, url_of(first, second)) as grid:
            await increment(grid)
            await soon(lambda: first.listeners)
            first.__exit__()
            await soon(lambda: second.listeners)
            second.announce(pair[1])
            await soon(lambda: not connections(pair[0]))


async def test_a_switch_that_was_announced_while_nobody_listened_is_found_out(kind: str, pair: Pair):
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            await increment(grid)
            await soon(lambda: sentinel.listeners)
            sentinel.names = pair[1]
            sentinel.listeners.pop().close(reset=True)
            await soon(lambda: not connections(pair[0]))


# -- what cannot be ------------------------------------------------------------------------------------------------


async def test_an_unknown_service_is_named_with_the_known_ones(kind: str, pair: Pair):
    with FakeSentinel(pair[0]) as sentinel:
        error = await refused(kind, url_of(sentinel, service="markt"))
    assert type(error) is Misconfigured
    assert "knows no service 'markt', only 'market'" in str(error)


async def test_no_sentinel_at_all(kind: str):
    ports = [free_port(), free_port()]
    error = await refused(kind, url_of(*ports))
    assert type(error) is Unavailable
    assert "no sentinel of 'market' can be reached" in str(error)
    for port in ports:
        assert f"127.0.0.1:{port}" in str(error)


async def test_sentinels_that_are_silent(kind: str):
    """Their own timeout counts, not that of a connection to the server, which is a minute here."""
    with ExitStack() as stack:
        silent = [stack.enter_context(FakeServer(lambda *_: None, greeting=None)) for _ in range(3)]
        error = await refused(kind, url_of(*silent))
    assert type(error) is Unavailable
    assert "did not answer within 0.3 s" in str(error)


async def test_sentinels_with_a_password(kind: str):
    with SentinelSet(replicas=0, sentinels=1, password="data", sentinel_password="watch") as servers:
        async with opened(kind, servers.url) as grid:
            assert await increment(grid) == 1
            assert await do(grid.client.execute_command, "INCR", "n") == 2
        bare = servers.url.partition("?")[0]
        for url in (bare, f"{bare}?sentinel_password=wrong"):
            error = await refused(kind, url)
            assert type(error) is AuthenticationFailed
            assert f"sentinel 127.0.0.1:{servers.sentinels[0].port} refused us" in str(error)
            assert "sentinel_password=" in str(error)
        error = await refused(kind, servers.url.replace(":data@", ":wrong@"))
        assert type(error) is AuthenticationFailed
        assert f"127.0.0.1:{servers.master.port} refused the credentials" in str(error)


async def test_something_else_than_a_sentinel(kind: str, pair: Pair):
    error = await refused(kind, url_of(pair[0].port))
    assert type(error) is Misconfigured
    assert f"127.0.0.1:{pair[0].port}" in str(error)


# -- the breaker -----------------------------------------------------------------------------------------------------


async def test_what_the_primary_answered_counts_before_and_after_its_address_was_known(kind: str, pair: Pair):
    """The first connection is set up before the address is known, and its answers vouch for the server all the same.

    Otherwise three slow commands among ten thousand quick ones made a primary behind sentinels count as away.
    """
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            for _ in range(20):
                await increment(grid)
            guard = grid._io._endpoint.server.guard
            assert list(guard.states()) == [f"the primary of 'market' at 127.0.0.1:{pair[0].port}"]
            (breaker,) = guard._breakers.values()
            assert breaker._answered() >= 20
            assert guard.members(breaker._place)
