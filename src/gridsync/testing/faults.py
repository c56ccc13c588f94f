"""What may go wrong in a simulation, and how often."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The weather of a simulation; the default is a calm day with some latency.

    Chances are per request or message, from 0 to 1.  Intervals are means, in seconds of virtual time; 0 means never.
    """

    latency_s: tuple[float, float] = (0.0001, 0.002)
    """How long one way takes, at least and at most."""
    request_lost: float = 0.0
    """The connection breaks before the server sees the request."""
    reply_lost: float = 0.0
    """The server applies the request, then the connection breaks."""
    late: float = 0.0
    """The connection breaks for the client, and the request is applied later, perhaps after its repeat."""
    late_s: float = 5.0
    """How much later, at most."""
    slow: float = 0.0
    """The request or its reply takes longer, and what is behind it on the connection waits."""
    slow_s: float = 4.0
    """How much longer, at most."""
    message_lost: float = 0.0
    """A published message does not arrive."""
    message_doubled: float = 0.0
    """A published message arrives twice."""
    message_late: float = 0.0
    """A published message arrives late."""
    message_late_s: float = 5.0
    """How late, at most."""
    cut_every_s: float = 0.0
    """All connections of one process break with whatever is under way."""
    pause_every_s: float = 0.0
    """One process stands still, as in a garbage collection or a suspend; its clock goes on."""
    pause_s: float = 15.0
    """For how long, at most."""
    kill_every_s: float = 0.0
    """One process vanishes without clean-up."""
    cancel_every_s: float = 0.0
    """One started task is cancelled."""
    restart_every_s: float = 0.0
    """The server is away for a while and comes back."""
    restart_s: float = 1.0
    """For how long, at most."""
    restart_loses_data: bool = False
    """Whether it comes back empty; what a failover to a replica that knew nothing would do."""
    flush_scripts_every_s: float = 0.0
    """The server forgets all scripts."""
    clock_jump_every_s: float = 0.0
    """The server's wall clock jumps, forward or back."""
    clock_jump_s: float = 1.0
    """How far, at most."""
    calm_after_s: float = float("inf")
    """When all of the above ends, in seconds of true time: what is still wrong then, stays wrong."""
    drift_ppm: int = 200
    """How much faster or slower the clocks run than true time, at most, in millionths."""


ROUGH = Faults(
    request_lost=0.02,
    reply_lost=0.03,
    late=0.02,
    slow=0.02,
    message_lost=0.1,
    message_doubled=0.1,
    message_late=0.1,
    cut_every_s=10.0,
    pause_every_s=10.0,
    restart_every_s=30.0,
    flush_scripts_every_s=20.0,
)
"""Everything that a correct program on one server must bear without breaking a promise: no clock jump, no lost data."""
