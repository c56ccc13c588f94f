from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, WebSocketRoute

from gridsync import UsageError
from gridsync.contrib.keys import ClientAddress, endpoint, header, join, subject, user

if TYPE_CHECKING:
    from ipaddress import IPv4Address

PROXY = "10.0.0.1"


def scope(
    *fields: tuple[str, str], peer: str | None = PROXY, path: str = "/", method: str = "GET", **more: object
) -> dict[str, Any]:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    client = None if peer is None else (peer, 1)
    return {"type": "http", "client": client, "headers": headers, "path": path, "method": method, **more}


def behind(*values: str, field: str = "x-forwarded-for", peer: str | None = PROXY, **options: int) -> str:
    address = ClientAddress(["10.0.0.0/8", "fd00::/8", "unix"], field=field, **options)
    return address(scope(*((field, value) for value in values), peer=peer))


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, 10.9.9.9"], "203.0.113.7"),
        (["203.0.113.7", "10.9.9.9, fd00::5"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["<script>, \x00, 203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7:4711"], "203.0.113.7"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["2001:db8:1:2:3:4:5:6"], "[2001:db8:1:2::]/64"),
        (["[2001:db8:1:2:ffff::1]:443"], "[2001:db8:1:2::]/64"),
        (["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
        ([], PROXY),
    ],
)
def test_the_client_is_the_nearest_address_that_is_no_proxy_of_ours(values: list[str], client: str):
    assert behind(*values) == client


@pytest.mark.parametrize(
    "value",
    [
        "",
        "203.0.113.7,",
        "unknown",
        "203.0.113.7 10.1.1.1",
        "203.0.113.300",
        "2001:db8::1%eth0",
        "[2001:db8::1",
        "203.0.113.7:port",
        "203.0.113.7\r\nx: y",
        "203.0.113.7, 10.5.5.5, nonsense",
        "١٢٧.0.0.1".encode().decode("latin-1"),
        ", ".join(["203.0.113.7"] + ["10.1.1.1"] * 40),
        "10.1.1.1," * 7_000,
        "x" * 60_000,
    ],
)
def test_what_cannot_be_read_counts_for_the_proxy(value: str):
    assert behind(value) == PROXY


def test_who_is_no_proxy_of_ours_is_the_client_whatever_it_says():
    assert behind("203.0.113.7", peer="192.0.2.9") == "192.0.2.9"
    assert ClientAddress()(scope(("x-forwarded-for", "203.0.113.7"))) == PROXY


def test_only_the_field_that_the_proxies_write_is_believed():
    address = ClientAddress(["10.0.0.0/8"], field="forwarded")
    assert address(scope(("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=203.0.113.7"))) == "203.0.113.7"


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["for=203.0.113.7"], "203.0.113.7"),
        (['For="203.0.113.7:80";proto=https;by=10.0.0.1'], "203.0.113.7"),
        (['for="[2001:db8:1:2::9]:1", for=10.1.1.1'], "[2001:db8:1:2::]/64"),
        (["for=198.51.100.1", "proto=http; for=203.0.113.7 , for=10.1.1.1;host=a"], "203.0.113.7"),
        (['for=203.0.113.7;host="a, for=198.51.100.1"'], "203.0.113.7"),
        (['for="2\\03.0.113.7"'], "203.0.113.7"),
        (["for=unknown"], PROXY),
        (["for=_hidden, for=10.1.1.1"], PROXY),
        (["proto=https"], PROXY),
        (["for=203.0.113.7;for=198.51.100.1"], PROXY),
        (['for="203.0.113.7'], PROXY),
        (["for=203.0.113.7;host=a b"], PROXY),
        (['for=198.51.100.1;x="', 'for="[2001:db8::1]";proto="https"'], PROXY),
        (["for=203.0.113.7," * 1_000], PROXY),
    ],
)
def test_the_standard_field_is_read_the_same_way(values: list[str], client: str):
    assert behind(*values, field="forwarded") == client


def test_a_peer_without_an_address_is_trusted_by_name_only():
    assert behind("203.0.113.7", peer=None) == "203.0.113.7"
    assert behind("203.0.113.7", peer="") == "203.0.113.7"
    assert ClientAddress(["10.0.0.0/8"])(scope(("x-forwarded-for", "203.0.113.7"), peer=None)) == "unix"


def test_a_proxy_that_is_seen_through_a_dual_socket_is_the_same_proxy():
    assert behind("203.0.113.7", peer="::ffff:10.0.0.1") == "203.0.113.7"


def test_addresses_are_grouped_as_wanted():
    assert behind("2001:db8:1:2:3::4", ipv6_prefix=48) == "[2001:db8:1::]/48"
    assert behind("2001:db8:1:2:3::4", ipv6_prefix=128) == "[2001:db8:1:2:3::4]"
    assert ClientAddress()(scope(peer="fe80::1%eth0")) == "[fe80::]/64"


@given(
    st.lists(st.ip_addresses(v=4).map(str) | st.text(max_size=12), max_size=6),
    st.ip_addresses(v=4).filter(lambda address: address not in ip_network("10.0.0.0/8")),
)
def test_nobody_chooses_an_address_by_what_stands_to_its_left(words: list[str], client: IPv4Address):
    written = ", ".join([*words, str(client)]).encode(errors="ignore").decode("latin-1")
    assert behind(written) == str(client)


@pytest.mark.parametrize(
    "options", [{"trusted": "10.0.0.0/8"}, {"trusted": ["10.0.0.1/8"]}, {"trusted": ["all"]}, {"ipv6_prefix": 0}]
)
def test_wrong_options_are_refused(options: dict[str, Any]):
    with pytest.raises(UsageError):
        ClientAddress(**options)


async def hello(_: object) -> PlainTextResponse:
    return PlainTextResponse("hello")


def starlette() -> Starlette:
    inner = [Route("/things/{name}", hello), Mount("/files", app=hello)]
    return Starlette(
        routes=[
            Route("/orders/{id:int}", hello, methods=["POST"]),
            Route("/orders/{name}", hello),
            WebSocketRoute("/feed/{topic}", hello),
            Mount("/tenants/{tenant}", routes=inner),
            Host("api.service.test", Starlette(routes=[Route("/hosted/{x}", hello)])),
        ]
    )


def fastapi() -> FastAPI:
    app, outer, router, below = FastAPI(), APIRouter(prefix="/v1"), APIRouter(prefix="/orders"), FastAPI()
    router.add_api_route("/{number}", hello, methods=["GET"])
    router.add_api_route("/{number}/items/{item}", hello, methods=["DELETE"])
    router.add_api_websocket_route("/feed/{topic}", hello)
    outer.include_router(router)
    app.include_router(outer, prefix="/api")
    below.add_api_route("/deep/{x}", hello)
    app.mount("/sub", below)
    return app


@pytest.mark.parametrize(
    ("app", "request_line", "name"),
    [
        (starlette(), "POST /orders/7", "POST /orders/{id}"),
        (starlette(), "GET /orders/7", "GET /orders/{name}"),
        (starlette(), "HEAD /orders/7", "GET /orders/{name}"),
        (starlette(), "DELETE /orders/7", "unmatched"),
        (starlette(), "GET /tenants/9/things/a", "GET /tenants/{tenant}/things/{name}"),
        (starlette(), "GET /tenants/9/files/a/b", "GET /tenants/{tenant}/files/*"),
        (starlette(), "GET /tenants/9/nothing", "GET /tenants/{tenant}/*"),
        (starlette(), "HEAD /tenants/9/files/a", "GET /tenants/{tenant}/files/*"),
        (starlette(), "MADEUP7 /tenants/9/files/a", "OTHER /tenants/{tenant}/files/*"),
        (starlette(), "GET /hosted/1", "GET /hosted/{x}"),
        (starlette(), "GET /feed/a", "unmatched"),
        (starlette(), "WEBSOCKET /feed/a", "WEBSOCKET /feed/{topic}"),
        (fastapi(), "GET /api/v1/orders/7", "GET /api/v1/orders/{number}"),
        (fastapi(), "DELETE /api/v1/orders/7/items/2", "DELETE /api/v1/orders/{number}/items/{item}"),
        (fastapi(), "WEBSOCKET /api/v1/orders/feed/a", "WEBSOCKET /api/v1/orders/feed/{topic}"),
        (fastapi(), "GET /sub/deep/3", "GET /sub/deep/{x}"),
        (fastapi(), "GET /orders/7", "unmatched"),
        (None, "GET /orders/7", "unmatched"),
    ],
)
def test_an_endpoint_is_the_template_of_the_route(app: object, request_line: str, name: str):
    method, path = request_line.split()
    kind = "websocket" if method == "WEBSOCKET" else "http"
    assert endpoint({**scope(path=path, method=method), "type": kind, "app": app}) == name


def test_the_path_at_which_an_application_is_mounted_is_no_part_of_its_endpoints():
    mounted = scope(path="/shop/orders/7", root_path="/shop", app=starlette())
    assert endpoint(mounted) == "GET /orders/{name}"
    assert endpoint(scope(path="/orders/7", root_path="/or", app=starlette())) == "GET /orders/{name}"


class Alice:
    """A user whose name has a colon."""

    is_authenticated = True
    display_name = "alice:7"


def test_parts_are_joined_so_that_no_two_lists_make_one_key():
    alice, address = user(ClientAddress()), ClientAddress()
    assert join("api", alice, endpoint)(scope(user=Alice())) == "api:user=alice%3A7:unmatched"
    assert join(alice, endpoint)(scope()) == f"{PROXY}:unmatched"
    assert join(address, "a")(scope(peer="2001:db8::1")) == "[2001:db8::]/64:a"
    assert join(address, lambda _: None)(scope()) is None
    with pytest.raises(UsageError, match="one part or more"):
        join()


@given(st.lists(st.text(st.sampled_from("a:%[]/1"), max_size=5), min_size=1, max_size=3), st.data())
def test_joining_is_one_to_one(parts: list[str], data: st.DataObject):
    others = data.draw(st.lists(st.text(st.sampled_from("a:%[]/1"), max_size=5), min_size=1, max_size=3))
    if parts != others:
        assert join(*parts)(scope()) != join(*others)(scope())


def test_a_name_is_never_somebody_elses_address():
    class Imposter(Alice):
        display_name = PROXY

    assert user(ClientAddress())(scope(user=Imposter())) != ClientAddress()(scope())


def test_a_secret_in_a_header_becomes_a_digest_and_leaving_it_out_is_no_way_around():
    key = header("X-Api-Key", otherwise=ClientAddress())
    held = key(scope(("x-api-key", "s3cret")))
    assert held is not None
    assert held.startswith("x-api-key=")
    assert "s3cret" not in held
    assert held == key(scope(("x-api-key", "s3cret"), peer="192.0.2.77"))
    assert key(scope()) == key(scope(("x-api-key", ""))) == PROXY
    assert key(scope(("x-api-key", "y" * 60_000))) != held


def test_a_subject_that_nobody_named_is_a_mistake():
    with pytest.raises(UsageError, match="subject="):
        subject(scope())
