"""What happens after a first attempt failed: which operation may be repeated, how often, how long.

The first attempt is made by the drivers without anything of this module (one tenacity decorator costs about 25 µs, a
command 3.5).  Only when it failed is `recover` called, with the failure in hand.

=================  ===============================================  ==================================
outcome            how we know                                      repeated
=================  ===============================================  ==================================
not applied        it never left, or the server says so             always, until the deadline
                   (LOADING, READONLY, NOSCRIPT, …)                 (`Category.NEVER` too: it did not run)
ambiguous          it left and no reply came                        if the category allows it
applied or error   a reply came                                     never
=================  ===============================================  ==================================

The deadline covers the whole call.  Pauses grow exponentially with full jitter.  What surely was not applied is not
sent once more when too little time is left for an answer (`spare_s`): that would turn a sure outcome into an unknown
one, and an answer that nobody waits for helps nobody.  A repeat takes from a budget
(`budget.py`), and a call that finds its node's breaker open (`breaker.py`) fails at once; one that was under way when
it opened goes on to its deadline, since a probe may succeed before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, wait_random_exponential
from tenacity.stop import stop_base

from gridsync._io import telemetry
from gridsync._io.breaker import Rejected
from gridsync._io.scripts import Category, Script
from gridsync._io.wire.faults import REDIRECTS, Fault, ReplyError, as_public, is_cut_short, is_transient
from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tenacity import RetryCallState

    from gridsync._io.budget import Budget
    from gridsync._io.counts import Counts
    from gridsync._io.scripts import Bound, Operation

PAUSE_S = 0.01
PAUSE_MAX_S = 0.5
REDIRECTS_MAX = 16
"""How many times a call follows a cluster's MOVED or ASK without a pause."""
SPARE_S = 0.05
SPARE_SHARE = 0.1
_MICROSECONDS = 1_000_000


def spare_s(limit: float) -> float:
    """Return how many seconds a request must have left when it is sent, of the *limit* of its call.

    Fifty milliseconds are a round trip to the other side of an ocean, or a thread that waits for its turn on a busy
    machine; a call that has less than half a second in all keeps a tenth of it.
    """
    return min(SPARE_S, SPARE_SHARE * limit)


class TooLate(Fault):
    """Not sent, because there was no time left for an answer."""

    def __init__(self) -> None:
        super().__init__("there was no time left for an answer, so it was not sent", applied=False)


class Attempts(Protocol):
    """What `recover` needs of a driver."""

    budget: Budget
    """How many repeats may be sent; loading a script and following a redirect are none."""

    async def attempt(
        self,
        words: tuple[Any, ...],
        keys: Sequence[object],
        deadline: float,
        asking: str | None = None,
        spare: float = 0.0,
    ) -> Any:  # noqa: ANN401
        """Send *words* once to the node of *keys*; raises `Fault`, `ReplyError` or a final error.

        With *asking* (``host:port``) they go to that node instead, right behind ASKING on the same connection.  With
        less than *spare* seconds until *deadline* when there is a connection, nothing is sent.
        """

    def failed(self, keys: Sequence[object], error: Exception) -> None:
        """Let whoever knows the servers know what became of a request for *keys*; may raise a final error."""

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass."""

    def monotonic(self) -> float:
        """Return the clock of *deadline*."""

    @property
    def counts(self) -> Counts:
        """Where failed attempts are counted."""


class _Again(Exception):
    """The last attempt failed and may be repeated."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _StopBefore(stop_base):
    """Stop when the next pause would leave too little time before the deadline."""

    def __init__(self, attempts: Attempts, deadline: float, spare: Callable[[], float]) -> None:
        self._attempts = attempts
        self._deadline = deadline
        self._spare = spare

    def __call__(self, retry_state: RetryCallState) -> bool:
        return self._attempts.monotonic() + retry_state.upcoming_sleep + self._spare() >= self._deadline


async def recover(
    attempts: Attempts,
    operation: Operation | Bound,
    keys: Sequence[Any],
    args: Sequence[Any],
    *,
    failure: Fault | ReplyError,
    started: float,
    deadline: float,
    pause: Callable[[float], Awaitable[None]] | None = None,
) -> Any:  # noqa: ANN401 - whatever the operation replies
    """Repeat *operation* after *failure* as its category allows, and return its reply.

    Between two attempts *pause* may return early, when it is known that the next one has a better chance.

    Raises:
        Unavailable: Not applied, and the deadline has ended.
        OutcomeUnknown: Perhaps applied.
        GridsyncError: The server's refusal.
    """
    operation, keys, args = operation.whole(keys, args)
    seen: list[Exception] = []
    repeat_index = operation.repeat_index
    asking: str | None = None
    redirects = 0

    def meant(error: Fault | ReplyError) -> Fault | ReplyError:
        """Return *error*, or what it means: a script that a moving slot cut short may have been applied."""
        if isinstance(error, ReplyError) and is_cut_short(error):
            return Fault(str(error), applied=True)
        return error

    def note(error: Fault | ReplyError) -> bool:
        """Keep *error* in mind, for the route as well; true if nothing is wrong with the server: no pause then."""
        nonlocal asking, redirects
        before = _code(seen[-1]) if seen else ""
        seen.append(error)
        attempts.failed(keys, error)
        code = _code(error)
        if code != "NOSCRIPT":  # the script is loaded where it is missing, also on a node that has to be asked
            asking = error.target if isinstance(error, ReplyError) and code == "ASK" else None
        redirects += code in REDIRECTS
        if code == "NOSCRIPT":
            return before != "NOSCRIPT"  # else it was loaded right before
        return code in REDIRECTS and redirects <= REDIRECTS_MAX

    def spare() -> float:
        """Return how much time an attempt needs; none when nothing can be lost by it any more."""
        sure = operation.category is not Category.READ and not _perhaps_applied(operation, seen)
        return spare_s(deadline - started) if sure else 0.0

    def judge(error: Fault | ReplyError) -> Exception:
        """Return `_Again` if *error* allows another attempt, else what the caller shall see."""
        if isinstance(error, ReplyError):
            if error.code == "NOSCRIPT" or is_transient(error):
                return _Again(error)
            return as_public(error, operation.name)
        if error.ambiguous and not operation.category.repeatable:
            return _unknown(operation, error)
        return _Again(error)

    async def once() -> Any:  # noqa: ANN401
        while True:
            last = seen[-1]
            counts = _code(last) != "NOSCRIPT" and _code(last) not in REDIRECTS
            if counts and not attempts.budget.take():
                raise _spent(operation, seen, attempts.budget)
            repeats = any(isinstance(error, Fault) and error.ambiguous for error in seen)
            elapsed = attempts.monotonic() - started
            words = operation.words(keys, _with_repeat(args, repeat_index, elapsed) if repeats else tuple(args))
            try:
                if isinstance(operation, Script) and _code(last) == "NOSCRIPT":
                    await _load(attempts, operation, keys, deadline, asking)
                return await attempts.attempt(words, keys, deadline, asking, spare())
            except GridsyncError as error:
                # No connection, for a reason that does not heal; but what left before may have been applied.
                if _perhaps_applied(operation, seen):
                    text = f"{operation.name}: an earlier attempt may have been applied; {error}"
                    raise OutcomeUnknown(text) from error
                raise
            except (Fault, ReplyError) as caught:
                failed = meant(caught)
                telemetry.failed(attempts.counts, operation, failed)
                if counts and isinstance(failed, Fault) and not failed.ambiguous:
                    attempts.budget.give_back()
                if not note(failed):
                    raise judge(failed) from caught

    failure = meant(failure)
    note(failure)
    telemetry.failed(attempts.counts, operation, failure)
    if isinstance(failure, Rejected):
        raise Unavailable(f"{operation.name}: {failure}; nothing was applied") from failure
    first = judge(failure)
    if not isinstance(first, _Again):
        raise first from failure
    if isinstance(failure, ReplyError) and (failure.code == "NOSCRIPT" or failure.code in REDIRECTS):
        # Nothing is wrong with the server: no pause.
        try:
            return await once()
        except _Again:
            pass
    stop = _StopBefore(attempts, deadline, spare)
    retrying = AsyncRetrying(
        sleep=pause or attempts.sleep,
        wait=wait_random_exponential(multiplier=PAUSE_S, max=PAUSE_MAX_S),
        retry=retry_if_exception_type(_Again),
        stop=stop,
    )
    try:
        if attempts.monotonic() + spare() >= deadline:
            raise _gave_up(operation, seen, attempts.monotonic() - started, deadline - started)
        return await retrying(once)
    except RetryError:
        raise _gave_up(operation, seen, attempts.monotonic() - started, deadline - started) from seen[-1]


async def _load(
    attempts: Attempts, script: Script, keys: Sequence[object], deadline: float, asking: str | None
) -> None:
    # A SCRIPT LOAD stays loaded, where Redis 7.4 and newer forget what only EVAL brought.
    try:
        await attempts.attempt(("SCRIPT", "LOAD", script.source), keys, deadline, asking)
    except Fault as fault:
        # Loading twice does no harm, and the script itself has not left yet.
        raise Fault(str(fault), applied=False) from fault


def _code(error: Exception) -> str:
    return error.code if isinstance(error, ReplyError) else ""


def _perhaps_applied(operation: Operation, seen: list[Exception]) -> bool:
    return operation.category is not Category.READ and any(isinstance(e, Fault) and e.ambiguous for e in seen)


def _with_repeat(args: Sequence[object], index: int | None, elapsed: float) -> tuple[object, ...]:
    if index is None:
        return tuple(args)
    return (*args[:index], str(max(1, int(elapsed * _MICROSECONDS))), *args[index + 1 :])


def _unknown(operation: Operation, error: Exception) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"{operation.name} was sent and not answered ({error}); it is {operation.category}, so it was not repeated: "
        f"look whether it took effect before you send it again"
    )


def _spent(operation: Operation, seen: list[Exception], budget: Budget) -> Exception:
    text = f"{operation.name}: {seen[-1]}; it was not repeated, because the retry budget is used up: {budget}"
    if _perhaps_applied(operation, seen):
        return OutcomeUnknown(f"{text}; it may have been applied")
    return Unavailable(f"{text}; nothing was applied")


def _gave_up(operation: Operation, seen: list[Exception], elapsed: float, limit: float) -> Exception:
    telling = [str(error) for error in seen if not isinstance(error, TooLate)] or [str(seen[-1])]
    last = telling[-1]
    text = f"{operation.name}: no success in {elapsed:.2f} s and {len(seen)} attempts; the last one: {last}"
    if elapsed >= limit:
        # It may have been cut short, and say no more than that.
        text += next((f"; before: {before}" for before in reversed(telling) if before != last), "")
    if _perhaps_applied(operation, seen):
        return OutcomeUnknown(f"{text}; one of them may have been applied")
    return Unavailable(f"{text}; nothing was applied")
