"""What a user of an order book sees is the same on a cluster: the claims of tests/market, made here."""

# ruff: noqa: F401 - pytest collects what is imported
import pytest

from gridsync.testing.servers import server_kinds
from tests.market.conftest import book, grid, open_book, open_grid
from tests.market.test_book import (
    test_a_cancelled_order_is_gone_and_a_cancel_says_how_another_one_ended,
    test_a_repeat_gets_the_first_answer_though_the_order_is_open_filled_or_cancelled,
    test_a_replacement_keeps_its_turn_only_for_the_same_price_and_no_more,
    test_the_best_price_trades_first_and_at_one_price_who_came_first,
)
from tests.market.test_events import (
    plain,
    test_markets_that_share_a_store_of_several_partitions_do_not_meet,
    test_trades_are_consumed_by_a_group_and_counted_by_a_projection,
)

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)
