"""A simulation that finds nothing proves nothing: it must find the bugs that were planted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import GridsyncError
from gridsync.fanout import _station as station
from gridsync.limits import _leasing as leasing
from gridsync.locks import _core as locks_core
from gridsync.locks import _hold as locks_hold
from gridsync.locks import _masters, _redlock, _votes
from gridsync.locks import _spec as locks_spec
from gridsync.streams import _consumer as consumer
from gridsync.streams import _lanes as lanes
from gridsync.streams import _member as member
from gridsync.streams import _pages as pages
from gridsync.streams import _tenure as tenure
from gridsync.streams._holding import Holding
from gridsync.testing import _waiting
from tests.sim import fanout_scenarios as fanout
from tests.sim import lease_scenarios as leases
from tests.sim import limit_scenarios as limits
from tests.sim import lock_scenarios as locks
from tests.sim import order_scenarios as order
from tests.sim import redlock_scenarios as redlock
from tests.sim import stream_scenarios as streams
from tests.sim.mutants import (
    BOOKINGS,
    BOOKS,
    CACHE,
    ELECTIONS,
    FANOUT,
    FENCES,
    FIRST,
    LEASED,
    LIMITS,
    LOCKS,
    MERGED,
    MODELLED,
    ORDER,
    PARTITIONS,
    REDLOCK,
    REFUNDS,
    REPLICATION,
    RETENTION,
    RULES,
    SEEDS_MAX,
    SEVERAL,
    SHARES,
    STREAMS,
    TOGETHER,
    Mutant,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.sim import Simulation


def find(bug: str, scenario: Callable[..., Simulation], scripts: dict[str, str] | None = None) -> None:
    """Run seeds until a promise breaks: all of them, beginning where *bug* was found before."""
    for number in range(SEEDS_MAX):
        try:
            scenario((FIRST.get(bug, 0) + number) % SEEDS_MAX, scripts)
        except (AssertionError, GridsyncError):
            return
    pytest.fail(f"{SEEDS_MAX} seeds of {scenario.__name__} did not notice it")


PLANTED: list[Mutant] = [
    *CACHE,
    *FANOUT,
    *LOCKS,
    *FENCES,
    *TOGETHER,
    *SHARES,
    *REDLOCK,
    *SEVERAL,
    *ELECTIONS,
    *LIMITS,
    *MERGED,
    *BOOKINGS,
    *REFUNDS,
    *RULES,
    *LEASED,
    *STREAMS,
    *ORDER,
    *MODELLED,
    *PARTITIONS,
    *RETENTION,
    *REPLICATION,
    *BOOKS,
]


@pytest.mark.parametrize("mutant", PLANTED, ids=lambda mutant: mutant.id)
def test_a_bug_planted_in_a_script_is_found(mutant: Mutant) -> None:
    """The unmodified scripts pass the same seeds: the other tests of this folder."""
    find(mutant.id, mutant.scenario, mutant.scripts())


class CountedFromTheReply(locks_hold.Hold):
    """A lease whose time begins when its holder hears of it."""

    __slots__ = ()

    def __init__(self, io: Any, spec: Any, owner: str, fence: int, sent: float, **more: Any) -> None:  # noqa: ANN401, ARG002
        super().__init__(io, spec, owner, fence, io.monotonic(), **more)


class Uninterrupted(locks_hold.Hold):
    """A lease whose loss interrupts nobody."""

    __slots__ = ()

    def lose(self, why: str) -> None:
        self.scopes = ()
        super().lose(why)


class Unbounded(locks_hold.Hold):
    """A lease that is renewed past `max_hold`."""

    __slots__ = ()

    def _renewed(self, sent: float, term_s: float) -> None:
        self.last = float("inf")
        super()._renewed(sent, term_s)


class KeptBack(locks_hold.Hold):
    """A lease that is not given back after `max_hold`."""

    __slots__ = ()

    def lose(self, why: str) -> None:
        super().lose(why)
        self.leftover = False


class NeverForgotten(locks_hold.Hold):
    """A lease that is renewed though nobody needs it."""

    __slots__ = ()

    def _orphaned(self) -> str:
        return ""


def _takes_only(self: Any, *, wanted: bool) -> None:  # noqa: ANN401 - a post
    """Take what is for us, and keep what is not."""
    self.wanted = wanted
    self.ring()


class Deaf(tenure.Lease):
    """A lease whose loss interrupts nobody."""

    def lose(self) -> None:
        self.scopes = []
        super().lose()


def believing(*, late: bool = False, old: bool = False, future: bool = False) -> Any:  # noqa: ANN401 - a method
    """Return what takes up a hand-over and does not doubt that."""

    def handed(self: Any, message: str) -> Any:  # noqa: ANN401 - the seeker and its hold
        fence, us, claim_ms = map(int, message.split())
        *_, asked_us, last, _ = self._reply
        begun = self._sent + (us - asked_us) / 1_000_000 * locks_hold.MARGIN
        if late:
            begun = self._io.monotonic()
        spent = self._io.monotonic() - begun
        if (fence <= last and not old) or (spent < 0 and not future) or spent >= claim_ms / 1000 / 3:
            return None
        return self._held(fence, begun, claim_ms)

    return handed


async def do_nothing(*_args: object) -> None:
    """Forget to."""


async def under_the_same_name(self: Any, ghosts: Any, limit: float) -> None:  # noqa: ANN401 - a candidate, and a list
    """Give back, and ask again as the same owner unless a request of its own is on its way."""
    masters = self._masters
    await _votes.give_back_all(masters, self._spec, self._owner, ghosts, limit=limit)
    if any(ghosts):
        self._owner = masters.io.token()


async def count_it(*_args: object) -> bool:
    """Let the vote of any master count."""
    return True


async def one_phase(_self: object, granted: Any, *_rest: object) -> list[bool]:  # noqa: ANN401 - a list
    """Write no fence down."""
    return list(granted)


async def asked_again(self: Any, master: Any, _run: bytes, sent: float) -> bool:  # noqa: ANN401 - masters, and one of them
    """Believe whatever uptime it tells now."""
    master.seen, master.run = float("-inf"), b""
    await master.look()
    return bool(self.wait_s(master, sent) <= 0)


def reached_by_one(self: Any) -> float:  # noqa: ANN401 - a lease
    """Return until when anybody's vote counts."""
    return max(vote.counts_until for vote in self._votes)


def all_of_it(self: Any, lease: Any) -> Any:  # noqa: ANN401 - what leases, and a lease
    """Give back what was used, too."""
    return self._giving_back(lease.id, 0, lease.granted)


def handed_on(self: Any, message: Any) -> bool:  # noqa: ANN401 - a station, and a message
    """Hand on whatever is newer."""
    if message.epoch == self.position.epoch and message.offset > self.position.offset:
        self.position = message.position
        for subscriber in list(self._following):
            subscriber.put(message)
    return True


def mute(_self: object, *_args: object) -> None:
    """Take no note."""


CORES = {
    "a master that may have forgotten has no vote": (
        _masters.Masters,
        "counts",
        count_it,
        redlock.forgets_under_a_lease,
    ),
    "who knew the run before does not believe a master's uptime": (_masters, "LATELY_S", 0.0, redlock.set_forward),
    "who waits looks for restarts": (_masters.Masters, "remember", do_nothing, redlock.set_forward),
    "a master's word for its uptime is taken once": (_masters.Masters, "counts", asked_again, redlock.set_forward),
    "a fence is written down before it is handed out": (_redlock.Candidate, "_confirmed", one_phase, redlock.fences),
    "a lease lasts as long as a majority": (_votes.QuorumHold, "_reached", reached_by_one, redlock.flushed_twice),
    "who is cancelled gives every vote back": (_redlock.Candidate, "abandon", do_nothing, redlock.cancelled),
    "who waits at one master hears of what the others say": (
        _waiting.SimEar,
        "follow",
        lambda _self, _other: None,
        redlock.one_away,
    ),
    "who gave votes back goes on under another name": (
        _redlock.Candidate,
        "_retreat",
        under_the_same_name,
        redlock.late_releases,
    ),
    "a failed round gives back what it got": (_redlock.Candidate, "_retreat", do_nothing, redlock.late_requests),
    "a release leaves a mark for what comes late": (_votes.Vote, "haunted", False, redlock.late_requests),
    "a vote's deadline comes before its master's": (_votes, "MARGIN", 1.5, redlock.bad_day),
    "a lease is counted from before the request left": (locks_core, "Hold", CountedFromTheReply, locks.bad_day),
    "the local deadline comes before the server's": (locks_hold, "MARGIN", 1.5, locks.bad_day),
    "a cancelled caller abandons what it asked for": (locks_core.Seeker, "abandon", do_nothing, locks.cancelled),
    "a loss interrupts the block": (locks_core, "Hold", Uninterrupted, leases.interrupted),
    "a lease ends with max_hold": (locks_core, "Hold", Unbounded, leases.bounded),
    "what was held for max_hold is given back": (locks_core, "Hold", KeptBack, leases.bounded),
    "a lease ends with the last who needs it": (locks_core, "Hold", NeverForgotten, leases.forgotten),
    "a claim is counted from the hand-over": (locks_core.Seeker, "_handed", believing(late=True), locks.late_words),
    "a word that is no news is not believed": (
        locks_core.Seeker,
        "_handed",
        believing(old=True, future=True),
        locks.stale_word,
    ),
    "a word from the future is not believed": (
        locks_core.Seeker,
        "_handed",
        believing(future=True),
        locks.leap_before_a_word,
    ),
    "permits are not used after their deadline": (leasing, "DRIFT", 1.5, limits.overslept),
    "a permit is used once": (leasing.Leasing, "give_back_call", all_of_it, limits.leases),
    "who gives up says that a request may come late": (locks_spec, "GONE_MS", 0, locks.late_requests),
    "who stands far behind looks seldom": (locks_core, "LOOK_MAX_S", 2.0, locks.long_queue),
    "a waiter shows that it lives": (locks_core, "LOOKS", 0.2, locks.calm_queue),
    "what is in work is renewed": (Holding, "request", Holding._renewed, streams.calm_group),
    "a lost read is looked for in our own list": (consumer, "START", None, streams.lost_reads),
    "a page that begins with another event is refused": (
        pages.Pages,
        "_proven",
        lambda _, mark, found: found[1:] if found and pages.number(found[0]) == mark.number else found,
        streams.lost_tail,
    ),
    "a page that is empty tells of lost events": (
        pages.Pages,
        "_proven",
        # It looks behind the mark, as other readers do.
        lambda _, mark, found: [entry for entry in found if pages.number(entry) > mark.number],
        streams.lost_tail,
    ),
    "a page goes on after the last one": (
        pages,
        "mark_of",
        lambda entry: pages.Mark(int(entry[0][:-2]) - 1, None),
        streams.followers,
    ),
    "a consumer proves that what it was given is still there": (
        consumer.Session,
        "_prove",
        do_nothing,
        streams.lost_deliveries,
    ),
    "a message that may have been lost is looked for": (station, "CHECK_S", 500.0, fanout.quiet),
    "who guards those who wait hands that on": (station.Station, "wakened", station.Station.woken, fanout.guarded),
    "a subscription that broke is made up for": (station.Station, "_lost", mute, fanout.cut_off),
    "a message that does not follow is not handed on": (station.Station, "_hand_on", handed_on, fanout.quiet),
    "nothing begins after the local deadline of a lease": (tenure, "MARGIN", 3.0, order.cut_off),
    "a lost partition interrupts its handlers": (member, "Lease", Deaf, order.cut_off),
    "one event of a stream is in work at a time": (lanes, "stream_of", lambda entry: entry[0], order.handed_over),
    "while events have failed the server is asked before each begins": (
        tenure.Tenure,
        "_asks",
        lambda _, entry: len(entry) > tenure.FRESH,
        order.failing_in_order,
    ),
    "a member gives up what is for another": (member.Post, "want", _takes_only, order.handed_over),
    "who is cancelled gives back what it holds": (consumer.Session, "_leave", do_nothing, streams.leaving),
}


@pytest.mark.parametrize("claim", CORES)
def test_a_bug_planted_in_a_core_is_found(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts are half of it: what a process believes is the other."""
    place, name, wrong, scenario = CORES[claim]
    monkeypatch.setattr(place, name, wrong)
    find(claim, scenario)


def test_each_search_that_begins_elsewhere_is_for_a_planted_bug() -> None:
    assert set(FIRST) <= {mutant.id for mutant in PLANTED} | set(CORES)
