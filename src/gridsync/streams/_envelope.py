"""What is stored of a commit besides its events: where it comes from, and what its writer adds.

One small JSON object, the same for all events of a commit, in the field ``m`` of both streams; a commit of which
nothing is said has no such field.  The keys are one or two letters: ``c`` correlation id, ``k`` causation id, ``tp``
and ``ts`` the trace context of W3C, ``u`` what the user adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from gridsync._io import telemetry
from gridsync._units import name as checked
from gridsync.errors import UsageError

METADATA_MAX: Final = 4096
"""Bytes of one envelope: it is stored twice with each event."""
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is known of the commit that an event came with."""

    correlation_id: str | None = None
    """What everything has in common that was set off by one request."""
    causation_id: str | None = None
    """The id of the event or command that was the reason for this one."""
    metadata: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """What its writer added."""
    traceparent: str | None = None
    """The span in which it was appended, as the header of that name says it."""
    tracestate: str | None = None
    """What vendors added to that, as the header of that name says it."""


EMPTY: Final = Envelope()
"""Shared by all events of which nothing is said."""


def seal(
    metadata: Mapping[str, Any] | None,
    correlation_id: str | None,
    causation_id: str | None,
    cause: Envelope = EMPTY,
) -> str:
    """Return the envelope of a commit that this caller makes; empty if there is nothing to say.

    Where nobody traces, the trace context of what set it off is passed on: that of *cause*.

    Raises:
        UsageError: What JSON cannot hold, or more than 4096 bytes.
    """
    trace = telemetry.traced()
    if trace is None and cause.traceparent is not None:
        trace = (cause.traceparent, cause.tracestate or "")
    if metadata is None and correlation_id is None and causation_id is None and trace is None:
        return ""
    said: dict[str, Any] = {}
    if correlation_id is not None:
        said["c"] = checked(correlation_id, "a correlation id")
    if causation_id is not None:
        said["k"] = checked(causation_id, "a causation id")
    if trace is not None:
        said["tp"] = trace[0]
        if trace[1]:
            said["ts"] = trace[1]
    if metadata is not None:
        if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
            raise UsageError(f"metadata={metadata!r:.100}: it must be a mapping of strings to what JSON can hold")
        if metadata:
            said["u"] = dict(metadata)
    try:
        text = json.dumps(said, ensure_ascii=False, allow_nan=False, separators=(",", ":")) if said else ""
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"metadata={metadata!r:.100}: JSON cannot hold it: {error}") from error
    if size > METADATA_MAX:
        raise UsageError(
            f"metadata, ids and trace context take {size} bytes, at most {METADATA_MAX} are allowed: they are stored "
            "with each event; put large things into events"
        )
    return text


def unseal(text: bytes) -> Envelope:
    """Return what a commit was sent with.

    Raises:
        ValueError: It is no envelope.
    """
    said = json.loads(text)
    if not isinstance(said, dict):
        raise ValueError("an envelope is a JSON object")  # noqa: TRY004 - what is stored is wrong, not a type here
    return Envelope(said.get("c"), said.get("k"), said.get("u", _NOTHING), said.get("tp"), said.get("ts"))
