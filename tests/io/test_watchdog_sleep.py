"""The watchdog costs nothing where locks are taken and given back quickly."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gridsync._io.clock import monotonic
from gridsync._io.keeper import Keeper

if TYPE_CHECKING:
    from gridsync._io.wire.pool import Pool


class _NoRoute:
    """Fails a test in which anything is renewed."""

    def pool(self, keys: object) -> Pool:
        raise AssertionError(f"{keys} was renewed")

    def close(self) -> None:
        pass


class _Item:
    """Something to keep, which says when it was asked and has nothing to renew."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.deadline = due + 1
        self.asked = threading.Event()

    def request(self, now: float) -> None:
        assert now >= self.due

    def settle(self, reply: object, sent: float) -> bool:  # noqa: ARG002 - the protocol's
        assert reply is None
        self.asked.set()
        return False


def test_what_is_taken_back_in_time_wakes_the_watchdog_only_once() -> None:
    """Else each cycle of an uncontended lock pays for a thread switch, which is as dear as a command."""
    keeper = Keeper(_NoRoute, lambda _keys, _error: None)
    wakes = 0
    notify = keeper._condition.notify

    def counted() -> None:
        nonlocal wakes
        wakes += 1
        notify()

    keeper._condition.notify = counted  # type: ignore[assignment, method-assign]
    for _ in range(100):
        item = _Item(monotonic() + 60)
        keeper.keep(item)
        keeper.unkeep(item)
    assert wakes == 1
    keeper.close()


def test_an_item_that_is_due_earlier_is_asked_in_time() -> None:
    """A short lease taken while a long one sleeps must be renewed by its own clock."""
    keeper = Keeper(_NoRoute, lambda _keys, _error: None)
    late = _Item(monotonic() + 60)
    keeper.keep(late)
    items = [_Item(monotonic() + 0.01 * n) for n in range(5)]
    for item in items:
        keeper.keep(item)
    assert all(item.asked.wait(10) for item in items)
    assert not late.asked.is_set()
    keeper.close()


def test_an_item_kept_while_the_watchdog_looks_is_not_forgotten() -> None:
    """The item comes between the look at all items and the sleep: the moment in which a wake-up could be lost."""
    keeper = Keeper(_NoRoute, lambda _keys, _error: None)
    first, second = _Item(monotonic()), _Item(monotonic() + 0.01)

    def settle(reply: object, sent: float) -> bool:  # noqa: ARG001 - the protocol's
        adder.start()
        first.asked.set()
        return False

    adder = threading.Thread(target=keeper.keep, args=(second,))
    first.settle = settle  # type: ignore[method-assign]
    keeper.keep(first)
    assert second.asked.wait(10)
    adder.join()
    keeper.close()
