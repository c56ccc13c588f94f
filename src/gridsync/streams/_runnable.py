"""What users call to consume a store: its groups, and the handlers that it runs in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from gridsync.streams._groups import RETRY, AsyncConsumerGroup, ConsumerGroup
from gridsync.streams._model import E
from gridsync.streams._run import RunOptions, planned, run, run_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pydantic import BaseModel

    from gridsync._units import Seconds
    from gridsync.streams._failures import Failure, Policy
    from gridsync.streams._partitions import Store
    from gridsync.streams._routes import Routes
    from gridsync.streams._run import Ran

H = TypeVar("H", bound="Callable[..., Any]")


class _Both(Generic[E]):
    """What both kinds share."""

    _core: Store[E]
    _routes: Routes[E]

    def stop(self) -> None:
        """End every `run` of this store, as the first signal does.

        May be called from any thread or task, and from a signal handler.  It lasts.
        """
        self._routes.stop.set()


class Runnable(_Both[E]):
    """Runs what consumes a store, in threads."""

    def group(self, name: str, *, start: Literal["first", "now"] = "first", ordered: bool = False) -> ConsumerGroup[E]:
        """Return the consumer group *name*: each event goes to one of the group's consumers.

        Args:
            name: The group; every process that uses this name shares its work.
            start: Where a group begins that does not exist yet: at the ``first`` event, or with what is appended from
                ``now`` on.  An existing group goes on where it is.
            ordered: Handle the events of each stream in order, wherever they are handled: each partition of the store
                belongs to one consumer at a time.  All consumers of a group must say the same.
        """
        return ConsumerGroup(self._core, name, start, ordered=ordered)

    def on(
        self, *types: type[BaseModel], group: str, policy: Policy | None = None, ordered: bool = False
    ) -> Callable[[H], H]:
        """Register a handler of events of these types in a group, for `run`.

        Args:
            types: Models of this store.
            group: The consumer group; it may have a handler for each type.  Events of types without one are
                acknowledged without a call.
            policy: What becomes of an event of this group whose handler raised, instead of what `run` is told; said
                once for each group.
            ordered: Run the group in order, as in `group`; said of one of its handlers, it is so for all of them.

        Returns:
            A decorator that returns the function as it is.  Which arguments that wants, `ConsumerGroup.consume` says.

        Raises:
            UsageError: A type that this store does not know or that has a handler in this group already, or a function
                with parameters that nobody can fill.
        """

        def register(handler: H) -> H:
            self._routes.add(types, group, handler, policy, ordered=ordered)
            return handler

        return register

    def run(
        self,
        *,
        groups: Sequence[str] | None = None,
        start: Literal["first", "now"] = "first",
        concurrency: int = 1,
        batch: int = 100,
        claim_idle: Seconds = 30.0,
        idle_stop: Seconds | None = None,
        policy: Policy = RETRY,
        max_deliveries: int | None = None,
        on_error: Callable[[Failure[E]], object] | None = None,
        on_ready: Callable[[tuple[str, ...]], object] | None = None,
    ) -> Ran:
        """Run all groups that have handlers, until stopped, and empty outboxes and keep the log small meanwhile.

        A store without a handler that has an outbox, or a `retention`, does only that, until it is stopped.

        SIGTERM and SIGINT are heeded if this is the main thread: at the first one running handlers finish and nothing
        new is begun, at the second one everything goes back to the groups at once.

        Args:
            groups: Run only these.
            start: Where a *new* group begins, as in `group`.
            concurrency: How many consumers, each in a thread, each group has.
            batch: As in `ConsumerGroup.consume`, and so are the rest but the last.
            claim_idle: Seconds without a sign of life after which an event held by someone else is taken over.
            idle_stop: End a group after this many seconds without any event; ``None`` goes on for ever.
            policy: What becomes of an event whose handler raised, where `on` was not told.
            max_deliveries: How often an event is begun at most.
            on_error: Called with each `Failure` and what was decided about it.
            on_ready: Called once, with the names of store and group as in ``orders/billing``, when all groups exist at
                the server; with the name of the store if there is no group.

        Returns:
            What was done, by group, and whether it had to end at once.

        Raises:
            UsageError: There is nothing to run, or a group without one, or another argument that cannot be used.
            Misconfigured: The server refuses for a reason that no retry heals.
            Exception: What a handler raised, if *policy* says ``STOP``; the other groups have ended in order then.

        While the server is away it waits and tries again, also before it is ready.
        """
        options = RunOptions(concurrency, batch, claim_idle, idle_stop, policy, max_deliveries, on_error, on_ready)
        return run(planned((self,), groups, start), options)


class AsyncRunnable(_Both[E]):
    """The asyncio twin of `Runnable`."""

    def group(
        self, name: str, *, start: Literal["first", "now"] = "first", ordered: bool = False
    ) -> AsyncConsumerGroup[E]:
        """Return the consumer group *name*; see `EventStore.group`."""
        return AsyncConsumerGroup(self._core, name, start, ordered=ordered)

    def on(
        self, *types: type[BaseModel], group: str, policy: Policy | None = None, ordered: bool = False
    ) -> Callable[[H], H]:
        """Register a handler of events of these types in a group, for `run`; see `EventStore.on`."""

        def register(handler: H) -> H:
            self._routes.add(types, group, handler, policy, ordered=ordered)
            return handler

        return register

    async def run(
        self,
        *,
        groups: Sequence[str] | None = None,
        start: Literal["first", "now"] = "first",
        concurrency: int = 1,
        batch: int = 100,
        claim_idle: Seconds = 30.0,
        idle_stop: Seconds | None = None,
        policy: Policy = RETRY,
        max_deliveries: int | None = None,
        on_error: Callable[[Failure[E]], Awaitable[object] | object] | None = None,
        on_ready: Callable[[tuple[str, ...]], object] | None = None,
    ) -> Ran:
        """Run all groups that have handlers, until stopped; see `EventStore.run`.

        Here *concurrency* says how many handlers of each group run side by side, and the second signal cancels them.
        """
        options = RunOptions(concurrency, batch, claim_idle, idle_stop, policy, max_deliveries, on_error, on_ready)
        return await run_async(planned((self,), groups, start), options)
