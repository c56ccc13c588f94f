"""Which files `gridsync setup` writes, and where: everything that reads them asks here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gridsync.ops.roles import ROLES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DATA", "ENVIRONMENTS", "PASSWORDS", "Layout"]

PASSWORDS: Final = (*ROLES, "grafana")
"""Whose passwords are in ``secrets/``: every role's, and that of Grafana's administrator."""
_NUMBERED: Final = {"redis": 3, "sentinel": 3, "cluster": 6}
HOSTS: Final = (
    *("localhost", "127.0.0.1", "::1", "redis", "cache"),
    *(f"{name}-{number}" for name, most in _NUMBERED.items() for number in range(1, most + 1)),
)
"""The names that the server's certificate has besides those that are asked for: those of the compose files."""
ENVIRONMENTS: Final = {"app": "gridsync.env", "admin": "admin.env", "backup": "backup.env"}
"""The roles as which programs of this package connect, with the files that tell them how."""
DATA: Final = (
    *("redis", "cache", "prometheus", "grafana"),
    *(f"{name}-{number}" for name, most in _NUMBERED.items() for number in range(1, most + 1)),
)
"""The data directories."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of everything in a directory that `gridsync setup` has written."""

    root: Path

    def password(self, role: str) -> Path:
        """The file with the password of *role*: one line."""
        return self.root / "secrets" / f"{role}.password"

    @property
    def replication(self) -> Path:
        """What a server needs to copy from its primary: two directives, one of them secret."""
        return self.root / "secrets" / "replication.conf"

    @property
    def users(self) -> Path:
        """The ACL file of the servers."""
        return self.root / "acl" / "users.acl"

    @property
    def sentinel_users(self) -> Path:
        """The ACL file of the sentinels."""
        return self.root / "acl" / "sentinel.acl"

    def tls(self, name: str) -> Path:
        """A certificate or its key: ``ca``, ``server`` or ``client``, with ``.crt`` or ``.key``."""
        return self.root / "tls" / name

    def conf(self, name: str) -> Path:
        """A configuration: ``redis.conf``, ``cache.conf``, ``sentinel.conf``, ``cluster.conf``."""
        return self.root / "conf" / name

    def data(self, name: str) -> Path:
        """One of the `DATA` directories."""
        return self.root / "data" / name

    def env(self, role: str = "app") -> Path:
        """What a program of one of the `ENVIRONMENTS`, or a service, needs to know: variables, none of them secret."""
        return self.root / ENVIRONMENTS.get(role, f"{role}.env")

    @property
    def made(self) -> Path:
        """The options that all this was made with."""
        return self.root / "setup.json"

    @property
    def rotation(self) -> Path:
        """Which passwords are being changed; not there unless some are."""
        return self.root / "rotation.json"
