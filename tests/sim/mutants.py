"""Planted bugs: each is a small change to a shipped script, and a claim that it breaks.

The simulation must find every one of them within `SEEDS_MAX` seeds of one of the wing's scenarios; the unmodified
scripts pass the same seeds.  A wing's scenarios are the functions of ``<wing>_scenarios.py`` that take a seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gridsync._io import load
from tests.sim import book_scenarios as books
from tests.sim import cache_scenarios as caches
from tests.sim import cap_scenarios as caps
from tests.sim import commit_scenarios as commits
from tests.sim import election_scenarios as elections
from tests.sim import erase_scenarios as erasures
from tests.sim import failure_scenarios as failures
from tests.sim import fanout_scenarios as fanout
from tests.sim import fence_scenarios as fences
from tests.sim import lease_scenarios as leases
from tests.sim import limit_scenarios as limits
from tests.sim import lock_scenarios as locks
from tests.sim import once_scenarios as once
from tests.sim import order_scenarios as order
from tests.sim import partition_scenarios as partitions
from tests.sim import redlock_scenarios as redlock
from tests.sim import replication_scenarios as replication
from tests.sim import retention_scenarios as retention
from tests.sim import rule_scenarios as rules
from tests.sim import several_scenarios as several
from tests.sim import share_scenarios as shares
from tests.sim import store_programs as programs
from tests.sim import stream_scenarios as streams
from tests.sim import together_scenarios as together

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.sim import Simulation

SEEDS_MAX = 25
FIRST = {
    "give_back: a lease is given back once": 18,
    "complete: the oldest event waits for nobody": 11,
    "hit: a log keeps its compact form": 16,
    "hit_one: hits behind a lease are told from others": 4,
    "cap: what was removed makes room": 1,
    "drop: a delete beats a load that is under way": 8,
    "look: who has read another last publication is told": 9,
    "hit: the newest entries remember their hits": 10,
    "hit_one: a hit beside leases is judged by the window that ends now": 2,
    "gcra_hit: nobody waits longer than he will": 13,
    "gcra_hit: what is not remembered is still counted": 8,
    "gcra_refund: what is not remembered stays counted": 8,
    "trim: a group that is lost after a trim has not missed what it had": 3,
    "complete: handlers make a log little larger than its cap": 2,
    "replace: who wants less keeps his place": 17,
    "restore: of two that make a book anew one does": 19,
    "who gave votes back goes on under another name": 11,
    "a vote's deadline comes before its master's": 5,
    "a lease is counted from before the request left": 16,
    "a lost partition interrupts its handlers": 3,
}
"""The first of those seeds that finds a bug which few of them find, by the bug's name: where the search begins."""


class Mutant(NamedTuple):
    """One planted bug."""

    wing: str
    script: str
    old: str
    new: str
    breaks: str
    """The claim that does not hold any more."""
    scenario: Callable[..., Simulation]

    @property
    def id(self) -> str:
        """A name for the test."""
        return f"{self.script}: {self.breaks}"

    def scripts(self) -> dict[str, str]:
        """Return the source with the bug, by the script's name."""
        script = load(f"gridsync.{self.wing}", self.script)
        if script.source.count(self.old) < 1:
            raise LookupError(f"{script.name} has no {self.old!r} any more: plant the bug where it belongs now")
        return {script.name: script.source.replace(self.old, self.new)}


CACHE = [
    Mutant("cache", *words, scenario)
    for *words, scenario in (
        ("fetch", "if not owner or owner == token then", "do", "one process loads at a time", caches.loaded_once),
        (
            "fetch",
            "if not owner or owner == token then",
            "if not owner then",
            "a grant whose reply was lost is granted again",
            caches.killed_loader,
        ),
        ("fetch", "  redis.call('PEXPIRE', L, ARGV[2])\n", "", "a loader that died is forgotten", caches.killed_loader),
        ("fetch", "id == ARGV[4]", "false", "what was invalidated is loaded again", caches.invalidated),
        (
            "put",
            "if redis.call('HGET', L, 'o') ~= token then",
            "if false then",
            "a load that was overtaken is not stored",
            caches.deleted,
        ),
        (
            "put",
            "if redis.call('HGET', L, 'o') ~= token then",
            "if redis.call('EXISTS', L) == 0 then",
            "a load whose place another one took is not stored",
            caches.deleted,
        ),
        (
            "put",
            "redis.call('SET', E, ARGV[2], 'PX', ARGV[3])",
            "redis.call('SET', E, ARGV[2])",
            "a value does not stay for ever",
            caches.loaded_once,
        ),
        (
            "hold",
            "return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
            "return 1",
            "a load that takes long keeps its lease",
            caches.slow_loads,
        ),
        ("drop", "  over(KEYS[k + 1])\n", "", "a delete beats a load that is under way", caches.deleted),
        ("set", "  over(KEYS[k + 1])\n", "", "a set beats a load that is under way", caches.overwritten),
        ("invalidate", "version()", "token", "a late copy of an invalidation brings nothing back", caches.invalidated),
    )
]

FANOUT = [
    Mutant("fanout", *words, scenario)
    for *words, scenario in (
        ("publish", "if first then", "if false then", "an id is published once", fanout.rough),
        ("publish", "redis.call('ZADD', I, offset, id)\n", "", "an id that was published is known", fanout.rough),
        ("publish", "-1 - tonumber(ARGV[9])", "-2", "more than one id is known", fanout.rough),
        (
            "publish",
            "prev .. ' ' .. token .. ' ' .. now_us",
            "prev .. offset",
            "histories are told apart",
            fanout.forked,
        ),
        ("publish", "'o', offset, 'm', mark)", "'o', offset)", "a mark follows from the one before", fanout.quiet),
        ("publish", "redis.call('PEXPIRE', L, ARGV[8])\n", "", "the history expires", fanout.quiet),
        ("publish", "redis.call('PEXPIRE', I, ARGV[10])\n", "", "the ids expire", fanout.quiet),
        ("publish", "redis.call('DEL', M, L, I)\n", "", "nothing of an earlier life is left", fanout.reborn),
        (
            "publish",
            "{'1', epoch, offset, mark, prev,",
            "{'1', epoch, offset, mark, mark,",
            "a message says what it follows",
            fanout.calm,
        ),
        ("look", "if ARGV[3] ~= epoch then return told(1) end", "", "another life is told", fanout.reborn),
        (
            "look",
            "if offset > tonumber(top) then return told(3) end",
            "if offset > tonumber(top) then return told(0) end",
            "who has read more than there is, is told",
            fanout.forked,
        ),
        ("look", "mark == ARGV[5] and 0 or 3", "0", "who has read another last publication is told", fanout.forked),
        (
            "look",
            "if found[1][2][2] ~= ARGV[5] then return told(3) end",
            "",
            "who has read another history is told",
            fanout.forked,
        ),
        (
            "look",
            "if not found[1] or found[1][1] ~= string.format('%.0f-0', from) then",
            "if not found[1] then",
            "what is not kept is told",
            fanout.short,
        ),
        ("look", "  first = 2\n", "", "what was read is not read again", fanout.rough),
        ("here", "redis.call('PEXPIRE', A, 2 * ttl)\n", "", "members are forgotten", fanout.present),
        ("here", "now_ms + ttl", "now_ms + 10 * ttl", "who died is forgotten in time", fanout.present),
        (
            "gone",
            "return redis.call('ZREM', KEYS[1], unpack(ARGV))",
            "return 1",
            "who left is forgotten",
            fanout.present,
        ),
    )
]

LOCKS = [
    Mutant("locks", *words, scenario)
    for *words, scenario in (
        ("acquire", "if owner == me then", "if owner == me and false then",
         "asking again after a lost reply is granted again", locks.lost_replies),
        ("acquire", "if not owner then\n  local mine", "do\n  local mine",
         "at most one holder", locks.calm_queue),
        ("acquire", "local mine = not head or head == me", "local mine = true",
         "a newcomer never overtakes a waiter", locks.crashed_holder),
        ("acquire", "if tonumber(alive_ms) > now then return", "do return",
         "a dead waiter is dropped", locks.silent_queue),
        ("acquire", "local fence = math.max(us, last + 1)", "local fence = us",
         "fences rise though the clock is set back", locks.clock_set_back),
        ("acquire", "local fence = math.max(us, last + 1)", "local fence = last + 1",
         "fences rise though the server lost its data", locks.lost_data),
        ("acquire", "  redis.call('PEXPIRE', S, lease)\n", "",
         "a lease ends by itself", locks.killed_queue),
        ("acquire", "redis.call('PEXPIRE', Q, alive * 2)", "redis.call('PERSIST', Q)",
         "the queue does not stay for ever", locks.killed_queue),
        ("acquire", "redis.call('PEXPIRE', W, alive * 2)", "redis.call('PERSIST', W)",
         "what waiters tell of themselves does not stay for ever", locks.killed_queue),
        ("acquire", "math.max(us, tonumber(tail[2] or '0') + 1)), me)", "us), me)",
         "the order of arrival holds though the clock is set back", locks.queue_set_back),
        ("release", "if owner ~= me then", "if not owner then",
         "nobody gives back another's lease", locks.bad_day),
        ("release", "  redis.call('ZREM', Q, me)\n  redis.call('HDEL', W, me)\n  code =",
         "  code =", "who gives up leaves the queue", locks.cancelled),
        ("release", "tonumber(ARGV[7]) > 0 and 2 or 0", "0",
         "a repeated release is no loss", locks.lost_replies),
        ("acquire", "  redis.pcall(sharded and", "  local _ = (sharded and",
         "a free lock does not wait for a head that sleeps", locks.overslept),
        ("acquire", "if heard[2] ~= 0 then break end", "do break end",
         "a free lock is not handed to the dead", locks.fallen_queue),
        ("acquire", "redis.call('HSET', W, each[1], each[2])", "redis.call('ZREM', Q, each[1])",
         "who is passed over by whoever asks keeps its place", locks.deaf_head),
        ("release", "deaf[home] = heard[2] == 0", "deaf[home] = false",
         "a lock is not handed to the dead", locks.mass_death),
        ("release", "redis.call('HSET', W, each[1], each[2])", "redis.call('ZREM', Q, each[1])",
         "who is passed over keeps its place", locks.deaf_waiter),
        ("release", "  if owner then return", "  if owner or not owner then return",
         "who gives up tells the next one", locks.overslept),
        ("release", "math.max(us, tonumber(redis.call('GET', F) or '0') + 1)", "tonumber(redis.call('GET', F) or '0')",
         "a hand-over has a fence of its own", locks.calm_queue),
        ("release", "redis.call('PEXPIRE', S, claim)\n", "redis.call('PERSIST', S)\n",
         "what is handed to the dead comes back", locks.dead_waiters),
        ("release", "redis.pcall(sharded and", "local _ = (sharded and",
         "the next waiter is woken", locks.calm_queue),
        ("release", "ARGV[4] .. heir[3], word", "ARGV[4] .. string.sub(heir[3], 1, 11), word",
         "the next waiter is woken on its own channel", locks.calm_queue),
        ("release", "if tonumber(alive_ms) <= now then", "if false then",
         "nothing is handed to a waiter that is known to be dead", locks.silent_waiters),
        ("release", "  redis.call('DEL', S)\n  return {code}\n", "  return {code}\n",
         "a released lock is free", locks.alone),
        ("acquire", "if redis.call('ZSCORE', G, me) then", "if false then",
         "a request that comes late is refused", locks.late_requests),
        ("acquire", "local again = tonumber(ARGV[9]) > 0 and 1 or 0", "local again = 0",
         "a repeat is known to have a copy on its way", locks.late_requests),
        ("release", "  redis.call('ZADD', G, now + gone, me)\n", "",
         "who gives up leaves a mark for what comes late", locks.late_requests),
        ("acquire", "patience > 0 and us - redis.call('ZSCORE', Q, head) < patience * 1000", "patience > 0",
         "a newcomer does not overtake who has waited for long", locks.crashed_holder_unfair),
        ("release", "== process and {code, owner} or {code}", "== process and {code} or {code}",
         "a word lost with a reply is said again", locks.lost_word),
        ("release", "if heir[3] == process then return {code, word} end",
         "if heir[3] == process then return {code} end",
         "a waiter of the same process hears of its turn", locks.brief_bodies),
        ("revoke", "if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end", "",
         "nobody's lease but the named one is revoked", leases.revoked),
        ("revoke", "math.max(time[1] * 1000000 + time[2], tonumber(redis.call('GET', KEYS[2]) or '0') + 1)",
         "tonumber(redis.call('GET', KEYS[2]))",
         "a revocation raises the fence", leases.revoked),
        ("revoke", "redis.call(string.byte(ARGV[3]) == 123 and 'SPUBLISH' or 'PUBLISH', ARGV[3], ARGV[4])\n", "",
         "a revoked holder is told", leases.revoked),
        ("info", "redis.call('HGET', W, queue[i])", "redis.call('HGET', W, queue[1])",
         "every waiter is told", leases.looked),
        ("info", "redis.call('ZRANGE', Q, 0, most - 1, 'WITHSCORES')", "redis.call('ZRANGE', Q, 0, most, 'WITHSCORES')",
         "no more waiters are told than were asked for", leases.looked),
        ("info", "redis.call('HMGET', S, 'o', 't', 's', 'm')", "redis.call('HMGET', S, 'o', 't', 's', 'o')",
         "a holder is told with what it said about itself", leases.looked),
        ("once", "if last[2] == ARGV[1] then", "if false then",
         "a run whose reply was lost is told again", once.every_period),
        ("once", "if last[1] and tonumber(last[1]) >= period then", "if last[1] and tonumber(last[1]) == period then",
         "a clock that was set back starts no period again", once.changed_clock),
        ("once", "if last[1] and tonumber(last[1]) >= period then", "if false then",
         "a period has one run", once.every_period),
        ("once", "redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(2 * length / 1000)))\n", "",
         "a turn does not stay for ever", once.every_period),
        ("renew", "if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end", "",
         "nobody renews another's lease", locks.clock_set_forward),
    )
]  # fmt: skip

FENCES = [
    Mutant("locks", "fenced", *words, scenario)
    for *words, scenario in (
        ("if before then", "if before and false then",
         "a repeated write is applied once", fences.stale_writers),
        ("if seen > mine or", "if",
         "a stale fence is refused", fences.stale_writers),
        ("if seen > mine or", "if seen >= mine or",
         "one holder writes as often as it likes", fences.stale_writers),
        ("ARGV[2], 'PX', ARGV[3])", "ARGV[2], 'PX', '100')",
         "the latest holder is remembered", fences.stale_writers),
        (" or (seen == mine and owner > ARGV[2])", "",
         "two holders with one fence do not write in turn", fences.two_sides),
        ("owner > ARGV[2]", "owner ~= ARGV[2]",
         "of two holders with one fence the same one wins everywhere", fences.two_sides),
        ("ARGV[1] .. ' ' .. ARGV[2]", "ARGV[1]",
         "the gate remembers who wrote", fences.two_sides),
    )
]  # fmt: skip

TOGETHER = [
    Mutant("locks", *words, scenario)
    for *words, scenario in (
        (
            "count_down",
            "redis.call('HEXISTS', B, ARGV[3]) == 0",
            "true",
            "a repeat counts down once",
            together.opening,
        ),
        (
            "count_down",
            "redis.pcall(command, ARGV[5] .. string.sub(waiter, 1, 12), waiter)",
            "",
            "an opened latch wakes everybody",
            together.opening_in_calm,
        ),
        (
            "count_down",
            "redis.call('PEXPIRE', B, ARGV[2])",
            "",
            "a latch does not stay for ever",
            together.opening,
        ),
        (
            "look_at_latch",
            "return {rest, count}",
            "return {0, count}",
            "a closed latch lets nobody pass",
            together.opening,
        ),
        (
            "look_at_latch",
            "  redis.call('ZADD', W, now + alive, ARGV[3])\n",
            "",
            "a waiter is known to wait",
            together.opening_in_calm,
        ),
        ("arrive", "if passed then", "if passed and false then", "who passed learns it", together.meetings),
        ("arrive", "  redis.call('DEL', A)\n", "", "a generation begins empty", together.meetings),
        (
            "arrive",
            "if place < tonumber(parties) then",
            "if place < tonumber(parties) - 1 then",
            "nobody passes before all are there",
            together.meetings,
        ),
        ("arrive", "if dead then", "if dead and false then", "the dead do not count as parties", together.ghost),
        (
            "arrive",
            "redis.call('HSET', S, 'g', generation + 1)",
            "redis.call('HSET', S, 'g', generation)",
            "generations are told apart",
            together.meetings,
        ),
        (
            "step_back",
            "redis.call('ZREM', KEYS[1], me)\n",
            "",
            "who gave up is not waited for",
            together.giving_up,
        ),
        ("step_back", "redis.call('HSET', P, me, 'gone')", "", "a late arrival is refused", together.late_arrivals),
        ("break_barrier", "  redis.call('HINCRBY', S, 'g', 1)\n", "", "a reset ends the generation", together.resets),
    )
]

SHARES = [
    Mutant("locks", *words, scenario)
    for *words, scenario in (
        (
            "share",
            "if held and until_ms and tonumber(until_ms) > now then",
            "if held and until_ms and false then",
            "asking again after a lost reply takes nothing more",
            shares.crowded,
        ),
        (
            "share",
            "if used + permits > limit then break end",
            "",
            "whoever does not fit waits",
            shares.rough_permits,
        ),
        (
            "share",
            "    used = 0\n    redis.call('DEL', P)\n",
            "",
            "permits whose key went with their lease are free",
            shares.deaf_head,
        ),
        (
            "share",
            "redis.call('EXISTS', Q) == 1 or used + wants > limit",
            "used + wants > limit",
            "a newcomer never overtakes a waiter",
            shares.in_order,
        ),
        (
            "share",
            "if said then used = used - tonumber(string.match(said, '^%d+')) else unknown = true end\n",
            "if not said then unknown = true end\n",
            "what the dead held is free",
            shares.crowded,
        ),
        ("unshare", "used = used - permits + stay", "used = used + 0", "what is given back is free", shares.in_order),
        (
            "share",
            "else unknown = true end",
            "end",
            "permits of which nobody knows come back",
            shares.evicted,
        ),
        (
            "unshare",
            "elseif unknown and redis.call('ZCARD', H) == redis.call('HLEN', P) then",
            "elseif unknown then",
            "permits are not counted as free while somebody unknown holds them",
            shares.evicted,
        ),
        (
            "unshare",
            "local unknown = until_ms and",
            "local unknown = false and",
            "who gives back what nobody knows has given it back",
            shares.evicted,
        ),
        (
            "unshare",
            "local stay = math.min(stays, tonumber(permits))",
            "local stay = 0",
            "a downgrade keeps the read lock",
            shares.downgraded,
        ),
        (
            "unshare",
            "if used + permits > limit then break end",
            "",
            "a release hands on no more than there is",
            shares.in_order,
        ),
        ("unshare", "limit = tonumber(ARGV[3])", "limit = limit + 0", "a resize takes effect", shares.resized),
        (
            "unshare",
            "prefix .. home, word)",
            "prefix .. home, waiter .. 'x')",
            "who is served is woken",
            shares.in_order,
        ),
        (
            "share",
            "[2] == 0",
            "[2] == -1",
            "whoever cannot hear is passed over",
            shares.deaf_head,
        ),
        (
            "share",
            "redis.call('HSET', W, each[1], whole(",
            "redis.call('ZREM', Q, each[1]) local _ = (whole(",
            "who is passed over keeps its place",
            shares.deaf_head,
        ),
        (
            "unshare",
            "[2] == 0",
            "[2] == -1",
            "whoever cannot hear is passed over",
            shares.deaf_waiter,
        ),
        (
            "unshare",
            "redis.call('HSET', W, each[1], whole(",
            "redis.call('ZREM', Q, each[1]) local _ = (whole(",
            "who is passed over keeps its place",
            shares.deaf_waiter,
        ),
        (
            "share",
            "waiter = redis.call('ZRANGE', Q, #passed, #passed)[1]",
            "waiter = nil",
            "a wish of the dead delays nobody who asks",
            shares.dead_wish,
        ),
        (
            "unshare",
            "if place <= overtaken or used + each[2] <= limit then",
            "if place <= overtaken then",
            "a dead waiter keeps free permits from nobody",
            shares.dead_alone,
        ),
        (
            "revoke_share",
            "if not until_ms or tonumber(until_ms) <= math.floor(us / 1000) then return 0 end\n",
            "",
            "nobody is revoked but the named one",
            shares.revoked,
        ),
        (
            "revoke_share",
            "math.max(us, tonumber(redis.call('GET', KEYS[2]) or '0') + 1)",
            "tonumber(redis.call('GET', KEYS[2]))",
            "a revocation raises the fence",
            shares.revoked,
        ),
        (
            "revoke_share",
            "redis.call(string.byte(ARGV[3]) == 123 and 'SPUBLISH' or 'PUBLISH', ARGV[3], ARGV[4])\n",
            "",
            "a revoked holder is told",
            shares.revoked,
        ),
        (
            "info_share",
            "redis.call('HGET', W, queue[i])",
            "redis.call('HGET', W, queue[1])",
            "every waiter is told",
            shares.revoked,
        ),
        (
            "info_share",
            "'LIMIT', 0, ARGV[1])",
            "'LIMIT', 0, ARGV[1] + 1)",
            "no more holders are told than were asked for",
            shares.revoked,
        ),
        (
            "info_share",
            "holding > 0 and taken or 0",
            "holding",
            "the permits that are taken are told",
            shares.revoked,
        ),
        (
            "renew_share",
            "redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])\n",
            "",
            "a lease that is renewed lasts",
            shares.dead_reader,
        ),
    )
]

SEVERAL = [
    Mutant("locks", "acquire_all", *words, scenario)
    for *words, scenario in (
        (
            "(owner or redis.call('EXISTS', Q) == 1",
            "(false or redis.call('EXISTS', Q) == 1",
            "what somebody holds is not taken",
            several.crossing_in_calm,
        ),
        (
            "    redis.call('HSET', S, 'o', me,",
            "    redis.call('HSET', KEYS[1], 'o', me,",
            "all are taken",
            several.crossing_in_calm,
        ),
        ("  redis.call('PEXPIRE', S, ARGV[1])\n", "", "a lease ends by itself", several.crossing),
    )
]

ELECTIONS = [
    Mutant("locks", *words, elections.told)
    for words in (
        (
            "proclaim",
            "string.sub(watcher, 1, 12), watcher)",
            "string.sub(watcher, 1, 12), watcher .. 'x')",
            "who watches is woken",
        ),
        (
            "look_at_leader",
            "  redis.call('ZADD', KEYS[2], string.format('%.0f', now + alive), ARGV[1])\n",
            "",
            "who watches is known",
        ),
        (
            "look_at_leader",
            "if not found[1] then return {0, '', 0, ''} end",
            "if not found[1] then return {7, '', 0, ''} end",
            "an end is an end",
        ),
    )
]

REDLOCK = [
    Mutant("locks", *words, scenario)
    for *words, scenario in (
        ("confirm", "if redis.call('HGET', S, 'o') ~= ARGV[1] then return {0} end\n", "",
         "a vote that went to another is not confirmed", redlock.voted_twice),
        ("uphold", "(owner or redis.call('ZSCORE', G, me))", "owner",
         "a vote that was given back is not taken again", redlock.late_renewals),
        ("acquire", "if owner == me then", "if owner == me and false then",
         "a vote whose reply was lost is a vote", redlock.lost_votes),
        ("confirm", "redis.call('SET', F, string.format('%.0f', fence), 'PX', ARGV[3])\n", "",
         "fences rise though no master sees every holder", redlock.fences),
        ("acquire", "local fence = math.max(us, last + 1)", "local fence = last + 1",
         "fences rise though every master forgot them", redlock.lost_fences),
        ("uphold", "if owner ~= me and (owner or redis.call('ZSCORE', G, me)) then return 0 end", "",
         "nobody upholds another's vote", redlock.flushed_twice),
        ("uphold", "return owner and 1 or 2", "return 1",
         "a vote that is given anew does not count at once", redlock.flushed_twice),
        ("uphold", "if not owner then\n", "if false then\n",
         "a vote that was lost is asked for anew", redlock.forgets_one),
        ("uphold", "  redis.call('ZREM', Q, me)\n  redis.call('HDEL', W, me)\n", "",
         "who holds it waits for it nowhere", redlock.calm_turns),
        ("uphold", "redis.call('PEXPIRE', S, ARGV[2])\n", "",
         "an upheld vote runs for its full length", redlock.forgets_one),
    )
]  # fmt: skip

STREAMS = [
    Mutant("streams", *words, scenario)
    for *words, scenario in (
        ("append", "if have[k][2][2] ~= args[at + 3 * k] then return nil end", "",
         "a replay is told from another's events", streams.appends),
        ("append", "    if last then return 1, last, position end\n    return 2, version", "    return 2, version",
         "a lost reply to an append at a version is answered again", streams.appends),
        ("append", "  if version == expected or", "  if (expected >= 0 and version >= expected) or",
         "an append happens at the version it expects", streams.appends),
        ("append", "    if score then\n", "    if false then\n",
         "a lost reply to an append at any version writes nothing twice", streams.appends),
        ("append", "redis.call('HSET', meta, 'pos', position .. '')", "redis.call('HSET', meta, 'pos', position + 1)",
         "positions have no gap", streams.appends),
        ("append", "redis.call('HSET', versions, name, v)",
         "redis.call('HSET', versions, name, version - 1)",
         "versions have no gap", streams.appends),
        ("append", "return base + count, tonumber(have[count][2][4])",
         "return base + 1, tonumber(have[1][2][4])",
         "a replay is answered as the first time", streams.appends),
        ("append", "  if version == 0 then return 2, 0 end\n", "",
         "EXISTS refuses a new stream", streams.same_ids),
        ("commit", "again and before or refused or part\n", "again and before or refused\n",
         "a replay of a part is none", streams.moved_on),
        ("commit", "again and before or refused or part\n", "again and before or part\n",
         "one stream that does not fit refuses the whole", streams.transfers),
        ("commit", "again and before or refused or part\n", "refused or part\n",
         "a commit that was written is a replay", streams.moved_on),
        ("commit", "again and before or refused", "again and not refused and before or refused",
         "a replay wins over a check", streams.moved_on),
        ("commit", "if version ~= expected and (expected ~= -2 or version == 0) then", "if false then",
         "what was checked was true", streams.transfers),
        ("commit", "again = again ~= false and code == 1", "again = code == 1",
         "a replay is one of all streams", streams.moved_on),
        ("commit", "  version, position = write(", "  version = write(",
         "positions of one commit follow each other", streams.moved_on),
        ("commit", "redis.call('HSET', meta, 'pos', position .. '')", "",
         "the next commit goes on after this one", streams.moved_on),
        ("snapshot", "if kept[1] and tonumber(kept[1]) > tonumber(version) and", "if false and",
         "a snapshot does not go back", streams.late_snapshots),
        ("snapshot", "'v', version, 'i'", "'v', version + 1, 'i'",
         "a snapshot says at which version it was taken", streams.decisions),
        ("snapshot", "or (ARGV[3] ~= '0' and committed(ARGV[3], ARGV[4]) ~= ARGV[5])", "",
         "a snapshot is of the history that is there", streams.lost_while_deciding),
        ("snapshot", "> tonumber(version) and committed(kept[1], kept[2]) == kept[3] then", "> 0 then",
         "newer snapshots are kept", streams.decisions),
        ("project", "if at ~= ARGV[2] then return at end", "",
         "the same changes are made once", streams.projections),
        ("project", "redis.call('HSET', places, name, after)", "",
         "a view remembers how far it has got", streams.projections),
        ("project", "if at ~= ARGV[2] then return at end", "if at ~= ARGV[2] then return after end",
         "who was slower goes on where the view is", streams.projections),
        ("ack", "if lost or pending and pending[2] ~= consumer then", "if lost then",
         "an acknowledgement counts only while the delivery is ours", streams.stolen),
        ("ack", "local lost = entry and (there.i or '') .. ' ' .. (there.w or '') ~= ARGV[k + 1]", "local lost = false",
         "an acknowledgement is about one event, not about a position", streams.lost_before_the_ack),
        ("ack", "pending and redis.call('XACK', log, group, id) or 0", "pending and 1 or 0",
         "what is acknowledged is not pending", streams.consumers),
        ("renew", "if pending and pending[2] == consumer then", "if pending then",
         "a renewal takes nothing back from others", streams.stolen),
        ("renew", "    redis.call('XCLAIM', log, group, consumer, 0, id, 'IDLE', 0, 'JUSTID')\n", "",
         "what is in work is not claimed", streams.calm_group),
        ("leave", "for _, entry in ipairs(pending) do", "for _, entry in ipairs({}) do",
         "who leaves gives back what it holds", streams.leaving),
        ("leave", "id, 'TIME', '1', 'RETRYCOUNT'", "id, 'RETRYCOUNT'",
         "what was not handled may be claimed at once", streams.leaving),
        ("tend", "pending[1] > 0 and number(pending[2]) - 1 or delivered",
         "pending[1] > 0 and number(pending[3]) or delivered",
         "a lost group skips nothing", streams.lost_group),
        ("join", "floor, skipped = ARGV[2] == '1' and tonumber(place[1] or 0) or trimmed, 0",
         "floor, skipped = tonumber(place[1] or 0), 0",
         "a new group starts at the beginning", streams.leaving),
        ("join", "if string.find(made.err, 'BUSYGROUP', 1, true) then return {0, 0, 0} end", "",
         "joining twice is joining once", streams.consumers),
        ("tend", "if info['pending'] == 0 and info['idle'] > dead_after then",
         "if info['idle'] > dead_after / 10000 then",
         "only a consumer without deliveries is removed", streams.consumers),
        ("park", "  redis.call('ZADD', retry, now + delay, id)\n".strip(), "",
         "what is put aside is on a list", failures.failing),
        ("park", "if pending[2] ~= consumer or pending[4] > tonumber(attempts) then return {-1, 0} end", "",
         "only what is still ours is put aside", failures.overtaken),
        ("park", "    if due then\n", "    if false then\n",
         "one of a stream is tried again at a time", failures.side_by_side),
        ("park", "redis.call('XCLAIM', log, group, '~parked', '0', id, 'JUSTID')", "",
         "what is put aside is nobody's", failures.failing),
        ("park", "redis.call('ZADD', retry, now + delay, id)", "redis.call('ZADD', retry, now, id)",
         "a pause is kept", failures.patience),
        ("park", "  redis.call('HSET', failed, 'h' .. id, key)\n", "",
         "a settled event lets the next of its stream go on", failures.in_line),
        ("begin", "if head and tonumber(string.match(head, '^%d+')) < tonumber(string.match(id, '^%d+')) then",
         "if false then",
         "later events of a stream wait", failures.in_line),
        ("begin", "'RETRYCOUNT', attempts, 'JUSTID'", "'JUSTID'",
         "an attempt is counted when it begins", failures.failing),
        ("begin", "return {redis.call('ZSCORE', waiting, place) and 0 or -1, ''}", "return {1, ''}",
         "what was lost meanwhile is not begun", failures.in_line),
        ("due", "'-inf', now, 'LIMIT'", "'-inf', '+inf', 'LIMIT'",
         "what is put aside waits for its time", failures.failing),
        ("due", "  redis.call('ZREM', retry, id)\n", "",
         "what is handed out is off the list", failures.failing),
        ("claim", "row[2] ~= '~parked' and row[3] >= idle", "row[3] >= idle",
         "what is put aside is not claimed", failures.failing),
        ("claim", "missed and 0 or row[4]", "0",
         "attempts are not forgotten with a lost reply", failures.in_line),
        ("bury", "redis.call('XACK', log, group, id)\n", "",
         "a dead letter is not pending", failures.failing),
        ("bury", "if pending[2] ~= consumer then return -1 end", "",
         "only what is still ours is given up", failures.overtaken),
        ("bury", "if not pending then return 0 end\nif pending[2] ~= consumer", "if pending and pending[2] ~= consumer",
         "a lost reply gives nothing up twice", failures.failing),
        ("bury", "return settled(id) and 2 or 1", "return 1",
         "an event that is given up stands in nobody's way", failures.in_line),
        ("ack", "if some_failed and settled(id) then codes[n] = 2 end", "",
         "an event that was handled stands in nobody's way", failures.in_line),
        ("ack", "local some_failed = redis.call('EXISTS', failed) == 1", "local some_failed = false",
         "what was noted of failures is forgotten", failures.failing),
        ("replay", "redis.call('XDEL', dead, letter)", "",
         "what is given back is no dead letter", failures.given_back),
        ("replay", "'FORCE', ", "",
         "what is given back is pending", failures.given_back),
        ("replay", "  redis.call('ZADD', retry, string.match(id, '^%d+'), id)\n", "",
         "what is given back is due", failures.given_back),
        ("complete", "redis.call('ZADD', done, place_in_log, id .. ' ' .. consumer)", "",
         "what was committed is remembered", commits.chain),
        ("complete", "if mark then\n", "if false then\n",
         "what was committed is not committed again", commits.chain),
        ("complete", "pending and pending[2] == consumer and pending[4] <= tonumber(ARGV[4])", "pending",
         "only what is still ours is committed", commits.ousted),
        ("complete", " and pending[4] <= tonumber(ARGV[4])", "",
         "a commit is of the life that began the event", commits.ousted),
        ("complete", "if entry and (there.i or '') .. ' ' .. (there.w or '') ~= ARGV[5] then return {-1, 1} end\n", "",
         "what is committed is of the event that stands there", commits.lost_in_work),
        ("complete", "mark == id .. ' ' .. consumer and 1 or -1", "-1",
         "a lost reply to a commit is answered again", commits.lost_replies),
        ("complete", "for k = 14, first - 1, 2 do", "for k = 14, 13, 2 do",
         "what was read is still true", commits.chain),
        ("complete", "  consign(consignments)\n", "",
         "what is sent is in the outbox", commits.across),
        ("complete", "redis.call('HINCRBY', sent, '#' .. box, args[at + 2])", "args[at + 2]",
         "events on their way are counted", commits.across),
        ("look_outboxes", " - (facts['n'] or 0)", "",
         "what was moved is not on its way", commits.across),
        ("accept", "if number <= last and (not was or was == number .. ' ' .. args[10]) then return {1} end",
         "if number <= last then return {1} end",
         "a number that was accepted tells nothing of another history", commits.sender_fails_over),
        ("moved", "count = count + redis.call('XDEL', KEYS[1], ARGV[k])", "count = count + 1",
         "what was moved is removed", commits.across),
        ("accept", "if number > last + 1 then return {2, last} end", "",
         "a gap is noticed", commits.lost_consignment),
        ("accept", "'HSET', senders, sender, math.max(last, number) .. '', mark,", "'HSET', senders, mark,",
         "the next consignment is the next one", commits.across),
        ("complete", "  change(first, after - 1)\n", "",
         "state is changed", commits.chain),
        ("complete", "  answer = #fits > 0 and perform(fits, {0}) or {0}\n", "  answer = {0}\n",
         "events are appended", commits.chain),
        ("complete", "redis.call('XACK', log, name, id)\n", "",
         "what is committed is not pending", commits.chain),
        ("complete", "return {code, settled(id) and 2 or 1, ", "return {code, 1, ",
         "what is committed stands in nobody's way", commits.chain),
    )
]  # fmt: skip
# The model of the store sees whatever changes an answer or what is stored, each of the above included; but for one that
# takes a commit of which the last part alone was written before, which one in twelve of its programs makes.
MODELLED = [
    *(
        mutant._replace(scenario=programs.seeded)
        for mutant in STREAMS
        if mutant.script in {"append", "commit"} and mutant.breaks != "a replay is one of all streams"
    ),
    *(
        Mutant("streams", *words, programs.seeded)
        for words in (
            ("append", "'v', v, 't', type, 'd', data, 'w'", "'v', v, 't', type, 'd', type, 'w'",
             "the log and the stream hold the same payload"),
            ("append", "if about == '' then", "if true then",
             "what is known of a commit is stored with it"),
            ("commit", "at = at + 3 + 3 * count", "at = at + 3 * count",
             "each part of a commit is its own"),
            ("append", "'i', id, 's', name, 'v', v", "'i', id, 's', name, 'v', p",
             "the log names the version that an event has in its stream"),
        )
    ),
]  # fmt: skip

ORDER = [
    Mutant("streams", *words, scenario)
    for *words, scenario in (
        ("take", "and tonumber(held[3]) > now then return", "and false then return",
         "a partition has one owner", order.rebalancing),
        ("take", "local ids = row[1] ~= '~parked' and row[1] ~= consumer and", "local ids = row[1] == '~free' and",
         "a new owner takes over what is pending", order.rebalancing),
        ("hold", "if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end", "",
         "who lost its lease does not get it back", order.usurped),
        ("hold", "redis.call('HSET', KEYS[1], 't', clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[2])", "",
         "a lease is renewed", order.frozen),
        ("cede", "redis.call('HDEL', KEYS[1], 'm', 't', 's', 'o', 'p', 'a')", "",
         "who leaves gives its partitions back at once", order.handed_over),
        ("cede", "if held[1] ~= ARGV[1] or (held[2] ~= ARGV[2] and held[3] ~= ARGV[2]) then return 0 end", "",
         "only what is ours is given back", order.frozen),
        ("pull", "if lease[1] ~= ARGV[2] then return {-1} end", "",
         "who lost its lease gets no new events", order.usurped),
        ("pull", "return {1, redis.call('EXISTS', KEYS[2]), entries, last}", "return {1, 0, entries, last}",
         "an owner knows that events have failed", order.failing_in_order),
        ("meet", "elseif tonumber(till) <= now then", "elseif false then",
         "a dead member has no share", order.rebalancing),
        ("meet", "for _, token in ipairs(others) do", "for _, token in ipairs({}) do",
         "members hear of each other at once", order.handed_over),
        ("replay", "redis.call('ZADD', retry, string.match(id, '^%d+'), id)", "redis.call('ZADD', retry, '0', id)",
         "letters come again in the order of their positions", order.given_back_in_order),
        ("park", "    if due then\n", "    if false then\n",
         "what failed later is not overtaken", order.given_back_in_order),
    )
]  # fmt: skip

LIMITS = [
    Mutant("limits", script, *words, limits.decisions)
    for script in ("hit_one", "hit")
    for words in (
        ("ARGV[2] ~= '0'", "false",
         "a repeat is found again"),
        ("since - 5000000)", "since)",
         "a repeat that was held up on its way is found again"),
        ("judged - window, '-inf'", "judged - window + 1000, '-inf'",
         "windows are whole"),
        ("math.min(rank, 64) - 1)", "math.min(rank, 64))",
         "the newest expired hit stays"),
        ("total = total + cost", "total = total + 1",
         "costs are counted, not calls"),
        ("elseif older > room then", "elseif older >= room then",
         "the time to come again is the earliest that fits"),
        ("if redis.call('PTTL', key) * 1000 < life then", "if redis.call('PTTL', key) < 0 then",
         "the log outlives its hits"),
    )
]  # fmt: skip
MERGED = [
    Mutant("limits", script, *words, limits.merged)
    for script in ("hit_one", "hit")
    for words in (
        ("at - at % tick <= last", "at - 5 * tick <= last",
         "hits share an entry within a tick only"),
        ("redis.call('ZADD', key, at, shared)", "redis.call('ZADD', key, newest[2], shared)",
         "an entry is dated by its last hit"),
        ("#shared <= 64", "true",
         "a log keeps its compact form"),
        ("string.sub(newest[1], #counted + 2)", "string.sub(newest[1], #counted + 7)",
         "an entry names all its hits"),
        ("'LIMIT', '10', '3'", "'LIMIT', '1', '3'",
         "the newest entries remember their hits"),
        ("newer - newer % tick > score", "newer - 5 * tick > score",
         "entries are merged within a tick only"),
        ("if keep then redis.call('ZADD', key, score, text) end", "",
         "what is forgotten by name is still counted on time"),
    )
] + [
    Mutant("limits", *words, limits.merged)
    for words in (
        ("hit", "left[2] - left[2] % coarse", "left[2] - 5 * coarse",
         "what has left a window is merged within a coarser tick only"),
        ("refund", "if width > cost then", "if false then",
         "who shares an entry is not given back"),
        ("refund", "string.sub(hits, 1, first - 1) .. string.sub(hits, final + 1)", "hits",
         "who shared an entry is given back once"),
    )
]  # fmt: skip
BOOKINGS = [
    Mutant("limits", *words, limits.bookings)
    for words in (
        ("hit_one", "alone == 'R'", "false",
         "a hit does not overtake who waits"),
        ("hit", "alone == 'R'", "false",
         "a reservation does not overtake who waits"),
        ("hit", "at = math.max(now + delay, last + 1)", "at = math.max(now, last + 1)",
         "what is reserved is counted when it is used"),
        ("hit", "if denied[1] > max_wait then", "if denied[1] == math.huge then",
         "nobody waits longer than he will"),
        ("hit", "key, now - longest, '-inf'", "key, at - longest, '-inf'",
         "what a reservation will let go is kept until then"),
    )
]  # fmt: skip

LEASED = [
    Mutant("limits", *words, limits.leases)
    for words in (
        ("lease", "math.max(now + ttl, last + 1)", "math.max(now, last + 1)",
         "permits count until the last moment at which they may be used"),
        ("lease", "room < least", "room < 0",
         "what does not fit is not leased"),
        ("lease", "math.floor(room / (2 * clients))", "room",
         "nobody takes everything"),
        ("lease", "ARGV[2] ~= '0'", "false",
         "a lease whose reply was lost is found again"),
        ("lease", "math.min(rank, 64) - 1)", "math.min(rank, 64))",
         "the newest expired entry stays"),
        ("lease", "redis.call('PTTL', key) * 1000 < life", "redis.call('PTTL', key) < 0",
         "the log outlives its leases"),
        ("lease", "key, now - window, '-inf'", "key, math.max(now, last + 1) - window, '-inf'",
         "a lease is judged by the window that ends now"),
        ("lease", "total = total + granted", "total = total + least",
         "all that is leased is counted"),
        ("hit_one", "local judged = ahead and now or at", "local judged = at",
         "a hit beside leases is judged by the window that ends now"),
        ("hit_one", "(ahead and 'A' or '')", "''",
         "hits behind a lease are told from others"),
        ("give_back", "= granted - used", "= granted",
         "what was used is not given back"),
        ("give_back", "'Al' or 'l'", "'AL' or 'L'",
         "a lease is given back once"),
        ("give_back", "math.min(at, math.max(now, (older[2] or 0) + 1))", "now - 5000000",
         "what was used counts from when it may have been used last"),
        ("give_back", "- less) % RING", "- less - 1) % RING",
         "no more is given back than was unused"),
    )
]  # fmt: skip

REFUNDS = [
    Mutant("limits", "refund", *words, limits.decisions)
    for words in (
        ("if string.find(string.match(log[i], '%d+(.*)'), hit, 1, true) then", "if i == 1 then",
         "no other hit is given back"),
        ("rewrite(later[i][1], later[i][2], cost,", "rewrite(later[i][1], later[i][2], 0,",
         "what is given back is free"),
        ("redis.call('ZREM', key, given)\n", "",
         "a hit is given back once"),
        ("tonumber(at) <= now - tonumber(ARGV[4])", "false",
         "what has left every window is not given back"),
    )
]  # fmt: skip

RULES = [
    Mutant("limits", *words, scenario)
    for *words, scenario in (
        ("gcra_hit", "if ARGV[2] ~= '0' then", "if false then",
         "a repeat is found again", rules.buckets),
        ("gcra_hit", "full, part = poured(full, part, at, cost)", "full, part = poured(full, part, at, 1)",
         "costs are counted, not calls", rules.buckets),
        ("gcra_hit", "cost <= burst", "cost < burst",
         "a full bucket can be emptied at once", rules.buckets),
        ("gcra_hit", "wait < 0 or wait > max_wait", "wait < 0 or wait > max_wait + 1000",
         "nobody waits longer than he will", rules.buckets),
        ("gcra_hit", "math.max(now, holds(cost))", "math.max(now, holds(cost) - 1)",
         "no unit is used a microsecond early", rules.buckets),
        ("gcra_hit", "last = at\n", "last = 0\n",
         "nobody overtakes who waits", rules.buckets),
        ("gcra_hit", "base, base_part = poured(base, base_part, tonumber(oldest), tonumber(its_cost))\n", "",
         "what is not remembered is still counted", rules.buckets),
        ("gcra_refund", "if its == hit and cost == ARGV[3] and not found then", "if not found then",
         "no other hit is given back", rules.buckets),
        ("gcra_refund", "then full, part = a, b end", "then end",
         "what is given back is free", rules.buckets),
        ("gcra_refund", "last, hits, count = newest, table.concat(others), #others\n", "",
         "a hit is given back once", rules.buckets),
        ("gcra_refund", "local others, a, b, newest, found = {}, base, base_part, 0, false",
         "local others, a, b, newest, found = {}, 0, 0, 0, false",
         "what is not remembered stays counted", rules.buckets),
        ("counter_hit", "if ARGV[2] ~= '0' and", "if false and",
         "a repeat is found again", rules.counters),
        ("counter_hit", "used = used + cost\n", "used = used + 1\n",
         "costs are counted, not calls", rules.counters),
        ("counter_hit", "if now + ahead < seen then", "if now + ahead < seen + window then",
         "time goes on", rules.counters),
        ("counter_hit", "now >= start + window and now < start + 2 * window", "now >= start + window and now < start",
         "the window before counts", rules.counters),
        ("counter_hit", "math.ceil(held * (window - after) / window)", "math.floor(held * (window - after) / window)",
         "an estimate is rounded up", rules.counters),
        ("counter_hit", "while overlap(held, after) > room do after = after + 1 end",
         "while overlap(held, after) > room do after = after + 2 end after = after + 1",
         "the time to come again is the earliest that fits", rules.counters),
        ("counter_refund", "  used = used - its_cost\n", "  used = used - 1\n",
         "what was taken is given back", rules.counters),
        ("counter_refund", "if its == hit and cost == ARGV[3] and not its_start then", "if not its_start then",
         "no other hit is given back", rules.counters),
        ("counter_refund", "hits, count = table.concat(others), #others\n", "",
         "a hit is given back once", rules.counters),
        ("slot_hit", "if ARGV[2] ~= '0' and redis.call('ZSCORE', key, hit .. ':1') then", "if false then",
         "a repeat has its slots already", rules.slots),
        ("slot_hit", "for number = 1, cost do", "for number = 1, 1 do",
         "a hit takes as many slots as it costs", rules.slots),
        ("slot_hit", "local lacking = taken + cost - limit\n", "local lacking = taken + cost - limit - 1\n",
         "no more slots are taken than there are", rules.slots),
        ("slot_hit", "WITHSCORES', 'LIMIT', lacking - 1, 1)", "WITHSCORES', 'LIMIT', 0, 1)",
         "the time to come again is when enough of them are free", rules.slots),
        ("slot_refund", "redis.call('ZREM', key, hit .. ':' .. number)", "redis.call('ZREM', key, hit)",
         "what is given back is free", rules.slots),
        ("slot_refund", "free_at and tonumber(free_at) > now", "free_at",
         "what was free already is not given back", rules.slots),
        ("check", "if one.told[1] ~= 0 then admitted = 0 end", "if one.told[1] == -1 then admitted = 0 end",
         "all admit or none does", rules.together),
        ("check", "ARGV[1] ~= '0' and asked or {}", "{}",
         "a repeat is found again", rules.together),
        ("check", "and not repeated then one.told = one.hit", "then one.told = one.hit",
         "a repeat takes nothing", rules.together),
        ("check", "'1000000000000000'", "one.hit_args[3]",
         "looking for a hit takes nothing", rules.together),
        ("slot_hit", "if redis.call('PTTL', key) * 1000 < ttl then", "if false then",
         "slots expire", rules.slots),
    )
]  # fmt: skip

_PARTITIONED = "if not position then return redis.error_reply('PARTITIONED this store is in several partitions') end"

PARTITIONS = [
    Mutant("streams", *words, partitions.quarrel)
    for words in (
        (
            "append",
            _PARTITIONED,
            "position = position or 0",
            "an append into one partition notices several",
        ),
        (
            "commit",
            _PARTITIONED,
            "position = position or 0",
            "a commit into one partition notices several",
        ),
        (
            "open",
            "if redis.call('HEXISTS', directory, 'pos') == 0 then",
            "if true then",
            "a store stays in its partitions",
        ),
        ("open", "'pos', 'in ' .. ARGV[1] .. ' partitions', ", "'pos', '0', ", "a directory is told from a counter"),
        ("open", "'partitions', ARGV[1], ", "", "what is noted is how many there are"),
    )
]

RETENTION = [
    Mutant("streams", *words, scenario)
    for *words, scenario in (
        ("trim", "local floor, told, given_up, notes = last - 1,", "local floor, told, given_up, notes = last,",
         "the newest event stays", retention.trimming),
        ("trim", "math.min(wanted, floor, first - 1 + step)", "math.min(wanted, first - 1 + step, last - 1)",
         "nothing goes that somebody needs", retention.trimming),
        ("trim", "if info['pending'] > 0 then", "if false then",
         "what is pending stays", retention.trimming),
        ("trim", "local at = tonumber(string.match(info['last-delivered-id'], '^%d+'))", "local at = 1e14",
         "what a group has not read stays", retention.trimming),
        ("trim", "if at and expired == '' then hold(", "if false then hold(",
         "a lost group keeps what it has not had", retention.trimming),
        ("trim", "hold('projection',", "(function() end)('projection',",
         "a projection keeps what it has not had", retention.trimming),
        ("trim", "hold(kind, flat[k],", "(function() end)(kind, flat[k],",
         "a registered reader keeps what it has not had", retention.trimming),
        ("trim", "    if kind == 'group' then notes[name]", "    if false then notes[name]",
         "a group that is lost after a trim has not missed what it had", retention.trimming),
        ("trim", "if old(middle) then low = middle else high = middle - 1 end", "low = middle",
         "what is young stays", retention.by_age),
        ("trim", "if old(middle) then low = middle else high = middle - 1 end", "high = middle - 1",
         "what is old goes", retention.by_age),
        ("trim", "position < wanted and seen > 0 and now - seen > expire", "position < wanted and seen > 0",
         "only a group that was silent is given up", retention.told),
        ("trim", "    redis.call('HSET', meta, 'trimmed', string.format('%.0f', upto))\n", "",
         "it is known what was removed", retention.told),
        ("join", "skipped = math.max(0, trimmed - floor)", "skipped = 0",
         "a group is told what it has missed", retention.told),
        ("pull", "if lease[2] ~= ARGV[4] then return {0, lease[2]} end\n", "",
         "a pull that comes late delivers nothing", retention.late_pull),
        ("pull", "  redis.call('HINCRBY', KEYS[3], 'p', '1')\n", "",
         "pulls that delivered something are counted", retention.late_pull),
        ("turn", ", 'NX', 'PX'", ", 'PX'",
         "a turn is one process's", retention.turns),
        ("turn", "if redis.call('GET', KEYS[1]) == ARGV[1] then return -1 end", "",
         "whose turn it is knows of it, though a reply was lost", retention.turns),
        ("turn", "if left < 0 then", "if false then",
         "a key without an end is no turn", retention.turns),
        ("erase", "  if redis.call('XDEL', log, position .. '-0') == 1 then\n", "  if false then\n",
         "what is erased is not in the log", erasures.erasing),
        ("erase", "    redis.call('ZADD', holes, position,", "    redis.call('ZCOUNT', holes, position,",
         "it is known what was erased", erasures.erasing),
        ("erase", "if upto > before then redis.call('HSET', erased,", "if false then redis.call('HSET', erased,",
         "it is known how far a stream was erased", erasures.erasing),
        ("erase", " and before ~= expected) then", ") then",
         "an erasure that is sent again has succeeded", erasures.broken_off),
        ("erase", "if there and redis.call('EXISTS', erasing) == 1 then", "if false then",
         "what broke off is ended", erasures.broken_off),
        ("trim", "    redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', string.format('%.0f', upto))\n", "",
         "what was trimmed is not remembered as erased", erasures.erasing),
        ("append", "if kept[3] and position + count > tonumber(kept[3]) then return {5} end\n", "",
         "a log grows no larger than its cap", caps.crowded),
        ("append", "local code, last, at = place(",
         "if kept[3] and position + count > tonumber(kept[3]) then return {5} end\nlocal code, last, at = place(",
         "what was written before is found at the cap", caps.found_again),
        ("complete", "if not answer and over > 0 and", "if false and",
         "handlers make a log little larger than its cap", caps.crowded),
        ("complete", "'COUNT', '1')[1][1] == id then answer = nil end", "'COUNT', '1')[1][1] == id then end",
         "the oldest event waits for nobody", caps.crowded),
        ("accept", "if answer and answer[1] == 5 then return answer end\n", "",
         "what was refused was not accepted", caps.consigned),
        ("cap", "local full = (redis.call('HGET', meta, 'pos') or 0) + cap - redis.call('XLEN', KEYS[2])",
         "local full = cap",
         "what was removed makes room", caps.crowded),
        ("trim", "if cap > 0 then redis.call('HSET', meta, 'full',", "if false then redis.call('HSET', meta, 'full',",
         "what is removed makes room at once", caps.given_up),
        ("trim", " and position < must and others >= must", " and position < must",
         "no group is given up in vain", caps.given_up),
        ("trim", " and position < must and others >= must", "",
         "a group that has had what must go stays", caps.given_up),
        ("trim", "wanted = math.max(wanted, must + math.floor(cap / 10))", "wanted = math.max(wanted, must - 1)",
         "so much goes that there is room", caps.given_up),
    )
]  # fmt: skip

REPLICATION = [
    Mutant("streams", *words, scenario)
    for *words, scenario in (
        ("mirror", "if first > position + 1 then return {1, position} end", "",
         "a gap is told from another history", replication.lost_at_the_target),
        ("mirror", "first == position + 1 and other(before, noted[3])", "false",
         "a page follows the event that it was read behind", replication.refused),
        ("mirror", "if last <= position then", "if false then",
         "a page is written once", replication.following),
        ("mirror", "if p > position then\n    version", "if true then\n    version",
         "an event is written once", replication.following),
        ("mirror", "  if p > position then\n    counted", "  if true then\n    counted",
         "a page that is there in part is no conflict", replication.following),
        ("mirror", "kept[4] ~= 'mirror' or ", "",
         "nothing late is written to what was promoted", replication.promoting),
        ("mirror", "redis.call('HSET', mirror, 'at', after, 'epoch', epoch)", "",
         "the checkpoint is written with the events", replication.following),
        ("mirror", "for k = 1, streams do redis.call('HSET', versions, args[6 + k], version[k] .. '') end", "",
         "versions are counted with the events", replication.following),
        ("mirror", "'w', time, unpack(args, at + 7, next - 1))\n      if link", "'w', '1')\n      if link",
         "an event keeps its time", replication.following),
        ("mirror", "if p > last - window then redis.call('ZADD', recent, place, id .. '\\0' .. name) end", "",
         "an event is known by its id", replication.following),
        ("follow", "if kept[3] == site then return {1} end", "",
         "a store does not mirror itself", replication.refused),
        ("follow", "if noted[1] ~= site then return {2, noted[1] or ''} end", "",
         "a mirror has one source", replication.refused),
        ("follow", "if not kept[2] then return {3, position} end", "",
         "what takes events is made no mirror", replication.refused),
        ("follow", "newest ~= ARGV[4] or", "false and",
         "what was fenced and has a tail is made no mirror", replication.refused),
        ("follow", "if tonumber(epoch) < math.max(", "if 0 > math.max(",
         "an older side is not followed", replication.refused),
        ("promote", "if not kept[1] then return {kept[3] == ARGV[2] and 1 or 0, epoch, position} end", "",
         "a promotion that is repeated is one", replication.promoting),
        ("promote", "redis.call('HDEL', meta, 'ro')", "",
         "what is promoted takes events", replication.ahead),
        ("promote", "redis.call('HGET', mirror, 'epoch')", "0",
         "two promotions are two epochs", replication.refused),
        ("fence", "if not kept[1] and epoch ~= tonumber(ARGV[1]) then return {1, epoch} end", "",
         "a fence that comes late closes nothing", replication.late_fence),
        ("append", "if closed and code ~= 1 then return closed end", "",
         "what was fenced takes no events", replication.promoting),
        ("carry", "math.min(tonumber(ARGV[k + 1]), tonumber(state[2]))", "tonumber(ARGV[k + 1])",
         "a group has not had what has not crossed", replication.ahead),
        ("cut", "else redis.call('HSET', versions, name, kept .. '') end", "end",
         "versions are counted back", replication.parting),
        ("cut", "redis.call('XRANGE', stream, '(' .. from", "redis.call('XRANGE', stream, '(1'",
         "what stays of a stream is copied whole", replication.parting),
        ("rewind", "redis.call('ZREMRANGEBYSCORE', recent, '(' .. kept, '+inf')", "",
         "what was taken off is not known by its id", replication.parting),
        ("rewind", "redis.call('HSET', meta, 'pos', kept .. '')", "",
         "positions are counted back", replication.parting),
        ("introduce", "redis.call('HSETNX', KEYS[1], 'site', ARGV[1])", "redis.call('HSET', KEYS[1], 'site', ARGV[1])",
         "a store has one name", replication.following),
    )
]  # fmt: skip

BOOKS = [
    Mutant("market", script, old, new, claim, *(scenario or [books.seeded]))
    for script, old, new, claim, *scenario in (
        ("place", "return known == print and {1, answer} or {2}", "return {1, answer}",
         "another order under a known id is refused"),
        ("place", "if before then\n", "if false then\n",
         "a repeat trades nothing"),
        ("place", "if there[4] then\n  local _, _, _, _, _, answered", "if false then\n  local _, _, _, _, _, answered",
         "a repeat of an open order finds it"),
        ("place", "if known == '*' then", "if false then",
         "an order that was cancelled before it came is refused"),
        ("place", "= call('HGET', seen[1], id) or ", "= call('HGET', seen[1], id) or false and ",
         "what ended is remembered in both halves"),
        ("place", "if due ~= 'null' and due - now <= 0 then\n  local lapsed", "if false then\n  local lapsed",
         "nobody trades with what has expired"),
        ("place", "if due == 'null' or due - ends > 0 then due = ends end", "",
         "the first order that expires is noted", books.lapsed),
        ("place", "if due == 'null' or due - ends > 0 then due = ends end", "if due == 'null' then due = ends end",
         "an order may expire before those that were there"),
        ("place", "then due = first(expiry, 1) end\nif", "then due = 'null' end\nif",
         "after the first order that expires comes the next"),
        ("place", "if of ~= last then bid", "if not of then bid",
         "what is noted of the best prices is true for one event only", books.forgetful),
        ("place", "or sign * (best - price) <= 0)", "or sign * (best - price) < 0)",
         "prices that are equal cross"),
        ("place", "(price == '' or sign * (cost - price) <= 0)", "true",
         "nobody pays more than his limit"),
        ("place", "= 'b', buy, -1, bid end", "= 'b', buy, 1, bid end",
         "a seller's limit is the lowest price that he takes"),
        ("place", "format('%d', -price)", "price",
         "the highest bid comes first"),
        ("place", "if bid == 'null' or price - bid > 0 then", "if bid == 'null' then",
         "a better bid is the best one"),
        ("place", "if ask == 'null' or ask - price > 0 then", "if ask == 'null' then",
         "a better ask is the best one"),
        ("place", "if field == 'b:' .. bid then bid = first(buy, -1) elseif", "if",
         "when the best bid is gone the next one is it"),
        ("place", "elseif field == 's:' .. ask then ask = first(sell, 1) end", "end",
         "when the best ask is gone the next one is it"),
        ("place", "format('%016d', version + happened)", "format('%016d', 1)",
         "of equal prices who came first trades first"),
        ("place", "or met - most == 0) then", ") then",
         "one order meets no more than so many", books.crowded),
        ("place", "(rule == 'post' or met - most == 0)", "(met - most == 0)",
         "an order that is not to trade does not"),
        ("place", "rule == 'fok' and traded < whole", "false",
         "all or nothing"),
        ("place", "owner ~= '' and owner == other", "false",
         "an owner does not trade with himself"),
        ("place", "if protect ~= 'cancel_newest' then", "do",
         "the older order stays if it is to"),
        ("place", "if protect ~= 'cancel_oldest' then", "do",
         "the newer order goes on if it is to"),
        ("place", "if same and rest == '0' then", "if false then",
         "what nothing is left of leaves"),
        ("place", "quantity = format('%d', quantity - amount)", "",
         "what was taken off was not traded"),
        ("place", "format('%d', wanted - whole + traded + left) .. ' ' .. lots", "wanted .. ' ' .. lots",
         "what was taken off the newer order was not traded"),
        ("place", "if rest == '0' then\n            leave(", "if false then\n            leave(",
         "what is filled leaves"),
        ("place", "elseif left > 0 and (rule == 'ioc' or rule == 'fok') then", "elseif false then",
         "an order that is not to stay does not"),
        ("place", "          shift(theirs, cost, -amount)\n", "",
         "a level loses what is traded"),
        ("place", "  shift(side, price, left)\n", "",
         "a level gets what stays"),
        ("place", "    timed = ends\n", "",
         "an order expires"),
        ("place", "    untimed[#untimed + 1] = id\n", "",
         "what has left has no timer"),
        ("place", "else\n  over(id, why or 'filled', lots, print .. ' ' .. result)\n", "",
         "an order that does not stay is remembered"),
        ("place", "  happened, levels, out, gone,", "  local _\n  happened, levels, _, gone,",
         "of what is given up nothing is done"),
        ("place", "at, size = at + size, 32", "at, size = at + size + 1, 32",
         "nobody in the queue is passed over"),
        ("cancel", "over(id, how, left, '* *')", "local _ = how",
         "a cancel that overtakes its order is remembered"),
        ("cancel", "ends - now <= 0 and 'expired'", "false and 'expired'",
         "what has expired is not cancelled", books.lapsed),
        ("cancel", "    return {1, how, left, version}\n", "",
         "a repeated cancel is told how it ended"),
        ("cancel", "  shift(side, price, -left)\n", "",
         "a level loses what leaves"),
        ("cancel", "local member = sub(record, 1, 16) .. ':' .. id", "local member = '?'",
         "what was cancelled is not met"),
        ("replace", "if price == cost and whole <= tonumber(open) then", "if price == cost then",
         "who wants more goes to the end of the queue"),
        ("replace", "if price == cost and whole <= tonumber(open) then", "if false then",
         "who wants less keeps his place"),
        ("replace", "wanted - quantity + open", "tonumber(wanted)",
         "what was traded before counts"),
        ("replace", "    leave(old, found, ends, 'replaced', open, answered)\n", "",
         "what was replaced leaves"),
        ("replace", "ends, owner, answered = not found and 'not_open', parse(found or '')",
         "ends, owner, answered = not found and 'not_open', parse(found or '') owner = ''",
         "a replacement has the same owner"),
        ("replace", "    if ends ~= '0' then timed = ends end\n  else", "  else",
         "a replacement expires as the old one would have"),
        ("restore", "elseif there[3] ~= token then", "elseif false then",
         "of two that make a book anew one does"),
        ("tend", "remove(lapsed[k], record, 'expired')", "leave(lapsed[k], record, '1', 'expired', '0', '? ?')",
         "what expires is an event"),
        ("tend", "call('SET', metadata,", "local _ = (metadata and",
         "whoever looks at the metadata sees the best prices"),
    )
]  # fmt: skip
