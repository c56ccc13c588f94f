"""What the seed decides about the network: fates and delays."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from gridsync.testing.faults import Faults


class Weather:
    """Draws faults and delays from the seed."""

    def __init__(self, faults: Faults, random: random.Random, clock: Callable[[], int]) -> None:
        """Take the chances."""
        self.faults = faults
        self._random = random
        self._clock = clock
        self.script: deque[str] = deque()
        """Fates of the next requests, in order, before chance decides again."""

    def fate(self) -> str:
        """Draw what happens to one request."""
        if self.script:
            return self.script.popleft()
        if self.calm():
            return "fine"
        draw = self._random.random()
        for name in ("request_lost", "reply_lost", "late", "slow"):
            chance: float = getattr(self.faults, name)
            if draw < chance:
                return name
            draw -= chance
        return "fine"

    def chance(self, probability: float) -> bool:
        """Draw yes or no."""
        return probability > 0 and not self.calm() and self._random.random() < probability

    def heads(self) -> bool:
        """Toss a coin."""
        return self._random.random() < 0.5  # noqa: PLR2004 - even odds

    def calm(self) -> bool:
        """Tell whether the bad weather is over."""
        return self._clock() >= self.faults.calm_after_s * 1e6

    def latency_us(self) -> int:
        """Draw how long one way takes."""
        low, high = self.faults.latency_s
        return int(self._random.uniform(low, high) * 1e6) + 1

    def up_to_us(self, seconds: float) -> int:
        """Draw a time of at most *seconds*."""
        return int(self._random.uniform(0, seconds) * 1e6) + 1
