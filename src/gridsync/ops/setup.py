"""`gridsync setup`: everything that servers, sentinels and their clients need to know, written once.

All of it is made beside its place and renamed in one step, so that it is there as a whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from gridsync.errors import UsageError
from gridsync.ops import acl, conf, files
from gridsync.ops.layout import DATA, ENVIRONMENTS, HOSTS, PASSWORDS, Layout
from gridsync.ops.roles import narrowed, roles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import ModuleType

    from gridsync.ops.files import Owner

__all__ = ["Plan", "setup"]

_SIZE: Final = re.compile(r"[1-9][0-9]*(b|kb?|mb?|gb?)?", re.IGNORECASE)
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ANEW: Final = "move the folder away and run setup again, or give it the options of before"
_BACK: Final = "put back what was there, or move the folder away and run setup again"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write; the same plan gives the same files, but for passwords and keys.

    Raises:
        UsageError: A value cannot be used.
    """

    server: str = "redis-7.0"
    """Which kind of server the ACL files are for; ``like`` if one was asked."""
    without: tuple[str, ...] = tuple(sorted(acl.unknown("redis-7.0")))
    """The commands of the roles that the server does not know."""
    hosts: tuple[str, ...] = ()
    """Names and addresses of the servers besides `HOSTS`; clients are told the first."""
    port: int = conf.PORT
    days: int = 825
    """How long the certificates are valid."""
    maxmemory: str = "1gb"
    cache_maxmemory: str = "2gb"
    namespaces: tuple[str, ...] = ()
    """Of the services that get users of their own."""

    def __post_init__(self) -> None:
        for size in (self.maxmemory, self.cache_maxmemory):
            if not _SIZE.fullmatch(size):
                raise UsageError(f"{size!r} is no size of memory; write 512mb or 2gb")
        for namespace in self.namespaces:
            if not _NAMESPACE.fullmatch(namespace):
                text = f"{namespace!r} cannot be the namespace of a user"
                raise UsageError(f"{text}; write letters, digits, and later also dots, hyphens, underscores")

    @property
    def services(self) -> dict[str, str]:
        """The namespace of each role that has one."""
        return {narrowed(namespace).name: namespace for namespace in self.namespaces}

    @property
    def passwords(self) -> tuple[str, ...]:
        """Whose passwords there are."""
        return (*PASSWORDS, *self.services)

    @property
    def environments(self) -> tuple[str, ...]:
        """Who is told in a file how to connect."""
        return (*ENVIRONMENTS, *self.services)

    @property
    def names(self) -> tuple[str, ...]:
        """All hosts that the certificate names, each once."""
        return tuple(dict.fromkeys((*HOSTS, *self.hosts)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `setup` did."""

    root: str
    new: bool
    """Whether it was written now; if not, it was there as it should be."""
    files: tuple[str, ...]


def setup(root: Path, plan: Plan, owner: Owner | None = None) -> Outcome:
    """Write everything into the new directory *root*, or find that it is there.

    Args:
        root: Where; its parent must be there.
        plan: What.
        owner: Whose all files shall be; whoever runs this by default.

    Raises:
        UsageError: Something else is there, or a part of it; nothing was written.
    """
    root = root.absolute()
    if owner not in (None, (os.geteuid(), os.getegid())) and os.geteuid() != 0:
        raise UsageError("only root may give files to another owner; leave --owner out, or run it as root")
    if any(sign in str(root) for sign in "'\n\r"):
        raise UsageError(f"{str(root)!r} has a sign that variables of a shell cannot have; name another folder")
    tls = _certificates()
    layout = Layout(root)
    try:
        if root.is_dir() and any(root.iterdir()):
            _agrees(layout, plan, tls)
            return Outcome(str(root), new=False, files=_names(layout))
    except OSError as error:
        text = f"{error.filename} cannot be read: {error.strerror}; run it as root, or as whoever owns {root}"
        raise UsageError(text) from None
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file; name a folder")
    if not root.parent.is_dir():
        raise UsageError(f"there is no folder {root.parent}; make it first")
    try:
        with files.workplace(root.with_name(f".{root.name}.setup"), "writing") as made:
            passwords = {role: secrets.token_urlsafe(32) for role in plan.passwords}
            written = _texts(layout, plan, passwords, owner or (os.geteuid(), os.getegid()))
            contents = {name: content.encode() for name, content in written.items()}
            signed = {f"tls/{name}": content for name, content in tls.issue(plan.names, plan.days).items()}
            files.fill(made, contents | signed, [f"data/{name}" for name in DATA], owner)
            files.publish(made, root)
    except OSError as error:
        raise UsageError(
            f"{root} cannot be written: {error.strerror} ({error.filename}); nothing is there now"
        ) from None
    return Outcome(str(root), new=True, files=_names(layout))


def _certificates() -> ModuleType:
    try:
        from gridsync.ops import tls  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError:
        raise UsageError("certificates need the package cryptography; pip install 'gridsync-redis[cli,ops]'") from None
    return tls


def _names(layout: Layout) -> tuple[str, ...]:
    found = (
        path for path in layout.root.rglob("*") if path.is_file() and path.relative_to(layout.root).parts[0] != "data"
    )
    return tuple(sorted(str(path.relative_to(layout.root)) for path in found))


def replication(password: str) -> str:
    """Return what a server needs to copy from its primary."""
    return f"masteruser replica\nmasterauth {conf.quoted(password)}\n"


def _texts(layout: Layout, plan: Plan, passwords: Mapping[str, str], owner: Owner) -> dict[str, str]:
    """Return every text by its name below the root; what is there must be the same."""
    hashes = {role: (acl.hashed(passwords[role]),) for role in roles(plan.namespaces)}
    without = frozenset(plan.without)
    texts = {layout.password(role): f"{passwords[role]}\n" for role in plan.passwords}
    texts |= {layout.conf(name): content for name, content in conf.texts(layout, conf.Sizes(*_sizes(plan))).items()}
    texts |= {
        layout.replication: replication(passwords["replica"]),
        layout.users: acl.text(hashes, without, plan.namespaces),
        layout.sentinel_users: acl.text(hashes, without, plan.namespaces, sentinel=True),
        **{layout.env(role): _environment(layout, plan, owner, role) for role in plan.environments},
        layout.made: json.dumps(asdict(plan), indent=2) + "\n",
    }
    return {str(path.relative_to(layout.root)): content for path, content in texts.items()}


def _sizes(plan: Plan) -> tuple[str, str]:
    return plan.maxmemory, plan.cache_maxmemory


def _environment(layout: Layout, plan: Plan, owner: Owner, role: str) -> str:
    shown = {"ssl_ca_certs": "ca.crt", "ssl_certfile": "client.crt", "ssl_keyfile": "client.key"}
    query = "&".join(f"{option}={quote(str(layout.tls(name)))}" for option, name in shown.items())
    host = next(iter(plan.hosts), "localhost")
    variables = {
        "GRIDSYNC_DIR": f"'{layout.root}'",
        "GRIDSYNC_UID": str(owner[0]),
        "GRIDSYNC_GID": str(owner[1]),
        "REDIS_URL": f"'rediss://{role}@{f'[{host}]' if ':' in host else host}:{plan.port}/0?{query}'",
        "REDIS_PASSWORD_FILE": f"'{layout.password(role)}'",
        **({"GRIDSYNC_NAMESPACE": plan.services[role]} if role in plan.services else {}),
    }
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def _agrees(layout: Layout, plan: Plan, tls: ModuleType) -> None:
    """See that everything is there, as *plan* would have it.

    Raises:
        UsageError: Something differs, is missing, or can be read by others.
    """
    root = layout.root
    try:
        before = dict(json.loads(layout.made.read_bytes()))
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError):
        text = f"{root} is not empty, and not from gridsync setup; name a folder that is not there yet"
        raise UsageError(text) from None
    if layout.rotation.exists():
        raise UsageError(f"passwords in {root} are being changed; end that first with gridsync rotate --finish")
    asked: dict[str, Any] = json.loads(json.dumps(asdict(plan)))
    others = [
        f"{name} is {before.get(name)!r} there and {asked[name]!r} here"
        for name in asked
        if before.get(name) != asked[name]
    ]
    if others:
        raise UsageError(f"{root} was made with other options ({', '.join(others)}); {_ANEW}")
    needed = [*(layout.password(role) for role in plan.passwords), *(layout.tls(name) for name in tls.FILES)]
    needed += [layout.env(role) for role in plan.environments]
    _there(root, needed)
    passwords = {role: layout.password(role).read_text("utf-8", "replace").strip() for role in plan.passwords}
    about = layout.made.stat()
    texts = _texts(layout, plan, passwords, (about.st_uid, about.st_gid))
    _there(root, [root / name for name in texts])
    for name, content in texts.items():
        if (root / name).read_bytes() != content.encode():
            raise UsageError(f"{root / name} is not what setup writes; {_BACK}")
    wrong = tls.flaw({name: layout.tls(name).read_bytes() for name in tls.FILES}, plan.names)
    if wrong:
        raise UsageError(f"{root}: {wrong}; {_BACK}")


def _there(root: Path, needed: list[Path]) -> None:
    for path in needed:
        if not path.is_file():
            raise UsageError(f"{root} lacks {path.relative_to(root)}; {_BACK}")
        if path.stat().st_mode & 0o077:
            raise UsageError(f"{path} can be read by others; chmod 600 it, and change what is in it if it is a secret")
        if path.parent.stat().st_mode & 0o022:
            raise UsageError(f"others may write into {path.parent}; chmod 700 it, and see that all in it is yours")
