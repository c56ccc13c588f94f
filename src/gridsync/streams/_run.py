"""Running: the groups of some stores that have handlers, side by side, and what is to be done beside them."""

from __future__ import annotations

# ruff: noqa: SLF001 - stores and groups are run from here, and their users need not see how
from contextlib import contextmanager
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
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

    from gridsync._io import IO, Signal
    from gridsync._units import Seconds
    from gridsync.streams._failures import Policy
    from gridsync.streams._groups import AsyncConsumerGroup, ConsumerGroup
    from gridsync.streams._member import Member
    from gridsync.streams._runnable import AsyncRunnable, Runnable
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
    sessions: list[Settling[Any] | Member[Any]]
    stopped: Signal
    """That of the store, which outlasts this run."""

    def stop(self) -> None:
        """End its consumers."""
        self.group.stop()

    def over(self) -> bool:
        """Whether they were told to end."""
        return bool(self.group._stop.is_set())


class _Beside(NamedTuple):
    """What goes on while groups run: an outbox is emptied, a log is kept small."""

    name: str
    what: Any
    work: Callable[[], Any]
    stopped: Signal
    """As in `_Part`."""

    def stop(self) -> None:
        """End it after what it is at."""
        self.what.stop()

    def over(self) -> bool:
        """Whether it was told to end."""
        return bool(self.what._stop.is_set())


class Plan(NamedTuple):
    """What is run."""

    io: IO
    parts: Sequence[_Part]
    beside: Sequence[_Beside]

    @property
    def led(self) -> Sequence[_Part | _Beside]:
        """What is told to stop: the rest ends with the last group, if there is any."""
        return self.parts or self.beside

    def stop(self, tell: Callable[[], object] | None = None) -> None:
        """Begin nothing any more."""
        for each in self.led:
            each.stop()
        if tell is not None:
            tell()

    @contextmanager
    def heeding(self) -> Iterator[None]:
        """Let `stop` of a store stop what is run of it meanwhile, and forget that afterwards."""
        drops = [each.stopped.on_set(each.stop) for each in self.led]
        try:
            yield
        finally:
            for drop in drops:
                drop()


def planned(
    stores: Iterable[Runnable[Any] | AsyncRunnable[Any]],
    groups: Sequence[str] | None,
    start: Literal["first", "now"],
) -> Plan:
    """Return what is to be run: the groups of that name, or all that have a handler, and what goes on beside them.

    A store without a handler may have only that: an outbox to be emptied, a log to be kept small.

    Raises:
        UsageError: There is nothing to run, or a group that nobody knows.
    """
    if isinstance(groups, str):
        raise UsageError(f"groups={groups!r}: give a sequence of names")
    found, beside = list[_Part](), dict[int, _Beside]()
    io = None
    for store in stores:
        routes, io = store._routes, store._core.io
        before = len(found)
        for name in routes.groups:
            if groups is None or name in groups:
                group = store.group(name, start=start, ordered=name in routes.ordered)
                label, policy = f"{routes.store}/{name}", routes.policies.get(name)
                sessions = group._observed()
                found.append(_Part(label, group, routes.handler(name), policy, sessions, routes.stop))
        if groups is None or len(found) > before:
            # A stop of ours must not last for their users.
            for box in routes.outboxes:
                outbox: Any = box._again()
                beside[id(box)] = _Beside(routes.store, outbox, outbox.relay, routes.stop)
            if routes.retention is not None:
                again = routes.retention._again()
                beside[id(routes.retention)] = _Beside(routes.store, again, again.run, routes.stop)
    missing = set(groups or ()) - {part.group.name for part in found}
    if missing or io is None or not (found or beside):
        what = f"no handler in {', '.join(sorted(missing))}" if missing else "no handler at all"
        raise UsageError(
            f"there is {what}: register them with on(…, group=…) before run(), or declare a retention or an outbox"
        )
    return Plan(io, found, tuple(beside.values()))


def run(plan: Plan, options: RunOptions) -> Ran:
    """Run groups in threads, so many for each; see `EventStore.run`."""
    parts = plan.parts
    workers, failures = Workers(), list[BaseException]()
    count = counted(options.concurrency, "concurrency", THREADS_MAX)
    working = [part for part in parts for _ in range(count)]

    def guarded(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised once the others have ended
            failures.append(error)
            plan.stop()

    def work(part: _Part) -> None:
        group: ConsumerGroup[Any] = part.group
        guarded(partial(group.consume, part.handler, **options.consuming(part)))
        _left(working, plan.beside)

    with plan.heeding(), heeded(partial(plan.stop, options.on_stop), workers.hurry):
        for part in parts:
            run_sync(part.group._ready())
        _tell(plan, options)
        meanwhile = [partial(guarded, each.work) for each in plan.beside]
        workers.run([partial(work, part) for part in working] + meanwhile)
    if workers.hurried:
        for part in parts:
            for session in part.sessions:
                session.give_back()
    return _ran(parts, failures, hurried=workers.hurried)


async def run_async(plan: Plan, options: RunOptions) -> Ran:
    """Run groups in tasks; see `AsyncEventStore.run`."""
    io, parts, failures = plan.io, plan.parts, list[BaseException]()
    scope = io.scope()
    hurried = False
    working = list(parts)

    async def guarded(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Exception as error:  # noqa: BLE001 - raised once the others have ended
            failures.append(error)
            plan.stop()

    async def work(part: _Part) -> None:
        group: AsyncConsumerGroup[Any] = part.group
        await guarded(partial(group.consume, part.handler, concurrency=options.concurrency, **options.consuming(part)))
        _left(working, plan.beside)

    with plan.heeding(), heeded(partial(plan.stop, options.on_stop), scope.cancel):
        try:
            for part in parts:
                await part.group._ready()
            _tell(plan, options)
            await io.gather(*(work(part) for part in parts), *(guarded(each.work) for each in plan.beside))
        except BaseException as error:
            # Its consumers have begun to give back what they held; closing the grid waits for that.
            if not scope.leave(error):
                raise
            hurried = True
        else:
            scope.leave(None)
    return _ran(parts, failures, hurried=hurried)


def _left(working: list[_Part], beside: Sequence[_Beside]) -> None:
    """Let what is done meanwhile end when the last consumer has ended."""
    working.pop()
    if not working:
        for each in beside:
            each.stop()


def _tell(plan: Plan, options: RunOptions) -> None:
    if options.on_ready is not None and not any(each.over() for each in plan.led):
        options.on_ready(tuple(dict.fromkeys(each.name for each in plan.led)))


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
