"""What a user of a lock on several masters sees, sync and asyncio, on real servers."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncRedlock, Redlock
from gridsync._io import load
from gridsync._io.keys import wake_channel, wake_prefix
from gridsync.errors import GridsyncError, LeaseLost, LockTimeout, Misconfigured, Unavailable, UsageError
from gridsync.locks import _hold, _redlock
from gridsync.testing.checkers import mutual_exclusion
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.proxy import Break, FaultProxy
from gridsync.testing.recorder import Recorder
from gridsync.testing.servers import RedisServer
from tests.command import called
from tests.locks.redlocks import KEYS, PATIENT, SURE, Maker, Side, owners
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@pytest.fixture
def make(make_redlock: Maker) -> Maker:
    return make_redlock


async def renewed(lease: Any) -> None:  # noqa: ANN401 - either kind
    """Return when a majority has renewed it."""

    def end() -> float:
        return time.monotonic() + lease.expires_in()

    # Its end, not what is left of it: with a silent master a renewal may leave less than was left at the beginning.
    before = end()
    await soon(lambda: end() > before + 0.1 or lease.lost.is_set())
    lease.check()


@pytest.mark.parametrize("count", [3, 5])
async def test_one_holds_it_at_a_time_with_a_rising_fence(make: Maker, masters: list[RedisServer], count: int):
    chosen = masters[:count]
    one, other = await make(chosen), await make(chosen)
    lease = await one.do(one.lock().acquire)
    assert owners(chosen) == [lease.owner.encode()] * count
    assert await other.do(other.lock().try_acquire) is None
    with pytest.raises(LockTimeout, match=rf"0 of {count} masters voted for us, {count // 2 + 1} are needed"):
        await other.do(other.lock().acquire, timeout=0.2)
    waiting = asyncio.create_task(other.do(other.lock().acquire, timeout=60))
    await soon(lambda: all(server.command("ZCARD", KEYS.queue) for server in chosen))
    assert await one.do(lease.release) is True
    heir = await asyncio.wait_for(waiting, 30)
    assert heir.fence > lease.fence
    assert await one.do(lease.release) is True, "again is fine"
    await soon(lambda: owners(chosen) == [heir.owner.encode()] * count)  # a majority is enough to begin
    await other.do(heir.extend)
    assert await other.do(heir.release) is True
    assert owners(chosen) == [None] * count


async def test_it_works_without_a_minority_that_was_killed(make: Maker, masters: list[RedisServer]):
    """Two of five die under a lease, while others wait, and stay dead."""
    side, waiting = await make(masters), await make(masters)
    lease = await side.do(side.lock(ttl=9).acquire)
    task = asyncio.create_task(waiting.do(waiting.lock(ttl=9).acquire, timeout=60))
    await soon(lambda: masters[4].command("ZCARD", KEYS.queue))
    masters[0].kill()
    masters[1].kill()
    await renewed(lease)
    lease.check()
    assert await side.do(lease.release) is True
    heir = await asyncio.wait_for(task, 30)
    assert heir.fence > lease.fence
    assert await waiting.do(heir.release) is True
    again = await make(masters)
    lease = await again.do(again.lock().acquire, timeout=30)
    assert await again.do(lease.release) is True


async def test_a_majority_that_was_killed_ends_the_lease_and_is_told_apart_from_a_rival(
    make: Maker, masters: list[RedisServer]
):
    side = await make(masters[:3])
    lease = await side.do(side.lock(ttl=1.5).acquire)
    masters[0].kill()
    masters[1].kill()
    await soon(lease.lost.is_set)
    with pytest.raises(LeaseLost, match="not renewed in time"):
        lease.check()
    with pytest.raises(Unavailable, match="1 of 3 masters answered, and 2 are needed"):
        await side.do(side.lock().try_acquire)
    with pytest.raises(Unavailable, match="1 of 3 masters answered, and 2 are needed"):
        await make(masters[:3])


async def test_a_frozen_master_costs_time_and_no_lease(make: Maker, masters: list[RedisServer]):
    chosen = masters[:3]
    side, other = await make(chosen, master_timeout=1.0), await make(chosen, master_timeout=1.0)
    lease = await side.do(side.lock(ttl=9).acquire)
    masters[2].pause()
    await renewed(lease)
    assert await other.do(other.lock(ttl=9).try_acquire) is None
    assert await side.do(lease.release) is True
    lease = await other.do(other.lock(ttl=9).acquire, timeout=30)
    assert await other.do(lease.release) is True
    masters[2].resume()
    last = await side.do(side.lock().acquire, timeout=30)
    assert last.fence > lease.fence
    await soon(lambda: masters[2].command("HGET", KEYS.state, "o") == last.owner.encode())
    await side.do(last.release)


async def test_a_master_that_lost_its_vote_is_asked_anew_and_counts_again(make: Maker, masters: list[RedisServer]):
    """One after the other forgets everything, and the lease lives on: at each moment a majority had it."""
    side = await make(masters[:3])
    lease = await side.do(side.lock(ttl=4.5).acquire)
    for server in masters[:3]:
        server.command("FLUSHALL")
        await soon(lambda server=server: server.command("HGET", KEYS.state, "o") == lease.owner.encode())
        assert int(server.command("GET", KEYS.fence)) == lease.fence
        await renewed(lease)
    lease.check()
    assert await side.do(lease.release) is True
    assert owners(masters[:3]) == [None] * 3


async def test_a_master_that_was_restarted_within_the_lease_votes_for_nobody_else(
    make: Maker, masters: list[RedisServer], caplog: pytest.LogCaptureFixture
):
    """It may have forgotten the holder: with its vote, a rival would have a majority."""
    with RedisServer() as forgetful:
        chosen = [*masters[:2], forgetful]
        holder, rival = await make(chosen, max_ttl=30), await make(chosen, max_ttl=30)
        with caplog.at_level(logging.WARNING, "gridsync"):
            lease = await holder.do(holder.lock(ttl=20).acquire)
            for _ in range(3):
                await rival.do(rival.lock(ttl=20).try_acquire)
        await holder.do(lease.release)
        masters[0].command("HSET", KEYS.state, "o", "somebody")
        masters[0].command("PEXPIRE", KEYS.state, 60_000)
        with caplog.at_level(logging.WARNING, "gridsync"):
            for _ in range(3):
                assert await rival.do(rival.lock(ttl=20).try_acquire) is None
        said = [record for record in caplog.records if "may have forgotten leases" in record.message]
        assert len(said) == 2, "once for each of the two"
        name = f"{forgetful.host}:{forgetful.port}"
        assert rival.redlock.stats()[name].votes_young >= 3
        forgetful.command("CONFIG", "SET", "appendonly", "yes", "appendfsync", "always")
        fresh = await make(chosen, max_ttl=30)
        lease = await fresh.do(fresh.lock(ttl=20).acquire, timeout=30)
        assert await fresh.do(lease.release) is True


async def test_a_log_that_is_not_always_written_may_have_forgotten(make: Maker):
    """`no-appendfsync-on-rewrite` suspends `appendfsync always`, and a crash then costs what was granted meanwhile."""
    with RedisServer(options=SURE) as a, RedisServer(options=SURE) as b, RedisServer(options=SURE) as c:
        side = await make([a, b, c], max_ttl=30)
        assert await side.do((await side.do(side.lock().acquire)).release) is True
        for server in (b, c):
            server.command("CONFIG", "SET", "no-appendfsync-on-rewrite", "yes")
        info = await side.do(side.lock().info)
        assert [master.votes_in > 0 for master in info.masters] == [False, True, True]
        other = await make([a, b, c], max_ttl=30)
        assert await other.do(other.lock().try_acquire) is None


async def test_a_client_that_reaches_only_a_minority_gets_nothing_and_holds_nobody_up(
    make: Maker, masters: list[RedisServer]
):
    chosen = masters[:3]
    with FaultProxy(chosen[0].url) as first, FaultProxy(chosen[1].url) as second:
        cut_off = await make([first.url, second.url, chosen[2]], master_timeout=1.0)
        other = await make(chosen)
        first.blackhole()
        second.blackhole()
        with pytest.raises(Unavailable, match="1 of 3 masters answered"):
            await cut_off.do(cut_off.lock().try_acquire)
        assert owners(chosen)[2] is None, "what the minority granted was given back"
        lease = await other.do(other.lock().acquire, timeout=30)
        await other.do(lease.release)
        first.heal()
        second.heal()
        late = await cut_off.do(cut_off.lock().acquire, timeout=30)
        assert late.fence > lease.fence
        await cut_off.do(late.release)


async def test_a_waiter_hears_of_a_release_though_the_first_master_is_away(
    make: Maker, masters: list[RedisServer], monkeypatch: pytest.MonkeyPatch
):
    """It waits at the ear of that one; by itself it looks after minutes here, and the lease ends in one."""
    chosen = masters[:3]
    holder, waiting = await make(chosen), await make(chosen)
    chosen[0].kill()
    lease = await holder.do(holder.lock(ttl=60).acquire, timeout=30)
    monkeypatch.setattr(_redlock, "LOOK_S", 600.0)
    monkeypatch.setattr(_redlock, "LOOK_MAX_S", 600.0)
    monkeypatch.setattr(_redlock, "LOOKS", 0.01)
    task = asyncio.create_task(waiting.do(waiting.lock(ttl=60).acquire, timeout=600))
    channel = wake_prefix(KEYS.state)
    for server in chosen[1:]:
        await soon(lambda server=server: server.command("ZCARD", KEYS.queue) == 1)
        (waiter,) = server.command("ZRANGE", KEYS.queue, 0, 0)
        await soon(lambda s=server, w=waiter: s.command("PUBSUB", "NUMSUB", wake_channel(channel, w.decode()))[1] == 1)
    assert await holder.do(lease.release) is True
    heir = await asyncio.wait_for(task, 30)
    assert heir.fence > lease.fence
    assert await waiting.do(heir.release) is True


@pytest.mark.parametrize("fault", list(Break), ids=lambda fault: fault.name)
async def test_lost_replies_at_one_master_cost_no_vote(make: Maker, masters: list[RedisServer], fault: Break):
    chosen = masters[:3]
    with FaultProxy(chosen[0].url) as proxy:
        side = await make([proxy.url, *chosen[1:]])
        lock = side.lock()
        await side.do((await side.do(lock.acquire)).release)  # every script is loaded
        for turn in (1, 2, 3):
            rule = proxy.on(fault, lambda words: words[0] == b"EVALSHA", nth=turn)
            lease = await side.do(lock.acquire)
            assert await side.do(lease.release) is True
            assert rule.hits == 1
            await soon(lambda: owners(chosen) == [None] * 3)


async def test_an_extension_that_comes_after_the_release_takes_no_vote(make: Maker, masters: list[RedisServer]):
    """It asks for a vote anew where that was lost: for nobody, once the lease was given back."""
    uphold = load("gridsync.locks", "uphold")
    for master in masters:
        master.command("SCRIPT", "LOAD", uphold.source)
    with FaultProxy(masters[0].url) as proxy:
        side = await make([proxy.url, *masters[1:3]], master_timeout=0.5)
        lease = await side.do(side.lock(ttl=60).acquire, timeout=30)
        proxy.on(Break.REQUEST, uphold.sha, times=1000)
        await side.do(lease.extend)
        assert await side.do(lease.release) is True
        late = [words for words in proxy.requests("EVALSHA") if words[1] == uphold.sha.encode()]
        assert late
        assert [masters[0].command(*words) for words in late] == [0] * len(late)
    assert owners(masters[:3]) == [None] * 3


async def test_many_who_want_it_take_turns(make: Maker, masters: list[RedisServer], tmp_path: Path):
    """Six of three processes: nobody holds it while another does, and the fences rise."""
    recorder = Recorder(tmp_path / "history")
    sides = [await make(masters[:3]) for _ in range(3)]

    async def turns(side: Side, name: str) -> None:
        for _ in range(5):
            lease = await side.do(side.lock().acquire, timeout=120)
            for kind in ("acquired", "released"):
                now_us = recorder.now_us()
                lease.check()
                recorder.note(name, kind, at_us=now_us, name="job", owner=lease.owner, fence=lease.fence)
            assert await side.do(lease.release) is True

    await asyncio.wait_for(asyncio.gather(*(turns(sides[n % 3], str(n)) for n in range(6))), 110)
    assert mutual_exclusion(recorder.history()) == 30
    recorder.close()


async def test_cancelled_anywhere_it_leaves_nothing_on_any_master(masters: list[RedisServer]):
    """At every await of acquire, and of release."""
    chosen = masters[:3]
    async with AsyncRedlock([server.url for server in chosen], **PATIENT) as redlock:
        lock = redlock.lock("job")
        await (await lock.acquire()).release()
        # A step is a turn of the loop, and how many of them a reply takes depends on the machine.
        for steps in (*range(100), *(int(100 * 1.3**n) for n in range(1, 30))):
            task = asyncio.create_task(_cycle(lock))
            for _ in range(steps):
                if task.done():
                    break
                await asyncio.sleep(0)
            finished = task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await soon(lambda: owners(chosen) == [None] * 3)
            if finished:
                break
        else:
            pytest.fail(f"{steps} steps were not enough to get through")


async def _cycle(lock: Any) -> None:  # noqa: ANN401 - an AsyncQuorumLock
    lease = await lock.acquire()
    await lease.release()


async def test_a_lost_lease_cancels_its_block(masters: list[RedisServer]):
    async with AsyncRedlock([server.url for server in masters[:3]], **PATIENT) as redlock:
        with pytest.raises(LeaseLost, match="masters have its vote"):
            await _overtaken(redlock.lock("job", ttl=3), masters[:2])
        for server in masters[:2]:
            server.command("DEL", KEYS.state)


async def _overtaken(lock: Any, masters: Sequence[RedisServer]) -> None:  # noqa: ANN401 - an AsyncQuorumLock
    async with lock:
        for server in masters:
            server.command("HSET", KEYS.state, "o", "somebody")
        await asyncio.Event().wait()


async def test_a_lease_of_several_masters_is_a_lease_like_any(make: Maker, masters: list[RedisServer]):
    """max_hold, on_lost, reentrancy, a dropped lease."""
    side = await make(masters[:3])
    lost: list[LeaseLost] = []
    lease = await side.do(side.lock(max_hold=0.3, on_lost=lost.append).acquire)
    await soon(lambda: lost)
    assert "max_hold" in lost[0].reason
    assert await side.do(lease.release) is False
    await soon(lambda: owners(masters[:3]) == [None] * 3)

    def twice(lock: Any) -> tuple[int, int]:  # noqa: ANN401 - a QuorumLock
        with lock as outer, lock as inner:
            return outer.fence, inner.fence

    async def twice_async(lock: Any) -> tuple[int, int]:  # noqa: ANN401 - an AsyncQuorumLock
        async with lock as outer, lock as inner:
            return outer.fence, inner.fence

    fences = await side.do(twice if side.kind == "sync" else twice_async, side.lock(reentrant=True))
    assert fences[0] == fences[1]
    dropped = await side.do(side.lock(ttl=1).acquire)
    del dropped
    await soon(lambda: owners(masters[:3]) == [None] * 3)


async def test_another_process_goes_on_with_a_lease_that_a_majority_has(make: Maker, masters: list[RedisServer]):
    side, other = await make(masters[:3]), await make(masters[:3])
    lease = await side.do(side.lock().acquire)
    text = lease.detach()
    masters[0].command("FLUSHALL")
    resumed = await other.do(other.lock().resume, text)
    assert (resumed.owner, resumed.fence) == (lease.owner, lease.fence)
    assert await side.do(side.lock().try_acquire) is None
    assert await other.do(resumed.release) is True
    with pytest.raises(LeaseLost, match="cannot be resumed"):
        await other.do(other.lock().resume, text)
    assert owners(masters[:3]) == [None] * 3


def test_the_threads_of_a_redlock_end_with_it(masters: list[RedisServer]):
    with Redlock([server.url for server in masters[:3]], **PATIENT) as redlock, redlock.lock("job"):
        assert any(thread.name.startswith("gridsync-fan") for thread in threading.enumerate())
    asyncio.run(soon(lambda: not any(t.name.startswith("gridsync-fan") for t in threading.enumerate())))


@pytest.mark.parametrize("count", [0, 1, 2])
async def test_fewer_than_three_masters_are_refused(make: Maker, count: int):
    with pytest.raises(UsageError, match=f"at least 3 independent masters, not {count}"):
        await make([f"redis://127.0.0.1:{port + 1}" for port in range(count)])


async def test_an_even_number_of_masters_is_warned_of(
    make: Maker, masters: list[RedisServer], caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, "gridsync"):
        side = await make(masters[:4])
    assert "4 masters bears no more failures than one of 3" in caplog.text
    lease = await side.do(side.lock().acquire)
    await side.do(lease.release)


async def test_the_same_server_twice_is_refused_by_whatever_name(make: Maker, masters: list[RedisServer]):
    first, second = masters[:2]
    with pytest.raises(UsageError, match="named twice"):
        await make([first, first, second])
    with pytest.raises(UsageError, match="are the same server"):
        await make([first, f"redis://localhost:{first.port}", second])


async def test_a_replica_is_refused(make: Maker, masters: list[RedisServer]):
    chosen = masters[:3]
    with RedisServer(options=SURE) as replica:
        replica.command("REPLICAOF", chosen[0].host, chosen[0].port)
        with pytest.raises(UsageError, match="is a replica"):
            await make([replica, *chosen[1:]])


async def test_a_right_that_is_missing_is_no_lock_that_is_held(make: Maker, masters: list[RedisServer]):
    """A waiter would wait for ever for a lock that nobody holds."""
    chosen = masters[:3]
    side = await make(chosen)
    lease = await side.do(side.lock().acquire)
    await side.do(lease.release)
    for server in chosen:
        server.command("ACL", "SETUSER", "default", "-info")
    try:
        with pytest.raises(GridsyncError, match="0 of 3 masters answered, and 2 are needed"):
            await side.do(side.lock().try_acquire)
        assert owners(chosen) == [None] * 3
    finally:
        for server in chosen:
            server.command("ACL", "SETUSER", "default", "+@all")


async def test_masters_that_were_just_started_grant_nothing_yet(make: Maker):
    """A whole site that lost its power must not hand out what others still hold."""
    with RedisServer() as a, RedisServer() as b, RedisServer() as c:
        side = await make([a, b, c], max_ttl=30)
        with pytest.raises(LockTimeout, match="0 of 3 masters voted for us"):
            await side.do(side.lock().acquire, timeout=1.0)
        assert owners([a, b, c]) == [None] * 3


async def test_a_closed_redlock_says_so_at_once(
    make: Maker, masters: list[RedisServer], monkeypatch: pytest.MonkeyPatch
):
    """Threads got a RuntimeError about futures, and tasks heard that the masters were away."""
    side = await make(masters[:3])
    lock = side.lock(ttl=1)
    lease = await side.do(lock.acquire)
    await side.do(side.redlock.close)
    monkeypatch.setattr(_redlock, "PATIENCE_S", 600.0)  # nobody waits for what does not come back
    for call in (lock.acquire, lock.try_acquire, lease.release):
        with pytest.raises(UsageError, match=r"was closed; make a new one"):
            await side.do(call)


def test_a_lease_is_given_back_while_the_interpreter_ends(masters: list[RedisServer]):
    """Its pool of threads takes no work any more then."""
    program = (
        "import atexit, sys\n"
        "from gridsync import Redlock\n"
        "redlock = Redlock(sys.argv[1:], master_timeout=2)\n"
        "lease = redlock.lock('job', ttl=60).acquire(timeout=30)\n"
        "atexit.register(redlock.close)\n"
        "atexit.register(lambda: print(lease.release()))\n"
    )
    urls = [server.url for server in masters[:3]]
    words = [sys.executable, "-W", "error", "-c", program, *urls]
    found = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (found.stdout, found.stderr) == ("True\n", "")
    assert owners(masters[:3]) == [None] * 3


async def test_nodes_of_a_cluster_are_refused(make: Maker, masters: list[RedisServer]):
    with RedisCluster() as cluster:
        with pytest.raises(UsageError, match="is a node of a cluster"):
            await make([cluster.nodes[0], *masters[:2]])
        with pytest.raises(UsageError, match="is a cluster: the masters of a Redlock must be independent"):
            await make([cluster.url, *masters[:2]])


async def test_what_cannot_be_promised_is_refused_with_the_reason(make: Maker, masters: list[RedisServer]):
    side = await make(masters[:3], max_ttl=20)
    for what in ("semaphore", "rwlock"):
        with pytest.raises(UsageError, match=rf"no {what} on a Redlock.*use grid\.{what}\(\)"):
            getattr(side.redlock, what)("slots", 5)
    with pytest.raises(UsageError, match="ttl of redlock 'job' is 30 s, and max_ttl is 20 s"):
        side.lock(ttl=30)
    with pytest.raises(UsageError, match="takes a list of URLs"):
        Redlock("redis://127.0.0.1:1")
    with pytest.raises(UsageError, match="asked for at sentinels"):
        await make(["redis+sentinel://127.0.0.1:1/main/0", *masters[:2]])


async def test_every_master_tells_what_it_knows_and_a_majority_names_the_holder(
    make: Maker, masters: list[RedisServer]
):
    chosen = masters[:3]
    side = await make(chosen)
    info = await side.do(side.lock().info)
    assert (info.name, info.holder, info.quorum, info.reachable, info.fence) == ("job", None, 2, 3, 0)
    lease = await side.do(side.lock(note="epoch 42").acquire)
    chosen[1].command("DEL", KEYS.state)
    chosen[2].kill()
    info = await side.do(side.lock().info)
    assert info.holder is None, "only one of three still has it"
    assert [master.reachable for master in info.masters] == [True, True, False]
    first, second, third = info.masters
    assert (first.lock.holder.owner, first.lock.holder.note, first.lock.fence) == (lease.owner, "epoch 42", lease.fence)
    assert (second.lock.holder, third.lock) == (None, None)
    assert (first.run_id != second.run_id, first.votes_in, third.uptime_s) == (True, 0.0, 0)
    assert third.error
    await renewed(lease)
    info = await side.do(side.lock().info)
    assert (info.holder.owner, info.fence, info.reachable) == (lease.owner, lease.fence, 2)
    assert await side.do(lease.release) is True
    with pytest.raises(UsageError, match="waiters_max must be a whole number"):
        await side.do(side.lock().info, waiters_max=-1)


async def test_a_holder_is_revoked_on_a_majority_and_told_and_the_next_one_has_a_larger_fence(
    make: Maker, masters: list[RedisServer]
):
    first, operator = await make(masters), await make(masters)
    lease = await first.do(first.lock(ttl=9).acquire)
    await soon(lambda: lease._hold._heard)
    waiting = asyncio.create_task(operator.do(operator.lock(ttl=3).acquire, timeout=60))
    await soon(lambda: masters[0].command("ZCARD", KEYS.queue) == 1)
    masters[4].kill()
    fence = await operator.do(operator.lock().force_release, "the machine is on fire")
    await soon(lease.lost.is_set)
    with pytest.raises(LeaseLost, match="it was revoked: the machine is on fire"):
        lease.check()
    heir = await asyncio.wait_for(waiting, 30)
    assert lease.fence < fence < heir.fence
    assert await first.do(lease.release) is False
    heir.check()
    assert await operator.do(operator.lock().force_release, "again", owner=lease.owner) is None
    heir.check()
    assert await operator.do(heir.release) is True


async def test_a_holder_that_does_not_listen_learns_of_it_with_its_renewal(
    make: Maker, masters: list[RedisServer], monkeypatch: pytest.MonkeyPatch
):
    """It goes on to uphold its votes: no master gives them to it again."""
    monkeypatch.setattr(_hold, "LISTEN_S", 600.0)
    side = await make(masters)
    lease = await side.do(side.lock(ttl=3).acquire)
    assert await side.do(side.lock().force_release, "stop") > lease.fence
    await soon(lease.lost.is_set)
    assert not any(master.command("EXISTS", KEYS.state) for master in masters)
    assert await side.do(side.lock().force_release, "nobody") is None


async def test_what_a_minority_may_be_told_is_no_revocation(make: Maker, masters: list[RedisServer]):
    side = await make(masters)
    lease = await side.do(side.lock(ttl=30).acquire)
    for master in masters[:3]:
        master.kill()
    for options in ({}, {"owner": lease.owner}):
        with pytest.raises(Unavailable, match="2 of 5 masters answer"):
            await side.do(side.lock().force_release, "stop", **options)


async def test_a_report_tells_which_masters_vote(make: Maker, masters: list[RedisServer]):
    with RedisServer() as young:
        side = await make([*masters[:2], young], max_ttl=1000)
        found = await side.do(side.redlock.health)
        assert (found.status, found.item("quorum").value) == ("degraded", "2 of 3 vote, 2 are needed")
        assert "may have forgotten leases" in found.item(f"{young.host}:{young.port}").advice
        masters[0].kill()
        found = await side.do(side.redlock.health)
        assert (found.status, found.item("quorum").value) == ("down", "1 of 3 vote, 2 are needed")
        assert found.item(f"{masters[0].host}:{masters[0].port}").status == "down"
    whole = await make(masters[1:4])
    assert (await whole.do(whole.redlock.health)).status == "ok"


async def test_a_master_that_becomes_a_replica_is_named_with_what_to_do(
    make: Maker, masters: list[RedisServer], caplog: pytest.LogCaptureFixture
):
    """It refuses writes, which looks like a server that is away for a moment."""
    chosen = masters[:3]
    side = await make(chosen, master_timeout=1.0)
    lease = await side.do(side.lock(ttl=6).acquire)
    with RedisServer(options=SURE) as primary:
        try:
            chosen[2].command("REPLICAOF", primary.host, primary.port)
            await renewed(lease)
            assert await side.do(lease.release) is True
            with caplog.at_level(logging.WARNING, "gridsync"):
                for _ in range(2):
                    lease = await side.do(side.lock(ttl=6).acquire, timeout=30)
                    assert await side.do(lease.release) is True
            name = f"{chosen[2].host}:{chosen[2].port}"
            said = [record.message for record in caplog.records if "has become a replica" in record.message]
            assert (len(said), said[0].startswith(name), "make it an independent master again" in said[0]) == (
                1,
                True,
                True,
            )
            info = await side.do(side.lock().info)
            assert "is a replica" in info.masters[2].error
            chosen[1].command("REPLICAOF", primary.host, primary.port)
            with pytest.raises(Misconfigured, match=r"1 of 3 masters answered.*has become a replica"):
                await side.do(side.lock(ttl=3).try_acquire)
        finally:
            for server in chosen[1:]:
                server.command("REPLICAOF", "NO", "ONE")


async def test_a_master_that_becomes_a_node_of_a_cluster_is_named_with_what_to_do(make: Maker):
    with RedisServer(options=SURE) as a, RedisServer(options=SURE) as b, RedisServer(options=SURE) as c:
        side = await make([a, b, c], master_timeout=1.0)
        await side.do((await side.do(side.lock().acquire)).release)
        for server in (b, c):
            server.command("FLUSHALL")
            server.kill()
            server._options["cluster-enabled"] = "yes"
            server.start()
        with pytest.raises(Misconfigured, match=r"1 of 3 masters answered.*has become a node of a cluster"):
            # The connection of before is known to be broken only when it is used.
            await side.do(side.lock().acquire, timeout=30)


def command(*arguments: str) -> tuple[int, str]:
    return called("redlock", *arguments)[:2]


def test_the_command_tells_what_the_masters_know(masters: list[RedisServer]):
    urls = [word for server in masters[:3] for word in ("--url", server.url)]
    with Redlock([server.url for server in masters[:3]], **PATIENT) as redlock:
        code, output = command("info", "job", *urls)
        assert (code, output.splitlines()[0]) == (1, "redlock job: free; 3 of 3 masters answer")
        lease = redlock.lock("job").acquire()
        code, output = command("info", "job", *urls, "--json")
        told = json.loads(output)
        assert (code, told["holder"]["owner"], told["holder"]["fence"]) == (0, lease.owner, lease.fence)
        assert [master["lock"]["holder"]["owner"] for master in told["masters"]] == [lease.owner] * 3
        code, output = command("info", "job", *urls)
        assert (code, output.count(f"owner {lease.owner}"), len(output.splitlines())) == (0, 4, 4)
        assert command("health", *urls)[0] == 0
        masters[0].kill()
        assert command("health", *urls, "--json")[0] == 1
        code, output = command("break", "job", *urls, "--reason", "it hangs", "--json")
        assert (code, json.loads(output)["broken"], json.loads(output)["fence"] > lease.fence) == (0, True, True)
        assert lease.release() is False
        code, output = command("break", "job", *urls, "--reason", "it hangs", "--owner", lease.owner)
        assert (code, output) == (1, f"redlock 'job' was not held by {lease.owner}\n")
    assert command("info", "job", *urls[:2])[0] == 2
