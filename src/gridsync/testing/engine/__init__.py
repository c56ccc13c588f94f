"""Run commands and scripts as Redis does, in this process, on a clock that the caller owns.

Why an engine of our own: fakeredis ran 4,000 script runs a second where this runs 30,000, reads the
machine's clock in four places (as floats), and does not know the ``#!lua`` line that every script of ours starts
with.  What a seed can't repeat, a simulation can't find.  So this holds the commands that scripts and cores use and
nothing else, over the real Lua 5.1 (lupa).  That it answers as Redis does is not believed but tested:
``tests/sim/test_engine.py`` runs random sequences here and on a real server and demands equal replies.

What it leaves out: databases, transactions, ACLs, cluster, eviction, lists, ``cjson`` and its like.  Blocking reads
answer nil at once; `gridsync.testing.sim` does the waiting.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from gridsync._io.wire.faults import ReplyError
from gridsync.testing.engine import _generic, _hashes, _stream_commands, _stream_groups, _zsets  # noqa: F401
from gridsync.testing.engine._base import COMMANDS, OK, Reply, Status, command, integer, no_key
from gridsync.testing.engine._keyspace import Keyspace
from gridsync.testing.engine._lua import Interpreter
from gridsync.testing.engine._streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Engine", "Reply", "ReplyError", "Status", "Stream"]

_NOSCRIPT = "NOSCRIPT No matching script. Please use EVAL."
_UNDECLARED = "ERR the script touched a key that is not among its KEYS: "
_NOT_IN_SCRIPTS = frozenset({b"EVAL", b"EVALSHA", b"SCRIPT"})


class Engine:
    """One server's data and scripts."""

    def __init__(
        self,
        clock: Callable[[], int],
        publish: Callable[[bytes, bytes], int] = lambda _channel, _message: 0,
        listeners: Callable[[bytes], int] = lambda _channel: 0,
        *,
        strict: bool = False,
        name: str = "",
    ) -> None:
        """Start with nothing.

        Args:
            clock: Returns the server's wall clock, in microseconds; it is asked once per command and may jump.
            publish: Takes channel and message, returns how many heard it.
            listeners: Takes a channel, returns how many listen.
            strict: Refuse scripts that touch a key they did not declare, as Redis Cluster would.
            name: What tells its run ids from those of others.
        """
        self.name = name
        self._clock = clock
        self._now = clock()
        self.publish = publish
        self.listeners = listeners
        self.strict = strict
        self.data: Keyspace = Keyspace(lambda: self._now)
        self._scripts: dict[str, Any] = {}
        self._declared: frozenset[bytes] | None = None
        self._interpreter = Interpreter(self._inside, _sha1)
        self.runs: int = 0
        self.restart()

    def execute(self, *words: str | bytes | int) -> Reply:
        """Run one command and return its reply.

        Raises:
            ReplyError: The reply is an error.
        """
        # One look at the clock per command: time stands still while a script runs, as in Redis.
        self._now = self._clock()
        reply = self._dispatch([_encode(word) for word in words])
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def restart(self) -> None:
        """Begin a new run, with another run id: scripts are forgotten, the data is there."""
        self.forget_scripts()
        self.runs += 1
        self.began: int = self._clock()

    def forget_scripts(self) -> None:
        """Do what ``SCRIPT FLUSH`` does."""
        self._scripts.clear()

    def forget_data(self) -> None:
        """Lose every key and script, as a restart without persistence does."""
        self.data.clear()
        self._scripts.clear()

    def _dispatch(self, words: list[bytes]) -> Reply:
        spec = COMMANDS.get(words[0].upper())
        if spec is None:
            name = words[0].decode(errors="replace")
            raise ReplyError(f"ERR unknown command '{name}', with args beginning with: ")
        args = words[1:]
        if len(args) < spec.words_min or (spec.words_max is not None and len(args) > spec.words_max):
            raise ReplyError(f"ERR wrong number of arguments for '{spec.name}' command")
        return spec.run(self, args)

    def _inside(self, words: list[bytes]) -> Reply:
        """Run one command on behalf of the running script."""
        if not words:
            raise ReplyError("ERR Please specify at least one argument for this redis lib call")
        name = words[0].upper()
        spec = COMMANDS.get(name)
        if spec is None:
            raise ReplyError("ERR Unknown Redis command called from script")
        if name in _NOT_IN_SCRIPTS:
            raise ReplyError("ERR This Redis command is not allowed from script")
        args = words[1:]
        if len(args) < spec.words_min or (spec.words_max is not None and len(args) > spec.words_max):
            raise ReplyError("ERR Wrong number of args calling Redis command from script")
        if self._declared is not None and (stray := [key for key in spec.keys(args) if key not in self._declared]):
            raise ReplyError(_UNDECLARED + stray[0].decode(errors="replace"))
        return spec.run(self, args)

    def run_script(self, source_or_sha: bytes, args: Sequence[bytes], *, by_sha: bool) -> Reply:
        """Run a script by its text or by its digest."""
        count = integer(args[0])
        if count < 0:
            raise ReplyError("ERR Number of keys can't be negative")
        if count > len(args) - 1:
            raise ReplyError("ERR Number of keys can't be greater than number of args")
        sha = source_or_sha.decode(errors="replace").lower() if by_sha else self.load_script(source_or_sha)
        chunk = self._scripts.get(sha)
        if chunk is None:
            raise ReplyError(_NOSCRIPT)
        keys = list(args[1 : 1 + count])
        self._declared = frozenset(keys) if self.strict else None
        try:
            return self._interpreter.run(chunk, sha, keys, list(args[1 + count :]))
        finally:
            self._declared = None

    def load_script(self, source: bytes) -> str:
        """Compile a script and return its digest."""
        sha = _sha1(source)
        if sha not in self._scripts:
            self._scripts[sha] = self._interpreter.compile(source)
        return sha

    def knows_script(self, sha: str) -> bool:
        """Tell whether a digest can be run."""
        return sha.lower() in self._scripts


def _sha1(text: bytes) -> str:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()


def _encode(word: str | bytes | int) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


@command("EVAL", 2, -1, no_key)
def _eval(engine: Engine, args: list[bytes]) -> Reply:
    return engine.run_script(args[0], args[1:], by_sha=False)


@command("EVALSHA", 2, -1, no_key)
def _evalsha(engine: Engine, args: list[bytes]) -> Reply:
    return engine.run_script(args[0], args[1:], by_sha=True)


@command("SCRIPT", 1, -1, no_key)
def _script(engine: Engine, args: list[bytes]) -> Reply:
    subcommand = args[0].upper()
    if subcommand == b"LOAD":
        return engine.load_script(args[1]).encode()
    if subcommand == b"EXISTS":
        return [int(engine.knows_script(sha.decode(errors="replace"))) for sha in args[1:]]
    if subcommand == b"FLUSH":
        engine.forget_scripts()
        return OK
    raise ReplyError(f"ERR unknown subcommand '{args[0].decode()}'. Try SCRIPT HELP.")
