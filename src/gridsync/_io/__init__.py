"""The ground: everything that touches the outside world, behind one small protocol.

Every primitive is written once, as ``async def`` code over an `IO`.  Three drivers implement it:
`SyncIO` (its awaitables never suspend, `run_sync` drives them), `AsyncIO` (plain asyncio) and
`gridsync.testing.SimIO` (virtual time, a network that loses and repeats).

This is the only package of gridsync that imports a client, a clock, a loop, a thread or a random source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from gridsync._io.copies import Linked
from gridsync._io.scripts import Bound, Category, Command, Operation, Script, load
from gridsync._units import ReadFrom

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gridsync._io.copies import Copies
    from gridsync._io.ears import Tap

__all__ = [
    "IO",
    "Arg",
    "Bound",
    "Category",
    "Command",
    "Ear",
    "Keep",
    "Listening",
    "Operation",
    "ReadFrom",
    "Reporting",
    "Scope",
    "Script",
    "Signal",
    "Tracks",
    "load",
    "run_sync",
]

Reporting = Literal["group", "outbox", "mirror"]
"""Who says how far it has got: see `IO.report`."""
Arg = str | bytes
"""What may stand in KEYS and ARGV; numbers are turned into text before.

hiredis 3.5 turns an ``int`` into text itself, and crashes the process if a signal handler raises in that very moment.
"""

T = TypeVar("T")


class Signal(Protocol):
    """A one-way switch that any thread may throw, and that the driver's own world can wait for."""

    def set(self) -> None:
        """Throw the switch; later calls change nothing."""

    def is_set(self) -> bool:
        """Tell whether the switch was thrown."""

    def on_set(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when the switch is thrown, at once if it was; returns a function that takes it back."""

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for the switch at most *timeout* seconds; returns `is_set`."""


class Ear(Protocol):
    """A place where wake-ups for one waiter arrive.

    A message is a hint, the state in Redis is the truth: it may come twice, late or never, so every
    `wait` is bounded and every waiter looks again.
    """

    message: str
    """What the wake-up carried that ended the last `wait`; empty if nothing, or if more than one came."""

    async def open(self) -> None:
        """Return when the server has confirmed the subscription: what is published from now on is heard.

        Cheap when it is confirmed already.  Whenever the subscription ends (the connection breaks, the slot moves,
        another server takes over), the ear is woken; its owner opens it again before it looks.

        Raises:
            Unavailable: It was not confirmed within the command timeout.
            PermissionDenied: The ACL forbids the channel.
        """

    async def wait(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds; true if a wake-up came since the last `wait`.

        Without end (`math.inf`) only for who is woken by another waiter that has one.
        """

    def wake(self, message: str = "") -> None:
        """End a `wait`, now or to come."""

    def follow(self, other: Ear) -> None:
        """Let *other* hear what comes here: a waiter of several servers has an ear at each, and waits at one."""

    def close(self) -> None:
        """Stop listening for this waiter; safe to call twice."""


class Listening(Protocol):
    """Hears what is published for one token, without anybody waiting."""

    def ready(self) -> bool:
        """Tell whether messages arrive now; if not, see to it in the background.  Never blocks; from any thread."""

    def close(self) -> None:
        """Stop listening; safe to call twice."""


class Scope(Protocol):
    """A block of code that the current thread or task has entered, and which must not go on after a loss."""

    def mine(self) -> bool:
        """Tell whether the current thread or task is the one that entered it."""

    def alive(self) -> bool:
        """Tell whether the thread or task that entered it goes on; from any thread."""

    def cancel(self) -> None:
        """Interrupt the block: a task is cancelled, a thread has to look by itself; from any thread."""

    def leave(self, error: BaseException | None) -> bool:
        """End the block, which raised *error*; true if that is the interruption asked for by `cancel`, and no other."""


class Keep(Protocol):
    """Something that must be renewed in time, from a place that a busy caller cannot starve."""

    due: float
    """When to look at it again, on the clock of `IO.monotonic`."""

    @property
    def deadline(self) -> float:
        """When it is lost unless it was renewed; no request made for it may block past this."""

    def request(self, now: float) -> tuple[Operation, Sequence[str], Sequence[Arg]] | None:
        """Return the call that renews it, or ``None`` when there is nothing (more) to renew."""

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401 - a reply, or the exception instead of it
        """Take the reply (or the exception) of a request sent at *sent*; false ends the keeping.

        Called with ``None`` when `request` returned ``None``.  Must set `due` anew when it returns true.
        Called from the watchdog's thread.
        """


class Tracks(Linked, Protocol):
    """Who is told which keys have changed."""

    copies: dict[str, Copies]
    """The near caches of this process, by the name of their cache."""
    refused: str
    """What a server said that does not let us ask for changes; nothing if none did."""


class IO(Protocol):
    """What a core may ask of the world.  Cores ask nothing else of anybody."""

    async def run(
        self,
        operation: Operation | Bound,
        keys: Sequence[str],
        args: Sequence[Any] = (),
        *,
        timeout: float | None = None,
    ) -> Any:  # noqa: ANN401 - replies are whatever the script's header says
        """Run a script or command and return its reply, repeating what its category allows.

        Args:
            operation: The script or command; its `Category` decides what may be repeated.
            keys: The key names, all in one hash slot.
            args: The other arguments; of a `Bound` those that it does not know.
            timeout: Seconds for the whole call, repeats included; the default is the command timeout.

        Raises:
            Unavailable: Not applied, and the deadline has ended.
            OutcomeUnknown: Perhaps applied; the category forbids a repeat or the deadline has ended.
            Misconfigured: Not applied, and no repeat will heal it.
            ServerError: The server answered with an error.
        """

    async def read(
        self,
        operation: Operation,
        keys: Sequence[str],
        args: Sequence[Arg] = (),
        *,
        read_from: ReadFrom,
        timeout: float | None = None,
    ) -> Any:  # noqa: ANN401
        """Run an operation of category `read` where *read_from* says; never for a read that decides a write.

        A replica may be behind: it need not know what this very caller has just written.

        Raises:
            UsageError: ``replica``, and nobody knows of replicas.
            Unavailable: Nobody answered before the deadline.
            Misconfigured: No repeat will heal it.
            ServerError: The server answered with an error.
        """

    async def block(
        self,
        operation: Operation,
        keys: Sequence[str],
        args: Sequence[Arg],
        *,
        wait: float,
        stop: Signal,
        ahead: Sequence[Arg] = (),
    ) -> Any:  # noqa: ANN401
        """Run a blocking command on a connection of its own; ``None`` when it timed out or *stop* was thrown.

        Never repeated: after `OutcomeUnknown` the caller must look at what it may have received.
        *wait* is how long the server blocks, in seconds (the caller puts it into *args* too).  *ahead* is a command
        line that is run before it on the same connection; if it fails, its error is raised.
        """

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """Run all of them, side by side where the world allows it, and return their results in order.

        If one raises, the others are cancelled where they can be, and the first exception is raised.
        """

    async def fan(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """Run all of them at the same time and return their results in order: requests to several servers.

        Unlike `gather` also under `SyncIO`, which runs all but one in threads that it keeps for that.  There, what one
        raises does not end the others.
        """

    async def beside(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """Run all of them at the same time, however long they take: `fan` for what blocks or goes on.

        `SyncIO` starts threads for this call alone, so that nothing else waits for one.
        """

    async def aside(self, work: Callable[[], T]) -> T:
        """Run *work*, which blocks on files, where it holds nobody up; it ends before this does, cancelled or not."""

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass."""

    def wake_prefix(self, tag: str) -> str:
        """Return what a script needs to wake the waiters of the entity *tag* (`keys.tag`), as its ARGV ``wake_prefix``.

        The script publishes on this plus the first `keys.PROCESS_CHARS` characters of the waiter's token: with
        SPUBLISH if it begins with ``{``, as it does on a Cluster, else with PUBLISH.  The message is the token, and
        perhaps a space and more (`Ear.message`)::

            redis.call(string.sub(prefix, 1, 1) == '{' and 'SPUBLISH' or 'PUBLISH', prefix .. string.sub(to, 1, 12), to)
        """

    def together(self, keys: Sequence[str]) -> bool:
        """Tell whether one script may touch all of *keys*: on a Cluster only if they lie in one slot."""

    def ear(self, token: str, channel: str) -> Ear:
        """Return the ear of *token*, who waits on *channel*: `wake_prefix` and the beginning of the token.

        One ear per token.  On one server all waiters of a process share one connection and, per namespace, one channel
        that is confirmed once.  On a Cluster they share one connection to each node that owns what they wait for, and a
        channel per entity, which is subscribed while an ear is there for it: one more round trip for the first of them.
        """

    def listen(self, token: str, channel: str, heard: Callable[[str], object]) -> Listening:
        """Call *heard* with each message that is published as ``token message`` on *channel*; from any thread.

        It is called where the connection is read, and must be quick.  As with an ear, a message is a hint.
        """

    def tap(self, channel: str, taken: Callable[[bytes], object], lost: Callable[[], object]) -> Tap:
        """Call *taken* with every message on *channel* as it is, and *lost* when some may have been missed since.

        Both are called where the connection is read, and must be quick.  The channel is not shared with waiters of
        anything else; it is subscribed by the ears on it (`Ear.open`), and until the tap is closed, after those.
        """

    def hears(self, channel: str) -> bool:
        """Tell whether `Ear.open` would return at once for an ear on *channel*."""

    def wake(self, channel: str, message: bytes) -> None:
        """Wake the waiter of this very process for whom *message* is, as if it had come on *channel*."""

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run *coroutine* to its end even if the caller is cancelled.

        Used for what must be undone.  Its exceptions are logged.  `SyncIO` runs it on the spot, the others
        as a task that `close` waits for.
        """

    def keep(self, item: Keep) -> None:
        """Hand *item* to the watchdog, which renews it from a place of its own until it ends."""

    def unkeep(self, item: Keep) -> None:
        """Take *item* back from the watchdog; a request that is under way may still be settled."""

    def tally(self, what: str, name: str = "", value: float = 1.0) -> None:
        """Tell whoever measures that *what* happened to *name* once; never fails, never waits.

        `telemetry.TALLIES` lists what there is and what *value* means.
        """

    def report(self, what: Reporting, who: tuple[str, int, str], facts: Sequence[int] | None) -> None:
        """Tell whoever measures how far a group has got, an outbox, or a mirror; never fails, never waits.

        *who* are store and group (or the other store, or the mirrored one alone), the partition, and the consumer,
        relay or replicator that reports; the facts are those of `gauges.GROUP`, `OUTBOX` or `MIRROR`.  ``None`` when it
        ends.
        """

    def decisions(self, limiter: str) -> list[int]:
        """Return the list in which all limiters of that name count their decisions: see `decided`."""

    @property
    def tracking(self) -> Tracks:
        """What the servers tell of changes to keys, and to whom."""

    def signal(self) -> Signal:
        """Return a new switch."""

    def scope(self) -> Scope:
        """Return the block that the current thread or task is about to enter."""

    def here(self) -> object:
        """Return the current task, or the current thread where there is none: hashable, weakly referenceable."""

    def over(self) -> bool:
        """Tell whether this world has ended, as a closed event loop has: nobody in it can act any more.  Any thread."""

    def notify(self, callback: Callable[[], object]) -> None:
        """Call *callback* where this world's callbacks run: in the loop, or at once in the calling thread.

        May be called from any thread.  What it raises is logged.
        """

    def monotonic(self) -> float:
        """Return seconds on a clock that never jumps and goes on while the machine sleeps."""

    def who(self) -> str:
        """Return host, process id and task or thread of the caller, separated by tabs: for others to read."""

    def token(self) -> str:
        """Return a new identifier, unique among all processes; at most 24 characters of ``[0-9a-z]``.

        Its first `keys.PROCESS_CHARS` characters name this process's IO.
        """

    @property
    def process_name(self) -> str:
        """What every `token` begins with; another in the child of a fork."""


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine that never suspends to its end, in the calling thread.

    Raises:
        RuntimeError: The coroutine awaited something that suspends, which a core must never do outside its `IO`.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    message = "a core suspended under SyncIO: it awaited something that is not its io"
    raise RuntimeError(message)
