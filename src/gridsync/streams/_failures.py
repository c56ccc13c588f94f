"""Failures: what becomes of an event whose handler raised, and what is told about it.

Pure decisions.  How often an event was begun is counted by the server (the delivery count of the pending list), so a
process that dies in the middle counts as an attempt, and a restart forgets nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeAlias

from gridsync._units import seconds
from gridsync.errors import UsageError
from gridsync.streams._model import E

if TYPE_CHECKING:
    from gridsync.streams._records import Recorded

KIND_MAX: Final = 200
TEXT_MAX: Final = 1000
"""Characters of an error's class and text that are kept."""
_FACTOR_MAX: Final = 100.0
_ATTEMPTS_MAX: Final = 1_000_000

Decided = Literal["retry", "park", "skip", "stop", "dead", "stolen", "committed", "diverged"]


class Verdict(Enum):
    """What becomes of an event that is not tried again."""

    DEAD = "dead"
    """It becomes a dead letter at once."""
    SKIP = "skip"
    """It counts as done; only `Consumed.skipped` and the metrics tell."""
    STOP = "stop"
    """The consumer ends with the error, and the event stays pending."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try an event again later, this consumer or another one of its group.

    Each pause is drawn evenly between nothing and its longest (full jitter), which is *first_s* after the first attempt
    and grows by *factor* up to *max_s*.  It is counted on the server's clock.

    Raises:
        UsageError: A number that cannot be used.
    """

    max_attempts: int | None = None
    """After so many attempts the event becomes a dead letter; ``None`` never gives up.  A process that died while it
    handled the event counts as an attempt."""
    first_s: float = 1.0
    """Seconds before the second attempt at most."""
    factor: float = 2.0
    """By how much the longest pause grows with each attempt, 1 to 100."""
    max_s: float = 300.0
    """Seconds that no pause exceeds."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        _attempts(self.max_attempts, "max_attempts")
        seconds(self.first_s, "first_s", least=0.001)
        seconds(self.max_s, "max_s", least=0.001)
        if not isinstance(self.factor, int | float) or not 1 <= self.factor <= _FACTOR_MAX:
            raise UsageError(f"factor={self.factor!r} must be a number from 1 to {_FACTOR_MAX:g}")

    def pause_ms(self, attempts: int, chance: float) -> int:
        """Return how long to wait after so many attempts; *chance* is drawn evenly from 0 to 1."""
        # A hundred steps reach every max_s, and no power of the factor overflows.
        longest = min(self.max_s, self.first_s * self.factor ** min(attempts - 1, 100))
        return round(longest * chance * 1000)


@dataclass(frozen=True, slots=True)
class Park(Retry):
    """Like `Retry`, and until this event is done, later events of the same stream wait behind it."""


Policy: TypeAlias = "Retry | Verdict | Mapping[type[Exception], Retry | Verdict]"


class Rules:
    """A policy, checked."""

    def __init__(self, policy: Policy, max_deliveries: int | None) -> None:
        """Take one answer for all errors, or one per class of errors.

        Raises:
            UsageError: Something that is no policy.
        """
        rules: Mapping[type[Exception], Retry | Verdict]
        rules = policy if isinstance(policy, Mapping) else {Exception: policy}
        for kind, rule in rules.items():
            if not isinstance(kind, type) or not issubclass(kind, Exception):
                raise UsageError(f"policy: {kind!r:.100} is no class of exceptions")
            if not isinstance(rule, Retry | Verdict):
                raise UsageError(f"policy: {rule!r:.100} is neither Retry(…), Park(…), DEAD, SKIP nor STOP")
        self._rules: dict[type, Retry | Verdict] = {Exception: Retry(), **rules}
        self.parks = any(isinstance(rule, Park) for rule in rules.values())
        """Whether streams may wait behind a failed event, so that every event must be asked for before it begins."""
        # The server counts attempts, whatever the error: less than the longest would give up what another rule keeps.
        bounds = [rule.max_attempts for rule in self._rules.values() if isinstance(rule, Retry)]
        known = [bound for bound in bounds if bound is not None]
        default = max(known) if isinstance(self._rules[Exception], Retry) and len(known) == len(bounds) else None
        self.max_deliveries = default if max_deliveries is None else _attempts(max_deliveries, "max_deliveries")

    def judge(self, error: Exception, attempts: int) -> Retry | Verdict:
        """Return what becomes of an event that failed with *error* in its attempt number *attempts*."""
        rule = next(self._rules[kind] for kind in type(error).__mro__ if kind in self._rules)
        if isinstance(rule, Retry) and rule.max_attempts is not None and attempts >= rule.max_attempts:
            return Verdict.DEAD
        return rule


@dataclass(frozen=True, slots=True)
class Failure(Generic[E]):
    """A delivery that was not handled, and what was decided about it."""

    error: Exception
    """What the handler raised; `UnknownEventType` or `InvalidEvent` if the event could not be read, `Diverged` if it is
    gone."""
    position: int
    """The event's position in the store, or in its partition."""
    recorded: Recorded[E] | None
    """The event; ``None`` if it could not be read, or is gone."""
    raw: dict[bytes, bytes]
    """The stored fields: ``i`` id, ``s`` stream, ``v`` version, ``t`` type, ``d`` payload, ``w`` time."""
    attempts: int
    """How often it was begun, with this time."""
    decided: Decided
    """``retry`` and ``park``: it comes again; ``dead``: it is a dead letter now; ``skip``: it counts as done; ``stop``:
    the consumer ends; ``stolen``: another consumer had taken it over, and nothing was changed; ``committed``: it was
    done when the handler raised, for that had committed it; ``diverged``: it was taken before, and
    a failover or a restore has lost it: the consumer goes on with what is there now."""
    retry_in: float | None = None
    """Seconds until it comes again; ``None`` if it does not, or if the server could not be told: then after
    `claim_idle`."""
    partition: int = 0
    """The partition of the store that its stream is in, from 0."""


def described(error: BaseException) -> tuple[str, str]:
    """Return class and text of *error*, as they are kept: bounded, and valid Unicode."""
    cls = type(error)
    kind = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - whatever a stranger's __str__ does, its event must not be stuck
        text = "(its text cannot be told)"
    return _clean(kind[:KIND_MAX]), _clean(text[:TEXT_MAX])


def _clean(text: str) -> str:
    return text.encode(errors="replace").decode()


def _attempts(value: int | None, what: str) -> int | None:
    if value is not None and (type(value) is not int or not 1 <= value <= _ATTEMPTS_MAX):
        raise UsageError(f"{what}={value!r} must be a whole number from 1 to {_ATTEMPTS_MAX}, or None")
    return value
