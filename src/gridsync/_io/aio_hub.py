"""One pub/sub connection for all waiters of a process, for asyncio.  `hub.py` tells the states; this is its twin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gridsync._io.hub import pauses, unconfirmed
from gridsync._io.wire import mux
from gridsync._io.wire.faults import Fault
from gridsync._io.wire.place import leads_to
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.mux import MuxWire
    from gridsync._io.wire.place import Place


class TaskEar:
    """Where one task hears its wake-ups."""

    def __init__(self, hub: AsyncHub, token: str, channel: str) -> None:
        """Register with *hub*."""
        self._hub = hub
        self.token = token
        self.channel = channel
        self.message = ""
        self._heard = ""
        self._event = asyncio.Event()
        hub.ears[token] = self

    async def open(self) -> None:
        """Return when the subscription is confirmed."""
        if self.channel not in self._hub.confirmed:
            await self._hub.open(self.channel)

    async def wait(self, timeout: float) -> bool:
        """Wait until a wake-up comes, at most *timeout* seconds."""
        try:
            async with asyncio.timeout(max(timeout, 0)):
                await self._event.wait()
        except TimeoutError:
            self.message = ""
            return False
        self.message = self._heard
        self._event.clear()
        return True

    def wake(self, message: str = "") -> None:
        """End a `wait`."""
        self._heard = "" if self._event.is_set() else message
        self._event.set()

    def close(self) -> None:
        """Stop listening."""
        self._hub.ears.pop(self.token, None)


class AsyncHub:
    """The subscriber's connection."""

    def __init__(self, endpoint: Callable[[], Place], *, timeout: float) -> None:
        """Connect to the server that *endpoint* names when the first ear opens."""
        self._endpoint = endpoint
        self._timeout = timeout
        self._lock = asyncio.Lock()
        self._wire: MuxWire | None = None
        self._met = False
        self._closed = False
        self._asked: dict[str, asyncio.Future[None]] = {}
        self.ears: dict[str, TaskEar] = {}
        self.confirmed: set[str] = set()

    async def open(self, channel: str) -> None:
        """Return when *channel* is subscribed, connecting anew as often as the command timeout allows.

        Raises:
            Unavailable: The server did not confirm within the command timeout.
        """
        last: Fault | None = None
        try:
            async with asyncio.timeout(self._timeout):
                for pause in pauses():
                    try:
                        await self._subscribe(channel)
                    except Fault as error:
                        last = error
                        await asyncio.sleep(pause)
                    else:
                        return
        except TimeoutError:
            if self._wire is not None and channel not in self.confirmed:
                self._wire.abort()  # it may be silent for ever: the next one opens another
        raise unconfirmed(self._endpoint(), channel, self._timeout, last)

    async def _subscribe(self, channel: str) -> None:
        async with self._lock:
            if self._closed:
                raise UsageError(f"this grid ({self._endpoint()}) was closed; make a new one")
            if self._wire is None or self._wire.closed:
                self._wire = await mux.connect(
                    self._endpoint(),
                    inflight_max=1,
                    stall_s=self._timeout,
                    met_before=self._met,
                    on_push=self._take,
                    on_lost=self._lost,
                )
                self._met = True
            asked = self._asked.get(channel)
            if asked is None:
                asked = self._asked[channel] = asyncio.get_running_loop().create_future()
                self._wire.post_push(("SUBSCRIBE", channel))
        # Shielded: one impatient waiter must not cancel the confirmation for the others.
        await asyncio.shield(asked)

    def hears(self, channel: str) -> bool:
        """Tell whether *channel* is subscribed."""
        return channel in self.confirmed

    def wake(self, channel: str, message: bytes) -> None:  # noqa: ARG002 - tokens are unique among channels
        """Wake the ear that *message* names; what names none is dropped."""
        token, _, rest = message.decode(errors="replace").partition(" ")
        ear = self.ears.get(token)
        if ear is not None:
            ear.wake(rest)

    def move(self, endpoint: Endpoint) -> None:
        """Cut the connection unless it leads to *endpoint*; every ear is woken then."""
        if self._wire is not None and not leads_to(self._wire.endpoint, endpoint):
            self._wire.abort()

    def close(self) -> None:
        """End the connection."""
        self._closed = True
        if self._wire is not None:
            self._wire.abort()

    def _lost(self, wire: MuxWire) -> None:
        if wire is not self._wire:
            return
        self._wire = None
        self.confirmed.clear()
        asked, self._asked = self._asked, {}
        for future in asked.values():
            if not future.done():
                future.set_exception(Fault(f"the connection to {wire.endpoint} broke", applied=False))
                future.exception()  # seen, even if nobody waits any more
        for ear in list(self.ears.values()):
            ear.wake()

    def _take(self, push: list[Any]) -> None:
        kind = push[0]
        if kind == b"message":
            self.wake(push[1].decode(), push[2])
        elif kind == b"subscribe":
            channel = push[1].decode()
            self.confirmed.add(channel)
            asked = self._asked.get(channel)
            if asked is not None and not asked.done():
                asked.set_result(None)
