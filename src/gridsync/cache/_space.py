"""What a cache is: a name, a type, and how long what it holds may be served."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from hashlib import blake2s
from typing import TYPE_CHECKING, Final, Generic, Literal, get_args

from gridsync import _units
from gridsync.cache._codec import Codec, Json, V
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import TypeForm

OnError = Literal["compute", "raise", "stale"]
_LEAST_S: Final = 0.001
_EARLY_MAX: Final = 100.0
_RANDOM_BYTES: Final = 6


@dataclass(frozen=True)
class Space(Generic[V]):
    """The declaration of a cache, made once and used by every grid of a program.

    ::

        PROFILES = Space("user:profile", Profile, ttl=3600)
        BALANCES = Space("token:balance", Decimal, ttl=300, stale_for=60)

        profiles = grid.cache(PROFILES)

    Raises:
        UsageError: An option cannot be used.
    """

    name: str
    """The first part of every key; 1 to 512 bytes."""
    model: TypeForm[V]
    """The type of the values, for pydantic; ignored with a *codec*."""
    ttl: _units.Seconds = 300.0
    """How long a value is fresh, in seconds; from 0.001."""
    none_ttl: _units.Seconds | None = None
    """How long a ``None`` is fresh, in seconds: *ttl*, and at most 60 s, by default."""
    stale_for: _units.Seconds = 0.0
    """How long after that it may still be served while one caller loads it again, or if that fails, in seconds."""
    early: float = 0.0
    """How eagerly a value is loaded again before it is stale, as beta of XFetch: 1 is usual, 0 never."""
    jitter: float = 0.05
    """Each ttl is shorter by up to this part of it, so that what was stored together does not end together."""
    version: int = 1
    """Another version has other entries: raise it when the meaning of the values changes."""
    on_error: OnError = "compute"
    """While the server is away: ``compute`` treats all as missing and stores nothing, ``raise`` raises; ``stale``
    serves the last copy of this process, for as long as its `Near.away_for` says, and else does as ``compute``."""
    codec: Codec[V] | None = None
    """What turns values into bytes; JSON by pydantic, checked to come back as it was, by default."""
    timeout: _units.Seconds | None = None
    """How long a read, a load or a set waits for an answer of the server, in seconds from 0.001; the command timeout by
    default.  One that got none asks no more and goes on as *on_error* says, so this is what an outage costs it; beside
    that only the loader's own time counts, or that of another one that it waits for."""
    coder: Codec[V] = field(init=False, repr=False, compare=False)
    """What does so."""

    def __post_init__(self) -> None:
        """Check everything."""
        what = f"of the cache {_units.name(self.name, 'the name of a cache')!r}"
        _units.seconds(self.ttl, f"the ttl {what}", least=_LEAST_S)
        if self.none_ttl is not None:
            _units.seconds(self.none_ttl, f"none_ttl {what}", least=_LEAST_S)
        _units.seconds(self.stale_for, f"stale_for {what}")
        if self.timeout is not None:
            _units.seconds(self.timeout, f"the timeout {what}", least=_LEAST_S)
        _units.count(self.version, f"the version {what}", 2**53)
        for name, most in (("early", _EARLY_MAX), ("jitter", 0.5)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise UsageError(f"{name} {what} must be a number from 0 to {most:g}, not {value!r:.100}")
        if self.on_error not in get_args(OnError):
            raise UsageError(f"on_error {what} must be one of {', '.join(get_args(OnError))}, not {self.on_error!r}")
        object.__setattr__(self, "coder", Json(self.model) if self.codec is None else self.codec)

    @property
    def stored_name(self) -> str:
        """The name as it stands in keys."""
        return self.name if self.version == 1 else f"{self.name}#{self.version}"

    @property
    def stale_ms(self) -> int:
        """`stale_for` in milliseconds."""
        return round(_units.seconds(self.stale_for, "stale_for") * 1000)

    @property
    def timeout_s(self) -> float | None:
        """`timeout` in seconds."""
        return None if self.timeout is None else _units.seconds(self.timeout, "timeout")

    def life_ms(self, token: str, ttl: _units.Seconds | None, *, none: bool = False) -> int:
        """Return how long a value is fresh, in milliseconds; *token* decides what is left to chance.

        Raises:
            UsageError: *ttl* cannot be used.
        """
        life = _units.seconds(self.ttl if ttl is None else ttl, f"the ttl of {self.name!r}", least=_LEAST_S)
        if none:
            life = min(life, 60.0) if self.none_ttl is None else _units.seconds(self.none_ttl, "none_ttl")
        return max(1, math.floor(life * 1000 * (1 - self.jitter * _chance(token))))

    def due(self, token: str) -> int:
        """Return how many thousandths of its load time before its end a value is loaded again."""
        return 0 if not self.early else round(-1000 * self.early * math.log(1 - _chance(token)))

    def fresh_ms(self, token: str, life_ms: int, load_ms: int, stale_ms: int) -> float:
        """Return for how long a value is fresh that the server has for *life_ms* more; not at all if it is negative."""
        return life_ms - stale_ms - load_ms * self.due(token) / 1000


def _chance(token: str) -> float:
    """Return a number from 0 to below 1 that is as good as random: tokens never come twice."""
    digest = blake2s(token.encode(), digest_size=_RANDOM_BYTES).digest()
    return int.from_bytes(digest) / 256**_RANDOM_BYTES
