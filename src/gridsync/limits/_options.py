"""The options of a limiter, checked when it is made, or when a policy that will make it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._units import count, seconds
from gridsync.errors import UsageError
from gridsync.limits._fallback import POLICIES
from gridsync.limits._rules import Concurrency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._units import Seconds
    from gridsync.limits._fallback import OnError, Share
    from gridsync.limits._rules import Rule

BUDGET_MIN_S = 0.001
DENIALS_MAX = 1_000_000


def check_options(
    who: str, rules: Sequence[Rule], *, on_error: OnError, budget: Seconds | None, share: Share, deny_cache: int
) -> float | None:
    """Return *budget* in seconds; *who* is named in errors.

    Raises:
        UsageError: An option cannot be used.
    """
    if on_error not in POLICIES:
        raise UsageError(f"on_error of {who} must be one of {', '.join(POLICIES)}, not {on_error!r}")
    if share != "auto" and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1):
        raise UsageError(f"share of {who} must be 'auto', or above 0 and at most 1, not {share!r}")
    if share != 1 and on_error != "local":
        raise UsageError(f"share of {who} means something with on_error='local' only, not {on_error!r}")
    if deny_cache != 0 or isinstance(deny_cache, bool):
        count(deny_cache, f"deny_cache of {who}", DENIALS_MAX)
        if any(isinstance(rule, Concurrency) for rule in rules):
            raise UsageError(f"{who} ({rules[0]}) cannot remember denials: slots come back any time")
    return None if budget is None else seconds(budget, f"budget of {who}", least=BUDGET_MIN_S)
