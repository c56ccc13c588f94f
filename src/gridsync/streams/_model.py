"""Pydantic models in, (type name, JSON) out, and back.

The type name of an event is stored beside its payload, so reading never guesses: it is the ``event_type`` class
variable of the model if it has one, else the value of the union's discriminator, else the name of the class.  A model
whose ``schema_version`` is not 1 has it stored with the name, as in ``OrderPlaced#3``; what was stored with an older
one goes through the upcasters from there on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from enum import Enum
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

from pydantic import BaseModel, ConfigDict, Discriminator, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, SchemaSerializer, SchemaValidator

from gridsync.errors import InvalidEvent, UnknownEventType, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

E = TypeVar("E", bound=BaseModel)

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes what JSON says of an event of one schema version, and returns what it says in the next version."""
Upcasters = Mapping[tuple[str, int], Upcaster]
"""Type name and schema version → what lifts an event from there to the next version."""

_VERSIONED: Final = re.compile(r"(.*)#(\d+)\Z", re.DOTALL)
"""A stored type name with its schema version, if that is not 1."""


class RawEvent(BaseModel):
    """An event that no model of the store can read.

    Put it among a store's models, as in ``OrderPlaced | RawEvent``, to be given what other programs wrote instead of
    `UnknownEventType`.  It can only be read; a store of nothing else reads whatever there is.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    type: str
    """The type name it was stored under."""
    schema_version: int
    """The version of that type's schema."""
    data: bytes
    """The payload as it is stored: JSON."""


class Codec(Generic[E]):
    """The models of one store, with a `TypeAdapter` each, built once."""

    def __init__(self, model: Any, upcasters: Upcasters | None = None) -> None:  # noqa: ANN401 - a class, a union, ...
        """Take a model class, a union of them (discriminated or not) or a sequence of them.

        Raises:
            UsageError: Something else, two models with one type name, or upcasters that lead nowhere.
        """
        # The core's own serializer and validator: a TypeAdapter's methods take twice the time on the way there.
        self._models: dict[type, tuple[str | None, SchemaSerializer, SchemaValidator]] = {}
        self._types: dict[str, type] = {}
        self._versions: dict[str, int] = {}
        # What is stored of today's types and versions → the type name, the version and what reads it.
        self._stored: dict[bytes, tuple[str, int, SchemaValidator]] = {}
        self._raw = False
        self._field = ""
        for field, cls in _classes(model, ""):
            if cls is RawEvent:
                self._raw = True
                continue
            if cls in self._models:
                continue
            version = _version(cls)
            names = _names(cls, field)
            for name in names:
                if name in self._types:
                    raise UsageError(
                        f"event type {name!r} is claimed by {self._types[name].__name__} and {cls.__name__}; "
                        "give one of them another name with `event_type: ClassVar[str]`"
                    )
                if _VERSIONED.match(name):
                    raise UsageError(f"event type {name!r}: a name does not end in # and a number, schema versions do")
                self._types[name], self._versions[name] = cls, version
            if len(names) > 1:
                self._field = field
            adapter: TypeAdapter[Any] = TypeAdapter(cls)
            validator = cast("SchemaValidator", adapter.validator)
            for name in names:
                self._stored[_stored(name, version).encode()] = (name, version, validator)
            fixed = _stored(names[0], version) if len(names) == 1 else None
            self._models[cls] = (fixed, adapter.serializer, validator)
        if not self._models and not self._raw:
            raise UsageError("an event store needs at least one pydantic model")
        self._upcasters = dict(upcasters or {})
        self._check_upcasters()

    def _check_upcasters(self) -> None:
        for (name, version), upcaster in self._upcasters.items():
            newest = self._versions.get(name)
            if newest is None:
                raise UsageError(f"there is an upcaster for {name!r}, and no model of that type: {self._known()}")
            if not callable(upcaster):
                raise UsageError(f"the upcaster of {name!r} from version {version} cannot be called: {upcaster!r:.100}")
            missing = [step for step in range(version, newest) if (name, step) not in self._upcasters]
            if not 1 <= version < newest or missing:
                raise UsageError(
                    f"there is an upcaster of {name!r} from version {version}; its model says schema_version {newest}, "
                    f"so there must be one for each version from there to {newest - 1}"
                    + (f", and those from {missing} are missing" if missing else "")
                )

    @property
    def types(self) -> tuple[str, ...]:
        """Every type name this store knows."""
        return tuple(self._types)

    @property
    def models(self) -> tuple[type[BaseModel], ...]:
        """Every model this store reads and writes."""
        return tuple(self._models)

    def names(self, each: str | type[BaseModel]) -> list[str]:
        """Return the type names of a model, or the one that was given: it need not be known here."""
        if isinstance(each, str):
            return [each]
        found = [name for name, cls in self._types.items() if cls is each]
        if not found:
            raise UsageError(f"{each!r} is no model of this store; it knows {self._known()}")
        return found

    def dump(self, event: E) -> tuple[str, bytes]:
        """Return the type name as it is stored, and the payload of *event*.

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
        return name or _stored(_plain(getattr(event, self._field)), _version(cls)), data

    def load(self, stored: bytes, data: bytes, where: str) -> tuple[E, str, int]:
        """Return the event again, its type name and its schema version; *where* goes into the error.

        Raises:
            UnknownEventType: No model of this store has that type name, or only in older versions.
            InvalidEvent: The stored payload does not fit its model, or nothing lifts it to the model's version.
        """
        known = self._stored.get(stored)
        if known is None:
            return self._load_other(stored, data, where)
        name, version, validator = known
        try:
            event: E = validator.validate_json(data)
        except ValidationError as error:
            raise self._unfit(name, where, error) from error
        return event, name, version

    def _load_other(self, stored: bytes, data: bytes, where: str) -> tuple[E, str, int]:
        """Read what is of another schema version, or of a type that this store does not know."""
        whole = stored.decode()
        found = _VERSIONED.match(whole)
        name, version = (found[1], int(found[2])) if found else (whole, 1)
        newest = self._versions.get(name, 0)
        if version > newest:
            if self._raw:
                return cast("E", RawEvent(type=name, schema_version=version, data=data)), name, version
            if newest:
                raise UnknownEventType(
                    f"{where}, a {name}, has schema version {version}, and the model of this store has {newest}: "
                    "a newer program wrote it"
                )
            raise UnknownEventType(
                f"{where} has type {name!r}, which no model of this store claims; it knows {self._known()}"
            )
        if (name, version) not in self._upcasters:
            raise InvalidEvent(
                f"{where}, a {name}, has schema version {version}, and nothing lifts it to {newest}: "
                f"give the store an upcaster for ({name!r}, {version})"
            )
        step = version
        try:
            content = json.loads(data)
            for step in range(version, newest):
                content = self._upcasters[name, step](content)
            lifted = json.dumps(content)
        except Exception as error:
            raise InvalidEvent(f"{where}, a {name}, cannot be lifted from schema version {step}: {error!r}") from error
        try:
            event: E = self._models[self._types[name]][2].validate_json(lifted)
        except ValidationError as error:
            raise self._unfit(name, where, error) from error
        return event, name, version

    def _unfit(self, name: str, where: str, error: ValidationError) -> InvalidEvent:
        return InvalidEvent(f"{where}, a {name}, does not fit its model {self._types[name].__name__}: {error}")

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


def _version(cls: type[BaseModel]) -> int:
    """Return the schema version of a model."""
    version = cls.schema_version if "schema_version" in cls.__class_vars__ else 1  # type: ignore[attr-defined]
    if type(version) is not int or version < 1:
        raise UsageError(f"{cls.__name__}.schema_version={version!r} must be a whole number from 1")
    return version


def _stored(name: str, version: int) -> str:
    return name if version == 1 else f"{name}#{version}"


def _plain(value: object) -> str:
    return str(value.value if isinstance(value, Enum) else value)
