"""An order book that is obviously right: a list of orders, searched from end to end for each single trade."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

SWEEP = 100


@dataclass
class Open:
    """An open order."""

    id: str
    side: str
    price: int
    quantity: int
    left: int
    place: int
    owner: str
    ends: int
    said: tuple[str, ...]


@dataclass
class Model:
    """One book, and what it has answered to whom."""

    most: int
    open: list[Open] = field(default_factory=list)
    events: list[tuple[object, ...]] = field(default_factory=list)
    asked: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Order → what was asked for; nothing if it was cancelled before it came."""
    answers: dict[str, str] = field(default_factory=dict)
    ended: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Order → how it ended, and what was open then."""
    traded: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def sequence(self) -> int:
        """How many events there are."""
        return len(self.events)

    def place(self, now: int, *said: str) -> list[object]:
        """Answer as `place.lua` does."""
        order_id, side, price, quantity, rule, protect, owner, life = said
        if (known := self._known(said, int(quantity))) is not None:
            return known
        before = copy.deepcopy(self)
        if self._sweep(now):
            return [6]
        ends = now + int(life) if life != "0" else 0
        new = Open(order_id, side, int(price or 0), int(quantity), int(quantity), 0, owner, ends, said)
        return self._enter(new, rule, protect, before, any_price=not price)

    def replace(self, now: int, *said: str) -> list[object]:
        """Answer as `replace.lua` does."""
        order_id, old_id, price, quantity, rule, protect = said
        if (known := self._known(said, int(quantity))) is not None:
            return known
        before = copy.deepcopy(self)
        if self._sweep(now):
            return [6]
        old = next((each for each in self.open if each.id == old_id), None)
        if old is None or int(quantity) <= old.quantity - old.left:
            why = "not_open" if old is None else "too_small"
            return self._answer(order_id, said, "rejected", 0, int(quantity), why, [], ended=True)
        left = int(quantity) - (old.quantity - old.left)
        new = Open(order_id, old.side, int(price), int(quantity), left, old.place, old.owner, old.ends, said)
        if int(price) == old.price and left <= old.left:
            self.events.append(("replaced", order_id, old_id, left, old.left - left))
            self.open[self.open.index(old)] = new
            self.ended[old_id] = ("replaced", old.left)
            return self._answer(order_id, said, "open", new.quantity - left, left, "", [])
        self._remove(old, "replaced")
        return self._enter(new, rule, protect, before)

    def cancel(self, now: int, order_id: str) -> list[object]:
        """Answer as `cancel.lua` does."""
        for each in self.open:
            if each.id == order_id:
                how = "expired" if each.ends and each.ends <= now else "cancelled"
                self._remove(each, how)
                return [0, how, str(each.left), self.sequence]
        if order_id not in self.ended:
            self.ended[order_id] = ("unknown", 0)
            self.asked[order_id] = ()
            return [1, "unknown", "0", self.sequence]
        how, left = self.ended[order_id]
        return [1, how, str(left), self.sequence]

    def tend(self, now: int) -> list[object]:
        """Answer as `tend.lua` does."""
        more = self._sweep(now)
        return [6 if more else 0, self.sequence]

    def best(self, side: str) -> list[Open]:
        """Return the orders of a side, who is first first."""
        sign = 1 if side == "s" else -1
        return sorted(
            (each for each in self.open if each.side == side), key=lambda each: (sign * each.price, each.place)
        )

    def _known(self, said: tuple[str, ...], quantity: int) -> list[object] | None:
        order_id = said[0]
        if order_id not in self.asked:
            return None
        if not self.asked[order_id]:
            return [1, f"rejected,0,{quantity},cancelled,{self.sequence}"]
        if self.asked[order_id] != said:
            return [2]
        return [1, self.answers[order_id]]

    def _sweep(self, now: int) -> bool:
        due = sorted((each.ends, each.id) for each in self.open if each.ends and each.ends <= now)[:SWEEP]
        for _, order_id in due:
            self._remove(next(each for each in self.open if each.id == order_id), "expired")
        return len(due) == SWEEP

    def _remove(self, order: Open, why: str) -> None:
        self.open.remove(order)
        self.events.append(("removed", order.id, order.left, why))
        self.ended[order.id] = (why, order.left)

    def _enter(self, new: Open, rule: str, protect: str, before: Model, *, any_price: bool = False) -> list[object]:
        wanted, earlier, traded, why, trades, met = new.left, new.quantity - new.left, 0, "", [], 0
        while new.left:
            other = next(iter(self.best("s" if new.side == "b" else "b")), None)
            if other is None:
                break
            crosses = any_price or (new.price >= other.price if new.side == "b" else new.price <= other.price)
            if not crosses:
                break
            if rule == "post" or met == self.most:
                why = "would_trade" if rule == "post" else "max_fills"
                break
            met += 1
            amount = min(new.left, other.left)
            if new.owner and new.owner == other.owner:
                if protect == "decrement":
                    new.left -= amount
                    new.quantity -= amount
                    other.quantity -= amount
                    if amount == other.left:
                        self._remove(other, "self_trade")
                    else:
                        other.left -= amount
                        self.events.append(("reduced", other.id, other.left, amount))
                    if not new.left:
                        why = "self_trade"
                    continue
                if protect != "cancel_newest":
                    self._remove(other, "self_trade")
                if protect != "cancel_oldest":
                    why = "self_trade"
                    break
                continue
            new.left -= amount
            other.left -= amount
            traded += amount
            self.events.append(("traded", new.id, other.id, other.price, amount, other.left))
            self.traded.append((new.id, other.id, amount))
            trades.append(f"{other.id},{other.price},{amount},{self.sequence}")
            if not other.left:
                self.open.remove(other)
                self.ended[other.id] = ("filled", 0)
        if (rule == "post" and why) or (rule == "fok" and traded < wanted):
            self.__dict__.update(before.__dict__)
            why = why if why == "would_trade" else "cannot_fill"
            return self._answer(new.id, new.said, "rejected", 0, wanted, why, [], ended=True)
        filled = earlier + traded
        if why or not new.left or rule in ("ioc", "fok"):
            status = "filled" if not (why or new.left) else "cancelled"
            why = why or ("unfilled" if new.left else "")
            return self._answer(new.id, new.said, status, filled, new.left, why, trades, ended=True)
        self.events.append(("rested", new.side, new.id, new.price, new.left, filled, new.ends))
        new.place = self.sequence
        self.open.append(new)
        return self._answer(new.id, new.said, "open", filled, new.left, "", trades)

    def _answer(  # noqa: PLR0917 - the fields of an answer, in order
        self,
        order_id: str,
        said: tuple[str, ...],
        status: str,
        filled: int,
        left: int,
        why: str,
        trades: list[str],
        *,
        ended: bool = False,
    ) -> list[object]:
        text = ",".join([f"{status},{filled},{left},{why},{self.sequence}", *trades])
        self.asked[order_id], self.answers[order_id] = said, text
        if ended:
            self.ended[order_id] = (why or "filled", left)
        return [0, text]
