"""What can go wrong on a wire, by what it means for the request.

A `Fault` is a request without a reply: *not applied* (it never left, or the server said that it did nothing) or
*ambiguous* (it left, and nobody knows).  A `ReplyError` is a reply: the stream is in step, only this request failed.
"""

from __future__ import annotations

import re

from gridsync.errors import (
    AuthenticationFailed,
    GridsyncError,
    PermissionDenied,
    ServerError,
    Unavailable,
)


class Fault(Exception):
    """A request that got no reply; not yet an error, since it may still be repeated."""

    def __init__(self, message: str, *, applied: bool) -> None:
        """*applied* is whether the request may have been applied."""
        super().__init__(message)
        self.ambiguous = applied


class Exhausted(Fault):
    """Not sent, because this machine has no descriptor, port or memory left: it says nothing about the server."""

    def __init__(self, message: str) -> None:
        super().__init__(message, applied=False)


class ReplyError(Exception):
    """An error reply, as the parser makes it."""

    @property
    def code(self) -> str:
        """The first word, such as ``NOSCRIPT``; ``ERR`` for a redirect that leads nowhere."""
        text = str(self)
        word = text.split(" ", 1)[0]
        if word in REDIRECTS:
            leads = _REDIRECT.fullmatch(text)
            if leads is None or int(leads[1]) > _SLOT_MAX:
                return "ERR"
        return word

    @property
    def slot(self) -> int:
        """The slot of a `REDIRECTS` reply."""
        return int(str(self).split(" ")[1])

    @property
    def target(self) -> str:
        """Where a `REDIRECTS` reply points to, ``host:port``; the host is empty if it is the sender's own."""
        return str(self).split(" ")[2]


ASKING = ("ASKING",)
"""Makes a node serve the connection's next command although it does not own the slot yet."""
REDIRECTS = frozenset({"MOVED", "ASK"})
"""The node of a cluster says that it did nothing, and which other node would: for good, or for this once."""
_REDIRECT = re.compile(r"[A-Z]+ (\d{1,5}) \S*:\d{1,5}")
_SLOT_MAX = 16_383

ROLE_CHANGED = frozenset({"READONLY", "UNBLOCKED"})
"""What a primary that was demoted says to a blocking command."""


# The server says that it did not run the command now, but may run it soon.
_NOT_APPLIED = frozenset(
    {"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "MISCONF", "NOREPLICAS", *REDIRECTS}
)


def is_transient(error: ReplyError) -> bool:
    """Tell whether the server refused only for the moment, without having applied anything."""
    return error.code in _NOT_APPLIED or str(error).startswith("ERR max number of clients")


def is_cut_short(error: ReplyError) -> bool:
    """Tell whether a script may have ended half-way because its slot is on the move.

    A key that a script has emptied or deleted itself counts as moved then, and cannot be written again.
    """
    return "attempted to access a non local key" in str(error)


FULL = "the server is full: raise maxmemory or delete"
"""What to do about a write that is refused for want of memory."""


def as_public(error: ReplyError, what: str) -> GridsyncError:
    """Turn an error reply to *what* into the exception that a user sees."""
    code = error.code
    if is_transient(error):
        return Unavailable(f"the server refuses {what} for the moment: {error}")
    if code == "NOPERM":
        return PermissionDenied(f"the server's ACL refused {what}: {error}; grant it with ACL SETUSER")
    if code in {"NOAUTH", "WRONGPASS"}:
        return AuthenticationFailed(f"the server refused {what}: {error}; check user and password in REDIS_URL")
    if code == "CROSSSLOT" or "same slot" in str(error):
        advice = "on a cluster all keys of one call need one hash tag, as {user:7}:name and {user:7}:mail have"
        return ServerError(f"the server refused {what}: {error}; {advice}", code=code)
    advice = f"; {FULL}" if code == "OOM" else ""
    return ServerError(f"the server refused {what}: {error}{advice}", code=code)
