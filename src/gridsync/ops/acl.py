"""ACL files for one version of a server: a command that it does not know would keep it from starting.

A file has hashes instead of passwords.  Of several hashes each is good, which is how `gridsync rotate` lets old and new
passwords live side by side.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

from gridsync.ops.roles import ROLES, roles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gridsync.ops.roles import Role

__all__ = ["SERVERS", "asked", "hashed", "hashes", "text", "unknown"]

_SINCE_7_2: Final = frozenset({"client|setinfo", "waitaof"})
SERVERS: Final = {"redis-7.0": _SINCE_7_2, "redis-8": frozenset[str](), "valkey-8": frozenset[str]()}
"""The kinds of server, and the commands of the roles that each does not know."""
_DEFAULT: Final = "user default off resetpass ~* &* +@all"
"""Nobody can be this user; but a server that reads its append log is, and asks the ACL about each command of a MULTI.
What it may not do is left out, with a line in the log: without rights it would start without what scripts have written.
"""


def named(rules: Sequence[str]) -> set[str]:
    """Return the commands that *rules* name, in the words of the server: ``config|get``."""
    return {rule[1:] for rule in rules if rule[0] in "+-" and rule[1] != "@"}


def unknown(server: str) -> frozenset[str]:
    """Return the commands of the roles that a *server* of `SERVERS` does not know."""
    return SERVERS[server]


def asked(client: Any) -> frozenset[str]:  # noqa: ANN401 - a plain redis-py client
    """Return the commands of the roles that the server of *client* does not know.

    Cost: one round trip; the user needs ``+command``.
    """
    words = sorted(set().union(*(named(role.server) for role in ROLES.values())))
    # By itself redis-py would read the reply as that of COMMAND, and stumble over what is not there.
    found = client.execute_command("COMMAND INFO", *words, NEVER_DECODE=[])
    return frozenset(word for word, about in zip(words, found, strict=True) if about is None)


def hashed(password: str) -> str:
    """Return *password* as an ACL file has it."""
    return hashlib.sha256(password.encode()).hexdigest()


def line(role: Role, passwords: Sequence[str], without: frozenset[str], *, sentinel: bool = False) -> str:
    """Return the line of one role; *passwords* are hashes, and *without* what the server does not know."""
    rules = role.sentinel if sentinel else role.server
    known = [rule for rule in rules if rule[0] not in "+-" or rule[1:] not in without]
    return " ".join(["user", role.name, "on", *(f"#{each}" for each in passwords), "resetchannels", *known])


def text(
    passwords: Mapping[str, Sequence[str]],
    without: frozenset[str],
    namespaces: Iterable[str] = (),
    *,
    sentinel: bool = False,
) -> str:
    """Return the ACL file of the servers, or of the sentinels, for the hashes of each role."""
    users = [role for role in roles(namespaces).values() if (role.sentinel if sentinel else role.server)]
    lines = [line(role, passwords[role.name], without, sentinel=sentinel) for role in users]
    return "\n".join([_DEFAULT, *lines, ""])


def hashes(written: str) -> dict[str, tuple[str, ...]]:
    """Return the hashes of each user in an ACL file."""
    users = (words.split() for words in written.splitlines() if words.startswith("user "))
    return {words[1]: tuple(word[1:] for word in words[2:] if re.fullmatch("#[0-9a-f]{64}", word)) for words in users}
