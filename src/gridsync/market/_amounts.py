"""Prices and quantities: `Decimal` for people, whole numbers of ticks and lots for the book.

What is no multiple of the tick, or the lot, is refused; nothing is ever rounded, and a float is refused, for it is not
the number that was meant.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Clamped, Context, Decimal, DecimalException, Inexact, InvalidOperation
from typing import Final

from gridsync._units import shown
from gridsync.errors import UsageError

Amount = Decimal | int | str
"""What a price or a quantity may be given as."""

UNITS_MAX: Final = 2**53 - 1
"""The most ticks, or lots: the scores of a sorted set and the numbers of Lua are exact up to here."""
_EXACT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, traps=[InvalidOperation, Inexact])
_SHOWN: Final = 60


def decimal(value: Amount, what: str) -> Decimal:
    """Return *value* as a finite decimal.

    Raises:
        UsageError: It is a float, or no number.
    """
    if type(value) is Decimal:
        found = value
    elif isinstance(value, float | bool) or not isinstance(value, Decimal | int | str):
        raise UsageError(f"{what} must be a Decimal, an int or a string, not {shown(value)}: a float is not exact")
    else:
        try:
            found = Decimal(value)
        except (DecimalException, ValueError):
            raise UsageError(f"{what} must be a number, not {shown(value)}") from None
    if not found.is_finite():
        raise UsageError(f"{what} must be finite, not {found}")
    return found


class Unit:
    """What prices, or quantities, of a market are multiples of."""

    __slots__ = ("_what", "least", "size", "text")

    def __init__(self, size: Amount, what: str, *, signed: bool) -> None:
        """Take the size of one tick, or lot.

        Raises:
            UsageError: It is not a positive number, or one with too many digits.
        """
        self.size: Decimal = decimal(size, f"the {what} step")
        if self.size <= 0:
            raise UsageError(f"the {what} step must be positive, not {self.size!s:.60}")
        # What a book is begun with stands in its keys, so that it is written out as everybody writes it.
        digits = len(self.size.as_tuple().digits) + abs(int(self.size.as_tuple().exponent))
        if digits > _EXACT.prec:
            raise UsageError(f"the {what} step must have {_EXACT.prec} digits at most, not {digits}: {self.size!s:.60}")
        self.text: str = format(self.size.normalize(_EXACT), "f")
        self.least = -UNITS_MAX if signed else 1
        self._what = what

    def whole(self, value: Amount) -> int:
        """Return how many steps *value* is.

        Raises:
            UsageError: It is not a whole number of them, or too many.
        """
        # An int may have more digits than Python writes out; a decimal always writes itself.
        value = number = decimal(value, self._what)
        try:
            steps, rest = _EXACT.divmod(number, self.size)
        except (InvalidOperation, Inexact, Clamped):
            raise UsageError(f"{self._what}={value!s:.60} is out of range: at most {UNITS_MAX} steps") from None
        if rest:
            raise UsageError(f"{self._what}={value!s:.60} is no multiple of {self.text}")
        whole = int(steps)
        if not self.least <= whole <= UNITS_MAX:
            raise UsageError(
                f"{self._what}={value!s:.60} is out of range: {self.least} to {UNITS_MAX} steps of {self.text}"
            )
        return whole

    def value(self, steps: int) -> Decimal:
        """Return so many steps as a decimal."""
        return _EXACT.multiply(self.size, Decimal(steps))
