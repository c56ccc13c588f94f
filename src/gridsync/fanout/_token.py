"""Resume tokens: a position that a client may keep, and cannot change.

``1.<epoch>.<offset>.<mark>.<until>.<signature>``: the server's time in ms up to which it counts, 0 for always, and
HMAC-SHA256 over the channel and what stands before.  The first secret signs, each one is accepted: a secret is replaced
by putting the new one in front, and taking the old one away when its tokens have expired.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final, NamedTuple

from gridsync.errors import UsageError
from gridsync.fanout._message import Position

if TYPE_CHECKING:
    from collections.abc import Sequence

_SIGNATURE_CHARS: Final = 32
"""128 bits of the signature."""
_SECRET_BYTES_MIN: Final = 16
_TOKEN_CHARS_MAX: Final = 200


class Resume(NamedTuple):
    """What a token says."""

    position: Position
    until_ms: int
    """The server's time up to which it counts; 0 for always."""


class Signer:
    """Makes and reads the tokens of one channel."""

    def __init__(self, channel: str, secrets: Sequence[str | bytes]) -> None:
        """Sign with the first of *secrets*, accept all.

        Raises:
            UsageError: One of them is no secret, or too short.
        """
        if isinstance(secrets, str | bytes):
            raise UsageError("secrets must be a sequence of secrets, not one of them")
        keys = [secret.encode() if isinstance(secret, str) else secret for secret in secrets]
        if any(not isinstance(key, bytes) or len(key) < _SECRET_BYTES_MIN for key in keys):
            raise UsageError(f"a secret for resume tokens must have at least {_SECRET_BYTES_MIN} bytes")
        self._macs = [hmac.new(key, channel.encode() + b"\0", hashlib.sha256) for key in keys]

    def sign(self, position: Position, until_ms: int) -> str:
        """Return a token for *position*.

        Raises:
            UsageError: The channel has no secrets.
        """
        if not self._macs:
            raise UsageError("resume tokens are signed: give the channel secrets=[…]")
        said = f"1.{position.epoch}.{position.offset}.{position.mark}.{until_ms}"
        return f"{said}.{_signature(self._macs[0], said)}"

    def read(self, token: str) -> Resume | None:
        """Return what *token* says, or ``None`` if none of our secrets has signed it for this channel."""
        if not isinstance(token, str) or len(token) > _TOKEN_CHARS_MAX or not token.isascii():
            return None
        said, _, signature = token.rpartition(".")
        if not any(hmac.compare_digest(_signature(mac, said), signature) for mac in self._macs):
            return None
        version, epoch, offset, mark, until = said.split(".")
        return Resume(Position(epoch, int(offset), mark), int(until)) if version == "1" else None


def _signature(mac: hmac.HMAC, said: str) -> str:
    copy = mac.copy()
    copy.update(said.encode())
    return copy.hexdigest()[:_SIGNATURE_CHARS]
