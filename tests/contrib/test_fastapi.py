"""The dependency, in FastAPI applications in this process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Response, WebSocket

from gridsync import AsyncGrid, Decision, UsageError
from gridsync.contrib.asgi import RateLimitMiddleware
from gridsync.contrib.fastapi import RESPONSES, Policy, Refused, install, limited
from gridsync.contrib.keys import ClientAddress, endpoint, join, subject
from gridsync.limits import Concurrency
from tests.contrib.conftest import browser, grid_without_server, talk
from tests.contrib.sfv import parse_list

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

ADDRESS = ClientAddress()


def service(grid: AsyncGrid, *policies: Policy, installed: bool = True) -> FastAPI:
    app = FastAPI()
    if installed:
        install(app)
    once = Depends(limited(grid, *policies))

    @app.get("/dict", dependencies=[once])
    async def as_dict() -> dict[str, str]:
        return {"told": "as a dict"}

    @app.get("/response", dependencies=[once])
    async def as_response() -> Response:
        return Response("as a response")

    @app.get("/free")
    def free() -> str:
        return "free"

    return app


async def test_a_route_is_limited_and_another_one_is_not(grid: AsyncGrid):
    async with browser(service(grid, Policy("api", "2/minute", key=join(ADDRESS, endpoint)))) as client:
        answers = [await client.get("/dict") for _ in range(3)]
        other, free = await client.get("/response"), await client.get("/free")
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [parse_list(answer.headers["ratelimit"])[0][1]["r"] for answer in answers] == [1, 0, 0]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"api";q=2;w=60'}
    assert other.status_code == 200, "another route has a key of its own"
    assert "ratelimit" in other.headers, "also on a response that the route made itself"
    assert not any(name.startswith("ratelimit") for name in free.headers)


async def test_the_answer_is_the_same_as_the_middlewares(grid: AsyncGrid):
    policy = Policy("api", "1/minute", key=ADDRESS)
    bare = FastAPI()
    bare.add_middleware(RateLimitMiddleware, grid=grid, policies=[policy])
    async with browser(service(grid, policy)) as client, browser(bare) as other:
        await client.get("/dict")
        ours, theirs = await client.get("/dict"), await other.get("/")
    assert ours.status_code == theirs.status_code == 429
    assert ours.headers.keys() == theirs.headers.keys()
    assert ours.headers["content-type"] == theirs.headers["content-type"] == "application/problem+json"
    assert ours.headers["ratelimit-policy"] == theirs.headers["ratelimit-policy"]
    assert ours.json()["violated-policies"] == theirs.json()["violated-policies"] == ["api"]


async def test_openapi_knows_how_requests_are_refused(grid: AsyncGrid, flushed: RedisServer):
    """Who generates a client from the schema learns of 429 and 503, and of nothing that is never sent."""
    policy = Policy("api", "1/minute", key=ADDRESS)
    app = FastAPI(responses=RESPONSES)
    install(app)
    app.get("/", dependencies=[Depends(limited(grid, policy))])(lambda: "in")
    async with browser(app) as client:
        await client.get("/")
        refused = {429: await client.get("/")}
        told = (await client.get("/openapi.json")).json()["paths"]["/"]["get"]["responses"]
    async with grid_without_server(flushed) as away, browser(service(away, policy)) as client:
        refused[503] = await client.get("/dict")
    for status, answer in refused.items():
        assert answer.status_code == status
        said = told[str(status)]
        assert set(said["headers"]) <= {"RateLimit", "RateLimit-Policy", "Retry-After"}
        assert set(said["headers"]) - {"RateLimit"} <= {
            name.title().replace("limit", "Limit") for name in answer.headers
        }
        schema = said["content"][answer.headers["content-type"]]["schema"]
        body = answer.json()
        assert list(body) == list(schema["properties"]) == schema["required"]
        for name, field in schema["properties"].items():
            assert field.get("const", body[name]) == body[name]
            assert {"string": str, "integer": int, "array": list}[field["type"]] is type(body[name])


async def test_without_installing_the_headers_are_there_and_the_problem_is_a_detail(grid: AsyncGrid):
    async with browser(service(grid, Policy("api", "1/minute", key=ADDRESS), installed=False)) as client:
        answer, denied = await client.get("/dict"), await client.get("/dict")
    assert parse_list(answer.headers["ratelimit"])[0][1]["r"] == 0
    assert denied.status_code == 429
    assert denied.json()["detail"]["violated-policies"] == ["api"]
    assert 1 <= int(denied.headers["retry-after"]) <= 60


def token(authorization: Annotated[str, Header()]) -> str:
    return authorization


async def user(held: Annotated[str, Depends(token)]) -> str:
    return held.removeprefix("Bearer ")


async def test_a_dependency_tells_who_it_is(grid: AsyncGrid):
    """It may need others, be a coroutine or not, and refuse by itself."""
    app = FastAPI()
    install(app)

    by_user = limited(grid, Policy("api", "1/minute", key=join(subject, endpoint)), subject=user)

    decided = Depends(by_user)

    @app.get("/orders/{number}")
    async def order(number: int, decisions: list[Decision] = decided) -> dict[str, int]:
        return {"number": number, "left": decisions[0].remaining}

    async with browser(app) as client:

        async def ask(who: str, number: int) -> int:
            return (await client.get(f"/orders/{number}", headers={"authorization": f"Bearer {who}"})).status_code

        assert [await ask("alice", 1), await ask("alice", 2), await ask("bob", 1)] == [200, 429, 200]
        assert (await client.get("/orders/1")).status_code == 422
    policy_key = "subject=alice:GET /orders/{number}"
    assert (await grid.limiter("api", "1/minute").peek(policy_key)).remaining == 0


async def test_nobody_is_not_concerned_and_a_name_is_whatever_has_one(grid: AsyncGrid):
    app = FastAPI()
    install(app)

    def number(who: int | None = None) -> int | None:
        return who

    policy = Policy("api", "1/minute", key=subject)

    @app.get("/", dependencies=[Depends(limited(grid, policy, subject=number))])
    async def root() -> None: ...

    async with browser(app) as client:
        answers = [(await client.get("/", params=asked)).status_code for asked in ({}, {}, {"who": 0}, {"who": 0})]
    assert answers == [200, 200, 200, 429]


async def test_the_policies_of_one_dependency_are_all_or_nothing(grid: AsyncGrid):
    wide, narrow = Policy("wide", "5/minute", key=ADDRESS), Policy("narrow", "1/minute", key=ADDRESS)
    async with browser(service(grid, wide, narrow)) as client:
        answers = [await client.get("/dict") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 429, 429, 429]
    assert [parse_list(answer.headers["ratelimit"])[0][1]["r"] for answer in answers] == [4, 4, 4, 4]


async def test_routers_routes_and_the_middleware_tell_side_by_side(grid: AsyncGrid):
    outer, inner = Policy("router", "9/minute", key=ADDRESS), Policy("route", "8/minute", key=ADDRESS)
    app, router = FastAPI(), APIRouter(prefix="/v1", dependencies=[Depends(limited(grid, outer))])
    install(app)
    app.add_middleware(RateLimitMiddleware, grid=grid, policies=[Policy("all", "7/minute", key=ADDRESS)])

    @router.get("/things/{name}", dependencies=[Depends(limited(grid, inner))])
    async def thing(name: str) -> Response:
        return Response(name)

    app.include_router(router)
    async with browser(app) as client:
        answer = await client.get("/v1/things/a")
    told = {name: parameters["r"] for name, parameters in parse_list(answer.headers["ratelimit"])}
    assert told == {"all": 6, "router": 8, "route": 7}
    assert {name for name, _ in parse_list(answer.headers["ratelimit-policy"])} == set(told)


async def test_a_slot_is_held_while_the_route_runs(grid: AsyncGrid):
    app = FastAPI()
    install(app)
    policy = Policy("running", Concurrency(1, ttl_s=60), key=ADDRESS)
    limiter, seen = policy.limiter(grid), []

    @app.get("/{fails}", dependencies=[Depends(limited(grid, policy))])
    async def running(fails: bool) -> str:  # noqa: FBT001 - a part of the path
        seen.append((await limiter.peek("192.0.2.1")).remaining)
        if fails:
            raise HTTPException(418)
        return "done"

    async with browser(app) as client:
        answers = [(await client.get(f"/{fails}")).status_code for fails in ("true", "false", "true")]
    assert (answers, seen) == ([418, 200, 418], [0, 0, 0])
    assert (await limiter.peek("192.0.2.1")).remaining == 1


async def test_a_limiter_whose_server_is_away_is_no_error_of_the_application(flushed: RedisServer):
    async with (
        grid_without_server(flushed) as grid,
        browser(service(grid, Policy("api", "1/minute", key=ADDRESS))) as client,
    ):
        answer, free = await client.get("/dict"), await client.get("/free")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["type"].endswith("#temporary-reduced-capacity")
    assert free.status_code == 200


async def test_an_application_may_answer_by_itself(grid: AsyncGrid):
    app = service(grid, Policy("api", "1/minute", key=ADDRESS))

    @app.exception_handler(Refused)
    async def mine(_: object, refused: Refused) -> Response:
        return Response(str(refused.detail["violated-policies"]), 418)

    async with browser(app) as client:
        await client.get("/dict")
        answer = await client.get("/dict")
    assert (answer.status_code, answer.text) == (418, "['api']")


async def test_a_websocket_over_its_limit_is_closed(grid: AsyncGrid):
    app = FastAPI()
    install(app)

    @app.websocket("/feed", dependencies=[Depends(limited(grid, Policy("feed", "1/minute", key=join("all"))))])
    async def feed(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    accepted, _ = await talk(app, type="websocket", path="/feed", query_string=b"")
    assert dict(accepted["headers"])[b"ratelimit-policy"] == b'"feed";q=1;w=60'
    (closed,) = await talk(app, type="websocket", path="/feed", query_string=b"")
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    assert "'feed' admits 1/minute" in closed["reason"]


def test_what_cannot_be_is_refused_when_it_is_made():
    with pytest.raises(UsageError, match="no policy"):
        limited(AsyncGrid("redis://localhost:1"))


def test_importing_gridsync_imports_no_framework():
    """Whoever does not use them does not have them."""
    code = (
        "import sys, gridsync, gridsync.contrib.asgi, gridsync.contrib.keys\n"
        "print(sorted({'fastapi', 'starlette', 'httpx', 'uvicorn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
