"""The market's arithmetic: profiles become orders, orders become trades, nothing appears or vanishes."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridsync.cli.demo.auction import clear
from gridsync.cli.demo.events import OrderPlaced
from gridsync.cli.demo.profiles import MIX, SPARE, Prosumer, Row, days, neighbourhood, order, table


@st.composite
def books(draw: st.DrawFn) -> list[OrderPlaced]:
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from(["buy", "sell"]), st.integers(1, 5000), st.integers(1, 400_000)), max_size=40
        )
    )
    return [
        OrderPlaced(order=f"p{n:02}@0000", prosumer=f"p{n:02}", quarter=0, side=side, wh=wh, limit=limit)
        for n, (side, wh, limit) in enumerate(rows)
    ]


@given(books())
def test_energy_and_money_are_conserved(book: list[OrderPlaced]):
    clearing = clear(book)
    assert sum(fill.wh for fill in clearing.fills) == 0
    assert sum(fill.nano_eur for fill in clearing.fills) == 0
    assert sum(fill.wh for fill in clearing.fills if fill.wh > 0) == clearing.wh


@given(books())
def test_nobody_trades_more_or_worse_than_ordered(book: list[OrderPlaced]):
    clearing, placed = clear(book), {each.order: each for each in book}
    assert sorted(fill.order for fill in clearing.fills) == sorted(placed)
    for fill in clearing.fills:
        wanted = placed[fill.order]
        if wanted.side == "buy":
            assert 0 <= fill.wh <= wanted.wh
            assert fill.wh == 0 or clearing.price <= wanted.limit
        else:
            assert 0 >= fill.wh >= -wanted.wh
            assert fill.wh == 0 or clearing.price >= wanted.limit
        assert fill.nano_eur == -fill.wh * clearing.price


@given(books())
def test_no_deal_is_left_undone(book: list[OrderPlaced]):
    """Whoever still wants to buy offers less than whoever still wants to sell asks."""
    filled = {fill.order: abs(fill.wh) for fill in clear(book).fills}
    left = [each for each in book if filled[each.order] < each.wh]
    best_bid = max((each.limit for each in left if each.side == "buy"), default=0)
    best_ask = min((each.limit for each in left if each.side == "sell"), default=10**9)
    assert best_bid < best_ask


@given(books(), st.integers())
def test_the_order_of_arrival_changes_nothing(book: list[OrderPlaced], seed: int):
    """Else two workers with the same book could settle differently."""
    shuffled = list(book)
    Random(seed).shuffle(shuffled)
    assert clear(shuffled) == clear(book)


def test_the_table_has_every_quarter_of_every_kind_of_day():
    assert len(table()) == 12 * 3 * 96
    assert set(table()[6, "workday", 52].loads) == set(MIX)
    assert table()[6, "workday", 52].solar_w_m2 > 500 > table()[6, "workday", 0].solar_w_m2 == 0


def test_a_day_of_a_profile_adds_up_to_its_share_of_the_year():
    day = sum(table()[6, "workday", quarter].loads["h25"] for quarter in range(96))
    assert day == pytest.approx(1_000_000 / 365, rel=0.2)


@pytest.mark.parametrize(
    ("profile", "panel_m2", "expected"),
    [
        ("h25", 0, 30),  # 30 kWh of 1,000,000 are 30 Wh of 1000
        ("g25", 1, 50 - 40),  # 800 W on one square metre at 20 % for a quarter of an hour
        ("g25", 10, 50 - 400),
        ("p25", 1, 6 - (40 - 24)),  # of its 40 Wh it uses what it does not take: 30 - 6
        ("s25", 0.1, 2),  # used up at home
    ],
)
def test_what_is_lacking_or_left_is_load_minus_sunshine(profile: str, panel_m2: float, expected: int):
    row = Row({"h25": 30.0, "g25": 50.0, "l25": 30.0, "p25": 6.0, "s25": 2.0}, 800.0)
    prosumer = Prosumer("x", profile, 1000, panel_m2, 0.2, (1, 2), (3, 4))
    assert prosumer.net_wh(row) == expected


def test_a_seed_is_a_neighbourhood_and_all_its_orders():
    """Any process may compute its part alone."""
    assert neighbourhood(7) == neighbourhood(7) != neighbourhood(8)
    moments = days(7, 20)
    assert moments == days(7, 20)
    placed = [order(prosumer, moment, 7) for moment in moments for prosumer in neighbourhood(7)]
    assert placed == [order(prosumer, moment, 7) for moment in moments for prosumer in neighbourhood(7)]
    assert {each.side for each in placed if each} == {"buy", "sell"}


@given(st.integers(0, 1000), st.integers(1, 400))
def test_days_follow_each_other_and_stay_in_the_table(seed: int, count: int):
    moments = days(seed, count)
    assert [moment.number for moment in moments] == list(range(count + SPARE))
    assert all((moment.month, moment.day, moment.quarter) in table() for moment in moments)
    assert len({moment.month for moment in moments}) == 1


def test_orders_keep_within_their_prosumer_s_own_limits():
    for prosumer in neighbourhood(3):
        for moment in days(3, 10):
            placed = order(prosumer, moment, 3)
            if placed:
                low, high = prosumer.bid if placed.side == "buy" else prosumer.ask
                assert low <= placed.limit <= high
