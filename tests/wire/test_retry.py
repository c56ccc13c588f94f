"""What may be repeated: every outcome for every category, on both drivers."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import Category, Command, retry, run_sync
from gridsync._io.breaker import Rejected
from gridsync._io.budget import Budget
from gridsync._io.counts import Counts
from gridsync._io.retry import REDIRECTS_MAX, TooLate, recover, spare_s
from gridsync._io.scripts import Script, parse
from gridsync._io.wire.faults import Fault, ReplyError, as_public
from gridsync.errors import (
    AuthenticationFailed,
    GridsyncError,
    OutcomeUnknown,
    PermissionDenied,
    ServerError,
    Unavailable,
)
from gridsync.testing.proxy import Break, FaultProxy
from tests.wire.fake import FakeServer, Peer, Words, soon
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gridsync.testing.servers import RedisServer

HEADER = "#!lua\n-- KEYS[1] counter string\n-- ARGV[1] repeat_us integer, us\n-- Returns the count\n"
COUNT = parse("test.count", f"{HEADER}-- Category accumulating\n-- Cost O(1)\nreturn redis.call('INCR', KEYS[1])")
REPEATS = parse("test.repeats", f"{HEADER}-- Category idempotent\n-- Cost O(1)\nreturn ARGV[1]")
NOT_APPLIED = [
    *("LOADING x", "BUSY x", "MASTERDOWN x", "CLUSTERDOWN x", "TRYAGAIN x", "READONLY x", "MISCONF x", "NOREPLICAS x"),
    "ERR max number of clients reached",
]


class Attempts:
    """A driver in virtual time: attempts end as the test says, one after the other."""

    def __init__(self, outcomes: Sequence[object], *, each_s: float = 0.001) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[tuple[Any, ...]] = []
        self.now = 0.0
        self.pauses: list[float] = []
        self.budget = Budget(ratio=0.1, burst=1000, answered=lambda: 0)
        self.asked: list[str | None] = []
        self.told: list[Exception] = []
        self.counts = Counts()
        self._each_s = each_s

    async def attempt(
        self,
        words: tuple[Any, ...],
        keys: Sequence[object],
        deadline: float,
        asking: str | None = None,
        spare: float = 0.0,
    ) -> object:
        assert keys == ["k"]
        if deadline - self.now < spare:
            raise TooLate
        self.asked.append(asking)
        assert self.now <= deadline
        self.sent.append(words)
        self.now += self._each_s
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def failed(self, keys: Sequence[object], error: Exception) -> None:
        assert keys == ["k"]
        self.told.append(error)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


def command(category: Category) -> Command:
    return Command("test.do", category, ("DO",))


def repeat(attempts: Attempts, operation: Command | Script, failure: Fault | ReplyError, deadline: float = 3.0) -> Any:  # noqa: ANN401
    args = ("0",) if isinstance(operation, Script) else ()
    return run_sync(recover(attempts, operation, ["k"], args, failure=failure, started=0.0, deadline=deadline))


@pytest.mark.parametrize("category", Category)
def test_what_surely_was_not_applied_is_repeated_whatever_it_is(category: Category):
    attempts = Attempts([Fault("refused", applied=False), b"done"])
    assert repeat(attempts, command(category), Fault("refused", applied=False)) == b"done"
    assert len(attempts.sent) == 2


@pytest.mark.parametrize("category", Category)
def test_what_may_have_been_applied_is_repeated_only_if_that_does_no_harm(category: Category):
    attempts = Attempts([b"done"])
    ambiguous = Fault("cut", applied=True)
    if category in (Category.READ, Category.IDEMPOTENT, Category.LAST_WINS):
        assert repeat(attempts, command(category), ambiguous) == b"done"
    else:
        with pytest.raises(OutcomeUnknown, match=rf"{category}, so it was not repeated: look whether"):
            repeat(attempts, command(category), ambiguous)
        assert not attempts.sent


@pytest.mark.parametrize("text", NOT_APPLIED)
@pytest.mark.parametrize("category", Category)
def test_a_server_that_refuses_for_the_moment_is_asked_again(category: Category, text: str):
    attempts = Attempts([ReplyError(text), b"done"])
    assert repeat(attempts, command(category), ReplyError(text)) == b"done"


@pytest.mark.parametrize("category", Category)
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("WRONGTYPE not a hash", ServerError),
        ("OOM command not allowed", ServerError),
        ("ERR syntax", ServerError),
        ("", ServerError),
        *((text, ServerError) for text in ("MOVED", "MOVED x host:1", "MOVED 16384 host:1", "ASK 1", "ASK 1 host")),
        ("NOPERM no permissions", PermissionDenied),
        ("NOAUTH Authentication required.", AuthenticationFailed),
    ],
)
def test_an_answer_that_no_repeat_heals_is_final(category: Category, text: str, kind: type[GridsyncError]):
    attempts = Attempts([b"never"])
    with pytest.raises(kind, match=f"test.do: {text}"):
        repeat(attempts, command(category), ReplyError(text))
    assert not attempts.sent


def test_a_server_that_is_full_says_what_to_do():
    error = as_public(ReplyError("OOM command not allowed when used memory > 'maxmemory'."), "streams.append")
    assert isinstance(error, ServerError)
    assert str(error).endswith("; the server is full: raise maxmemory or delete")


def test_giving_up_says_whether_something_may_have_been_applied():
    with pytest.raises(Unavailable, match="nothing was applied"):
        repeat(Attempts([Fault("refused", applied=False)]), command(Category.IDEMPOTENT), Fault("x", applied=False))
    with pytest.raises(OutcomeUnknown, match="one of them may have been applied"):
        repeat(Attempts([Fault("refused", applied=False)]), command(Category.IDEMPOTENT), Fault("cut", applied=True))
    with pytest.raises(Unavailable, match="nothing was applied"):
        repeat(Attempts([Fault("cut", applied=True)]), command(Category.READ), Fault("cut", applied=True))


def test_no_connection_after_an_unanswered_attempt_is_an_unknown_outcome():
    """'It did not happen' would be a lie: the first attempt may have happened."""
    refused = AuthenticationFailed("wrong password")
    with pytest.raises(OutcomeUnknown, match="earlier attempt may have been applied; wrong password"):
        repeat(Attempts([refused]), command(Category.IDEMPOTENT), Fault("cut", applied=True))
    with pytest.raises(AuthenticationFailed):
        repeat(Attempts([refused]), command(Category.IDEMPOTENT), Fault("refused", applied=False))
    with pytest.raises(AuthenticationFailed):
        repeat(Attempts([refused]), command(Category.READ), Fault("cut", applied=True))


def test_the_deadline_is_for_the_whole_call():
    attempts = Attempts([Fault("slow", applied=False)], each_s=0.2)
    with pytest.raises(Unavailable):
        repeat(attempts, command(Category.READ), Fault("x", applied=False), deadline=1.0)
    assert attempts.now <= 1.2, "the last attempt begins before the deadline; a driver ends it there"
    assert sum(attempts.pauses) < 1.0


def test_a_last_attempt_that_the_deadline_cut_short_does_not_hide_what_was_wrong_before():
    """A tenth of a second for an answer says nothing; that there is no replica, which all others said, does."""
    wrong, cut = Fault("there is no replica", applied=False), Fault("no connection in time", applied=False)
    attempts = Attempts([wrong, cut], each_s=0.2)
    with pytest.raises(Unavailable, match="the last one: no connection in time; before: there is no replica; nothing"):
        repeat(attempts, command(Category.READ), wrong, deadline=0.3)
    attempts = Attempts([wrong], each_s=0.2)
    with pytest.raises(Unavailable, match="the last one: there is no replica; nothing"):
        repeat(attempts, command(Category.READ), wrong, deadline=0.3)


def test_no_attempt_begins_after_the_deadline():
    attempts = Attempts([b"late"])
    attempts.now = 3.0
    with pytest.raises(Unavailable):
        repeat(attempts, command(Category.READ), Fault("x", applied=False), deadline=3.0)
    assert not attempts.sent


@pytest.mark.parametrize("deadline", [0.01, 0.3, 3.0, 15.0])
@pytest.mark.parametrize("category", [Category.IDEMPOTENT, Category.LAST_WINS, Category.ACCUMULATING, Category.NEVER])
def test_a_sure_outcome_is_not_made_an_unknown_one_by_a_last_attempt_without_time(category: Category, deadline: float):
    """Refused until the end is *not applied*; one that leaves in the last moment and is not answered is not known."""
    left: list[float] = []
    for _ in range(30):
        attempts = Attempts([ReplyError("READONLY x")], each_s=deadline / 50)
        with pytest.raises(Unavailable, match="nothing was applied"):
            repeat(attempts, command(category), ReplyError("READONLY x"), deadline=deadline)
        left.append(deadline - attempts.now)
    assert min(left) >= spare_s(deadline) - deadline / 50


def test_where_nothing_can_be_lost_the_last_moment_is_used():
    """A redirect is followed without a pause: a read is sent with a millisecond left, what would be in doubt is not."""
    reading, writing = Attempts([b"done"]), Attempts([b"done"])
    reading.now = writing.now = 2.999
    assert repeat(reading, command(Category.READ), MOVED) == b"done"
    with pytest.raises(Unavailable, match="MOVED 12 host:1; nothing was applied"):
        repeat(writing, command(Category.IDEMPOTENT), MOVED)
    assert not writing.sent
    in_doubt = Attempts([MOVED, b"done"])
    in_doubt.now = 2.9
    assert repeat(in_doubt, command(Category.IDEMPOTENT), Fault("cut", applied=True)) == b"done"


def test_pauses_grow_and_stay_bounded():
    attempts = Attempts([Fault("x", applied=False)])
    with pytest.raises(Unavailable):
        repeat(attempts, command(Category.READ), Fault("x", applied=False), deadline=60.0)
    assert max(attempts.pauses) <= 0.5
    assert sum(attempts.pauses[-20:]) > sum(attempts.pauses[:5])
    assert len(attempts.sent) < 1000, "a server that is away is not hammered"


def test_the_pauses_of_callers_that_failed_together_do_not_coincide():
    """Full jitter: each is drawn between nothing and a bound, so that no wave of repeats follows an outage."""
    fifth = []
    for _ in range(30):
        attempts = Attempts([Fault("x", applied=False)])
        with pytest.raises(Unavailable):
            repeat(attempts, command(Category.READ), Fault("x", applied=False), deadline=1.0)
        fifth.append(attempts.pauses[4])
    assert len(set(fifth)) == len(fifth)
    assert max(fifth) - min(fifth) > 0.05


def test_a_repeat_says_since_when_it_is_one():
    attempts = Attempts([Fault("x", applied=True)] * 3 + [b"done"], each_s=0.01)
    attempts.now = 0.25
    repeat(attempts, REPEATS, Fault("x", applied=True))
    ages = [int(words[-1]) for words in attempts.sent]
    assert ages[0] >= 250_000
    assert ages == sorted(set(ages))


def test_a_repeat_in_the_same_microsecond_is_still_one():
    attempts = Attempts([b"done"])
    repeat(attempts, REPEATS, Fault("cut", applied=True))
    assert attempts.sent[-1][-1] == "1"


def test_what_surely_was_not_applied_makes_no_repeat():
    """Else a release of a lost lock that met NOSCRIPT or MOVED would say that it may have been the one."""
    attempts = Attempts([MOVED, ReplyError("NOSCRIPT x"), b"sha", Fault("refused", applied=False), b"done"])
    repeat(attempts, REPEATS, MOVED)
    assert [words[-1] for words in attempts.sent if words[0] == "EVALSHA"] == ["0"] * 4
    attempts = Attempts([MOVED, b"done"])
    repeat(attempts, REPEATS, Fault("cut", applied=True))
    assert int(attempts.sent[-1][-1]) >= 1


def test_an_unknown_script_is_loaded_and_called_again_without_a_pause():
    attempts = Attempts([b"sha", b"done"])
    assert repeat(attempts, COUNT, ReplyError("NOSCRIPT x")) == b"done"
    assert attempts.sent[0] == ("SCRIPT", "LOAD", COUNT.source)
    assert attempts.pauses == []


@pytest.mark.parametrize("before", [Fault("refused", applied=False), ReplyError("MOVED 12 host:1")])
def test_a_script_that_another_server_lacks_costs_no_pause(before: Fault | ReplyError):
    """A primary that was a replica a moment ago knows no script: callers would wait for it half a second longer."""
    attempts = Attempts([ReplyError("NOSCRIPT x"), b"sha", b"done"])
    assert repeat(attempts, COUNT, before) == b"done"
    assert attempts.pauses == []


def test_a_script_that_is_forgotten_again_and_again_is_not_loaded_without_a_pause():
    attempts = Attempts([b"sha", ReplyError("NOSCRIPT x")] * 5 + [b"sha", b"done"])
    assert repeat(attempts, COUNT, ReplyError("NOSCRIPT x")) == b"done"
    assert len(attempts.pauses) == 4


def test_a_lost_reply_to_the_loading_is_not_a_lost_reply_to_the_script():
    """The script itself had not left: a counting one may be sent."""
    attempts = Attempts([Fault("cut", applied=True), ReplyError("NOSCRIPT x"), b"sha", b"done"])
    assert repeat(attempts, COUNT, ReplyError("NOSCRIPT x")) == b"done"


def test_a_script_that_may_not_be_loaded_says_so():
    attempts = Attempts([ReplyError("NOPERM no permissions to run the 'script|load' command")])
    with pytest.raises(PermissionDenied, match=r"script\|load"):
        repeat(attempts, COUNT, ReplyError("NOSCRIPT x"))


MOVED, ASK = ReplyError("MOVED 12 host:1"), ReplyError("ASK 12 host:2")


@pytest.mark.parametrize("category", Category)
def test_a_redirect_is_followed_at_once_whatever_the_category(category: Category):
    """The node said that it did nothing; the pause of an ordinary failure would be felt with every slot that moves."""
    attempts = Attempts([MOVED, b"done"])
    assert repeat(attempts, command(category), MOVED) == b"done"
    assert (attempts.pauses, attempts.asked) == ([], [None, None])
    assert attempts.told == [MOVED, MOVED], "the route must learn of each"


def test_a_node_is_asked_once_and_then_the_owner_again():
    attempts = Attempts([ReplyError("TRYAGAIN x"), b"done"])
    assert repeat(attempts, command(Category.NEVER), ASK) == b"done"
    assert attempts.asked == ["host:2", None]


def test_a_script_is_loaded_on_the_node_that_was_asked():
    """On the owner it is there already, and would be missing again."""
    attempts = Attempts([ReplyError("NOSCRIPT x"), b"sha", b"done"])
    assert repeat(attempts, COUNT, ASK) == b"done"
    assert attempts.asked == ["host:2"] * 3
    assert attempts.sent[1] == ("SCRIPT", "LOAD", COUNT.source)


def test_a_script_that_a_moving_slot_cut_short_may_have_been_applied():
    """It removed a key and could not write it again: what it did before stays, for Lua does not roll back."""
    short = ReplyError("ERR Script attempted to access a non local key in a cluster node")
    attempts = Attempts([b"done"])
    assert repeat(attempts, REPEATS, short) == b"done"
    assert int(attempts.sent[-1][-1]) >= 1
    with pytest.raises(OutcomeUnknown, match="non local key"):
        repeat(Attempts([b"never"]), COUNT, short)


def test_nodes_that_point_at_each_other_are_not_asked_in_a_tight_circle():
    """After sixteen redirects without a pause the call goes on with pauses, until its deadline."""
    attempts = Attempts([MOVED])
    sent_before: list[int] = []
    sleep = attempts.sleep

    async def counted(seconds: float) -> None:
        sent_before.append(len(attempts.sent))
        await sleep(seconds)

    attempts.sleep = counted  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="MOVED 12 host:1; nothing was applied"):
        repeat(attempts, command(Category.NEVER), MOVED)
    assert REDIRECTS_MAX <= sent_before[0] <= REDIRECTS_MAX + 1
    steps = [after - before for before, after in pairwise(sent_before)]
    assert set(steps) == {1}


# -- the budget and the breaker ---------------------------------------------------------------------------------------


def spent() -> Budget:
    budget = Budget(ratio=0.1, burst=1, answered=lambda: 0)
    assert budget.take()
    return budget


def test_a_call_for_which_no_repeat_is_left_says_so():
    attempts = Attempts([b"never"])
    attempts.budget = spent()
    with pytest.raises(
        Unavailable, match=r"busy; it was not repeated, because the retry budget is used up.*nothing was"
    ):
        repeat(attempts, command(Category.IDEMPOTENT), ReplyError("LOADING busy"))
    with pytest.raises(OutcomeUnknown, match=r"GRIDSYNC_RETRY_RATIO.*GRIDSYNC_RETRY_BURST.*may have been applied"):
        repeat(attempts, command(Category.IDEMPOTENT), Fault("cut", applied=True))
    assert not attempts.sent
    assert attempts.budget.refused == 2


def test_a_repeat_that_never_left_costs_nothing():
    """A server that is away gets no load from those who cannot even connect, so they may go on trying."""
    attempts = Attempts([Fault("refused", applied=False)] * 40 + [b"done"])
    attempts.budget = Budget(ratio=0.0, burst=1, answered=lambda: 0)
    assert repeat(attempts, command(Category.READ), Fault("x", applied=False), deadline=60.0) == b"done"
    assert not attempts.budget.take()


def test_loading_a_script_and_following_a_redirect_are_no_repeats():
    attempts = Attempts([b"sha", ReplyError("MOVED 1 other:1"), b"done"])
    attempts.budget = spent()
    assert repeat(attempts, COUNT, ReplyError("NOSCRIPT x")) == b"done"


def test_a_call_that_finds_the_breaker_open_fails_at_once():
    attempts = Attempts([b"never"])
    with pytest.raises(Unavailable, match=r"test\.do: away since 4 s; nothing was applied"):
        repeat(attempts, command(Category.READ), Rejected("away since 4 s"))
    assert not attempts.sent
    assert not attempts.pauses
    assert len(attempts.told) == 1, "a topology wants to know: the node may have a successor"


def test_a_call_under_way_when_the_breaker_opens_goes_on_to_its_deadline():
    attempts = Attempts([Rejected("away"), Rejected("away"), b"done"])
    assert repeat(attempts, command(Category.IDEMPOTENT), Fault("cut", applied=True)) == b"done"


# -- on the drivers ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[World]:
    made = World(request.param, flushed.url)
    yield made
    await made.close()


async def run(world: World, io: Any, operation: Any, *words: str | int, timeout: float = 10) -> Any:  # noqa: ANN401
    keys, args = list(words[:1]), list(words[1:])
    if world.kind == "asyncio":
        return await io.run(operation, keys, args, timeout=timeout)
    return await asyncio.to_thread(lambda: run_sync(io.run(operation, keys, args, timeout=timeout)))


async def test_a_connection_that_came_too_late_carries_nothing(
    world: World, flushed: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    """The first attempt, too, must have time for its answer; here every connection takes too long."""
    io = world.io()
    with monkeypatch.context() as patched:
        patched.setattr(retry, "SPARE_S", 3600.0)
        patched.setattr(retry, "SPARE_SHARE", 1.0)
        with pytest.raises(Unavailable, match="no time left for an answer, so it was not sent; nothing was applied"):
            await run(world, io, COUNT, "n", 0, timeout=20)
    assert flushed.command("GET", "n") is None
    assert await run(world, io, COUNT, "n", 0) == 1
    flushed.command("DEL", "n")


async def test_a_flushed_script_is_loaded_again(world: World, flushed: RedisServer):
    io = world.io()
    assert await run(world, io, COUNT, "n", 0) == 1
    flushed.command("SCRIPT", "FLUSH")
    assert await run(world, io, COUNT, "n", 0) == 2
    flushed.command("DEL", "n")


@pytest.mark.parametrize("fault", list(Break), ids=lambda fault: fault.name)
async def test_a_counting_script_whose_reply_is_lost_counts_at_most_once(
    world: World, flushed: RedisServer, fault: Break
):
    with FaultProxy(flushed.url) as proxy:
        io = world.io(proxy.url)
        await run(world, io, COUNT, "n", 0)
        seen = len(proxy.requests(COUNT.sha))
        rule = proxy.on(fault, COUNT.sha)
        with pytest.raises(OutcomeUnknown):
            await run(world, io, COUNT, "n", 0)
        assert rule.hits == 1
        counted = int(flushed.command("GETDEL", "n"))
        assert counted == (1 if fault is Break.REQUEST else 2)
        assert len(proxy.requests(COUNT.sha)) == seen + 1
        await world.close()


async def test_the_age_of_a_repeat_reaches_the_script(world: World, flushed: RedisServer):
    with FaultProxy(flushed.url) as proxy:
        io = world.io(proxy.url)
        await run(world, io, REPEATS, "k", 0)
        assert await run(world, io, REPEATS, "k", 0) == b"0"
        proxy.on(Break.REPLY, REPEATS.sha, times=3)
        assert int(await run(world, io, REPEATS, "k", 0)) > 0
        ages = [int(words[-1]) for words in proxy.requests(REPEATS.sha)[-4:]]
        assert ages == sorted(set(ages))
        assert ages[0] == 0
        await world.close()


@pytest.mark.parametrize("text", NOT_APPLIED)
async def test_a_driver_asks_a_server_again_that_refuses_for_the_moment(world: World, text: str):
    refused: list[Words] = []

    def answer(peer: Peer, words: Words) -> None:
        if len(refused) < 2:
            refused.append(words)
            peer.send(b"-%s\r\n" % text.encode())
        else:
            peer.send(b":7\r\n")

    with FakeServer(answer) as server:
        io = world.io(server.url)
        assert await run(world, io, Command("test.incr", Category.ACCUMULATING, ("INCR",)), "n") == 7
        assert len(server.requests) == 3
        assert len(server.peers) == 1, "the connection was in step and is kept"
        await world.close()


async def test_a_repeat_has_what_is_left_of_the_calls_time_and_no_more(world: World):
    """The second attempt meets silence: the call's own timeout ends it, not that of the driver."""
    asked = threading.Event()

    def answer(peer: Peer, _: Words) -> None:
        if not asked.is_set():
            asked.set()
            peer.close()

    with FakeServer(answer) as server:
        io = world.io(server.url, timeout=3600.0)
        with pytest.raises(Unavailable, match="no success in"):
            await asyncio.wait_for(run(world, io, command(Category.READ), "k", timeout=1.5), 30)
        assert len(server.requests) == 2
        await world.close()


async def test_a_call_that_succeeds_at_once_never_meets_the_retry_layer(world: World, monkeypatch: pytest.MonkeyPatch):
    """One tenacity call costs seven times as much as the command."""

    async def unwanted(*_: object, **__: object) -> None:
        raise AssertionError("recover() was called")

    io = world.io()
    await run(world, io, COUNT, "n", 0)
    monkeypatch.setattr("gridsync._io.sync.recover", unwanted)
    monkeypatch.setattr("gridsync._io.aio.recover", unwanted)
    await run(world, io, COUNT, "n", 0)
    await run(world, io, Command("test.del", Category.LAST_WINS, ("DEL",)), "n")


async def test_a_server_that_comes_back_in_time_is_met_by_the_same_call(world: World, flushed: RedisServer):
    io = world.io()
    await run(world, io, REPEATS, "k", 0)
    flushed.stop()
    call = asyncio.create_task(run(world, io, REPEATS, "k", 0, timeout=60))
    await soon(lambda: io.stats().failures)
    await asyncio.to_thread(flushed.start)
    # A repeat says how late it is; nothing does whose request had not left, because the server was known to be away.
    assert int(await world.ended(call, 60)) >= 0
