"""Handlers: which arguments one asks for, found out once, when it is registered."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args, get_origin

from pydantic import BaseModel

from gridsync.errors import UsageError
from gridsync.streams._delivery import AsyncDelivery, Delivery
from gridsync.streams._records import Recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

R = TypeVar("R")

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_RECORDED, _DELIVERY, _EVENT, _OPEN = "recorded", "delivery", "event", ""
_BY_NAME: Final = {"Recorded": _RECORDED, "Delivery": _DELIVERY, "AsyncDelivery": _DELIVERY}
_TAKES: Final[dict[tuple[str, ...], Callable[[Callable[..., Any]], Callable[[Any], Any]]]] = {
    (_RECORDED,): lambda handler: handler,
    (_EVENT,): lambda handler: lambda recorded: handler(recorded.event),
    (_DELIVERY,): lambda handler: handler,
    (_RECORDED, _DELIVERY): lambda handler: lambda delivery: handler(delivery.recorded, delivery),
    (_EVENT, _DELIVERY): lambda handler: lambda delivery: handler(delivery.event, delivery),
}


def asked(handler: Callable[..., R], models: Sequence[type[BaseModel]] = ()) -> tuple[Callable[[Any], R], bool]:
    """Return what is called with each event, or with each `Delivery`, and whether it is that.

    A handler takes the `Recorded`, or the event itself if its parameter says a model; or a `Delivery`, alone or second.
    What its first parameter does not say is a `Recorded`, what its second does not say a `Delivery`.

    Raises:
        UsageError: Parameters that nobody can fill.
    """
    wanted = [_wanted(parameter, models) for parameter in _parameters(handler)]
    defaults = (_RECORDED, _DELIVERY)
    kinds = tuple(want or default for want, default in zip(wanted, defaults, strict=False))
    if len(wanted) > len(defaults) or kinds not in _TAKES:
        raise UsageError(
            f"{handler!r:.100} cannot be a handler: it takes an event (Recorded, or a model of the store), "
            "a Delivery, or both in this order, and no more without defaults"
        )
    return _TAKES[kinds](handler), _DELIVERY in kinds


def _parameters(handler: Callable[..., Any]) -> list[inspect.Parameter | None]:
    """Return the parameters that must be filled; one of which nothing is known where Python cannot tell."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return [None]
    with suppress(Exception):  # names that are there for type checkers only are told by their text
        signature = inspect.signature(handler, eval_str=True)
    found = list(signature.parameters.values())
    needed = [each for each in found if each.kind in _POSITIONAL and each.default is each.empty]
    if needed:
        return list(needed)
    optional = [each for each in found if each.kind in (*_POSITIONAL, inspect.Parameter.VAR_POSITIONAL)]
    return [each if each.kind in _POSITIONAL else None for each in optional[:1]]


def _wanted(parameter: inspect.Parameter | None, models: Sequence[type[BaseModel]]) -> str:
    """Return what a parameter's annotation asks for; nothing if it does not say."""
    if parameter is None:
        return _OPEN
    note = parameter.annotation
    if isinstance(note, str):
        name = note.strip().partition("[")[0].rpartition(".")[2]
        return _BY_NAME.get(name, _EVENT if name in {model.__name__ for model in models} else _OPEN)
    origin = get_origin(note) or note
    if isinstance(origin, type):
        if issubclass(origin, Recorded):
            return _RECORDED
        if issubclass(origin, Delivery | AsyncDelivery):
            return _DELIVERY
        if issubclass(origin, BaseModel):
            return _EVENT
    if get_args(note) and all(isinstance(each, type) and issubclass(each, BaseModel) for each in get_args(note)):
        return _EVENT
    return _OPEN
