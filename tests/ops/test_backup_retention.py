"""Which backups stay: claims about every set of times."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from gridsync.ops.retention import Keep, kept

DAY_US = 86_400_000_000
TIMES = st.lists(st.integers(0, 2000 * 24).map(lambda hour: hour * DAY_US // 24 + 1), unique=True, max_size=60)
KEEPS = st.builds(Keep, *[st.integers(0, 9)] * 4)


@given(TIMES, KEEPS)
def test_the_newest_always_stays_and_nothing_appears(times: list[int], keep: Keep):
    stay = kept(times, keep)
    assert stay <= set(times)
    assert not times or max(times) in stay


@given(TIMES, KEEPS)
def test_a_second_look_removes_nothing_more(times: list[int], keep: Keep):
    stay = kept(times, keep)
    assert kept(sorted(stay), keep) == stay


@given(TIMES, KEEPS)
def test_so_many_stay_as_are_asked_for_and_never_many_more(times: list[int], keep: Keep):
    stay = kept(times, keep)
    if keep.all:
        assert stay == set(times)
    else:
        assert min(len(times), keep.last) <= len(stay)
        assert len(stay) <= max(1, keep.last) + keep.daily + keep.weekly + keep.monthly


@given(TIMES, st.integers(1, 9))
def test_of_each_of_the_newest_days_the_last_one_stays(times: list[int], count: int):
    stay = kept(times, Keep(daily=count))
    days = sorted({time // DAY_US for time in times}, reverse=True)[:count]
    assert stay == {max(time for time in times if time // DAY_US == day) for day in days}


@given(TIMES)
def test_nothing_goes_where_nothing_was_said(times: list[int]):
    assert kept(times, Keep()) == set(times)


def test_weeks_are_those_of_the_calendar():
    sunday, monday = (int(datetime(2026, 11, day, 12, tzinfo=UTC).timestamp() * 1e6) for day in (22, 23))
    assert kept([sunday, monday], Keep(weekly=2)) == {sunday, monday}
    assert kept([sunday - DAY_US, sunday, monday], Keep(weekly=2)) == {sunday, monday}
