"""Routes: which handler of which group gets events of which type; found out when it is registered."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gridsync._units import name as checked
from gridsync.errors import UsageError
from gridsync.streams._failures import Rules
from gridsync.streams._handlers import asked
from gridsync.streams._model import E

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from gridsync.streams._delivery import Delivery
    from gridsync.streams._failures import Policy
    from gridsync.streams._outbox import _Outbox
    from gridsync.streams._partitions import Store
    from gridsync.streams._records import Recorded


B = TypeVar("B")
X = TypeVar("X", bound="_Outbox[Any]")


class Routes(Generic[E]):
    """The handlers of one store."""

    def __init__(self, core: Store[E], *, takes_coroutines: bool) -> None:
        """Begin with none."""
        self.store = core.name
        """The store's name."""
        self.stop = core.io.signal()
        """Ends every run."""
        self._codec = core.codec
        self._takes_coroutines = takes_coroutines
        # Group → model → what is called, and whether with the delivery.
        self._groups: dict[str, dict[type, tuple[Callable[[Any], Any], bool]]] = {}
        self.outboxes: list[_Outbox[Any]] = []
        """What is sent to other stores."""
        self.retention: Any = None
        """What is declared of the log, which is seen to while groups run."""
        self.policies: dict[str, Policy] = {}
        """Group → what becomes of an event whose handler raised, where that was said."""
        self.ordered: set[str] = set()
        """The groups that handle each stream in order."""

    def outbox(self, outbox: X) -> X:
        """Let *outbox* be emptied while groups run, once however often it was asked for; returns it."""
        self.outboxes = [*(each for each in self.outboxes if not each.leads_where(outbox)), outbox]
        return outbox

    def declare(self, retention: B) -> B:
        """Let *retention* be seen to while groups run, in place of one before; returns it."""
        self.retention = retention
        return retention

    @property
    def groups(self) -> tuple[str, ...]:
        """Every group that has a handler."""
        return tuple(self._groups)

    def add(
        self,
        types: tuple[type[BaseModel], ...],
        group: str,
        handler: Callable[..., Any],
        policy: Policy | None,
        *,
        ordered: bool = False,
    ) -> None:
        """Let *handler* have events of these types in *group*.

        Raises:
            UsageError: No types, one that the store does not know or that has a handler there, no handler, no policy
                or another one than was said before.
        """
        checked(group, "the name of a consumer group")
        if not callable(handler):
            raise UsageError(f"a handler is a function of an event, not {handler!r:.100}")
        if inspect.iscoroutinefunction(handler) and not self._takes_coroutines:
            raise UsageError(f"{handler!r:.100} is a coroutine function: use AsyncGrid, or pass a plain function")
        if not types:
            raise UsageError("on() needs at least one model of this store")
        there = self._groups.get(group, {})
        for each in types:
            if each not in self._codec.models:
                raise UsageError(f"{each!r:.100} is no model of this store; it knows {', '.join(self._codec.types)}")
            if each in there or types.count(each) > 1:
                raise UsageError(f"group {group!r} has a handler of {each.__name__} already")
        handled = dict.fromkeys(types, asked(handler, self._codec.models))
        if policy is not None:
            Rules(policy, None)
            if self.policies.setdefault(group, policy) != policy:
                raise UsageError(f"group {group!r} has another policy already: say it once")
        self._groups.setdefault(group, {}).update(handled)
        if ordered:
            self.ordered.add(group)

    def handler(self, group: str) -> Callable[[Any], Any]:
        """Return what handles every event of *group*; those of types without a handler are done at once.

        Raises:
            UsageError: The group has no handler.
        """
        try:
            handlers = dict(self._groups[group])
        except KeyError:
            known = ", ".join(self._groups) or "no group"
            raise UsageError(f"group {group!r} has no handler, on() was called for {known}") from None

        def hand_out(recorded: Recorded[Any]) -> Any:  # noqa: ANN401 - what a handler returns
            found = handlers.get(type(recorded.event))
            return None if found is None else found[0](recorded)

        def hand_out_delivery(delivery: Delivery[Any]) -> Any:  # noqa: ANN401
            call, delivers = handlers.get(type(delivery.event), (None, False))
            return None if call is None else call(delivery if delivers else delivery.recorded)

        return hand_out_delivery if any(delivers for _, delivers in handlers.values()) else hand_out
