"""Run a program of several processes against a simulated Redis, in virtual time, as a seed decides.

The cores and Lua scripts are the shipped ones, and so is the retry layer; only the clock, the network and the server's
commands are simulated.  The same seed gives the same run, so a failure that shows once in a thousand seeds is a test:

    from gridsync.testing.sim import Faults, Simulation

    async def worker(io):
        ...

    def test_x():
        for seed in range(200):
            sim = Simulation(seed, faults=Faults(reply_lost=0.05))
            sim.start("a", worker)
            sim.start("b", worker)
            sim.run(until=60.0)

Inside `worker` nothing may be awaited but what the io gives: there is no asyncio loop.
"""

from __future__ import annotations

import random as random_module
from random import Random
from typing import TYPE_CHECKING, Any

from gridsync._io.scripts import parse
from gridsync.testing._process import Process
from gridsync.testing._scheduler import Scheduler, Task
from gridsync.testing._server import Call, Server
from gridsync.testing._simio import SimIO
from gridsync.testing._weather import Weather
from gridsync.testing.faults import Faults
from gridsync.testing.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from gridsync._io.scripts import Script

__all__ = ["Call", "Faults", "SimIO", "Simulation"]

COMMAND_TIMEOUT_S = 3.0


class Simulation:
    """One run of one seed."""

    def __init__(
        self,
        seed: int | str,
        *,
        faults: Faults | None = None,
        timeout: float = COMMAND_TIMEOUT_S,
        strict: bool = True,
        scripts: Mapping[str, str] | None = None,
        servers: int = 1,
    ) -> None:
        """Set the stage; nothing happens before `run`.

        Args:
            seed: Decides everything that is left to chance.
            faults: What may go wrong; nothing by default.
            timeout: The command timeout of every process, in seconds.
            strict: Refuse scripts that touch keys which they did not declare.
            scripts: Sources to run instead of shipped scripts, by name, such as ``{"locks.release": "…"}``: how a test
                shows that it would see a bug.
            servers: How many independent servers there are; a process has a driver for each (`ios`).
        """
        self.seed = seed
        self.faults: Faults = faults or Faults()
        self.timeout = timeout
        self.random: Random = Random(f"gridsync {seed}")
        self.scheduler: Scheduler = Scheduler(self.random)
        self.history: History = History(seed, lambda: self.scheduler.now_us)
        self.log: Callable[[str, str], None] = self.history.log
        self.weather: Weather = Weather(self.faults, self.random, lambda: self.scheduler.now_us)
        self.servers: list[Server] = [self._server(_name(index), strict=strict) for index in range(servers)]
        self.server: Server = self.servers[0]
        self.walls: set[tuple[str, Server]] = set()
        """Which processes cannot reach which servers."""
        self.scripts: dict[str, Script] = {name: parse(name, source) for name, source in (scripts or {}).items()}
        self._processes: dict[str, Process] = {}
        self._started: list[Task] = []
        self._unexpected: list[Task] = []
        self._ran = False

    def _server(self, name: str, *, strict: bool) -> Server:
        drift = self.random.randint(-self.faults.drift_ppm, self.faults.drift_ppm)
        return Server(self.scheduler, self.weather, drift, strict=strict, name=name)

    @property
    def now(self) -> float:
        """True time since the start, in seconds; no process can see it."""
        return self.scheduler.now_us / 1e6

    def process(self, name: str) -> Process:
        """Return the process *name*, booted at its first mention; a killed one stays dead."""
        if name not in self._processes:
            self._processes[name] = Process(self, name)
        return self._processes[name]

    def io(self, name: str) -> SimIO:
        """Return the driver of the process *name*, to the first server."""
        return self.process(name).io

    def ios(self, name: str) -> list[SimIO]:
        """Return the drivers of the process *name*, one for each server."""
        return self.process(name).ios

    def start(self, name: str, work: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Task:  # noqa: ANN401
        """Start ``work(io, *args)`` in the process *name*; its exceptions fail the run."""
        process = self.process(name)
        task = process.start(work(process.io, *args), getattr(work, "__qualname__", "work"))
        self._started.append(task)
        return task

    def at(self, seconds: float, call: Callable[[], object]) -> None:
        """Call *call* at a moment of true time."""
        self.scheduler.at(int(seconds * 1e6), lambda: (call(), None)[1])

    def watch(self, look: Callable[[Call], None], server: int = 0) -> None:
        """Show every command that a server has run to *look*, in the order in which they took effect."""
        self.servers[server].watchers.append(look)

    # -- faults by hand ---------------------------------------------------------------------------------------------

    def next_requests(self, *fates: str) -> None:
        """Script what happens to the next requests.

        Args:
            fates: ``fine``, ``request_lost``, ``reply_lost``, ``late`` or ``slow``, one per request.
        """
        self.weather.script.extend(fates)

    def kill(self, name: str) -> None:
        """Let a process vanish: no clean-up; what it sent still arrives."""
        process = self.process(name)
        process.alive = False
        self.log(name, "fault: killed")
        for connection in process.connections:
            connection.break_client()

    def pause(self, name: str, seconds: float) -> None:
        """Let a process stand still while time goes on."""
        process = self.process(name)
        if process.frozen or not process.alive:
            return
        self.log(name, f"fault: paused for {seconds:.3f} s")
        process.frozen = True
        end_us = self.scheduler.now_us + int(seconds * 1e6)
        self.scheduler.at(end_us, lambda: self._resume(process))

    def _resume(self, process: Process) -> None:
        self.log(process.name, "goes on")
        self.scheduler.thaw(process)

    def cut(self, name: str) -> None:
        """Break all connections of a process, with whatever is under way."""
        self.log(name, "fault: cut")
        for connection in list(self.process(name).connections):
            if self.weather.heads():
                connection.break_both()
            else:
                connection.break_client()

    def restart_server(self, away: float = 0.5, *, lose_data: bool = False, server: int = 0) -> None:
        """Stop a server and start it again after *away* seconds."""
        target = self.servers[server]
        if target.up:
            self.log(_name(server), f"fault: away for {away:.3f} s{', all data lost' if lose_data else ''}")
            target.stop(lose_data=lose_data)
            self.scheduler.at(self.scheduler.now_us + int(away * 1e6), lambda: self._server_back(server))

    def _server_back(self, server: int) -> None:
        self.log(_name(server), "is back")
        self.servers[server].start()

    def flush_scripts(self, server: int = 0) -> None:
        """Let a server forget all scripts."""
        self.log(_name(server), "fault: scripts flushed")
        self.servers[server].engine.forget_scripts()

    def flush_data(self, server: int = 0) -> None:
        """Let a server forget all keys, as FLUSHALL and evictions do; it runs on."""
        self.log(_name(server), "fault: data flushed")
        self.servers[server].engine.data.clear()

    def jump_server_clock(self, seconds: float, server: int = 0) -> None:
        """Set a server's wall clock forward or back."""
        self.log(_name(server), f"fault: clock jumps by {seconds:.3f} s")
        self.servers[server].jump(int(seconds * 1e6))

    def part(self, name: str, server: int, seconds: float) -> None:
        """Let a process not reach a server for some time."""
        wall = (name, self.servers[server])
        self.log(name, f"fault: cannot reach {_name(server)} for {seconds:.3f} s")
        self.walls.add(wall)
        for connection in list(self.process(name).connections):
            if connection.leads_to(wall[1]):
                connection.break_both()
        self.scheduler.at(self.scheduler.now_us + int(seconds * 1e6), lambda: self.walls.discard(wall))

    # -- running ----------------------------------------------------------------------------------------------------

    def run(self, until: float = 60.0) -> None:
        """Let it happen, once; afterwards every process is gone, and the history and the server's data remain.

        Args:
            until: When to stop, in seconds of true time.

        Raises:
            Exception: What a started task raised; its notes tell the seed and the last events.
        """
        if self._ran:
            message = "a simulation runs once: make a new one"
            raise RuntimeError(message)
        self._ran = True
        self._plan_faults()
        # Pauses between retries are drawn from the global generator, so the seed must decide there as well.
        before = random_module.getstate()
        random_module.seed(f"gridsync {self.seed}")
        try:
            self.scheduler.run(int(until * 1e6))
        except Exception as error:
            error.add_note(self.history.story())
            raise
        finally:
            random_module.setstate(before)
            for process in self._processes.values():
                process.alive = False
            self.scheduler.close()
        for task in [*self._unexpected, *self._started]:
            if task.error is not None:
                task.error.add_note(f"in {task.name}; {self.history.story()}")
                raise task.error

    def unexpected(self, task: Task) -> None:
        """Take note of a failure that `run` shall raise."""
        self._unexpected.append(task)

    def _plan_faults(self) -> None:
        faults = self.faults
        draw = self.random.uniform
        self._often(faults.cut_every_s, lambda: self._any(self.cut))
        self._often(faults.pause_every_s, lambda: self._any(lambda name: self.pause(name, draw(0, faults.pause_s))))
        self._often(faults.kill_every_s, lambda: self._any(self.kill))
        self._often(faults.cancel_every_s, self._cancel_one)
        self._often(
            faults.restart_every_s,
            lambda: self.restart_server(
                draw(0, faults.restart_s), lose_data=faults.restart_loses_data, server=self._one()
            ),
        )
        self._often(faults.flush_scripts_every_s, lambda: self.flush_scripts(self._one()))
        jump = faults.clock_jump_s
        self._often(faults.clock_jump_every_s, lambda: self.jump_server_clock(draw(-jump, jump), self._one()))

    def _often(self, every_s: float, call: Callable[[], None]) -> None:
        if every_s <= 0:
            return

        def happen() -> None:
            if self.weather.calm():
                return
            if self._going():
                call()
            plan()

        def plan() -> None:
            wait_us = int(self.random.expovariate(1 / every_s) * 1e6) + 1
            self.scheduler.at(self.scheduler.now_us + wait_us, happen)

        plan()

    def _one(self) -> int:
        # Nothing is drawn where there is no choice: what a seed does must not change with what it cannot meet.
        return self.random.randrange(len(self.servers)) if len(self.servers) > 1 else 0

    def _any(self, call: Callable[[str], None]) -> None:
        alive = [name for name, process in self._processes.items() if process.alive]
        if alive:
            call(self.random.choice(alive))

    def _cancel_one(self) -> None:
        self.random.choice(self._going()).cancel()

    def _going(self) -> list[Task]:
        return [task for task in self._started if not task.done and task.host.alive]


def _name(server: int) -> str:
    return f"server {server}" if server else "server"
