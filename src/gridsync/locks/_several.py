"""Why and when: the decisions of the lock on several names, once for sync and asyncio.

On one server, one script takes all of them if all are free and nobody waits for any.  Else, and on a Cluster, where
names live in different slots, they are taken one after the other in the order of their names: since everybody takes
them in that order, nobody can wait for one who waits for him, and each is waited for in its own fair queue.  What was
taken so far is renewed meanwhile, and given back if the rest does not come.

Each name has an owner, a fence and a lease of its own; together they last as long as the first of them that is lost.
Failure points are those of `_core`, for each name.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from gridsync._io import load
from gridsync.errors import GridsyncError, LockTimeout, OutcomeUnknown
from gridsync.locks import _core
from gridsync.locks._about import tell
from gridsync.locks._hold import Hold, let_go
from gridsync.locks._spec import FENCE_TTL_MS, named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO
    from gridsync.locks._spec import Spec

ACQUIRE_ALL = load("gridsync.locks", "acquire_all")
NAMES_MAX = 100


async def acquire(io: IO, specs: Sequence[Spec], timeout: float | None) -> list[Hold] | None:
    """Take all *specs*, which are in order, within *timeout* seconds; ``None`` if 0 and one of them is held.

    Raises:
        LockTimeout: Someone else still held one of them after *timeout* seconds; none is held.
    """
    started = io.monotonic()
    together = not specs[0].wake.startswith("{")
    if together:
        holds = await _together(io, specs)
        if holds is not None or timeout == 0:
            return holds
    taken: list[Hold] = []
    try:
        for spec in specs:
            rest = timeout if not timeout else max(0.001, timeout - (io.monotonic() - started))
            hold = await _core.acquire(io, spec, rest)
            if hold is None:
                break
            taken.append(hold)
        if len(taken) == len(specs):
            for hold in taken:
                hold.check()  # the first ones may have been lost while we waited for the last
            return taken
    except BaseException as error:
        io.spawn(_give_back(io, taken))
        if isinstance(error, LockTimeout):
            error.add_note(f"nothing is held of the {len(specs)} locks that were asked for")
        raise
    await _give_back(io, taken)
    return None


async def _together(io: IO, specs: Sequence[Spec]) -> list[Hold] | None:
    owners = [io.token() for _ in specs]
    keys = [key for spec in specs for key in (spec.keys[0], spec.keys[1], spec.keys[3], spec.keys[4])]
    about = tell(io.who(), specs[0].note)
    sent = io.monotonic()
    try:
        reply = await io.run(ACQUIRE_ALL, keys, (specs[0].ttl_text, about, str(FENCE_TTL_MS), "0", *owners))
    except BaseException as error:
        if isinstance(error, OutcomeUnknown) or not isinstance(error, GridsyncError):
            io.spawn(_abandon(io, specs, owners))
        if isinstance(error, GridsyncError):
            named(error, *specs)
        raise
    taken, again, *fences = reply
    if not taken:
        if again:
            # The first copy of the request may come after this answer, and find the locks free.
            io.spawn(_abandon(io, specs, owners))
        return None
    io.tally("lock.wait", "", io.monotonic() - sent)
    return [
        Hold(io, spec, owner, fence, sent, ghost=bool(again))
        for spec, owner, fence in zip(specs, owners, fences, strict=True)
    ]


async def _abandon(io: IO, specs: Sequence[Spec], owners: Sequence[str]) -> None:
    await io.gather(
        *(
            let_go(io, spec, owner, ghost=True, timeout=_core.ABANDON_S)
            for spec, owner in zip(specs, owners, strict=True)
        )
    )


async def _give_back(io: IO, taken: Sequence[Hold]) -> None:
    # The last one first, and each whatever became of the others: nobody else has them, to stop their renewal.
    async with AsyncExitStack() as stack:
        for hold in taken:
            stack.push_async_callback(_core.release, io, hold)
