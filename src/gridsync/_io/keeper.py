"""The watchdog: one thread per IO that renews what is kept, in batches, on a connection of its own.

A thread, also under asyncio, so that a blocked event loop cannot starve it.  Invariant: an item is asked when it is
due and no request made for any item blocks past the earliest deadline of all, so that each item learns of its loss
in time even when the server is silent.  What would be lost within `QUICK_S` has a thread and a connection of its own,
from its first look on: else one such lease would leave all others no time for an answer.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from gridsync._io import telemetry
from gridsync._io.clock import monotonic
from gridsync._io.scripts import Script
from gridsync._io.wire.faults import ASKING, REDIRECTS, Fault, ReplyError
from gridsync.errors import GridsyncError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync._io import Keep
    from gridsync._io.route import Route
    from gridsync._io.scripts import Operation
    from gridsync._io.wire.pool import Pool

    Call = tuple[Operation, Sequence[str], Sequence[Any]]

_log = logging.getLogger("gridsync")
TIMEOUT_MAX_S = 1.0
TIMEOUT_MIN_S = 0.01
QUICK_S = 0.1
"""What would be lost so soon does not share its thread with what has more time."""
FIRST_S = 1.0
"""How long after the first item that is kept `Keeper.first` is due: no short program is held up by it."""
LATE_MAX_S = 5.0
"""How late the watchdog may be before it counts as stuck: several of its longest requests."""
ROUNDS_MAX = 3
"""How often a batch is sent after the slots that a cluster moves; what is still on its way then is due again soon."""


class Keeper:
    """Renews items until they end.  The thread starts with the first item and ends with `close`."""

    def __init__(
        self,
        routes: Callable[[], Route],
        failed: Callable[[Sequence[object], Exception], None],
        *,
        quick_s: float = QUICK_S,
    ) -> None:
        """Renew through what *routes* returns, and tell *failed* what went wrong with which keys.

        What would be lost within *quick_s* seconds gets a keeper of its own.
        """
        self._routes = routes
        self._route = routes()
        self._failed = failed
        self._quick_s = quick_s
        self.first: Keep | None = None
        """What is asked for once, beside the first item that is kept."""
        self.reset()

    def reset(self) -> None:
        """Forget everything: the child of a fork owns nothing of its parent's."""
        self._items: dict[int, Keep] = {}
        self._condition = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._quick: Keeper | None = None
        self._next = float("inf")
        self._closed = False

    def keep(self, item: Keep) -> None:
        """Renew *item* when it is due, until it ends or is taken back."""
        self._items[id(item)] = item
        # What comes later than the next look needs no waking: a wake-up costs as much as a command.
        if item.due < self._next:
            with self._condition:
                self._next = min(self._next, item.due)
                if self._thread is None and not self._closed:
                    if self.first is not None:
                        self.first.due = monotonic() + FIRST_S
                        self._items[id(self.first)] = self.first
                    self._thread = threading.Thread(target=self._run, name="gridsync-keeper", daemon=True)
                    self._thread.start()
                self._condition.notify()

    @property
    def kept(self) -> int:
        """How many items are kept now, `first` not among them."""
        quick = 0 if self._quick is None else self._quick.kept
        return len(self._items) - (id(self.first) in self._items) + quick

    @property
    def is_well(self) -> bool:
        """Whether it was not closed, and is not late by more than `LATE_MAX_S` for anything that it keeps."""
        due = min((item.due for item in list(self._items.values())), default=float("inf"))
        well = self._quick is None or self._quick.is_well
        return well and not self._closed and monotonic() - due <= LATE_MAX_S

    def unkeep(self, item: Keep) -> None:
        """Take *item* back; the thread still looks when it would have been due."""
        self._items.pop(id(item), None)
        if self._quick is not None:
            self._quick.unkeep(item)

    def stop(self) -> None:
        """Tell the thread to end, and do not wait for it; kept items are left to expire."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._quick is not None:
            self._quick.stop()

    def close(self) -> None:
        """Stop the thread and close its connection; kept items are left to expire."""
        self.stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(TIMEOUT_MAX_S + 1)
        self._route.close()
        if self._quick is not None:
            self._quick.close()

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._closed:
                    break
                if self._next <= monotonic():
                    # list() of a dict is one step of the interpreter, so `keep` needs no lock for its insertion.  First
                    # to "never", so that an item inserted too late for the list takes the lock and says when it is due.
                    self._next = float("inf")
                    self._next = min((item.due for item in list(self._items.values())), default=float("inf"))
                rest = self._next - monotonic()
                if rest > 0:
                    self._condition.wait(min(rest, threading.TIMEOUT_MAX))
                    continue
            try:
                self._turn()
            except Exception:  # noqa: BLE001 - a watchdog that dies loses every lease
                _log.exception("the watchdog stumbled; it goes on")
                for item in list(self._items.values()):
                    item.due = max(item.due, monotonic() + TIMEOUT_MIN_S)
        self._route.close()

    def _turn(self) -> None:
        now = monotonic()
        items: list[Keep] = []
        for item in list(self._items.values()):
            if now < item.deadline < now + self._quick_s:
                self._hurry(item)
            else:
                items.append(item)
        asked: list[tuple[Keep, Call]] = []
        for item in items:
            if item.due > now:
                continue
            try:
                call = item.request(now)
            except Exception:  # noqa: BLE001 - logged there
                self._stumbled(item)
                continue
            if call is None:
                self._settle(item, None, now)
            else:
                asked.append((item, call))
        if not asked:
            return
        earliest = min((item.deadline for item in items if item.deadline > now), default=float("inf"))
        until = now + min(TIMEOUT_MAX_S, max(TIMEOUT_MIN_S, earliest - now))
        for (item, _), reply in zip(asked, self._exchange([call for _, call in asked], until), strict=True):
            self._settle(item, reply, now)

    def _hurry(self, item: Keep) -> None:
        with self._condition:
            if self._closed:
                return  # `stop` would not find the thread that this one starts
            if self._quick is None:
                self._quick = Keeper(self._routes, self._failed, quick_s=0.0)
        self._quick.keep(item)
        if self._items.pop(id(item), None) is None:
            self._quick.unkeep(item)  # it was taken back meanwhile

    def _settle(self, item: Keep, reply: object, sent: float) -> None:
        try:
            goes_on = item.settle(reply, sent)
        except Exception:  # noqa: BLE001 - logged there
            self._stumbled(item)
            return
        if not goes_on:
            self._items.pop(id(item), None)

    def _stumbled(self, item: Keep) -> None:
        # One item's mistake must not cost the others their renewal, nor fill the log.
        _log.exception("the watchdog stumbled over %r; it looks again in %g s", item, TIMEOUT_MAX_S)
        item.due = monotonic() + TIMEOUT_MAX_S

    def _exchange(self, calls: list[Call], until: float) -> list[object]:
        replies: list[object] = [None] * len(calls)
        asked = list(range(len(calls)))
        for _ in range(ROUNDS_MAX):
            batches: dict[tuple[int, bool], tuple[Pool, list[int]]] = {}
            for index in asked:
                before, keys = replies[index], calls[index][1]
                asking = isinstance(before, ReplyError) and before.code == "ASK"
                pool = self._route.at(before.target) if asking else self._route.pool(keys)  # type: ignore[attr-defined]
                batches.setdefault((id(pool), asking), (pool, []))[1].append(index)
            for (_, asking), (pool, indexes) in batches.items():
                began, failure = monotonic(), None
                try:
                    answers = self._exchange_with(pool, [calls[i] for i in indexes], until, asking=asking)
                except (Fault, GridsyncError) as error:
                    answers, failure = [error] * len(indexes), error
                telemetry.renewed(pool.endpoint.known, [calls[i][0] for i in indexes], monotonic() - began, failure)
                for index, answer in zip(indexes, answers, strict=True):
                    replies[index] = answer
                    if isinstance(answer, Fault | ReplyError):
                        self._failed(calls[index][1], answer)
            asked = [i for i in asked if isinstance(r := replies[i], ReplyError) and r.code in REDIRECTS]
            if not asked:
                break
        return replies

    @staticmethod
    def _exchange_with(pool: Pool, calls: list[Call], until: float, *, asking: bool) -> list[object]:
        def rest() -> float:
            return max(until - monotonic(), TIMEOUT_MIN_S)

        def exchange(requests: Sequence[tuple[Any, ...]]) -> list[object]:
            if not asking:
                return wire.exchange_many(requests, rest())
            # ASKING holds for the next command of its connection only.
            return wire.exchange_many([words for request in requests for words in (ASKING, request)], rest())[1::2]

        wire = pool.take(rest(), insist=True)
        try:
            requests = [script.words(tuple(keys), tuple(args)) for script, keys, args in calls]
            answers = exchange(requests)
            unknown = [i for i, a in enumerate(answers) if isinstance(a, ReplyError) and a.code == "NOSCRIPT"]
            if unknown:
                sources = {script.source for i in unknown if isinstance(script := calls[i][0], Script)}
                loads = [("SCRIPT", "LOAD", source) for source in sources]
                again = exchange([*loads, *(requests[i] for i in unknown)])[len(loads) :]
                for i, answer in zip(unknown, again, strict=True):
                    answers[i] = answer
        finally:
            pool.give(wire)
        return answers
