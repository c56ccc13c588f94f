"""From the arguments of a call to a key: the same in every process and every version of Python."""

from __future__ import annotations

import inspect
import string
from hashlib import blake2s
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError, to_json

from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_DIGEST_BYTES = 16


class KeyOf:
    """Makes keys of a function's arguments."""

    def __init__(self, function: Callable[..., Any], key: str | Callable[..., str] | None) -> None:
        """Take a template such as ``"{user_id}"``, a function of the same arguments, or nothing.

        Raises:
            UsageError: The template names something that is no parameter.
        """
        self._signature = inspect.signature(function)
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._key = key
        self._template = _Template()
        if isinstance(key, str):
            try:
                self._template.vformat(key, (), dict.fromkeys(self._signature.parameters, _Any()))
                self._template.learn(key)
            except (KeyError, IndexError, ValueError) as error:
                raise UsageError(
                    f"key={key!r:.100} does not fit {self._name}{self._signature}: name its parameters in braces, with "
                    f"something between two of them"
                ) from error

    def __call__(self, args: tuple[Any, ...], options: dict[str, Any]) -> str:
        """Return the key of a call.

        Raises:
            UsageError: An argument that is no JSON.
        """
        if callable(self._key):
            return self._key(*args, **options)
        bound = self._signature.bind(*args, **options)
        bound.apply_defaults()
        if self._key is not None:
            return self._template.vformat(self._key, (), bound.arguments)
        try:
            said = to_json(list(bound.arguments.items()), serialize_unknown=False)
        except PydanticSerializationError as error:
            raise UsageError(
                f"the arguments of {self._name} make no key ({error}): pass key='{{name_of_a_parameter}}', or a "
                f"function of the same arguments"
            ) from error
        return f"{self._name}:{blake2s(said, digest_size=_DIGEST_BYTES).hexdigest()}"


class _Template(string.Formatter):
    """Fills in a template so that other arguments never make the same key.

    Where it has several parts, what stands between them is written otherwise within a part, as in the path of a URL.
    """

    def __init__(self) -> None:
        self._escapes: dict[int, str] = {}

    def learn(self, template: str) -> None:
        """Take note of what separates the parts of *template*.

        Raises:
            ValueError: Nothing separates two of them.
        """
        literals = [literal for literal, name, _, _ in self.parse(template) if name is not None]
        if not all(literals[1:]):
            raise ValueError("nothing separates two parts")
        if literals[1:]:
            signs = {"%", *"".join(literals[1:])}
            self._escapes = {ord(sign): "".join(f"%{byte:02X}" for byte in sign.encode()) for sign in signs}

    def format_field(self, value: object, format_spec: str) -> str:
        """Return a part."""
        text: str = super().format_field(value, format_spec)
        return text.translate(self._escapes)


class _Any:
    """Stands for an argument while a template is tried."""

    def __format__(self, spec: str) -> str:
        return ""

    def __getattr__(self, name: str) -> _Any:
        return self

    def __getitem__(self, key: object) -> _Any:
        return self
