"""Values in, bytes out, and back the same."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, SchemaSerializer, SchemaValidator

from gridsync.errors import InvalidValue

V = TypeVar("V")


class Codec(Protocol[V]):
    """What turns values into bytes and back: any object with these two methods.

    Never pass `pickle` here: whoever can write to the server would run code in your process.
    """

    def dumps(self, value: V) -> bytes:
        """Return the bytes of *value*.  May raise anything; nothing is stored then."""

    def loads(self, data: bytes) -> V:
        """Return the value of *data*.  May raise anything, and the entry counts as missing then.

        Perhaps another version of the program wrote it, with another codec; what is no `ValueError` is logged once.
        """


class Json(Generic[V]):
    """JSON as pydantic writes and reads it for one type, refusing what would not come back as it was."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - whatever a TypeAdapter takes
        """Take a type: a model, a dataclass, ``list[Decimal]``, ``Profile | None``, ..."""
        adapter: TypeAdapter[Any] = TypeAdapter(model)
        # The core's own serializer and validator: a TypeAdapter's methods take twice the time on the way there.
        self._serializer: SchemaSerializer = adapter.serializer
        self._validator = cast("SchemaValidator", adapter.validator)
        self._model = model

    def dumps(self, value: V) -> bytes:
        """Return *value* as JSON.

        Raises:
            InvalidValue: JSON cannot hold it, or it would be read back as something else.
        """
        try:
            data = self._serializer.to_json(value, by_alias=True, round_trip=True, warnings=False)
            same = self._validator.validate_json(data)
        except (ValidationError, PydanticSerializationError) as error:
            raise InvalidValue(
                f"{value!r:.200} cannot be cached as {self._model!r:.100}, nothing was stored: {error}"
            ) from error
        if same != value or type(same) is not type(value):
            raise InvalidValue(
                f"{value!r:.200} would be read back from the cache as {same!r:.200}, nothing was stored: give the "
                f"cache the type of its values; it has {self._model!r:.100}"
            )
        return data

    def loads(self, data: bytes) -> V:
        """Return the value of *data*.

        Raises:
            ValueError: It does not fit the type; pydantic's `ValidationError` is one.
        """
        value: V = self._validator.validate_json(data)
        return value
