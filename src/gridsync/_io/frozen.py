"""Which values nobody can change, so that many may hold the same one."""

from __future__ import annotations

import enum
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel

_ATOMS: Final = frozenset(
    {type(None), bool, int, float, complex, str, bytes, Decimal, UUID, date, datetime, time, timedelta}
)


def is_frozen(value: Any) -> bool:  # noqa: ANN401
    """Tell whether nobody can change *value*, nor anything in it."""
    kind = type(value)
    if kind in _ATOMS or isinstance(value, enum.Enum):
        return True
    if kind in (tuple, frozenset):
        return all(map(is_frozen, value))
    if isinstance(value, BaseModel):
        parts = [*value.__dict__.values(), *(value.__pydantic_extra__ or {}).values()]
        return bool(kind.model_config.get("frozen")) and not value.__pydantic_private__ and all(map(is_frozen, parts))
    if is_dataclass(value):
        frozen: bool = kind.__dataclass_params__.frozen
        return frozen and all(is_frozen(getattr(value, field.name)) for field in fields(value))
    return False
