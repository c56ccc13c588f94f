"""The shipped scripts on a real server, on a clock that the test sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import redis

from gridsync._io import Script, run_sync
from gridsync._io.clock import Tokens
from gridsync._io.decided import Decided
from gridsync.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from gridsync._io import Operation
    from gridsync.testing.servers import RedisServer

EPOCH_S = 1_735_689_600


@pytest.fixture
def client(flushed: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=flushed.port, decode_responses=True) as client:
        yield client


class Verdict(NamedTuple):
    """What a script answered."""

    retry_us: int
    remaining: int
    reset_us: int
    rule: int = 0


def ask(question: Coroutine[Any, Any, list[int] | tuple[list[int], str]]) -> Verdict:
    """Run a hit or a peek."""
    answer = run_sync(question)
    return Verdict(*(answer[0] if isinstance(answer, tuple) else answer))


class PlainIO:
    """Runs each operation once, through redis-py, on the server's clock or on one that the test sets.

    A test sets *repeat_us* to play the retry layer after a lost reply, and *token* to send the same hit again.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.token = Tokens()
        self.repeat_us = 0
        self.sent = 0
        self._frozen = False
        self._scripts: dict[str, Any] = {}

    def decisions(self, limiter: str) -> list[int]:
        """Return a list that nobody reads."""
        return Decided().of(limiter)

    def set_clock(self, now_us: int) -> None:
        """Let the scripts read *now_us* (microseconds since 2025) from now on, instead of the server's clock."""
        seconds, micros = divmod(now_us, 1_000_000)
        self.client.hset("clock", mapping={"0": EPOCH_S + seconds, "1": micros})
        if not self._frozen:
            self._frozen = True
            self.client.expire("clock", 600)

    def _script(self, source: str) -> Any:  # noqa: ANN401 - redis-py's own
        if self._frozen:
            assert "redis.call('TIME')" in source
            source = source.replace("redis.call('TIME')", "redis.call('HMGET', 'clock', '0', '1')")
        return self._scripts.setdefault(source, self.client.register_script(source))

    def together(self, keys: Sequence[str]) -> bool:
        """There is one server."""
        del keys
        return True

    def read(self, operation: Operation, keys: Sequence[str], args: Sequence[Any] = (), **_: object) -> Any:  # noqa: ANN401
        """Run it once, wherever it may be read from."""
        return self.run(operation, keys, args)

    async def run(
        self, operation: Operation, keys: Sequence[str], args: Sequence[Any] = (), *, timeout: float | None = None
    ) -> Any:  # noqa: ANN401 - as IO
        """Run it once."""
        del timeout
        self.sent += 1
        operation, keys, args = operation.whole(keys, args)
        values = list(args)
        if operation.repeat_index is not None:
            values[operation.repeat_index] = self.repeat_us
        try:
            if isinstance(operation, Script):
                return self._script(operation.source)(keys=keys, args=values)
            return self.client.execute_command(*operation.words(tuple(keys), tuple(values)))
        except redis.ResponseError as wrong:
            raise ServerError(str(wrong), code=str(wrong).split(maxsplit=1)[0]) from wrong


@pytest.fixture
def io(client: redis.Redis) -> PlainIO:
    return PlainIO(client)
