"""`gridsync rotate`: new passwords with no call failing, in steps of which each may be interrupted and done again.

1. `begin`: new passwords are written beside the old ones, and every server accepts both; then replication and sentinels
   use the new ones, and then the files have them.  From now on a client that connects reads the new one.
2. Clients move: whoever connects anew.  A connection that lives stays what it is.
3. `finish`: when no connection is left that was made before the files changed, every server forgets the old ones.

Which connections those are is told by their numbers, which only grow while a server runs, so that no clock is asked.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gridsync._io.wire.faults import ReplyError
from gridsync.errors import UsageError
from gridsync.ops import acl, files
from gridsync.ops.layout import Layout
from gridsync.ops.nodes import reach
from gridsync.ops.roles import roles as all_roles
from gridsync.ops.setup import replication

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from gridsync.ops.nodes import Node
    from gridsync.ops.roles import Role

__all__ = ["Held", "Rotated", "begin", "finish"]

CUTS_MAX: Final = 10
"""How often connections are cut that come from before; a server may take a moment to end one."""


@dataclass(frozen=True, slots=True)
class Held:
    """A connection that was made before the files changed."""

    node: str
    user: str
    address: str
    name: str
    age_s: int


@dataclass(frozen=True, slots=True)
class Rotated:
    """What was done."""

    roles: tuple[str, ...]
    nodes: tuple[str, ...]
    done: bool
    """Whether the old passwords are forgotten."""
    held: tuple[Held, ...] = ()
    """Who keeps them from being forgotten; whom it was done in spite of, if it was forced."""
    unsaved: tuple[str, ...] = ()
    """Which servers could not write their ACL file, and why: they must find the folder's at their next start."""


@dataclass(slots=True)
class _State:
    """What is under way; there are no passwords in it."""

    new: dict[str, str]
    """The hash of each role's new password."""
    old: dict[str, list[str]]
    """The hashes that were good before."""
    marks: dict[str, int] = field(default_factory=dict)
    """By the run of a server: the number of a connection that was made when the files had changed."""
    names: dict[str, str] = field(default_factory=dict)
    """By the run of a server: what it is, and where; it accepts both passwords."""


@contextlib.contextmanager
def _opened(root: Path, urls: Sequence[str], timeout: float) -> Iterator[tuple[Layout, list[Node]]]:
    layout = Layout(root.absolute())
    try:
        if not layout.made.is_file():
            raise UsageError(f"{root} was not made by gridsync setup; name the folder that was")
        with files.held(layout.root, "working on"), contextlib.ExitStack() as stack:
            nodes = reach(urls or [_own(layout)], str(layout.password("admin")), timeout)
            for node in nodes:
                stack.callback(node.close)
            yield layout, nodes
    except ReplyError as error:
        raise UsageError(f"a server says {error}; name a user that may do everything, as admin does") from None
    except OSError as error:
        text = f"{error.filename} cannot be read or written: {error.strerror}; run the same again when it can"
        raise UsageError(text) from None


def _own(layout: Layout) -> str:
    """Return the URL of the folder's own environment file, for its administrator."""
    found = re.search(r"^REDIS_URL='(.*)'$", layout.env().read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise UsageError(f"{layout.env()} has no REDIS_URL; name a server with --url")
    return found[1].replace("//app@", "//admin@", 1)


def begin(root: Path, urls: Sequence[str], roles: Sequence[str] = (), *, timeout: float = 5.0) -> Rotated:
    """Give *roles*, or all of them, new passwords beside the old ones; what was interrupted goes on where it was.

    Args:
        root: What `gridsync setup` has written.
        urls: Servers, sentinels or a cluster, as `reach` takes them; by default the folder's own.
        roles: Whose passwords; all by default.
        timeout: For each connection and each answer, in seconds.

    Raises:
        GridsyncError: A server cannot be reached, or refuses.  The old passwords are as good as before.
    """
    with _opened(root, urls, timeout) as (layout, nodes):
        state = _begun(layout, roles)
        both = {role: [*old, state.new[role]] for role, old in state.old.items()}
        unsaved = _tell(layout, nodes, {role: [f"#{state.new[role]}"] for role in state.new}, both)
        fresh = {role: _fresh(layout, role, state) for role in state.new}
        _use(nodes, fresh)
        if "replica" in fresh:
            files.replace(layout.replication, replication(fresh["replica"]).encode())
        for role in state.new:
            beside = _beside(layout, role)
            if beside.exists():
                beside.replace(layout.password(role))
                files.sync(beside.parent)
        for node in _unmarked(nodes, state):
            later = node.again()
            try:
                state.marks[later.run()] = later.connection
            finally:
                later.close()
        state.names |= {node.run(): node.name for node in nodes}
        _write(layout, state)
        return Rotated(tuple(state.new), tuple(node.name for node in nodes), done=False, unsaved=unsaved)


def finish(root: Path, urls: Sequence[str], *, cut: bool = False, force: bool = False, timeout: float = 5.0) -> Rotated:
    """Let every server forget the old passwords, if nobody is connected from before.

    Args:
        root: What `gridsync setup` has written.
        urls: As for `begin`.
        cut: End the connections from before, while both passwords are good: their clients connect anew.
        force: Forget the old passwords whoever is connected; what is connected stays so.
        timeout: For each connection and each answer, in seconds.

    Returns:
        What was done; if it was not, who is still connected.

    Raises:
        GridsyncError: A server cannot be reached, or nothing is under way.

    Not guaranteed: that a client is seen which holds the old password in its memory and has connected anew with it.
    """
    with _opened(root, urls, timeout) as (layout, nodes):
        state = _read(layout)
        if state is None:
            raise UsageError(f"no passwords in {root} are being changed; begin with gridsync rotate {root}")
        if not state.marks:
            raise UsageError(f"new passwords are not everywhere yet; run gridsync rotate {root} again, and then this")
        _same(nodes, state, root, force=force)
        held = [one for node in nodes for one in _from_before(node, state, cut=cut)]
        names = tuple(node.name for node in nodes)
        if held and not force:
            return Rotated(tuple(state.new), names, done=False, held=tuple(held))
        only = {role: [new] for role, new in state.new.items()}
        unsaved = _tell(layout, nodes, {role: ["resetpass", f"#{new}"] for role, new in state.new.items()}, only)
        layout.rotation.unlink()
        files.sync(layout.root)
        return Rotated(tuple(state.new), names, done=True, held=tuple(held), unsaved=unsaved)


def _begun(layout: Layout, roles: Sequence[str]) -> _State:
    """Return what is under way, or begin it: the new passwords are on the disk before anybody hears of them."""
    state = _read(layout)
    if state is not None:
        if roles and set(roles) != set(state.new):
            under_way = ", ".join(state.new)
            raise UsageError(f"passwords of {under_way} are being changed; end that first with --finish, or repeat it")
        return state
    there = all_roles(_made(layout)["namespaces"])
    unknown = sorted(set(roles) - set(there))
    if unknown:
        raise UsageError(f"there is no role {unknown[0]!r}; there are {', '.join(there)}")
    chosen = list(dict.fromkeys(roles)) or list(there)
    before = _users(layout, there, sentinel=False)
    new: dict[str, str] = {}
    for role in chosen:
        password = secrets.token_urlsafe(32)
        files.replace(_beside(layout, role), f"{password}\n".encode())
        new[role] = acl.hashed(password)
    state = _State(new, {role: list(before[role]) for role in chosen})
    _write(layout, state)
    return state


def _unmarked(nodes: list[Node], state: _State) -> list[Node]:
    """Return the nodes that were not there before; one that was started anew is known by its address."""
    known = {*state.names, *state.names.values()}
    return [node for node in nodes if known.isdisjoint({node.run(), node.name})]


def _same(nodes: list[Node], state: _State, root: Path, *, force: bool) -> None:
    """See that those are there that accept the new passwords, and no others.

    A replica that was not reached would go on with the old passwords, and lock everybody out when it is promoted.
    """
    late = _unmarked(nodes, state)
    if late:
        text = f"{late[0].name} was not there when the new passwords were given out"
        raise UsageError(f"{text}; run gridsync rotate {root} again, and then this")
    here = {word for node in nodes for word in (node.run(), node.name)}
    gone = [name for run, name in state.names.items() if here.isdisjoint({run, name})]
    if gone and not force:
        text = f"{gone[0]} was there when the new passwords were given out; not found now, it would keep the old ones"
        raise UsageError(f"{text}; see that it runs and is connected, or say --force if it is gone for good")


def _beside(layout: Layout, role: str) -> Path:
    return layout.password(role).with_suffix(".password.new")


def _fresh(layout: Layout, role: str, state: _State) -> str:
    """Return the new password of *role*, wherever it is by now."""
    for file in (layout.password(role), _beside(layout, role)):
        if file.exists() and acl.hashed(found := file.read_text("utf-8", "replace").strip()) == state.new[role]:
            return found
    text = f"the new password of {role} is not in {layout.password(role).parent}"
    raise UsageError(f"{text}; put back the file, or remove {layout.rotation} and begin anew")


def _tell(
    layout: Layout, nodes: list[Node], rules: dict[str, list[str]], hashes: dict[str, list[str]]
) -> tuple[str, ...]:
    """Change the users of every node, and the files that they are read from at the next start.

    Returns:
        Which nodes could not write their own.
    """
    there = all_roles(_made(layout)["namespaces"])

    def is_user(role: str, node: Node) -> bool:
        return bool(there[role].sentinel if node.sentinel else there[role].server)

    for node in nodes:
        for role in rules:
            if is_user(role, node) and node.ask("ACL", "GETUSER", role) is None:
                raise UsageError(f"{node.name} has no user {role}; start it with an ACL file of {layout.users.parent}")
    _rewrite(layout, hashes)
    unsaved = []
    for node in nodes:
        for role, words in rules.items():
            if is_user(role, node):
                node.ask("ACL", "SETUSER", role, *words)
        try:
            node.ask("ACL", "SAVE")
        except ReplyError as error:
            unsaved.append(f"{node.name}: {error}")
    # A server on this machine has saved the file in words of its own.
    _rewrite(layout, hashes)
    return tuple(unsaved)


def _rewrite(layout: Layout, changed: dict[str, list[str]]) -> None:
    made = _made(layout)
    for file, sentinel in ((layout.users, False), (layout.sentinel_users, True)):
        users = _users(layout, all_roles(made["namespaces"]), sentinel=sentinel)
        hashes = users | {role: tuple(each) for role, each in changed.items()}
        written = acl.text(hashes, frozenset(made["without"]), made["namespaces"], sentinel=sentinel)
        files.replace(file, written.encode())


def _made(layout: Layout) -> dict[str, Any]:
    """Return the options that the folder was made with; before services had users of their own, there were none."""
    return {"namespaces": [], **json.loads(layout.made.read_bytes())}


def _users(layout: Layout, roles: Mapping[str, Role], *, sentinel: bool) -> dict[str, tuple[str, ...]]:
    """Return the hashes of each user in an ACL file of ours."""
    file = layout.sentinel_users if sentinel else layout.users
    found = acl.hashes(file.read_text("utf-8", "replace"))
    for name, role in roles.items():
        if (role.sentinel if sentinel else role.server) and not found.get(name):
            raise UsageError(f"{file} has no password of {name}; put back what gridsync setup has written there")
    return found


def _use(nodes: list[Node], passwords: dict[str, str]) -> None:
    """Let servers and sentinels use the new passwords where they are clients of each other."""
    watched_over = any(node.sentinel for node in nodes)
    for node in nodes:
        if "replica" in passwords and not node.sentinel:
            node.ask("CONFIG", "SET", "masterauth", passwords["replica"])
            if watched_over:
                # Sentinels have it done at each failover: what was written then would win over the included file.
                with contextlib.suppress(ReplyError):  # it has no file, or none that it may write
                    node.ask("CONFIG", "REWRITE")
        if "sentinel" in passwords and node.sentinel:
            node.ask("SENTINEL", "CONFIG", "SET", "sentinel-pass", passwords["sentinel"])
            for watched in node.ask("SENTINEL", "MASTERS"):
                words: list[Any] = list(watched.items()) if isinstance(watched, dict) else []
                name = dict(words or zip(watched[::2], watched[1::2], strict=True))[b"name"].decode()
                node.ask("SENTINEL", "SET", name, "auth-pass", passwords["sentinel"])


def _from_before(node: Node, state: _State, *, cut: bool) -> list[Held]:
    """Return who is connected to *node* since before its mark; with *cut*, who is after they were cut."""
    held: list[Held] = []
    for _ in range(CUTS_MAX if cut else 1):
        # A server that was started since has only connections from after it.
        mark = state.marks.get(node.run(), 0)
        text = node.ask("CLIENT", "LIST")
        lines = (text.decode() if isinstance(text, bytes) else str(text)).splitlines()
        found = [dict(word.partition("=")[::2] for word in line.split(" ")) for line in lines]
        before = [about for about in found if about["user"] in state.new and int(about["id"]) < mark]
        held = [Held(node.name, about["user"], about["addr"], about["name"], int(about["age"])) for about in before]
        if not held or not cut:
            break
        for about in before:
            with contextlib.suppress(ReplyError):  # it has ended by itself
                node.ask("CLIENT", "KILL", "ID", about["id"])
    return held


def _read(layout: Layout) -> _State | None:
    try:
        return _State(**json.loads(layout.rotation.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{layout.rotation} cannot be read ({error}); put back what was there") from None


def _write(layout: Layout, state: _State) -> None:
    files.replace(layout.rotation, (json.dumps(asdict(state), indent=2) + "\n").encode())
