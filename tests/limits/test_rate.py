"""Rates as users write them."""

from __future__ import annotations

import copy
from datetime import timedelta

import pytest

from gridsync.errors import InvalidLimit
from gridsync.limits import GCRA, ApproxWindow, FixedWindow, Rate


@pytest.mark.parametrize(
    ("text", "limit", "window_us"),
    [
        ("100/second", 100, 1_000_000),
        ("10/s", 10, 1_000_000),
        ("5000/minute", 5_000, 60_000_000),
        ("5_000/min", 5_000, 60_000_000),
        ("10 per 30 seconds", 10, 30_000_000),
        ("10 / 1.5 sec", 10, 1_500_000),
        ("7 per hour", 7, 3_600_000_000),
        ("7/h", 7, 3_600_000_000),
        (" 1 Per Day ", 1, 86_400_000_000),
        ("3/2 weeks", 3, 1_209_600_000_000),
        ("3/2hrs", 3, 7_200_000_000),
        ("3 per 90 secs", 3, 90_000_000),
        ("3/mins", 3, 60_000_000),
        ("3 per 20ms", 3, 20_000),
        ("1/366 days", 1, 31_622_400_000_000),
    ],
)
def test_a_rate_can_be_read_and_written_back(text: str, limit: int, window_us: int) -> None:
    rate = Rate.parse(text)
    assert (rate.limit, rate.window_us) == (limit, window_us)
    assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize(
    "text",
    [
        *("", "100", "100/", "/second", "100/fortnight", "ten/second", "-1/s", "1.5/s", "10 burst 20/s"),
        *("1" * 5000 + "/s", "10//s", "10/s/s", "10 per -5 s", "10\uff10/s", None, 100, b"10/s"),
    ],
)
def test_what_cannot_be_read_says_what_can(text: object) -> None:
    with pytest.raises(InvalidLimit, match=r"write '100/second'"):
        Rate.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0/s", "1 to 10"),
        ("100000000000001/s", "1 to 10"),
        ("1 per 0 s", "0.001"),
        ("1 per 0.5 ms", "0.001"),
        ("1 per 367 days", "366 days"),
        (f"1 per {'9' * 400} s", "366 days"),
    ],
)
def test_what_cannot_be_kept_says_why(text: str, why: str) -> None:
    with pytest.raises(InvalidLimit, match=why) as caught:
        Rate.parse(text)
    assert text in str(caught.value)


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "1", None])
def test_a_limit_is_a_positive_whole_number(limit: object) -> None:
    with pytest.raises(InvalidLimit, match="whole number"):
        Rate(limit, 1)


@pytest.mark.parametrize("per_s", [0, -1, True, float("nan"), float("inf"), "1", None])
def test_a_window_is_a_length_of_time(per_s: object) -> None:
    with pytest.raises(InvalidLimit, match="per_s must be a number of seconds"):
        Rate(1, per_s)


@pytest.mark.parametrize(
    "text", ["10/s, 100/minute", "10/s;100/minute", ["10/s", "100/minute"], ("10/s", "100/minute")]
)
def test_several_rules_in_one_argument_are_told_to_be_several_arguments(text: object) -> None:
    with pytest.raises(InvalidLimit, match="several rules are several arguments"):
        Rate.parse(text)


@pytest.mark.parametrize("rule", [Rate, GCRA, FixedWindow, ApproxWindow])
def test_a_window_may_be_a_timedelta_as_every_time_may(rule: type[Rate | GCRA | FixedWindow | ApproxWindow]) -> None:
    made = rule(3, timedelta(minutes=2))
    assert made == rule(3, 120)
    assert made.per_s == 120.0
    assert hash(made) == hash(copy.deepcopy(made))
    with pytest.raises(InvalidLimit, match="or a timedelta"):
        rule(3, timedelta(0))
