"""Sites: copies of one store in different places, of which one takes events and the others mirror it.

Redis structures: in the store's counters its own name, in which epoch it is, and why it takes no events, if it does
not; and a hash of whose mirror it is, with the checkpoint up to where it has taken everything over.  An epoch begins
with a promotion.  No two sites vote on anything: each knows what it was told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from gridsync._io import load
from gridsync._units import shown
from gridsync.errors import ReadOnlyStore, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync.errors import ServerError
    from gridsync.streams._core import StoreCore

INTRODUCE: Final = load("gridsync.streams", "introduce")
LOOK: Final = load("gridsync.streams", "look_mirror")
PROMOTE: Final = load("gridsync.streams", "promote")
FENCE: Final = load("gridsync.streams", "fence")

READ_ONLY: Final = "READONLYSTORE"
"""The code of the error of a script that would write events where none are taken."""
EPOCHS_MAX: Final = 10**9
"""Nobody promotes so often: a number that is mistyped would be the epoch from then on."""
_PROMOTED: Final = 1
_SEEN: Final = 2
_NEWER: Final = 1
_ATTEMPTS: Final = 5

Role: TypeAlias = Literal["primary", "mirror", "fenced", "superseded"]
"""What a copy of a store is: only a primary takes events."""


@dataclass(frozen=True, slots=True)
class Site:
    """What one copy of a store is, and how far it has got; of several partitions, of all of them together."""

    store: str
    """The store."""
    role: Role
    """Whether it takes events, or why it does not.  A primary only if all of its partitions are."""
    epoch: int
    """How many promotions it knows of; the highest of all partitions."""
    positions: tuple[int, ...]
    """The last position of each partition."""


class Seen(NamedTuple):
    """What `look_mirror.lua` says of one partition."""

    site: str
    epoch: int
    role: Role
    position: int
    mirrors: str
    mirrors_epoch: int
    checkpoint: str
    newest: str
    now_us: int
    since_us: int
    groups: dict[bytes, bytes]
    """What is noted of each group: the position up to which it has had everything, and more."""

    @property
    def known(self) -> bool:
        """Whether anything was ever written, mirrored or promoted under this name."""
        return bool(self.site or self.position or self.epoch or self.role != "primary")


async def look(core: StoreCore[Any], position: int = 0) -> Seen:
    """Look what one partition is, and how old the first event behind *position* is."""
    keys = core.keys
    said = await core.io.run(LOOK, (keys.meta, keys.log, keys.mirror, keys.floors), (str(position),))
    site, epoch, closed, last, mirrors, mirrors_epoch, checkpoint, newest, now_us, since_us, flat = said
    role: Role = closed.decode() or "primary"
    return Seen(
        site.decode(), epoch, role, last, mirrors.decode(), mirrors_epoch, checkpoint.decode(), newest.decode(),
        now_us, since_us, dict(zip(flat[::2], flat[1::2], strict=True)),
    )  # fmt: skip


async def look_at_all(cores: Sequence[StoreCore[Any]]) -> Site:
    """Look what a store is."""
    return _whole(cores[0].name, [await look(core) for core in cores])


async def must_be_known(cores: Sequence[StoreCore[Any]], so: str) -> None:
    """Refuse what cannot be meant of a store that there never was.

    Raises:
        UsageError: No event was ever appended to it here, and no other site was ever told of it.
    """
    if not any([(await look(core)).known for core in cores]):
        raise UsageError(
            f"there is no event store {cores[0].name!r} at this server, in this namespace, {so}; see whether its name, "
            "the URL and the namespace are right"
        )


async def introduce(core: StoreCore[Any]) -> str:
    """Return the name of a partition of a store, which it gets if it has none."""
    # A repeat finds the name that the first one gave.
    name: bytes = await core.io.run(INTRODUCE, (core.keys.meta,), (core.io.token(),))
    return name.decode()


async def promote(cores: Sequence[StoreCore[Any]], *, force: bool) -> Site:
    """Let a store take events, in a new epoch; see `EventStore.promote`."""
    name = cores[0].name
    for _ in range(_ATTEMPTS):
        seen = [await look(core) for core in cores]
        site = _whole(name, seen)
        if not any(each.known for each in seen):
            await must_be_known(cores, "so that nothing was promoted")
        if all(each.role == "primary" for each in seen):
            raise UsageError(f"the store {name!r} takes events already, in epoch {site.epoch}; there is nothing to do")
        if site.role == "superseded" and not force:
            raise UsageError(
                f"the store {name!r} was superseded: another copy of it takes events in epoch {site.epoch}.  Let this "
                "one mirror that one, and promote it then; force only if that one is lost for good"
            )
        # Partitions that an earlier attempt has promoted, and died then, say which epoch it was to be.
        begun = [each.epoch for each in seen if each.role == "primary"]
        known = max(max(each.epoch, each.mirrors_epoch) for each in seen if each.role != "primary")
        epoch, token = max([known + 1, *begun]), cores[0].io.token()
        codes = [
            (await core.io.run(PROMOTE, (core.keys.meta, core.keys.mirror), (str(epoch), token)))[0]
            for core, each in zip(cores, seen, strict=True)
            if each.role != "primary"
        ]
        if _SEEN not in codes:
            return await look_at_all(cores)
    raise UsageError(f"the store {name!r} is promoted and fenced by several at the same time: look who else does")


async def fence(cores: Sequence[StoreCore[Any]], epoch: int | None) -> Site:
    """Let a store take no more events; see `EventStore.fence`."""
    if epoch is not None and (type(epoch) is not int or not 1 <= epoch <= EPOCHS_MAX):
        raise UsageError(
            f"epoch={shown(epoch)}: the number of promotions that it is fenced for, from 1 to {EPOCHS_MAX}"
        )
    await must_be_known(cores, "so that nothing was fenced")
    for core in cores:
        seen = await look(core)
        if seen.role == "primary" and epoch is not None and epoch <= seen.epoch:
            raise _newer(core, seen.epoch, epoch)
        args = (str(seen.epoch), str(max(seen.epoch, epoch or 0)))
        code, there = await core.io.run(FENCE, (core.keys.meta,), args)
        if code == _NEWER:
            raise _newer(core, there, epoch or seen.epoch)
    return await look_at_all(cores)


def read_only(store: str, error: ServerError) -> ReadOnlyStore:
    """Return what the answer of a script means that would have written events."""
    found = re.search(rf"{READ_ONLY} (\w+) (\d+)", str(error))
    why, epoch = (found[1], int(found[2])) if found else ("", 0)
    told = {
        "mirror": "it mirrors another one.  Append there; if that one is gone for good, promote this one: "
        "gridsync promote, or store.promote()",
        "fenced": "it was fenced, as before a switch to another site.  Append there; to undo it: gridsync promote, or "
        "store.promote()",
    }.get(why, "another copy of it was promoted.  Append there, at the other site")
    message = f"the store {store!r} takes no events here (epoch {epoch}): {told}; nothing was appended"
    return ReadOnlyStore(message, name=store, why=why, epoch=epoch)


def _whole(name: str, seen: Sequence[Seen]) -> Site:
    # The one that is furthest from taking events speaks for all.
    order: tuple[Role, ...] = ("superseded", "fenced", "mirror", "primary")
    role = min((each.role for each in seen), key=order.index)
    return Site(name, role, max(each.epoch for each in seen), tuple(each.position for each in seen))


def _newer(core: StoreCore[Any], epoch: int, given: int) -> UsageError:
    return UsageError(
        f"{core.log_name} takes events in epoch {epoch} and was to be fenced for epoch {given}, so nothing was fenced; "
        "give the epoch that the promotion of the other side has printed, which is a higher one; if both were "
        "promoted, fence without an epoch the one that is to give way"
    )
