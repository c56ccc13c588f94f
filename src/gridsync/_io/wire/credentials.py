"""User and password for one connection, asked anew each time, so that they may change while the program runs.

A redis-py `CredentialProvider` may ask a vault or a cloud, so it may block or fail.  It is asked in a thread that can
be left behind, unless it brings a coroutine of its own: redis-py's default for `get_credentials_async` calls the
blocking method in the event loop.  Of such threads there are `ASKING_MAX` at most: while so many wait for a provider
that does not answer, nobody asks it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from gridsync._io.clock import monotonic
from gridsync._io.wire.faults import Fault
from gridsync.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io.wire.endpoint import Endpoint

    User = tuple[str | None, str | None]

_PAUSE_S = 0.01


class PasswordFile(CredentialProvider):
    """A user whose password is in a file, which is read for each connection: to rotate it is to replace the file.

    Args:
        username: Who; the default user if there is none.
        path: Where the password is, on one line.
    """

    def __init__(self, username: str | None, path: str) -> None:
        self.username = username
        self.path = Path(path)

    def get_credentials(self) -> tuple[str, str]:
        """Return user and password as of now.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is empty, or not in UTF-8.
        """
        password = self.path.read_text(encoding="utf-8").strip("\r\n")
        if not password:
            raise ValueError("it is empty")
        return self.username or "default", password


def ask(endpoint: Endpoint, timeout: float, *, met_before: bool) -> User:
    """Return user and password, ``None`` where there is none.

    Raises:
        Fault: The provider failed, or did not answer within *timeout* seconds, and the server had been met before.
        Unavailable: It had not been met.
    """
    provider = endpoint.credentials
    if provider is None:
        return None, None
    if type(provider) is UsernamePasswordCredentialProvider:
        return _pair(provider.get_credentials())  # type: ignore[no-untyped-call] # redis-py's
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    asking, deadline = endpoint.guard.asking, monotonic() + timeout
    if asking.acquire(timeout=timeout):
        _in_a_thread(provider, answers.put, asking)
    try:
        return _understand(answers.get(timeout=max(deadline - monotonic(), 0)))
    except queue.Empty:
        why: str | Exception = f"did not answer within {timeout:g} s"
    except Exception as error:  # noqa: BLE001 - somebody else's code
        why = error
    raise _failed(provider, why, met_before=met_before)


async def aask(endpoint: Endpoint, timeout: float, *, met_before: bool) -> User:
    """As `ask`, for asyncio."""
    provider = endpoint.credentials
    if provider is None:
        return None, None
    if type(provider) is UsernamePasswordCredentialProvider:
        return _pair(provider.get_credentials())  # type: ignore[no-untyped-call] # redis-py's
    try:
        # A little less than what the attempt has left: this error says more.
        async with asyncio.timeout(timeout * 0.9):
            if type(provider).get_credentials_async is not CredentialProvider.get_credentials_async:
                return _pair(await provider.get_credentials_async())
            while not endpoint.guard.asking.acquire(blocking=False):  # noqa: ASYNC110 - threads give it back
                await asyncio.sleep(_PAUSE_S)
            return _understand(await _aside(provider, endpoint.guard.asking))
    except TimeoutError:
        why: str | Exception = f"did not answer within {timeout * 0.9:.2g} s"
    except Exception as error:  # noqa: BLE001 - somebody else's code
        why = error
    raise _failed(provider, why, met_before=met_before)


async def _aside(provider: CredentialProvider, asking: threading.Semaphore) -> Any:  # noqa: ANN401
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def take(given: Any) -> None:  # noqa: ANN401
        if not answer.done():
            answer.set_result(given)

    def hand_over(given: Any) -> None:  # noqa: ANN401
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(take, given)

    _in_a_thread(provider, hand_over, asking)
    return await answer


def _in_a_thread(provider: CredentialProvider, hand_over: Callable[[Any], None], asking: threading.Semaphore) -> None:
    def work() -> None:
        try:
            given: Any = provider.get_credentials()
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            given = error
        asking.release()
        hand_over(given)

    # A daemon, as no executor's threads are: a provider that blocks for ever does not keep the program from ending.
    threading.Thread(target=work, name="gridsync-credentials", daemon=True).start()


def _understand(given: Any) -> User:  # noqa: ANN401 - what a thread handed over
    if isinstance(given, BaseException):
        raise given
    return _pair(given)


def _pair(given: Any) -> User:  # noqa: ANN401 - (password,) or (user, password)
    username, password = given if len(given) == 2 else (None, given[0])  # noqa: PLR2004
    return username, password


def _failed(provider: CredentialProvider, why: str | Exception, *, met_before: bool) -> Exception:
    if isinstance(provider, PasswordFile):
        # Never the `repr` of what could not be decoded, for that shows it.
        said = why.strerror if isinstance(why, OSError) else why
        text = f"no password from {provider.path}: {said}; see REDIS_PASSWORD_FILE, and who may read it"
    else:
        said = f"failed: {why!r}" if isinstance(why, Exception) else why
        text = f"the credential provider {type(provider).__name__} {said}; nothing was sent"
    return Fault(text, applied=False) if met_before else Unavailable(text)
