"""A block under a lease: what interrupts it, and how it ends.  Once for threads and asyncio, and for every kind.

An asyncio block behaves like ``asyncio.timeout()``: on a loss its task is cancelled, and the end of the block raises
`LeaseLost` in place of that cancellation.  An outer cancellation wins; so does any other exception of the block, with
a note.  A block that swallows the cancellation, or ends in the moment of the loss, raises `LeaseLost` as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync.errors import GridsyncError
from gridsync.locks import _core

if TYPE_CHECKING:
    from gridsync._io import IO, Scope
    from gridsync.locks._hold import Hold


def enter(io: IO, hold: Hold) -> Scope:
    """Begin a block, which from now on is interrupted by a loss.

    Raises:
        LeaseLost: The lease has ended already.
    """
    scope = io.scope()
    hold.scopes = (*hold.scopes, scope)
    try:
        hold.check()
    except BaseException:
        _close(hold, scope, None)
        raise
    return scope


def _close(hold: Hold, scope: Scope, error: BaseException | None) -> bool:
    hold.scopes = tuple(other for other in hold.scopes if other is not scope)
    return scope.leave(error)


async def leave(io: IO, hold: Hold, handle: int, scope: Scope, error: BaseException | None) -> None:
    """End a block that raised *error*: give its handle back, and tell of a loss.

    Raises:
        LeaseLost: The lease did not last until the end of the block.
    """
    interrupted = _close(hold, scope, error)
    try:
        kept = await give_back(io, hold, handle)
    except GridsyncError:
        # What the block raised matters more than that the server is away; the lease ends by itself.
        if error is None:
            raise
        return
    if kept:
        return
    if interrupted or error is None:
        raise hold.error() from error
    if isinstance(error, Exception):
        error.add_note(str(hold.error()))


async def give_back(io: IO, hold: Hold, handle: int) -> bool:
    """Give one handle back, and with the last one what it holds; true if it was ours until now."""
    hold.handles.discard(handle)
    if hold.handles:
        hold.disown()
        return not hold.why_lost
    if hold.leftover:
        # Lost here, but not on the server: nobody works under it any more, so the next one may come at once.
        hold.leftover = False
        io.spawn(hold.let_go(_core.ABANDON_S))
    return await _core.release(io, hold)
