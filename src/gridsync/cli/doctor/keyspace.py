"""Keys that would stay for ever though they are not the data: a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gridsync._io.keys import is_permanent, namespace_pattern
from gridsync.cli._shared import Walk, plain_errors
from gridsync.errors import GridsyncError, PermissionDenied, Unavailable
from gridsync.health import Item

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridsync.grid import Grid

STEPS: Final = 10
COUNT: Final = 100
"""Keys that the server looks at for one step; with `STEPS` of them on the first server, a thousand."""
NAMED: Final = 3


def sample(grid: Grid, where: str, away: Iterable[str]) -> tuple[str, Item]:
    """Look at some keys of the namespace: those of an event store stay, every other one must expire.

    Returns what is found, and of which server: of *where*, or of the node of a cluster that does not answer.  Those
    that are known to be *away* are passed over.
    """
    walk = Walk(grid, namespace_pattern(grid.namespace), count=COUNT)
    walk.leave_out(away)
    item = _judged(grid, walk)
    return walk.silent or where, item


def _judged(grid: Grid, walk: Walk) -> Item:
    try:
        looked, staying, whole = _staying(grid, walk)
    except PermissionDenied:
        return Item(
            "keys that stay", "unknown", "not permitted", "", "grant this user +scan and +pttl to have some looked at"
        )
    except Unavailable as error:
        advice = "the server answers no look at its keys: see whether it loads or hangs, and its log"
        return Item("keys that stay", "down", str(error), "", advice)
    except GridsyncError as error:
        return Item("keys that stay", "unknown", str(error))
    text = f"{len(staying)} of {looked} of the namespace" + ("" if whole else ", a sample")
    if not staying:
        return Item("keys that stay", "ok", text)
    named = ", ".join(staying[:NAMED])
    advice = f"no TTL, and nothing of gridsync's makes such keys: see who wrote {named}, and UNLINK what nobody misses"
    return Item("keys that stay", "degraded", text, "", advice)


def _staying(grid: Grid, walk: Walk) -> tuple[int, list[str], bool]:
    keys: set[str] = set()
    for _ in range(STEPS):
        keys.update(walk.step())
        if walk.rounds:
            break
    suspects = sorted(key for key in keys if not is_permanent(key))
    with plain_errors(), grid.client.pipeline(transaction=False) as pipeline:
        for key in suspects:
            pipeline.pttl(key)
        ttls = pipeline.execute()
    whole = bool(walk.rounds) and not walk.without
    return len(keys), [key for key, ttl in zip(suspects, ttls, strict=True) if ttl == -1], whole
