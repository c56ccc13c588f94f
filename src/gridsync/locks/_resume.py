"""A lease as text: what another process needs to go on with it, and nothing secret.

The owner id is what the server knows the holder by.  Whoever has it can renew and release; so the text is worth as
much as the lease, for as long as that lives, and is no key to anything else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gridsync.errors import LeaseLost, UsageError
from gridsync.locks._hold import Hold
from gridsync.locks._stamp import FENCE_MAX

if TYPE_CHECKING:
    from gridsync._io import IO
    from gridsync.locks._spec import Spec

FORMAT = 1
TEXT_CHARS_MAX = 4096


def write(hold: Hold) -> str:
    """Return the text of a lease.

    Raises:
        LeaseLost: It has ended.
    """
    hold.check()
    spec = hold.spec
    told = {"gridsync-lease": FORMAT, "kind": spec.kind, "name": spec.name, "key": spec.keys[0]}
    return json.dumps({**told, "owner": hold.owner, "fence": hold.fence, "ttl_ms": spec.ttl_ms})


def read(spec: Spec, text: str) -> tuple[str, int]:
    """Return owner and fence of a text.

    Raises:
        UsageError: It is no lease of *spec*.
    """
    try:
        told = json.loads(text[:TEXT_CHARS_MAX])
        known = told["gridsync-lease"] == FORMAT
        kind, key, owner, fence = (told[what] for what in ("kind", "key", "owner", "fence"))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"this is no lease: {text!r:.100}; pass what serialize() or detach() returned") from None
    sound = type(owner) is str and owner.isascii() and owner and type(fence) is int and 0 < fence <= FENCE_MAX
    if not known or not sound:
        raise UsageError(f"this is no lease that this version of gridsync can read: {text!r:.100}")
    if (kind, key) != (spec.kind, spec.keys[0]):
        raise UsageError(f"this is a lease of {kind} {key!r}, and not of {spec} with the key {spec.keys[0]!r}")
    return owner, fence


async def resume(io: IO, spec: Spec, text: str) -> Hold:
    """Go on with the lease that *text* tells of, if the server still counts it as its owner's.

    Raises:
        UsageError: It is no lease of *spec*.
        LeaseLost: It has ended.
    """
    owner, fence = read(spec, text)
    sent = io.monotonic()
    if await io.run(spec.renew, spec.renew_keys, (owner, spec.ttl_text)) != 1:
        raise ended(spec, fence)
    hold = Hold(io, spec, owner, fence, sent, ghost=True)
    hold.process = io.process_name
    return hold


def ended(spec: Spec, fence: int) -> LeaseLost:
    """Return the exception that tells that a lease cannot be resumed."""
    return LeaseLost(
        f"the lease of {spec} (fence {fence}) cannot be resumed: it ended on the server, or was taken away",
        name=spec.name,
        fence=fence,
        reason="it ended on the server, or was taken away",
    )
