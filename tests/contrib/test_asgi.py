"""The middleware, around applications in this process."""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import logging
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gridsync import AsyncGrid, Settings, UsageError
from gridsync._io.keys import limit
from gridsync.contrib import _leases
from gridsync.contrib.asgi import Policy, RateLimitMiddleware
from gridsync.contrib.keys import ClientAddress, endpoint, header, join, user
from gridsync.limits import Concurrency
from tests.contrib.conftest import browser, grid_without_server, talk
from tests.contrib.sfv import parse_list
from tests.wire.fake import soon, until

if TYPE_CHECKING:
    from starlette.requests import Request

    from gridsync.contrib._answer import Message, Receive, Send
    from gridsync.contrib.keys import Scope
    from gridsync.limits import AsyncLimiter, OnError
    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

ADDRESS = ClientAddress()
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
REDUCED = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello " + request.path_params.get("name", ""), headers={"x-own": "1"})


def service(grid: object, *policies: Policy, **options: object) -> RateLimitMiddleware:
    routes = [Route("/", hello), Route("/health", hello), Route("/orders/{name}", hello, methods=["GET", "POST"])]
    return RateLimitMiddleware(Starlette(routes=routes), grid=grid, policies=policies, **options)


async def test_what_is_admitted_is_told_what_is_left(grid: AsyncGrid):
    async with browser(service(grid, Policy("api", "3/minute", key=ADDRESS))) as client:
        answers = [await client.get("/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[0].text == "hello "
    assert answers[0].headers["x-own"] == "1"
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"api";q=3;w=60'}
    left = [parse_list(answer.headers["ratelimit"]) for answer in answers]
    assert [(name, parameters["r"]) for ((name, parameters),) in left] == [("api", 2), ("api", 1), ("api", 0)]
    assert all(parameters["t"] == 60 for ((_, parameters),) in left)


@pytest.mark.parametrize("rules", [("4/minute",), ("4/minute", "100/hour")], ids=" ".join)
async def test_who_took_the_last_is_told_when_the_next_one_is_there(
    grid: AsyncGrid, flushed: RedisServer, rules: tuple[str, ...]
):
    """Not when the window is empty: who believes that comes back a window later, and gets half of what is its."""
    seconds, micros = flushed.command("TIME")
    half_a_minute_ago = (int(seconds) - 1_735_689_600) * 1_000_000 + int(micros) - 30_000_000
    key = limit("rate_limit", "api", "192.0.2.1")
    flushed.command("ZADD", key, str(half_a_minute_ago), "1:0000000000")
    flushed.command("EXPIRE", key, "60")
    async with browser(service(grid, Policy("api", *rules, key=ADDRESS))) as client:
        answers = [await client.get("/") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    told = [parse_list(answer.headers["ratelimit"])[0][1] for answer in answers]
    assert [each["r"] for each in told] == [2, 1, 0, 0]
    assert [each["t"] for each in told[:2]] == [60, 60]
    assert 0 < told[2]["t"] <= 30
    assert told[3]["t"] <= told[2]["t"]


async def test_a_bucket_that_is_empty_is_told_with_its_next_unit(grid: AsyncGrid):
    async with browser(service(grid, Policy("api", "4/minute burst 4", key=ADDRESS))) as client:
        answers = [await client.get("/") for _ in range(4)]
    told = parse_list(answers[-1].headers["ratelimit"])[0][1]
    assert told["r"] == 0
    assert told["t"] <= 15


async def test_slots_that_are_all_taken_are_told_with_the_first_that_will_be_free(grid: AsyncGrid):
    running = grid.limiter("running", Concurrency(2, ttl_s=1))
    await running.hit("192.0.2.1")
    longer = Policy("running", Concurrency(2, ttl_s=3600), key=ADDRESS)
    async with browser(service(grid, longer)) as client:
        answer = await client.get("/")
    ((_, told),) = parse_list(answer.headers["ratelimit"])
    assert (told["r"], told["t"]) in {(0, 1), (1, 3600)}, "or that was free already, on a machine that stood still"


async def test_a_policy_may_be_a_bucket_and_is_told_by_its_size(grid: AsyncGrid):
    """And how long it takes to fill."""
    async with browser(service(grid, Policy("api", "10/s burst 30", key=ADDRESS))) as client:
        answer = await client.get("/")
    assert answer.headers["ratelimit-policy"] == '"api";q=30;w=3'
    assert answer.headers["ratelimit"] == '"api";r=29;t=1'


async def test_what_is_denied_is_told_why_and_when_to_come_again(grid: AsyncGrid):
    async with browser(service(grid, Policy("api", "1/minute", key=ADDRESS))) as client:
        await client.get("/")
        answer = await client.get("/")
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert 59 <= int(answer.headers["retry-after"]) <= 60
    ((name, parameters),) = parse_list(answer.headers["ratelimit"])
    assert (name, parameters["r"], parameters["t"]) == ("api", 0, int(answer.headers["retry-after"]))
    problem = answer.json()
    assert (problem["type"], problem["status"]) == (QUOTA_EXCEEDED, 429)
    assert problem["violated-policies"] == ["api"]
    assert "come again in" in problem["detail"]


async def test_who_comes_when_told_is_let_in(grid: AsyncGrid):
    """Retry-After is rounded up: one second for a window of half a second, and never too early."""
    async with browser(service(grid, Policy("api", "1 per 0.5 seconds", key=ADDRESS))) as client:
        await client.get("/")
        denied = await client.get("/")
        while denied.status_code != 429:  # a machine that slept in between
            await client.get("/")
            denied = await client.get("/")
        assert denied.headers["retry-after"] == "1"
        assert denied.headers["ratelimit-policy"] == '"api";q=1', "a window below a second cannot be told"
        await asyncio.sleep(int(denied.headers["retry-after"]))
        assert (await client.get("/")).status_code == 200


async def test_when_one_policy_denies_nothing_is_taken_from_any(grid: AsyncGrid):
    narrow = Policy("narrow", "1/minute", key=join(ADDRESS, endpoint), methods=["POST"])
    wide, last = Policy("wide", "5/minute", key=ADDRESS), Policy("last", "100/hour", key=ADDRESS)
    async with browser(service(grid, wide, narrow, last)) as client:
        first = await client.post("/orders/a")
        assert (first.status_code, len(parse_list(first.headers["ratelimit"]))) == (200, 3)
        for _ in range(10):
            denied = await client.post("/orders/a")
            assert denied.status_code == 429
            assert denied.json()["violated-policies"] == ["narrow"]
            told = {name: parameters["r"] for name, parameters in parse_list(denied.headers["ratelimit"])}
            assert told == {"wide": 4, "narrow": 0, "last": 99}
        assert [item[0] for item in parse_list(denied.headers["ratelimit-policy"])] == ["wide", "narrow", "last"]
        assert [(await client.get("/")).status_code for _ in range(5)] == [200] * 4 + [429]


async def test_a_client_is_told_to_come_when_every_policy_admits(grid: AsyncGrid):
    """Else it would wait for the first one, only to be denied by the next."""
    short, long = Policy("short", "1/minute", key=ADDRESS), Policy("long", "1/hour", key=ADDRESS)
    async with browser(service(grid, short, long)) as client:
        await client.get("/")
        denied = await client.get("/")
    assert denied.json()["violated-policies"] == ["short", "long"]
    assert 3_590 < int(denied.headers["retry-after"]) <= 3_600


async def test_several_rules_of_one_policy_are_told_apart(grid: AsyncGrid):
    async with browser(service(grid, Policy("api", "2/minute", "100/hour", key=ADDRESS))) as client:
        answer = await client.get("/")
    assert answer.headers["ratelimit-policy"] == '"api-60s";q=2;w=60, "api-3600s";q=100;w=3600'
    assert [item[0] for item in parse_list(answer.headers["ratelimit"])] == ["api-60s"]


async def test_a_policy_is_about_its_paths_and_methods_only(grid: AsyncGrid):
    policy = Policy("orders", "1/minute", key=ADDRESS, paths=["/orders/*", "/exact"], methods=["post"])
    async with browser(service(grid, policy)) as client:
        assert (await client.post("/orders/a")).headers["ratelimit"]
        for path in ("/", "/health", "/orders", "/exact/more"):
            answer = await client.post(path)
            assert answer.status_code != 429
            assert "ratelimit-policy" not in answer.headers
        assert "ratelimit" not in (await client.get("/orders/a")).headers
        assert (await client.post("/exact")).status_code == 429


async def test_asking_for_the_head_only_is_no_way_around(grid: AsyncGrid):
    async with browser(service(grid, Policy("api", "1/minute", key=ADDRESS, methods=["GET"]))) as client:
        assert [(await client.head("/")).status_code for _ in range(2)] == [200, 429]


async def test_a_slot_is_held_until_the_response_has_been_sent(grid: AsyncGrid):
    """Also by a response that streams, and given back if the request is cancelled or the application fails."""
    arrived, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, _: Receive, send: Send) -> None:
        if scope["path"] == "/broken":
            raise RuntimeError
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        if scope["path"] == "/slow":
            arrived.set()
            await may_go_on.wait()
        await send({"type": "http.response.body", "body": b"two"})

    policy = Policy("running", Concurrency(2, ttl_s=60), key=ADDRESS)
    async with browser(RateLimitMiddleware(slow, grid=grid, policies=[policy])) as client:
        first, second = (asyncio.create_task(client.get("/slow")) for _ in range(2))
        limiter = policy.limiter(grid)
        await left(0, limiter)
        denied = await client.get("/")
        assert denied.status_code == 429
        assert denied.headers["ratelimit-policy"] == '"running";q=2;qu="concurrent-requests"'
        assert 1 <= int(denied.headers["retry-after"]) <= 60
        await arrived.wait()
        second.cancel()
        await left(1, limiter)
        with pytest.raises(RuntimeError):
            await client.get("/broken")
        assert (await client.get("/")).text == "onetwo"
        may_go_on.set()
        assert (await first).text == "onetwo"
        assert (await limiter.peek("192.0.2.1")).remaining == 2


async def test_a_key_function_may_say_that_a_request_is_not_meant(grid: AsyncGrid):
    policy = Policy("api", "1/minute", key=lambda scope: None if scope["path"] == "/health" else "all")
    async with browser(service(grid, policy)) as client:
        assert [(await client.get(path)).status_code for path in ("/health", "/", "/health", "/")] == [
            200,
            200,
            200,
            429,
        ]


async def test_a_cost_may_depend_on_the_request(grid: AsyncGrid):
    policy = Policy("bytes", "100/minute", key=ADDRESS, cost=lambda scope: len(scope["query_string"]))
    async with browser(service(grid, policy)) as client:
        answers = [await client.get("/", params={"q": "x" * (length - 2)}) for length in (60, 60, 40)]
        free, never = await client.get("/"), await client.get("/", params={"q": "x" * 200})
    assert [answer.status_code for answer in answers] == [200, 429, 200]
    assert parse_list(answers[1].headers["ratelimit"])[0][1]["r"] == 40
    assert (free.status_code, "ratelimit" in free.headers) == (200, False)
    assert never.status_code == 429
    assert "retry-after" not in never.headers, "no waiting makes it fit"
    assert "never fits" in never.json()["detail"]


async def test_a_key_in_redis_is_what_the_documentation_says(grid: AsyncGrid, flushed: RedisServer):
    policy = Policy("api", "5/minute", key=join(ADDRESS, endpoint))
    async with browser(service(grid, policy)) as client:
        await client.get("/orders/a")
    assert flushed.command("KEYS", "*") == [b"{rate_limit:limit:api:192.0.2.1:GET /orders/%7Bname%7D}"]
    assert policy.asks({"type": "http", "path": "/", "method": "GET", "client": ("192.0.2.1", 1)}) == (
        "192.0.2.1:unmatched",
        1,
    )
    assert (await policy.limiter(grid).peek("192.0.2.1:GET /orders/{name}")).remaining == 4


async def test_hostile_headers_make_no_large_keys_and_no_errors(grid: AsyncGrid, flushed: RedisServer):
    """Whatever a client sends, it gets an answer, and Redis keeps a key of bounded length that expires."""

    def raw(scope: Scope) -> str:
        return b"".join(value for name, value in scope["headers"] if name == b"x-raw").decode(errors="surrogateescape")

    behind = ClientAddress(["192.0.2.0/24"])
    policies = (
        Policy("raw", "1000/minute", key=lambda scope: "-" + raw(scope)),
        Policy("hashed", "1000/minute", key=header("x-raw", behind)),
        Policy("address", "1000/minute", key=behind),
    )
    hostile = [
        b"x" * 60_000,
        b"a}{b:c}%7D",
        b"\r\nRetry-After: 0",
        b"\x00*1\r\n$8\r\nFLUSHALL\r\n",
        "ä☃".encode(),
        b"\xff\xfe\xed\xa0\x80",
        b"",
    ]
    async with browser(service(grid, *policies)) as client:
        for value in hostile:
            for _ in range(2):
                answer = await client.get("/", headers=[(b"x-raw", value), (b"x-forwarded-for", value)])
                assert answer.status_code == 200
                assert [item[0] for item in parse_list(answer.headers["ratelimit"])] == ["raw", "hashed", "address"]
    assert (await policies[2].limiter(grid).peek("192.0.2.1")).remaining == 1000 - 2 * len(hostile)
    keys = flushed.command("KEYS", "*")
    assert len(keys) == len(hostile) * 2 + 1
    assert max(map(len, keys)) < 400


async def test_names_of_partitions_are_digests(grid: AsyncGrid):
    async with browser(service(grid, Policy("api", "5/minute", key=ADDRESS, partition=True))) as client:
        answer = await client.get("/")
    ((_, policy),), ((_, left),) = (parse_list(answer.headers[name]) for name in ("ratelimit-policy", "ratelimit"))
    assert isinstance(left["pk"], bytes)
    assert policy["pk"] == left["pk"]
    assert len(left["pk"]) == 12
    assert b"192" not in left["pk"]


async def test_a_shadow_lets_pass_counts_and_warns_once(grid: AsyncGrid, caplog: pytest.LogCaptureFixture):
    shadow, real = Policy("next", "1/minute", key=ADDRESS, shadow=True), Policy("api", "9/minute", key=ADDRESS)
    with caplog.at_level(logging.WARNING, "gridsync"):
        async with browser(service(grid, shadow, real)) as client:
            answers = [await client.get("/") for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"api";q=9;w=60'}
    assert (shadow.counts.admitted, shadow.counts.denied) == (1, 4)
    assert (real.counts.admitted, real.counts.denied) == (5, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "shadow policy 'next' would have denied 1 requests, lastly of '192.0.2.1'"
    ]


async def test_a_shadow_alone_tells_clients_nothing(grid: AsyncGrid):
    async with browser(service(grid, Policy("next", "1/minute", key=ADDRESS, shadow=True))) as client:
        answers = [await client.get("/") for _ in range(2)]
    assert not any(name.startswith("ratelimit") for answer in answers for name in answer.headers)


@pytest.mark.parametrize("on_error", ["raise", "deny"])
async def test_without_the_server_nobody_is_told_of_a_quota(flushed: RedisServer, on_error: OnError):
    policy = Policy("api", "5/minute", key=ADDRESS, on_error=on_error)
    async with grid_without_server(flushed) as grid, browser(service(grid, policy)) as client:
        answer = await client.get("/")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["ratelimit-policy"] == '"api";q=5;w=60'
    assert "ratelimit" not in answer.headers
    assert answer.json()["type"] == REDUCED
    assert "violated-policies" not in answer.json()
    counts = policy.counts
    assert (counts.failed, counts.denied, counts.degraded) == ((1, 0, 0) if on_error == "raise" else (0, 1, 1))


async def test_what_is_decided_without_the_server_has_no_numbers(flushed: RedisServer):
    lax = Policy("lax", "5/minute", key=ADDRESS, on_error="allow")
    local = Policy("local", "2/minute", key=ADDRESS, on_error="local")
    async with grid_without_server(flushed) as grid, browser(service(grid, lax, local)) as client:
        answers = [await client.get("/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert not any("ratelimit" in answer.headers for answer in answers)
    assert answers[2].json()["violated-policies"] == ["local"]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
    assert (lax.counts.admitted, lax.counts.degraded) == (2, 2)
    assert (local.counts.admitted, local.counts.denied, local.counts.degraded) == (2, 1, 3)


async def test_a_request_that_is_denied_is_none_for_a_shadow(grid: AsyncGrid):
    shadow, real = Policy("next", "1/minute", key=ADDRESS, shadow=True), Policy("api", "1/minute", key=ADDRESS)
    async with browser(service(grid, shadow, real)) as client:
        assert [(await client.get("/")).status_code for _ in range(3)] == [200, 429, 429]
    assert (shadow.counts.admitted, shadow.counts.denied) == (1, 0)


async def test_who_keeps_knocking_need_not_cost_the_server_anything(grid: AsyncGrid, flushed: RedisServer):
    async with browser(service(grid, Policy("api", "1/hour", key=ADDRESS, deny_cache=10))) as client:
        assert [(await client.get("/")).status_code for _ in range(2)] == [200, 429]
        flushed.pause()
        try:
            denied = await client.get("/")
        finally:
            flushed.resume()
    assert (denied.status_code, denied.json()["violated-policies"]) == (429, ["api"])
    assert 3_500 < int(denied.headers["retry-after"]) <= 3_600
    assert parse_list(denied.headers["ratelimit"])[0][1]["r"] == 0


async def test_a_busy_key_of_leased_permits_rarely_asks_the_server(grid: AsyncGrid):
    policy = Policy("all", "100000/hour", key=join("all"), leased=True)
    async with browser(service(grid, policy)) as client:
        answers = [await client.get("/") for _ in range(300)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"all";q=100000;w=3600'}
    assert not any("ratelimit" in answer.headers for answer in answers), "what is left of a batch is no quota"
    told = grid.stats().decisions["all"]
    assert told["lease.admitted"] == 300, "a batch is not counted by itself"
    assert policy.counts.admitted == 300


async def test_gateways_that_lease_permits_admit_no_more_together(flushed: RedisServer):
    def policy() -> Policy:
        return Policy("all", "50/hour", key=join("all"), leased=True)

    async with (
        AsyncGrid(flushed.url) as one,
        AsyncGrid(flushed.url) as two,
        browser(service(one, policy())) as first,
        browser(service(two, policy())) as second,
    ):
        answers = [await client.get("/") for _ in range(60) for client in (first, second)]
    admitted = [answer for answer in answers if answer.status_code == 200]
    denied = [answer for answer in answers if answer.status_code == 429]
    assert len(admitted) + len(denied) == 120
    assert 25 <= len(admitted) <= 50
    assert all(0 < int(answer.headers["retry-after"]) <= 3780 for answer in denied), "a lease counts from its end on"
    assert all(parse_list(answer.headers["ratelimit"])[0][1]["r"] == 0 for answer in denied)


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_what_leased_permits_deny_is_taken_from_no_other_policy(grid: AsyncGrid, others: int):
    """The middleware's word is all or nothing, whoever decides."""
    shared = [Policy(f"member-{number}", "100/hour", key=ADDRESS) for number in range(others)]
    leased = [Policy("all", "2/hour", key=join("all"), leased=True), Policy("late", "9/hour", key=ADDRESS, leased=True)]
    async with browser(service(grid, *shared, *leased)) as client:
        answers = [await client.get("/") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert answers[-1].json()["violated-policies"] == ["all"]
    names = [name for name, _ in parse_list(answers[-1].headers["ratelimit"])]
    assert names == ["all"], "who was asked in vain says nothing"
    for policy in shared:
        assert (await policy.limiter(grid).peek("192.0.2.1")).remaining == 98
        assert policy.counts.admitted == 2
    assert leased[1].counts.admitted == 2


async def test_leased_permits_are_not_asked_for_what_another_policy_denies(grid: AsyncGrid):
    leased = Policy("all", "9/hour", key=join("all"), leased=True)
    async with browser(service(grid, leased, Policy("member", "1/hour", key=ADDRESS))) as client:
        assert [(await client.get("/")).status_code for _ in range(3)] == [200, 429, 429]
    assert sum(grid.stats().decisions["all"].values()) == 1


async def test_without_the_server_leased_permits_take_from_nobody(flushed: RedisServer):
    policies = [
        Policy("member", "9/hour", key=ADDRESS, on_error="allow"),
        Policy("all", "9/hour", key=ADDRESS, leased=True),
    ]
    async with grid_without_server(flushed) as away, browser(service(away, *policies)) as client:
        answer = await client.get("/")
    assert answer.status_code == 503
    assert answer.json()["type"] == REDUCED


async def test_of_many_keys_the_busiest_have_leases(grid: AsyncGrid, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_leases, "KEYS_MAX", 2)
    leases = _leases.Leases(grid.limiter("all", "9/hour"))
    first, second = leases.of("a"), leases.of("b")
    assert leases.of("a") is first
    leases.of("c")
    assert leases.of("a") is first
    assert leases.of("b") is not second


async def test_a_shadow_without_a_server_is_no_trouble(flushed: RedisServer):
    shadow = Policy("next", "5/minute", key=ADDRESS, shadow=True)
    async with grid_without_server(flushed) as grid, browser(service(grid, shadow)) as client:
        assert (await client.get("/")).status_code == 200
    assert shadow.counts.failed == 1


@pytest.mark.leaves_keys
async def test_an_error_that_no_waiting_heals_takes_nothing_and_is_raised(grid: AsyncGrid, flushed: RedisServer):
    first, broken = Policy("first", "5/minute", key=ADDRESS), Policy("broken", "5/minute", key=ADDRESS)
    flushed.command("SET", "{rate_limit:limit:broken:192.0.2.1}", "not a log")
    async with browser(service(grid, first, broken)) as client:
        with pytest.raises(Exception, match="WRONGTYPE"):
            await client.get("/")
    assert (await first.limiter(grid).peek("192.0.2.1")).remaining == 5


async def test_a_request_that_is_cancelled_while_it_is_judged_gives_back(flushed: RedisServer):
    """The client hangs up while a slow server decides."""
    async with AsyncGrid(settings=Settings(redis_url=flushed.url, redis_command_timeout=30)) as grid:
        first, second = (
            Policy("first", "5/minute", key=ADDRESS),
            Policy("second", Concurrency(3, ttl_s=60), key=ADDRESS),
        )
        app = service(grid, first, second)
        async with browser(app) as client:
            await client.get("/")
            flushed.pause()
            try:
                request = asyncio.create_task(client.get("/"))
                await soon(lambda: grid.stats().in_flight == 1)
                request.cancel()
                await asyncio.wait({request})
            finally:
                flushed.resume()
            assert request.cancelled()
            await soon(lambda: not app._gate._undoing)
        assert (await first.limiter(grid).peek("192.0.2.1")).remaining == 4
        assert (await second.limiter(grid).peek("192.0.2.1")).remaining == 3


class Stuck:
    """A limiter that never answers."""

    rules = ()

    def __init__(self, asked: asyncio.Event) -> None:
        self._asked = asked

    async def hit(self, key: str, cost: int) -> None:
        del key, cost
        self._asked.set()
        await asyncio.Event().wait()


async def test_a_request_that_is_cancelled_while_a_shadow_looks_gives_back(grid: AsyncGrid):
    asked = asyncio.Event()
    shadow = Policy("next", key=ADDRESS, shadow=True, limiter=lambda _: Stuck(asked))
    other = Policy("tried", Concurrency(3, ttl_s=60), key=ADDRESS, shadow=True)
    real = Policy("running", Concurrency(3, ttl_s=60), key=ADDRESS)
    async with browser(service(grid, shadow, other, real)) as client:
        request = asyncio.create_task(client.get("/"))
        await asked.wait()
        await soon(lambda: other.counts.admitted == 1)
        await left(2, other.limiter(grid))
        await left(2, real.limiter(grid))
        request.cancel()
        await left(3, real.limiter(grid))
        await left(3, other.limiter(grid))
        await asyncio.wait({request})


async def left(units: int, limiter: AsyncLimiter) -> None:
    """Wait until so many units are left."""

    async def so_many() -> bool:
        return (await limiter.peek("192.0.2.1")).remaining == units

    await until(so_many)


async def test_a_grid_may_be_opened_again(flushed: RedisServer):
    grid = AsyncGrid(flushed.url)
    app = service(grid, Policy("api", "5/minute", key=ADDRESS))
    for left in (4, 3):
        async with grid, browser(app) as client:
            assert parse_list((await client.get("/")).headers["ratelimit"])[0][1]["r"] == left
    async with browser(app) as client:
        with pytest.raises(UsageError, match="not open"):
            await client.get("/")


async def test_a_grid_may_be_found_in_the_scope(grid: AsyncGrid):
    app = service(lambda scope: scope["state"]["grid"], Policy("api", "5/minute", key=ADDRESS))

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {"grid": grid}}, receive, send)

    async with browser(with_state) as client:
        assert (await client.get("/")).headers["ratelimit"]


async def test_streams_pass_as_they_come(grid: AsyncGrid):
    """Each piece reaches the client before the next one is made, in both directions."""
    turn: asyncio.Queue[bytes] = asyncio.Queue()
    sent: list[Message] = []

    async def echo(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while piece := (await receive())["body"]:
            await send({"type": "http.response.body", "body": piece.upper(), "more_body": True})
        await send({"type": "http.response.body"})

    async def receive() -> Message:
        return {"type": "http.request", "body": await turn.get(), "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    app = RateLimitMiddleware(echo, grid=grid, policies=[Policy("api", "5/minute", key=ADDRESS)])
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}
    serving = asyncio.create_task(app(scope, receive, send))
    for number, piece in enumerate((b"one", b"two", b"three"), start=2):
        turn.put_nowait(piece)
        await soon(lambda number=number: len(sent) == number)
        assert sent[-1]["body"] == piece.upper()
    turn.put_nowait(b"")
    await serving
    assert dict(sent[0]["headers"])[b"ratelimit-policy"] == b'"api";q=5;w=60'


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """An application without a framework."""
    if scope["type"] == "lifespan":
        await send({"type": "lifespan.startup.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})


async def test_lifespan_and_websockets_pass_unless_they_shall_be_limited(grid: AsyncGrid):
    app = RateLimitMiddleware(bare, grid=grid, policies=[Policy("api", "1/minute", key=ADDRESS)])
    assert await talk(app, type="lifespan") == [{"type": "lifespan.startup.complete"}]
    for _ in range(3):
        assert await talk(app, type="websocket") == [{"type": "websocket.accept"}]
    (start, _) = await talk(app, type="http", method="GET")
    assert dict(start["headers"])[b"ratelimit-policy"] == b'"api";q=1;w=60', "also without headers of its own"


async def test_a_websocket_over_its_limit_is_not_opened(grid: AsyncGrid):
    app = RateLimitMiddleware(bare, grid=grid, policies=[Policy("api", "1/minute", key=ADDRESS)], websockets="limit")
    (accepted,) = await talk(app, type="websocket")
    assert dict(accepted["headers"])[b"ratelimit-policy"] == b'"api";q=1;w=60'
    assert await talk(app, type="websocket") == [{"type": "websocket.close", "code": 1008}]
    start, body = await talk(app, type="websocket", extensions={"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert dict(start["headers"])[b"retry-after"]
    assert body["type"] == "websocket.http.response.body"
    assert json.loads(body["body"])["violated-policies"] == ["api"]


async def test_many_at_once_are_admitted_as_often_as_promised(grid: AsyncGrid):
    policies = Policy("one", "7/hour", key=ADDRESS), Policy("two", "50/hour", key=lambda _: "all")
    async with browser(service(grid, *policies)) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(40)))
    assert sum(answer.status_code == 200 for answer in answers) == 7
    assert (await policies[1].limiter(grid).peek("all")).remaining == 43


async def test_any_requests_are_admitted_if_and_only_if_every_policy_has_room(grid: AsyncGrid):
    """Compared with counters, since no window of an hour ends here."""
    runs = itertools.count()

    async def answers(limits: list[int], requests: list[tuple[str, int]]) -> list[int]:
        run = next(runs)
        policies = [
            Policy(
                f"{run}-{number}",
                f"{limit}/hour",
                key=lambda scope, number=number: scope["query_string"].decode()[: number + 1] or None,
                cost=lambda scope: int(scope["path"][1:]),
            )
            for number, limit in enumerate(limits)
        ]
        async with browser(RateLimitMiddleware(bare, grid=grid, policies=policies)) as client:
            return [(await client.get(f"/{cost}?{who}{who}")).status_code for who, cost in requests]

    def model(limits: list[int], requests: list[tuple[str, int]]) -> list[int]:
        used = collections.Counter[tuple[int, str]]()
        told = []
        for who, cost in requests:
            asked = [(number, (who * 2)[: number + 1]) for number in range(len(limits)) if who and cost]
            admitted = all(used[one] + cost <= limits[one[0]] for one in asked)
            if admitted:
                used.update(dict.fromkeys(asked, cost))
            told.append(204 if admitted else 429)
        return told

    random = Random(11)
    for _ in range(25):
        limits = [random.randint(1, 12) for _ in range(random.randint(1, 3))]
        requests = [(random.choice(["", "a", "b"]), random.randint(0, 4)) for _ in range(25)]
        assert await answers(limits, requests) == model(limits, requests), (limits, requests)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "ü"}, "ASCII"),
        ({"name": ""}, "ASCII"),
        ({"name": "a\r\nb"}, "ASCII"),
        ({"rules": []}, "rules"),
        ({"limiter": lambda grid: grid.limiter("x", "1/s")}, "not both"),
        ({"key": "address"}, "key function"),
        ({"rules": ["often"]}, "often"),
        ({"rules": ["1/s", Concurrency(1, ttl_s=1)]}, "sliding windows"),
        ({"paths": "/orders"}, "lists"),
        ({"paths": ["orders"]}, "begin with"),
        ({"paths": ["/a*b"]}, "begin with"),
        ({"methods": "GET"}, "lists"),
        ({"key": ClientAddress}, "such as ClientAddress()"),
        ({"cost": -1}, "cost of policy 'api' must be a whole number from 1"),
        ({"cost": "1"}, "cost of policy 'api' must be a whole number from 1"),
        ({"on_error": "ignore"}, "on_error of policy 'api' must be one of raise, allow, deny, local"),
        ({"share": 0.5}, "share of policy 'api' means something"),
        ({"budget": 0}, "budget of policy 'api' must be from 0.001"),
        ({"deny_cache": -1}, "deny_cache of policy 'api'"),
        ({"leased": True, "rules": ["1/s burst 2"]}, "leases no permits"),
        ({"deny_cache": 9, "rules": [Concurrency(1, ttl_s=1)]}, "slots come back"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_when_it_is_made(options: dict[str, Any], words: str):
    given: dict[str, Any] = {"name": "api", "rules": ["1/s"], "key": ADDRESS, **options}
    with pytest.raises(UsageError, match=words):
        Policy(given.pop("name"), *given.pop("rules"), **given)


def test_policies_that_cannot_stand_together_are_refused_when_the_middleware_is_made():
    policy = Policy("api", "1/s", key=ADDRESS)
    grid = AsyncGrid("redis://localhost:1")
    with pytest.raises(UsageError, match="no policy"):
        service(grid)
    with pytest.raises(UsageError, match="same name"):
        service(grid, policy, Policy("api", "2/s", key=ADDRESS))
    with pytest.raises(UsageError, match="AsyncGrid"):
        service("redis://", policy)
    with pytest.raises(UsageError, match="Policy"):
        service(grid, "1/s")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="websockets"):
        service(grid, policy, websockets="maybe")
    with pytest.raises(UsageError, match=r"policies must be several, such as \[<Policy 'api'>\]"):
        RateLimitMiddleware(Starlette(), grid=grid, policies=policy)  # type: ignore[arg-type]


async def test_a_key_function_that_was_not_made_yet_is_named(grid: AsyncGrid):
    """`key=user` instead of `key=user(…)` would be an error about `isascii` somewhere inside."""
    async with browser(service(grid, Policy("api", "1/s", key=user))) as client:  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="key function of policy 'api' must return a string or None"):
            await client.get("/")
