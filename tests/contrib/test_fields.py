from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridsync.contrib._fields import Service, limit_item, policy_item, read_limits, read_retry_after
from tests.contrib.sfv import Malformed, parse_list

NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=64)
LIMITS = st.integers(1, 10**14)
SECONDS = st.floats(0, 31_622_400, allow_nan=False)
KEYS = st.none() | st.binary(max_size=32)


def test_the_examples_of_the_draft_are_written_as_there():
    items = [policy_item("burst", 100, 60), policy_item("daily", 1000, 86_400)]
    assert ", ".join(items) == '"burst";q=100;w=60, "daily";q=1000;w=86400'
    assert limit_item("daily", 50, 30) == '"daily";r=50;t=30'


@given(NAMES, LIMITS, SECONDS, KEYS)
def test_what_is_written_is_read_by_others(name: str, number: int, seconds: float, partition: bytes | None):
    (policy,), (left,) = (
        parse_list(policy_item(name, number, seconds, partition)),
        parse_list(limit_item(name, number, seconds, partition)),
    )
    assert policy[0] == left[0] == name
    assert policy[1]["q"] == left[1]["r"] == number
    assert policy[1].get("pk") == left[1].get("pk") == partition
    assert left[1]["t"] in (int(seconds), int(seconds) + 1)
    assert left[1]["t"] >= seconds, "never too early"
    assert policy[1].get("w") == (int(seconds) if seconds == int(seconds) >= 1 else None)


@given(st.lists(st.tuples(NAMES, LIMITS, SECONDS, KEYS), max_size=4))
def test_what_we_write_we_read(items: list[tuple[str, int, float, bytes | None]]):
    whole = ", ".join(limit_item(*item) for item in items)
    assert [service.remaining for service in read_limits(whole)] == [item[1] for item in items]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"default";r=50;t=30', [Service(50, 30)]),
        ('"default"; r=50; t=30', [Service(50, 30)]),
        ("default;r=0;t=7", [Service(0, 7)]),
        ('"a";r=1 ,\t"b";r=0;t=2;pk=:aGk=:', [Service(1, None), Service(0, 2)]),
        ('"a;r=5,\\"";x;y=?0;z=1.5;w="r=9";r=2', [Service(2, None)]),
        ('"a";r=1;r=2', [Service(2, None)]),
        ('"a";t=4', []),
        ("limit=100, remaining=0, reset=9", []),
        ('"a";r=0;t=1,', []),
        ('"a";r=0;t=1 "b"', []),
        ('"a;r=0;t=1', []),
        ('"ä";r=0;t=1', []),
        ('"a";r=1234567890123456', []),
        ('"a";r=0;t=5' + " " * 10_000, []),
        ("", []),
    ],
)
def test_a_field_is_read_whole_or_ignored(value: str, expected: list[Service]):
    assert read_limits(value) == expected


@given(st.text(max_size=60) | st.from_regex(r'"a";r=[0-9]{1,3}(;t=[0-9])?[ -~]{0,5}', fullmatch=True))
def test_reading_never_fails_and_never_reads_what_a_strict_parser_refuses(value: str):
    found = read_limits(value)
    try:
        expected: Any = parse_list(value)
    except (Malformed, ValueError, KeyError):
        return
    assert len(found) == sum("r" in parameters for _, parameters in expected)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("Mon, 23 Nov 2026 10:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 10:00:30", 30),
        ("Mon, 23 Nov 2026 09:00:00 GMT", 0),
        ("9" * 30, 999_999_999_999_999),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Mon, 99 Nov 2026 10:00:30 GMT", None),
        ("", None),
    ],
)
def test_when_to_come_again_is_read_by_the_clock_of_the_server(value: str, seconds: float | None):
    assert read_retry_after(value, "Mon, 23 Nov 2026 10:00:00 GMT", 0.0) == seconds


def test_without_a_date_of_its_own_the_local_clock_has_to_do():
    assert read_retry_after("Thu, 01 Jan 1970 00:00:30 GMT", None, 10.0) == 20
    assert read_retry_after("Thu, 01 Jan 1970 00:00:30 GMT", "yesterday", 10.0) == 20
