"""A simulated process: its tasks, its clock, its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gridsync._io.wire.faults import Fault
from gridsync.testing._network import Connection
from gridsync.testing._scheduler import Host, Promise
from gridsync.testing._simio import SimIO

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from random import Random

    from gridsync._io.scripts import Script
    from gridsync.testing._scheduler import Scheduler, Task
    from gridsync.testing._server import Server
    from gridsync.testing.sim import Simulation


class Process(Host):
    """One process of the simulated program; `Simulation.process` makes it."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        """Boot with a clock that starts anywhere."""
        super().__init__(name)
        self._simulation = simulation
        self.scheduler: Scheduler = simulation.scheduler
        self.random: Random = simulation.random
        self.scripts: dict[str, Script] = simulation.scripts
        self.connections: list[Connection] = []
        self._clock_start_us = self.random.randrange(10**6, 10**12)
        self._drift_ppm = self.random.randint(-simulation.faults.drift_ppm, simulation.faults.drift_ppm)
        self.ios: list[SimIO] = [SimIO(self, server, timeout=simulation.timeout) for server in simulation.servers]
        """A driver for each server."""
        self.io: SimIO = self.ios[0]

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> Task:
        """Start a task here."""
        return self.scheduler.start(self, coroutine, f"{self.name}: {name}")

    def monotonic(self) -> float:
        """Return this process's clock, in seconds."""
        now = self.scheduler.now_us
        return (self._clock_start_us + now + now * self._drift_ppm / 1e6) / 1e6

    def true_us(self, seconds: float) -> int:
        """Return how many microseconds pass while this process's clock counts *seconds*."""
        return int(seconds * 1e6 / (1 + self._drift_ppm / 1e6)) + 1

    async def connect(
        self,
        server: Server,
        on_push: Callable[[list[Any]], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> Connection:
        """Open a connection to *server*, or raise `Fault`."""
        weather = self._simulation.weather
        await self.scheduler.wait(Promise(), self.scheduler.now_us + 2 * weather.latency_us())
        if not server.up or (self.name, server) in self._simulation.walls:
            raise Fault("connection refused", applied=False)
        log = self._simulation.log
        connection = Connection(self.scheduler, server, weather, log, owner=self.name, on_push=on_push, on_lost=on_lost)
        self.connections = [*(old for old in self.connections if old.open), connection]
        return connection

    def after_latency(self, call: Callable[[], None]) -> None:
        """Let something happen at the server, one way from now."""
        self.scheduler.at(self.scheduler.now_us + self._simulation.weather.latency_us(), call)

    def log(self, what: str) -> None:
        """Write to the trace."""
        self._simulation.log(self.name, what)

    def note(self, kind: str, facts: dict[str, Any]) -> None:
        """Write to the history."""
        self._simulation.history.add(self.name, kind, facts)

    def unexpected(self, task: Task) -> None:
        """Report an exception that no program should raise."""
        self._simulation.unexpected(task)
