"""The transports, in threads and in tasks, against servers that a test scripts."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from gridsync import AsyncGrid, Grid, OutcomeUnknown, RateLimited, Unavailable, UsageError
from gridsync.contrib import _outgoing
from gridsync.contrib import httpx as ours
from gridsync.contrib.httpx import PAUSES, AsyncLimitTransport, LimitTransport, Pauses, origin
from gridsync.limits import Concurrency, Decision, Rate, Ticket
from tests.contrib.conftest import grid_without_server
from tests.wire.fake import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

HERE = "https://api.test"
THERE = "https://other.test"
NOW = "Mon, 23 Nov 2026 10:00:00 GMT"
LATER = "Mon, 23 Nov 2026 10:00:30 GMT"


class Clock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(_outgoing, "monotonic", lambda: made.now)
    monkeypatch.setattr(ours, "time", SimpleNamespace(sleep=made.sleep))
    monkeypatch.setattr(ours, "asyncio", SimpleNamespace(sleep=made.sleep_async))
    return made


class Server:
    """Answers as scripted, and then with 200."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        answer = self.answers.pop(0) if self.answers else httpx.Response(200)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Turns:
    """A limiter that admits everything, of both worlds."""

    def __init__(self, on_acquire: Callable[[], object] = lambda: None) -> None:
        self.on_acquire = on_acquire
        self.taken: list[tuple[str, int]] = []
        self.refunded: list[Ticket | None] = []

    def acquire(self, key: str, cost: int, *, timeout: float) -> Decision:
        assert timeout >= 0
        self.taken.append((key, cost))
        self.on_acquire()
        ticket = Ticket(key, str(len(self.taken)), cost)
        return Decision(
            allowed=True, limit=10, remaining=9, retry_after=0.0, reset_after=1.0, rule=Rate(10, 1), ticket=ticket
        )

    def refund(self, ticket: Ticket | None) -> bool:
        self.refunded.append(ticket)
        return True


class AsyncTurns(Turns):
    """The same with ``await``."""

    async def acquire(self, key: str, cost: int, *, timeout: float) -> Decision:
        return super().acquire(key, cost, timeout=timeout)

    async def refund(self, ticket: Ticket | None) -> bool:
        return super().refund(ticket)


class Way:
    """Requests from threads or from tasks."""

    def __init__(self, *, tasks: bool) -> None:
        self.tasks = tasks
        self.turns = AsyncTurns if tasks else Turns
        self.closing = contextlib.AsyncExitStack()

    def __call__(self, server: Server, limiter: object = None, **options: object) -> Callable[..., Awaitable[Any]]:
        options = {"pauses": Pauses(), **options}
        mock = httpx.MockTransport(server)
        if self.tasks:
            client = httpx.AsyncClient(transport=AsyncLimitTransport(limiter, transport=mock, **options))
            self.closing.push_async_callback(client.aclose)
            return client.request
        plain = httpx.Client(transport=LimitTransport(limiter, transport=mock, **options))
        self.closing.callback(plain.close)

        async def request(*args: object, **more: object) -> httpx.Response:
            return await asyncio.to_thread(plain.request, *args, **more)

        return request


@pytest.fixture(params=[False, True], ids=["threads", "tasks"])
async def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    made = Way(tasks=request.param)
    async with made.closing:
        yield made


def busy(status: int = 429, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("answer", "pause"),
    [
        (busy(retry_after="7"), 7),
        (busy(503, retry_after="7"), 7),
        (busy(date=NOW, retry_after=LATER), 30),
        (busy(retry_after="7", ratelimit='"a";r=0;t=90'), 7),
        (busy(ratelimit='"a";r=0;t=9'), 9),
        (busy(200, ratelimit='"a";r=0;t=9, "b";r=0;t=12, "c";r=5;t=60'), 12),
        (busy(retry_after="soon", ratelimit='"a";r=0;t=9'), 9),
        (busy(retry_after="1000000"), 300),
        (busy(200, ratelimit='"a";r=0;t=999999999999999'), 300),
        (busy(200, retry_after="7"), 0),
        (busy(200, ratelimit='"a";r=1;t=9'), 0),
        (busy(200, ratelimit='"a";r=0'), 0),
        (busy(200, ratelimit='"a";r=0;t=9', age="5"), 0),
        (busy(200, ratelimit='"a";r=0;t=9;;'), 0),
        (busy(date=LATER, retry_after=NOW), 0),
        (busy(retry_after="-1"), 0),
        (busy(), 0),
    ],
)
async def test_what_a_server_asks_for_is_done(way: Way, clock: Clock, answer: httpx.Response, pause: float):
    server, pauses = Server(httpx.Response(answer.status_code, headers=answer.headers)), Pauses()
    ask = way(server, pauses=pauses, max_wait=3_600)
    assert (await ask("GET", HERE)).status_code == answer.status_code
    assert pauses.left(HERE) == pause
    assert (await ask("GET", HERE)).status_code == 200
    assert clock.slept == ([pause] if pause else [])


async def test_a_pause_is_for_all_clients_of_the_process_and_for_one_origin(way: Way, clock: Clock):
    pauses, first, second = Pauses(), Server(busy(retry_after="7")), Server()
    ask, other = way(first, pauses=pauses), way(second, pauses=pauses)
    await ask("GET", HERE)
    assert (await other("GET", THERE)).status_code == (await other("GET", "http://api.test")).status_code == 200
    assert clock.slept == []
    assert (await other("GET", HERE + "/elsewhere")).status_code == 200
    assert clock.slept == [7]


async def test_a_pause_grows_and_does_not_shrink(way: Way, clock: Clock):
    pauses = Pauses()
    pauses.pause(HERE, 9)
    pauses.pause(HERE, 4)
    assert pauses.left(HERE) == 9
    await way(Server(), pauses=pauses)("GET", HERE)
    assert clock.slept == [9]
    pauses.pause(HERE, 9)
    pauses.resume(HERE)
    assert pauses.left(HERE) == 0


async def test_without_being_told_otherwise_transports_share_one_list_of_pauses(way: Way, clock: Clock):
    await way(Server(busy(retry_after="7")), pauses=None)("GET", "https://shared.test")
    assert PAUSES.left("https://shared.test") == 7
    PAUSES.resume("https://shared.test")
    assert clock.slept == []


async def test_whoever_would_wait_too_long_is_told_at_once_and_takes_nothing(way: Way, clock: Clock):
    turns, server = way.turns(), Server(busy(retry_after="61"))
    ask = way(server, turns)
    await ask("GET", HERE)
    with pytest.raises(RateLimited, match=r"https://api.test asked to be left alone for another 61.0 s") as refused:
        await ask("GET", HERE)
    assert (refused.value.name, refused.value.retry_after) == (HERE, 61)
    assert (clock.slept, len(server.asked), len(turns.taken)) == ([], 1, 1)


async def test_a_pause_that_comes_while_one_stands_in_line_gives_the_place_back(way: Way, clock: Clock):
    """Else all who stood in line would send at the end of the pause, at once."""
    pauses = Pauses()
    turns = way.turns(lambda: pauses.pause(HERE, 5) if len(turns.taken) == 1 else None)
    assert (await way(Server(), turns, pauses=pauses)("GET", HERE)).status_code == 200
    assert clock.slept == [5]
    assert turns.taken == [(HERE, 1)] * 2
    assert turns.refunded == [Ticket(HERE, "1", 1)]


@pytest.mark.parametrize("error", [httpx.ConnectError("no"), httpx.ConnectTimeout("no"), httpx.PoolTimeout("no")])
async def test_what_was_taken_for_a_request_that_was_never_sent_is_given_back(way: Way, error: Exception):
    turns = way.turns()
    with pytest.raises(type(error)):
        await way(Server(error), turns)("GET", HERE)
    assert turns.refunded == [Ticket(HERE, "1", 1)]


async def test_what_may_have_been_sent_stays_counted(way: Way):
    turns = way.turns()
    with pytest.raises(httpx.ReadTimeout):
        await way(Server(httpx.ReadTimeout("no")), turns)("GET", HERE)
    assert (len(turns.taken), turns.refunded) == (1, [])


async def test_a_request_counts_for_whom_and_how_much_it_is_said(way: Way):
    turns = way.turns()
    ask = way(
        Server(), turns, key=lambda request: request.headers["x-account"], cost=lambda request: len(request.content)
    )
    await ask("POST", HERE, headers={"x-account": "a"}, content=b"12345")
    assert turns.taken == [("a", 5)]


async def test_nothing_is_repeated_unless_asked(way: Way):
    server = Server(busy(retry_after="1"))
    assert (await way(server)("GET", HERE)).status_code == 429
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answers", "statuses", "slept"),
    [
        ([busy(retry_after="2")], 200, [2]),
        ([busy(503, retry_after="2"), busy(retry_after="3")], 200, [2, 3]),
        ([busy(retry_after="0")], 200, []),
        ([busy(retry_after="2")] * 3, 429, [2, 2]),
        ([busy(retry_after="61")], 429, []),
        ([busy()], 429, []),
        ([busy(500, retry_after="2")], 500, []),
    ],
)
async def test_repeats_that_were_asked_for_wait_as_told_and_end(
    way: Way, clock: Clock, answers: list[httpx.Response], statuses: int, slept: list[float]
):
    server, turns = Server(*(httpx.Response(a.status_code, headers=a.headers) for a in answers)), way.turns()
    answer = await way(server, turns, retries=2)("GET", HERE)
    assert (answer.status_code, clock.slept) == (statuses, slept)
    assert len(turns.taken) == len(server.asked)


@pytest.mark.parametrize(
    ("asked", "content", "sent"),
    [
        ((429, "POST"), b"order", 2),
        ((503, "POST"), b"order", 1),
        ((503, "PUT"), b"order", 2),
        ((429, "POST"), "stream", 1),
    ],
)
async def test_only_what_was_not_handled_or_may_be_handled_twice_is_repeated(
    way: Way, clock: Clock, asked: tuple[int, str], content: object, sent: int
):
    def pieces() -> Iterator[bytes]:
        yield b"order"

    async def pieces_async() -> Any:  # noqa: ANN401 - an asynchronous generator
        yield b"order"

    if content == "stream":
        content = pieces_async() if way.tasks else pieces()
    (status, method), server = asked, Server()
    server.answers.append(busy(status, retry_after="1"))
    answer = await way(server, retries=1)(method, HERE, content=content)
    assert answer.status_code == (200 if sent == 2 else status)
    assert (len(server.asked), len(clock.slept)) == (sent, sent - 1)


def test_the_list_of_pauses_is_bounded(clock: Clock):
    pauses = Pauses()
    for number in range(_outgoing.ORIGINS_MAX + 1):
        pauses.pause(f"https://{number}.test", 10 + number)
    assert pauses.left("https://0.test") == 0
    assert pauses.left(f"https://{_outgoing.ORIGINS_MAX}.test") == 10 + _outgoing.ORIGINS_MAX
    assert clock.slept == []


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"max_wait": 3_601},
            {"max_wait": -1},
            {"max_pause": -1},
            {"retries": -1},
            {"retries": 101},
            {"retries": True},
        ),
        *({"key": "origin"}, {"cost": 0}, {"cost": "1"}, {"pauses": {}}, {"limiter": "50/s"}),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]):
    for kind in (LimitTransport, AsyncLimitTransport):
        with pytest.raises(UsageError):
            kind(**options)


async def test_a_limiter_that_cannot_serve_a_transport_is_refused_when_it_is_made(flushed: RedisServer):
    """Not by the first request."""
    with Grid(flushed.url) as grid:
        plain, slots = grid.limiter("api", "9/s"), grid.limiter("api", Concurrency(9, ttl_s=1))
        with pytest.raises(UsageError, match="nobody can wait in line"):
            LimitTransport(slots)
        with pytest.raises(UsageError, match="of the kind AsyncLimiter"):
            AsyncLimitTransport(plain)  # type: ignore[arg-type]
    async with AsyncGrid(flushed.url) as agrid:
        with pytest.raises(UsageError, match="of the kind Limiter"):
            LimitTransport(agrid.limiter("api", "9/s"))  # type: ignore[arg-type]


def test_both_transports_are_made_with_the_same_arguments():
    plain, twin = (inspect.signature(kind).parameters.values() for kind in (LimitTransport, AsyncLimitTransport))
    assert [(p.name, p.kind, p.default) for p in plain] == [(p.name, p.kind, p.default) for p in twin]


def test_an_origin_is_scheme_host_and_port():
    for url, where in {
        "https://API.test/x?y": "https://api.test",
        "https://api.test:443/": "https://api.test",
        "http://api.test:8080": "http://api.test:8080",
        "http://user:secret@api.test": "http://api.test",
        "http://[2001:db8::1]:1": "http://[2001:db8::1]:1",
    }.items():
        assert origin(httpx.Request("GET", url)) == where


async def test_tasks_wait_in_line_on_a_real_limiter(grid: AsyncGrid):
    server = Server()
    limiter = grid.limiter("exchange", "2 per 0.05 seconds")
    began = time.monotonic()
    async with httpx.AsyncClient(
        transport=AsyncLimitTransport(limiter, transport=httpx.MockTransport(server))
    ) as client:
        await asyncio.gather(*(client.get(f"{HERE}/{number}") for number in range(6)))
    assert time.monotonic() - began >= 0.1
    assert len(server.asked) == 6


def test_threads_wait_in_line_on_a_real_limiter(flushed: RedisServer):
    server = Server()
    with Grid(flushed.url) as grid:
        transport = LimitTransport(
            grid.limiter("exchange", "1 per 0.05 seconds"), transport=httpx.MockTransport(server)
        )
        began = time.monotonic()
        with httpx.Client(transport=transport) as client:
            for number in range(3):
                client.get(f"{HERE}/{number}")
        assert time.monotonic() - began >= 0.1
        assert server.asked == [f"{HERE}/{number}" for number in range(3)]


async def test_a_request_that_is_cancelled_while_it_waits_gives_its_place_back(grid: AsyncGrid):
    server, limiter = Server(), grid.limiter("exchange", "1 per 30 seconds")
    async with httpx.AsyncClient(
        transport=AsyncLimitTransport(limiter, transport=httpx.MockTransport(server))
    ) as client:
        await client.get(HERE)
        waiting = asyncio.create_task(client.get(HERE))

        async def stands() -> bool:
            return ((await limiter.peek(HERE)).retry_after or 0) > 30

        async def stands_no_more() -> bool:
            return not await stands()

        await until(stands)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        await until(stands_no_more)
    assert len(server.asked) == 1


async def test_a_request_that_is_cancelled_during_a_pause_has_taken_nothing(monkeypatch: pytest.MonkeyPatch):
    turns, pauses, asleep = AsyncTurns(), Pauses(), asyncio.Event()

    async def sleep(_: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(ours, "asyncio", SimpleNamespace(sleep=sleep))
    pauses.pause(HERE, 30)
    transport = AsyncLimitTransport(turns, transport=httpx.MockTransport(Server()), pauses=pauses)
    async with httpx.AsyncClient(transport=transport) as client:
        waiting = asyncio.create_task(client.get(HERE))
        await asleep.wait()
        waiting.cancel()
        await asyncio.wait({waiting})
    assert turns.taken == []


async def test_without_its_server_the_limiters_policy_decides(flushed: RedisServer):
    async with grid_without_server(flushed) as grid:
        strict, lax = (grid.limiter("exchange", "5/second", on_error=policy) for policy in ("raise", "allow"))
        for limiter, outcome in (
            (strict, pytest.raises((Unavailable, OutcomeUnknown))),
            (lax, contextlib.nullcontext()),
        ):
            transport = AsyncLimitTransport(limiter, transport=httpx.MockTransport(Server()))
            async with httpx.AsyncClient(transport=transport) as client:
                with outcome:
                    assert (await client.get(HERE)).status_code == 200
