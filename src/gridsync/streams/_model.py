"""Pydantic models in, (type name, JSON) out, and back.

The type name of an event is stored beside its payload, so reading never guesses: it is the ``event_type`` class
variable of the model if it has one, else the value of the union's discriminator, else the name of the class.
"""

from __future__ import annotations

from enum import Enum
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, Discriminator, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, SchemaSerializer, SchemaValidator

from gridsync.errors import InvalidEvent, UnknownEventType, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

E = TypeVar("E", bound=BaseModel)


class Codec(Generic[E]):
    """The models of one store, with a `TypeAdapter` each, built once."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - a class, a union of classes or a sequence of them
        """Take a model class, a union of them (discriminated or not) or a sequence of them.

        Raises:
            UsageError: Something else, or two models with one type name.
        """
        # The core's own serializer and validator: a TypeAdapter's methods take twice the time on the way there.
        self._models: dict[type, tuple[str | None, SchemaSerializer, SchemaValidator]] = {}
        self._types: dict[str, type] = {}
        self._field = ""
        for field, cls in _classes(model, ""):
            if cls in self._models:
                continue
            names = _names(cls, field)
            for name in names:
                if name in self._types:
                    raise UsageError(
                        f"event type {name!r} is claimed by {self._types[name].__name__} and {cls.__name__}; "
                        "give one of them another name with `event_type: ClassVar[str]`"
                    )
                self._types[name] = cls
            if len(names) > 1:
                self._field = field
            adapter: TypeAdapter[Any] = TypeAdapter(cls)
            fixed = names[0] if len(names) == 1 else None
            self._models[cls] = (fixed, adapter.serializer, cast("SchemaValidator", adapter.validator))
        if not self._models:
            raise UsageError("an event store needs at least one pydantic model")

    @property
    def types(self) -> tuple[str, ...]:
        """Every type name this store knows."""
        return tuple(self._types)

    def dump(self, event: E) -> tuple[str, bytes]:
        """Return the type name and the payload of *event*.

        Raises:
            UnknownEventType: A model that was not given to this store.
            InvalidEvent: No model at all, or content that does not fit its model.
        """
        cls = type(event)
        try:
            name, serializer, validator = self._models[cls]
        except KeyError:
            if not isinstance(event, BaseModel):
                raise InvalidEvent(
                    f"an event must be an instance of one of this store's models ({self._known()}), not {cls.__name__}"
                ) from None
            raise UnknownEventType(
                f"{cls.__name__} is no model of this store; it knows {self._known()}: add it to the store's models"
            ) from None
        try:
            # An instance may have been changed since it was validated: what is stored must be what can be read.
            data = serializer.to_json(event, by_alias=True, round_trip=True, warnings=False)
            read = validator.validate_json(data)
        except (ValidationError, PydanticSerializationError) as error:
            raise InvalidEvent(f"this {cls.__name__} does not fit its model, nothing was appended: {error}") from error
        # An alias for one direction only, a NaN, a field typed as Any: valid, and something else when it is read.  What
        # the model itself leaves out (``exclude=True``) may differ.
        if read.__dict__ != event.__dict__ and serializer.to_python(read) != serializer.to_python(event):
            raise InvalidEvent(
                f"this {cls.__name__} would be read back as {read!r:.200}, nothing was appended: give its fields types "
                f"and aliases that JSON keeps"
            )
        return name or _plain(getattr(event, self._field)), data

    def load(self, name: str, data: bytes, where: str) -> E:
        """Return the event again; *where* goes into the error.

        Raises:
            UnknownEventType: No model of this store has that type name.
            InvalidEvent: The stored payload does not fit its model.
        """
        cls = self._types.get(name)
        if cls is None:
            raise UnknownEventType(
                f"{where} has type {name!r}, which no model of this store claims; it knows {self._known()}"
            )
        try:
            event: E = self._models[cls][2].validate_json(data)
        except ValidationError as error:
            raise InvalidEvent(f"{where}, a {name}, does not fit its model {cls.__name__}: {error}") from error
        return event

    def _known(self) -> str:
        return ", ".join(self._types)


def _classes(model: Any, field: str) -> Iterator[tuple[str, type[BaseModel]]]:  # noqa: ANN401
    """Yield every model class of *model*, with the name of the discriminator it stands under."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        yield field, model
    elif get_origin(model) is Annotated:
        inner, *notes = get_args(model)
        for note in notes:
            found = note.discriminator if isinstance(note, FieldInfo | Discriminator) else None
            if isinstance(found, Discriminator):
                found = found.discriminator
            if isinstance(found, str):
                field = found
        yield from _classes(inner, field)
    elif get_origin(model) in (Union, UnionType):
        for part in get_args(model):
            yield from _classes(part, field)
    elif hasattr(model, "__value__"):  # type Event = ..., from Python 3.12 on
        yield from _classes(model.__value__, field)
    elif isinstance(model, list | tuple | set | frozenset):
        for part in model:
            yield from _classes(part, field)
    else:
        raise UsageError(f"events are pydantic models: {model!r} is neither a model, a union nor a sequence of models")


def _names(cls: type[BaseModel], field: str) -> list[str]:
    """Return the type names of one model: several if its discriminator allows several values."""
    if "event_type" in cls.__class_vars__:
        return [str(cls.event_type)]  # type: ignore[attr-defined]
    if field in cls.model_fields:
        annotation = cls.model_fields[field].annotation
        if get_origin(annotation) is Literal:
            return [_plain(value) for value in get_args(annotation)]
    return [cls.__name__]


def _plain(value: object) -> str:
    return str(value.value if isinstance(value, Enum) else value)
