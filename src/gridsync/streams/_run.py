"""Running: the groups of some stores that have handlers, side by side, until they are stopped."""

from __future__ import annotations

# ruff: noqa: SLF001 - stores and groups are run from here, and their users need not see how
from dataclasses import astuple, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from gridsync._io import run_sync
from gridsync._io.interrupts import Workers, heeded
from gridsync._units import count as counted
from gridsync.errors import UsageError
from gridsync.streams._groups import RETRY
from gridsync.streams._settling import Consumed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from gridsync._units import Seconds
    from gridsync.streams._api import AsyncEventStore, EventStore
    from gridsync.streams._failures import Policy
    from gridsync.streams._groups import AsyncConsumerGroup, ConsumerGroup
    from gridsync.streams._member import Member
    from gridsync.streams._settling import Settling


THREADS_MAX: Final = 256
"""Consumers of one group in threads of one process."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What one `run` did."""

    groups: Mapping[str, Consumed]
    """Store and group, as in ``orders/billing`` → what its consumers did, all together."""
    hurried: bool
    """Whether it was told twice to end: then the events that handlers were still at work on went back."""


class RunOptions(NamedTuple):
    """What is said about all groups of a run; see `EventStore.run`."""

    concurrency: int = 1
    batch: int = 100
    claim_idle: Seconds = 30.0
    idle_stop: Seconds | None = None
    policy: Policy = RETRY
    max_deliveries: int | None = None
    on_error: Callable[[Any], Any] | None = None
    on_ready: Callable[[tuple[str, ...]], object] | None = None
    on_stop: Callable[[], object] | None = None
    """Called at the first signal."""

    def consuming(self, part: _Part) -> dict[str, Any]:
        """Return what `consume` is told of one group."""
        said = self._asdict()
        if part.policy is not None:
            said["policy"] = part.policy
        return {name: said[name] for name in said.keys() - {"concurrency", "on_ready", "on_stop"}}


class _Part(NamedTuple):
    """One group of one store, as it is run."""

    name: str
    group: Any
    handler: Callable[[Any], Any]
    policy: Policy | None
    outboxes: Sequence[Any]
    retention: Any
    sessions: list[Settling[Any] | Member[Any]]


class _Beside(NamedTuple):
    """What goes on while groups run: an outbox is emptied, a log is kept small."""

    work: Callable[[], Any]
    stop: Callable[[], None]


def planned(
    stores: Iterable[EventStore[Any] | AsyncEventStore[Any]],
    groups: Sequence[str] | None,
    start: Literal["first", "now"],
) -> list[_Part]:
    """Return what is to be run: the groups of that name, or all that have a handler.

    Raises:
        UsageError: There is nothing to run, or a group that nobody knows.
    """
    if isinstance(groups, str):
        raise UsageError(f"groups={groups!r}: give a sequence of names")
    found = []
    for store in stores:
        routes = store._routes
        for name in routes.groups:
            if groups is None or name in groups:
                group = store.group(name, start=start, ordered=name in routes.ordered)
                routes.stop.on_set(group.stop)
                label, policy, beside = f"{routes.store}/{name}", routes.policies.get(name), routes.outboxes
                sessions = group._observed()
                found.append(_Part(label, group, routes.handler(name), policy, beside, routes.retention, sessions))
    missing = set(groups or ()) - {part.group.name for part in found}
    if missing or not found:
        what = f"no handler in {', '.join(sorted(missing))}" if missing else "no handler at all"
        raise UsageError(f"there is {what}: register them with on(…, group=…) before run()")
    return found


def run(parts: Sequence[_Part], options: RunOptions) -> Ran:
    """Run groups in threads, so many for each; see `EventStore.run`."""
    workers, failures = Workers(), list[BaseException]()
    count = counted(options.concurrency, "concurrency", THREADS_MAX)
    beside, working = _beside(parts), [part for part in parts for _ in range(count)]

    def guarded(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised once the others have ended
            failures.append(error)
            _stop(parts)

    def work(part: _Part) -> None:
        group: ConsumerGroup[Any] = part.group
        guarded(partial(group.consume, part.handler, **options.consuming(part)))
        _left(working, beside)

    with heeded(partial(_stop, parts, options.on_stop), workers.hurry):
        for part in parts:
            run_sync(part.group._ready())
        _tell(parts, options)
        meanwhile = [partial(guarded, each.work) for each in beside]
        workers.run([partial(work, part) for part in working] + meanwhile)
    if workers.hurried:
        for part in parts:
            for session in part.sessions:
                session.give_back()
    return _ran(parts, failures, hurried=workers.hurried)


async def run_async(parts: Sequence[_Part], options: RunOptions) -> Ran:
    """Run groups in tasks; see `AsyncEventStore.run`."""
    io, failures = parts[0].group._store.io, list[BaseException]()
    scope = io.scope()
    hurried = False
    beside, working = _beside(parts), list(parts)

    async def guarded(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Exception as error:  # noqa: BLE001 - raised once the others have ended
            failures.append(error)
            _stop(parts)

    async def work(part: _Part) -> None:
        group: AsyncConsumerGroup[Any] = part.group
        await guarded(partial(group.consume, part.handler, concurrency=options.concurrency, **options.consuming(part)))
        _left(working, beside)

    with heeded(partial(_stop, parts, options.on_stop), scope.cancel):
        try:
            for part in parts:
                await part.group._ready()
            _tell(parts, options)
            await io.gather(*(work(part) for part in parts), *(guarded(each.work) for each in beside))
        except BaseException as error:
            # Its consumers have begun to give back what they held; closing the grid waits for that.
            if not scope.leave(error):
                raise
            hurried = True
        else:
            scope.leave(None)
    return _ran(parts, failures, hurried=hurried)


def _beside(parts: Sequence[_Part]) -> list[_Beside]:
    """Return what is to be done meanwhile, once each; a stop of ours must not last for their users."""
    outboxes = {id(each): each for part in parts for each in part.outboxes}.values()
    retentions = {id(part.retention): part.retention for part in parts if part.retention is not None}.values()
    return [_Beside(again.relay, again.stop) for again in (each._again() for each in outboxes)] + [
        _Beside(again.run, again.stop) for again in (each._again() for each in retentions)
    ]


def _left(working: list[_Part], beside: Sequence[_Beside]) -> None:
    """Let what is done meanwhile end when the last consumer has ended."""
    working.pop()
    if not working:
        for each in beside:
            each.stop()


def _stop(parts: Sequence[_Part], tell: Callable[[], object] | None = None) -> None:
    for part in parts:
        part.group.stop()
    if tell is not None:
        tell()


def _tell(parts: Sequence[_Part], options: RunOptions) -> None:
    if options.on_ready is not None and not any(part.group._stop.is_set() for part in parts):
        options.on_ready(tuple(part.name for part in parts))


def _ran(parts: Sequence[_Part], failures: Sequence[BaseException], *, hurried: bool) -> Ran:
    if failures:
        raise failures[0]
    counts: dict[str, Consumed] = {}
    for part in parts:
        rows = [astuple(session.consumed()) for session in part.sessions]
        counts[part.name] = (
            Consumed(*(sum(column) for column in zip(*rows, strict=True))) if rows else Consumed(0, 0, 0, 0)
        )
    return Ran(counts, hurried)
