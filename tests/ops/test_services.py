"""``gridsync setup --namespace``: services on one server that cannot touch each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gridsync import Grid, PermissionDenied
from gridsync.ops.layout import Layout
from gridsync.ops.setup import Plan, setup
from tests.command import called
from tests.ops.helpers import Configured
from tests.ops.tour import out_of_bounds, tour

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.any_server, pytest.mark.leaves_keys]

FOREIGN = [
    ("GET", "{billing:lock:job}"),
    ("SET", "{billing:lock:job}", "1"),
    ("DEL", "{shop:lock:job}", "billing:1"),
    ("HGET", "{billing:lock:job}", "o"),
    ("COPY", "{billing:lock:job}", "shop:copy"),
    ("XREAD", "STREAMS", "{billing:events:orders}:log", "0"),
    ("EVAL", "#!lua\nreturn redis.call('GET', '{billing:lock:job}')", "0"),
    ("EVAL", "#!lua\nreturn redis.call('GET', KEYS[1])", "1", "{billing:lock:job}"),
    ("GET", "shopping:1"),
    ("GET", "{shopping:lock:job}"),
    ("GET", "key"),
    ("PUBLISH", "billing:wake:123456789012", "x"),
    ("SPUBLISH", "{billing:lock:job}:wake:123456789012", "x"),
    ("SUBSCRIBE", "billing:wake:123456789012"),
    ("PSUBSCRIBE", "*"),
    ("SSUBSCRIBE", "{billing:lock:job}:wake:123456789012"),
    ("PUBLISH", "__sentinel__:hello", "x"),
    ("SUBSCRIBE", "__keyevent@0__:set"),
    ("EVAL", "#!lua\nreturn redis.call('PUBLISH', 'billing:wake:1', 'x')", "0"),
    ("KEYS", "*"),
    ("FLUSHALL",),
]
OWN = [
    ("SET", "shop:1", "1"),
    ("SET", "{shop:own}:1", "1"),
    ("PUBLISH", "shop:news", "x"),
    ("SPUBLISH", "{shop:news}", "x"),
    ("EVAL", "#!lua\nreturn redis.call('GET', KEYS[1])", "1", "shop:1"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    """A server of two services."""
    made = tmp_path_factory.mktemp("services") / "made"
    setup(made, Plan(namespaces=("shop", "billing")))
    with Configured(None, made) as running:
        yield running


def test_a_service_may_not_touch_what_is_not_its_own(server: Configured):
    options: dict[str, Any] = {"socket_timeout": 20, "retry": Retry(NoBackoff(), 0), "protocol": 3}
    with redis.Redis.from_url(server.url_of("app-shop"), **options) as shop:
        for words in OWN:
            with shop.client() as one:
                one.execute_command(*words)
        for words in FOREIGN:
            with shop.client() as one, pytest.raises(redis.ResponseError, match=r"permission|can't"):
                one.execute_command(*words)


def test_every_wing_works_for_a_service_and_not_in_the_namespace_of_another(server: Configured):
    server.command("ACL", "LOG", "RESET")
    tour(server.url_of("app-shop"), "shop")
    tour(server.url_of("app-billing"), "billing")
    assert out_of_bounds([server]) == []
    with Grid(server.url_of("app-shop"), namespace="billing", audit=False) as wrong, pytest.raises(PermissionDenied):
        wrong.lock("job").try_acquire()


def test_a_service_has_a_file_that_tells_it_how_to_connect_and_a_password_that_rotates(server: Configured):
    layout = Layout(server.layout.root)
    text = layout.env("app-shop").read_text()
    assert "rediss://app-shop@localhost:6379/0" in text
    assert "GRIDSYNC_NAMESPACE=shop\n" in text
    words = [word for name in ("shop", "billing") for word in ("--namespace", name)]
    assert called("setup", str(layout.root), *words)[0] == 0
    code, _, complaint = called("setup", str(layout.root), "--namespace", "shop")
    assert (code, "namespaces is ['shop', 'billing'] there and ['shop'] here" in complaint) == (2, True)

    old, other = (layout.password(role).read_text() for role in ("app-shop", "app-billing"))
    url = server.url_of("admin", password=False)
    rotate = ("rotate", str(layout.root), "--url", url, "--timeout", "30")
    assert called(*rotate, "--role", "app-shop")[0] == 0
    assert called(*rotate, "--finish")[0] == 0
    assert (layout.password("app-shop").read_text() != old, layout.password("app-billing").read_text()) == (True, other)
    with Grid(server.url_of("app-shop"), namespace="shop") as shop:
        assert shop.limiter("api", "5/hour").peek("me") is not None
    code, _, complaint = called(*rotate, "--role", "app-nobody")
    assert (code, "there is no role 'app-nobody'" in complaint) == (2, True)
    assert called("setup", str(layout.root), *words)[0] == 0


@pytest.mark.parametrize("name", ["", "a b", "a*", "_own", "a:b", "é", "a/../b", "x" * 65])
def test_a_namespace_that_means_something_to_the_server_is_refused(name: str, tmp_path: Path):
    code, said, complaint = called("setup", str(tmp_path / "new"), "--namespace", name)
    assert (code, said, len(complaint.splitlines())) == (2, "", 2)
    assert "cannot be the namespace of a user" in complaint
    assert list(tmp_path.iterdir()) == []
