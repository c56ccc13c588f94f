"""What is kept of what was read, and what an answer proves: decisions without a server."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, PrivateAttr

from gridsync._io import keys
from gridsync._io.copies import APART, EVICTIONS, MISSING, OVERHEAD_BYTES, Copies
from gridsync._io.frozen import is_frozen
from gridsync._io.links import Line, Link, Refused
from gridsync._io.wire.faults import Fault, ReplyError


class Linked:
    """One server, with a link that the test breaks."""

    def __init__(self) -> None:
        self.now = 100.0
        self.turns = 0
        self.there: Link | None = Link(self.now)

    def link(self, name: str, watcher: object) -> Link | None:  # noqa: ARG002 - there is one
        return self.there


@pytest.fixture
def linked() -> Linked:
    return Linked()


def new(linked: Linked, **options: Any) -> Copies:  # noqa: ANN401 - those of `Copies`
    def key_of(name: bytes) -> str | None:
        return keys.cache_key_in(b"{p:", name)

    chosen: dict[str, Any] = {"staleness": 5.0, "entries_max": 1000, "bytes_max": 1 << 30, **options}
    return Copies(linked, lambda: linked.now, key_of, bytes.decode, name="n", prefixes=(b"{p:", b"{t:"), **chosen)


@pytest.fixture
def copies(linked: Linked) -> Copies:
    return new(linked)


def keep(copies: Copies, key: str, entry: str, value: object = 1, *, fresh_s: float = 60.0) -> None:
    """Read *key* from beginning to end."""
    copies.finish(copies.begin(key, f"{{p:{key}}}"), key, entry, fresh_s, (value, b"1"))


def test_of_two_reads_that_differ_neither_is_kept(copies: Copies):
    """One of them is older, and a reader may have been given the other one."""
    for first, second in ((0, 1), (1, 0)):
        reads = [copies.begin("k", "{p:k}"), copies.begin("k", "{p:k}")]
        copies.finish(reads[first], "k", "new", 60, (2, b""))
        assert copies.get("k") == 2
        copies.finish(reads[second], "k", "old", 60, (1, b""))
        assert copies.get("k") is MISSING
    keep(copies, "k", "newer", 3)
    assert copies.get("k") == 3


def test_a_read_that_began_before_an_invalidation_ends_what_a_later_one_kept_if_they_differ(copies: Copies):
    slow = copies.begin("k", "{p:k}")
    copies.told([b"{p:k}"])
    keep(copies, "k", "second", 2)
    copies.finish(slow, "k", "third", 60, (3, b""))
    assert copies.get("k") is MISSING


def test_reads_that_agree_are_kept_once(copies: Copies):
    reads = [copies.begin("k", "{p:k}") for _ in range(5)]
    for read in reads:
        copies.finish(read, "k", "one", 60, (1, b""))
    assert copies.get("k") == 1
    assert len(copies) == 1
    assert copies.size == OVERHEAD_BYTES + 1


def test_what_was_told_of_during_a_read_is_not_kept(copies: Copies):
    for names in ([b"{p:k}"], None):
        read = copies.begin("k", "{p:k}")
        copies.told(names)
        copies.finish(read, "k", "one", 60, (1, b""))
        assert copies.get("k") is MISSING
    read = copies.begin("k", "{p:k}")
    copies.told([b"{p:k}:load", b"{p:other}", b"{t:t}", b"\xff", b"{p:\xff}"])
    copies.finish(read, "k", "one", 60, (1, b""))
    assert copies.get("k") == 1


def test_a_tag_takes_along_what_was_read_with_it_and_what_is_being_read(copies: Copies):
    def read(key: str) -> Any:  # noqa: ANN401
        begun = copies.begin(key, f"{{p:{key}}}")
        assert begun is not None
        copies.mark_tags(begun, ["{t:a}", "{t:b}"])
        return begun

    for key in "xyz":
        copies.finish(read(key), key, "one", 60, (1, b""))
    under_way = read("w")
    keep(copies, "free", "one")
    copies.told([b"{t:b}"])
    copies.finish(under_way, "w", "one", 60, (1, b""))
    assert [copies.get(key) for key in "xyzw"] == [MISSING] * 4
    assert copies.get("free") == 1
    assert not copies._tagged


def test_what_a_failed_read_would_have_brought_is_of_no_account(copies: Copies):
    keep(copies, "k", "one")
    copies.finish(copies.begin("k", "{p:k}"), "k", None)
    assert copies.get("k") == 1
    copies.finish(copies.begin("k", "{p:k}"), "k", "")
    assert copies.get("k") is MISSING
    assert not copies._marks


def test_a_copy_is_served_for_its_time_and_while_its_link_vouches_for_it(linked: Linked, copies: Copies):
    link = linked.there
    assert link is not None
    keep(copies, "short", "one", fresh_s=2)
    keep(copies, "long", "one", fresh_s=60)
    linked.now += 2
    assert copies.get("short") is MISSING
    assert copies.get("long") == 1
    linked.now += 3
    assert copies.get("long") is MISSING, "nothing was proved for 5 s"
    link.prove(linked.now)
    assert copies.get("long") == 1
    link.lose()
    assert copies.get("long") is MISSING
    linked.there = Link(linked.now)
    assert copies.get("long") is MISSING, "what was told meanwhile was told to nobody"
    assert copies.last("long", 10) == 1
    linked.now += 11
    assert copies.last("long", 10) is MISSING


def test_nothing_is_kept_without_a_link_nor_of_a_key_that_was_elsewhere(linked: Linked, copies: Copies):
    there, linked.there = linked.there, None
    keep(copies, "k", "one")
    assert copies.get("k") is MISSING
    linked.there = there
    read = copies.begin("k", "{p:k}")
    linked.turns += 1
    copies.finish(read, "k", "one", 60, (1, b""))
    assert copies.get("k") is MISSING


def test_a_hundred_thousand_values_stay_within_the_bounds(linked: Linked):
    few = new(linked, entries_max=1000)
    small = new(linked, bytes_max=100_000)
    for number in range(100_000):
        keep(few, str(number), "one")
        keep(small, str(number), "one")
        few.get("7")
    assert len(few) == 1000
    assert few.figures[EVICTIONS] == 99_000
    assert few.get("7") == 1, "what is used stays"
    assert 99_000 < small.size <= 100_000


def test_a_value_that_is_larger_than_the_bound_pushes_nothing_out(linked: Linked):
    small = new(linked, bytes_max=2 * OVERHEAD_BYTES)
    keep(small, "k", "one")
    small.finish(small.begin("big", "{p:big}"), "big", "one", 60, (1, b"x" * OVERHEAD_BYTES * 2))
    assert small.get("k") == 1
    assert small.get("big") is MISSING


def test_what_must_not_be_shared_is_made_anew_for_each_reader(copies: Copies):
    copies.finish(copies.begin("k", "{p:k}"), "k", "one", 60, (APART, b"text"))
    assert copies.get("k") == "text"
    assert copies.last("k", 1) == "text"


@pytest.mark.parametrize("key", ["k", "a:b", "{x}", "100%", "%7B", "ü", "%253A"])
def test_the_key_of_a_value_is_found_in_its_name(key: str):
    name = keys.cache("ns", "a:b%", key).encode()
    prefix = keys.cache_prefixes("ns", "a:b%")[0].encode()
    assert keys.cache_key_in(prefix, name) == key
    assert keys.cache_key_in(prefix, name + b":load") is None
    assert keys.cache_key_in(prefix, keys.cache("ns", "a", key).encode()) is None


class Frozen(BaseModel):
    """One that nobody can change, if its part cannot be."""

    model_config = ConfigDict(frozen=True)
    parts: Any


class Hiding(Frozen):
    """One with a part that is not seen."""

    _hidden: list[int] = PrivateAttr(default=[])


class Open(BaseModel):
    """One that anybody can change."""

    part: int = 1


class Side(enum.Enum):
    """One of a kind."""

    BUY = 1


@dataclass(frozen=True)
class Fixed:
    """As `Frozen`."""

    part: Any


@dataclass
class Loose:
    """As `Open`."""

    part: Any


class Text(str):
    """A string that somebody can write on."""

    __slots__ = ("more",)


@pytest.mark.parametrize(
    ("value", "shared"),
    [
        *(
            (each, True)
            for each in (
                None,
                True,
                1,
                1.5,
                "x",
                b"x",
                Decimal(1),
                UUID(int=1),
                datetime(2026, 1, 5, tzinfo=UTC),
                Side.BUY,
            )
        ),
        ((1, ("x", frozenset({2}))), True),
        (Fixed((1, Fixed("x"))), True),
        (Frozen(parts=(1, Fixed(2))), True),
        ([1], False),
        ({"a": 1}, False),
        ((1, [2]), False),
        (Fixed([1]), False),
        (Loose(1), False),
        (Open(), False),
        (Frozen(parts=[1]), False),
        (Hiding(parts=1), False),
        (Text("x"), False),
    ],
    ids=repr,
)
def test_only_what_nobody_can_change_is_shared(value: object, shared: bool):  # noqa: FBT001 - of the table
    assert is_frozen(value) is shared


class Told:
    """A watcher."""

    prefixes = (b"{p:", b"{t:")
    staleness = 4.0

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def told(self, names: Any) -> None:  # noqa: ANN401
        self.heard.append(names)


def test_an_answer_proves_what_was_before_the_question_before():
    """The server answers a question before it tells what else it did in that moment."""
    watcher = Told()
    line = Line(lambda: [watcher], now=0.0, timeout=3.0)
    assert line.requests(0.0) == [("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "{p:", "PREFIX", "{t:"), ("PING",)]
    line.answered(b"OK")
    link = line.links[watcher]
    line.answered(b"PONG")
    assert link.proved == 0.0
    assert line.requests(0.5) == []
    line.witness = "{p:k}"
    assert line.requests(1.0) == [("PTTL", "{p:k}")]
    line.answered(7)
    assert link.proved == 0.0
    line.requests(2.0)
    line.answered(7)
    assert link.proved == 1.0
    line.told([b"{p:k}"])
    line.told(None)
    line.told([b"{q:k}"])
    assert watcher.heard == [[b"{p:k}"], None]
    line.lose()
    line.requests(3.0)
    line.answered(7)
    assert link.proved == float("-inf")
    assert link.known == 1.0


def test_a_server_that_owes_an_answer_or_refuses_is_not_believed():
    line = Line(lambda: [Told()], now=0.0, timeout=3.0)
    line.requests(0.0)
    assert 0 < line.rest(0.0) <= 1.0
    with pytest.raises(Fault, match="silent for 3 s"):
        line.requests(3.0)
    with pytest.raises(Refused):
        line.answered(ReplyError("NOPERM this user has no permissions to run the 'client|tracking' command"))
    with pytest.raises(ReplyError):
        line.answered(ReplyError("MOVED 7 127.0.0.1:7001"))
