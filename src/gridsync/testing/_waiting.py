"""Switches, ears and the subscriber's connection of a simulated process."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any

from gridsync._io.ears import Ears, Relay, pauses
from gridsync._io.wire.faults import Fault
from gridsync.errors import Unavailable
from gridsync.testing._scheduler import Promise

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import Ear
    from gridsync._io.ears import Tap
    from gridsync.testing._network import Connection
    from gridsync.testing._simio import SimIO


class SimSignal:
    """A switch in virtual time."""

    def __init__(self, io: SimIO) -> None:
        """Start unset."""
        self._io = io
        self._thrown: Promise[None] = Promise()

    def set(self) -> None:
        """Throw it."""
        self._thrown.set(None)

    def is_set(self) -> bool:
        """Tell whether it was thrown."""
        return self._thrown.done

    def on_set(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when it is thrown; returns what takes that back."""
        wanted = [callback]

        def call() -> None:
            for one in wanted:
                one()

        self._thrown.when_done(call)
        return wanted.clear

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait at most *timeout* seconds."""
        return await self._io.settled(self._thrown, timeout)


class SimScope:
    """A block that a simulated task has entered."""

    def __init__(self, io: SimIO) -> None:
        """Belong to the task that runs."""
        self._scheduler = io.process.scheduler
        self._task = self._scheduler.running
        self._fired = False
        self._left = False

    def mine(self) -> bool:
        """Tell whether the task that runs is the one that entered."""
        return self._task is self._scheduler.running

    def alive(self) -> bool:
        """Tell whether the task goes on."""
        return not self._task.done

    def cancel(self) -> None:
        """Cancel the task unless it has left by then."""
        self._scheduler.at(self._scheduler.now_us, self._fire)

    def _fire(self) -> None:
        if not self._left and not self._fired:
            self._fired = True
            self._task.cancel()

    def leave(self, error: BaseException | None) -> bool:
        """End the block; true if *error* is our cancellation."""
        self._left = True
        return self._fired and isinstance(error, asyncio.CancelledError)


class SimEar:
    """Where one waiter hears its wake-ups."""

    def __init__(self, hub: Hub, token: str, channel: str) -> None:
        """Register with *hub*."""
        self._hub = hub
        self.token = token
        self.channel = channel
        self.message: str = ""
        self._heard: Promise[str] = Promise()
        hub.ears.add(self)

    async def open(self) -> None:
        """Return when the subscription is confirmed."""
        await self._hub.open(self.channel)

    async def wait(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds for a wake-up."""
        if not await self._hub.io.settled(self._heard, max(timeout, 0) if timeout < inf else None):
            self.message = ""
            return False
        self.message = self._heard.result()
        self._heard = Promise()
        return True

    def wake(self, message: str = "") -> None:
        """End a `wait`."""
        if self._heard.done:
            self._heard = Promise()
            message = ""
        self._heard.set(message)

    def follow(self, other: Ear) -> None:
        """Let *other* hear what comes here."""
        self._hub.ears.add(Relay(self.token, self.channel, other.wake))

    def close(self) -> None:
        """Stop listening."""
        self._hub.ears.discard(self)


class Hub:
    """The subscriber's connection of one process."""

    def __init__(self, io: SimIO) -> None:
        """Connect when the first ear opens."""
        self.io = io
        self.ears: Ears = Ears()
        self._connection: Connection | None = None
        self._confirmed: dict[str, Promise[Any]] = {}

    async def open(self, channel: str) -> None:
        """Return when *channel* is subscribed, connecting anew as often as the command timeout allows."""
        deadline = self.io.monotonic() + self.io.timeout
        for pause in pauses():
            try:
                await self._subscribe(channel, deadline)
            except Fault as error:
                last = error
            else:
                return
            if self.io.monotonic() + pause >= deadline:
                raise Unavailable(f"the subscription to {channel!r} was not confirmed in time: {last}")
            await self.io.sleep(pause)

    def untap(self, tap: Tap) -> None:
        """Take *tap* away; its channel stays subscribed, as nothing here counts subscriptions."""
        self.ears.discard(tap)

    async def _subscribe(self, channel: str, deadline: float) -> None:
        if self._connection is None or not self._connection.open:
            connection = await self.io.process.connect(self.io.server, self._take, self._lost)
            if self._connection is None or not self._connection.open:
                self._connection = connection
                self._confirmed.clear()
            else:
                connection.break_client()  # another waiter was faster
        confirmed = self._confirmed.get(channel)
        if confirmed is None:
            confirmed = self._confirmed[channel] = self._connection.send(("SUBSCRIBE", channel))
        if not await self.io.settled(confirmed, deadline - self.io.monotonic()):
            raise Fault("no answer", applied=False)
        confirmed.result()
        if self._confirmed.get(channel) is confirmed:
            self.ears.heard[channel] = self

    def _take(self, message: list[Any]) -> None:
        self.ears.hear(message[1].decode(), message[2])

    def _lost(self) -> None:
        lost = set(self._confirmed)
        self._confirmed.clear()
        self.ears.lose(lost, self)
