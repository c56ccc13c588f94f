"""Settings from the environment: ``REDIS_*`` for the connection, ``GRIDSYNC_*`` for the rest.

Every value can also be given by name: ``Settings(redis_url="redis://…")``.  A value that cannot be used raises
`UsageError`, which names the variable and what is allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from gridsync.errors import UsageError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["Settings"]


class Settings(BaseSettings):
    """What a `Grid` needs to know; each field's variable is its name in capitals."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="", extra="forbid", frozen=True, validate_default=True
    )

    redis_url: str = Field(
        "embedded://",
        min_length=1,
        description="Where the server is: redis://, rediss://, valkey://, valkeys://, redis+sentinel://, "
        "redis+cluster://, unix:// or embedded://",
    )
    redis_password_file: str | None = Field(
        None,
        min_length=1,
        description="where the password of the URL's user is, read anew for each connection; one in the URL wins",
    )
    redis_pool_size: int = Field(20, ge=1, le=10_000, description="most connections of a sync Grid")
    redis_connection_timeout: float = Field(
        5.0, gt=0, le=300, description="longest time to set up one connection, in seconds"
    )
    redis_command_timeout: float = Field(
        3.0, gt=0, le=300, description="longest time of one call, its repeats included, in seconds"
    )
    gridsync_namespace: str = Field(
        "gridsync", min_length=1, max_length=64, description="first part of every key; keeps applications apart"
    )
    gridsync_inflight_max: int = Field(
        1000, ge=1, le=100_000, description="most commands under way on one asyncio connection; further ones wait"
    )
    gridsync_connections_per_node: int = Field(
        1, ge=1, le=8, description="asyncio connections to each server; a huge value delays only what shares its own"
    )
    gridsync_breaker: bool = Field(default=True, description="whether calls fail at once while a server is away")
    gridsync_breaker_failure_rate: float = Field(
        0.5, gt=0, le=1, description="share of the calls that must have failed for a server to count as away"
    )
    gridsync_breaker_min_calls: int = Field(
        3, ge=1, le=1_000_000, description="how many calls that judgement needs at least"
    )
    gridsync_breaker_pause: float = Field(
        1.0, gt=0, le=300, description="pause before a server that is away is probed again, in seconds"
    )
    gridsync_retry_ratio: float = Field(
        0.1, ge=0, le=100, description="repeats that each answered request allows; bounds the load of a retry storm"
    )
    gridsync_retry_burst: int = Field(
        1000,
        ge=0,
        le=1_000_000,
        description="repeats that are allowed at once on top of that, as after a broken connection",
    )

    gridsync_audit: bool = Field(
        default=True,
        description="whether the server is looked at once, after the first lease, for what locks rely on",
    )

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - checked by the fields
        """Read the environment; *values* win over it.

        Raises:
            UsageError: A value is not usable; the message names its variable and what is allowed.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError("; ".join(_explain(detail) for detail in error.errors())) from None

    def __repr__(self) -> str:
        """Show everything but the password."""
        from gridsync._io.wire.endpoint import redacted  # noqa: PLC0415 - settings are read before any client is loaded

        return f"Settings(redis_url={redacted(self.redis_url)!r}, gridsync_namespace={self.gridsync_namespace!r})"

    __str__ = __repr__


def _explain(detail: ErrorDetails) -> str:
    name = str(detail["loc"][0]) if detail["loc"] else "settings"
    field = Settings.model_fields.get(name)
    if field is None:
        known = ", ".join(sorted(Settings.model_fields))
        return f"there is no setting {name!r}; there are {known}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{name.upper()}={detail['input']!r}: {message} ({field.description}; default {field.default!r})"
