"""``gridsync rotate``: new passwords while everything runs."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gridsync import Grid, Settings
from gridsync.ops import files, rotate
from gridsync.ops.layout import Layout
from gridsync.ops.roles import ROLES
from tests.command import called
from tests.ops.helpers import Configured, Member
from tests.wire.fake import eventually
from tests.wire.test_credentials import Traffic, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.any_server, pytest.mark.leaves_keys]

SOME = ("app", "replica", "admin")
"""Roles whose passwords are tried where trying all would only take longer."""


@pytest.fixture
def server(made: Path) -> Iterator[Configured]:
    """A server on a folder of its own."""
    with Configured(None, made) as running:
        yield running


def passwords(made: Path) -> dict[str, str]:
    layout = Layout(made)
    return {role: layout.password(role).read_text().strip() for role in ROLES}


def accepts(server: Configured, role: str, password: str) -> bool:
    """Tell whether the server lets *role* in with *password*."""
    url = server.url_of(role).replace(f":{server.login(role)}@", f":{password}@")
    with redis.Redis.from_url(url, socket_timeout=30, retry=Retry(NoBackoff(), 0)) as client:
        try:
            client.connection_pool.get_connection().disconnect()
        except redis.AuthenticationError:
            return False
        return True


def rotated(made: Path, url: str, *words: str) -> tuple[int, str, str]:
    """Take a step; a busy machine has time for it."""
    return called("rotate", str(made), "--url", url, "--timeout", "30", *words)


def settings(server: Configured) -> Settings:
    file = str(server.layout.password("app"))
    return Settings(redis_url=server.url_of("app", password=False), redis_password_file=file)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
async def test_no_call_fails_while_every_password_changes(kind: str, server: Configured):
    """Locks, limits, appends and a consumer go on through a whole rotation."""
    made = server.layout.root
    async with opened(kind, None, settings=settings(server)) as grid:
        traffic = Traffic(grid)
        running = asyncio.create_task(traffic.run())
        await traffic.progress(running)
        before = passwords(made)
        url = server.url_of("admin", password=False)
        code, said, _ = await asyncio.to_thread(rotated, made, url, "--json")
        assert (code, json.loads(said)["done"]) == (0, False)
        await traffic.progress(running)
        assert await asyncio.to_thread(accepts, server, "app", before["app"])
        code, said, _ = await asyncio.to_thread(rotated, made, url, "--finish", "--json")
        assert code == 1
        assert {held["user"] for held in json.loads(said)["held"]} == {"app"}
        code, said, _ = await asyncio.to_thread(rotated, made, url, "--finish", "--cut", "--json")
        assert (code, json.loads(said)["done"], json.loads(said)["held"]) == (0, True, [])
        await traffic.progress(running)
        after = passwords(made)
        for role in SOME:
            assert not await asyncio.to_thread(accepts, server, role, before[role])
            assert await asyncio.to_thread(accepts, server, role, after[role])
        traffic.stop()
        await running


def test_after_a_rotation_setup_finds_everything_as_it_should_be(server: Configured, made: Path):
    url = server.url_of("admin", password=False)
    assert rotated(made, url)[0] == 0
    code, _, complaint = called("setup", str(made))
    assert (code, "are being changed" in complaint) == (2, True)
    assert rotated(made, url, "--finish")[0] == 0
    assert called("setup", str(made))[0] == 0
    assert sorted(path.name for path in (made / "secrets").iterdir() if path.suffix not in {".password", ".conf"}) == []
    assert sorted(path.name for path in (made / "acl").iterdir()) == ["sentinel.acl", "users.acl"]


def test_a_server_that_is_started_anew_in_between_accepts_both(server: Configured, made: Path):
    """Its ACL file has both, whoever wrote it last; and nobody is connected from before."""
    old = passwords(made)
    url = server.url_of("admin", password=False)
    with Grid(settings=settings(server)) as grid:
        assert rotated(made, url)[0] == 0
        server.stop()
        server.start()
        assert [accepts(server, role, old[role]) for role in SOME] == [True] * len(SOME)
        assert [accepts(server, role, server.login(role)) for role in SOME] == [True] * len(SOME)
        assert rotated(made, url, "--finish")[0] == 0
        server.stop()
        server.start()
        assert [accepts(server, role, old[role]) for role in SOME] == [False] * len(SOME)
        assert grid.limiter("a", "5/hour").peek("me").allowed


def test_only_the_roles_that_are_named_change(server: Configured, made: Path):
    before = passwords(made)
    url = server.url_of("admin", password=False)
    assert rotated(made, url, "--role", "app", "--role", "exporter")[0] == 0
    code, _, complaint = rotated(made, url, "--role", "health")
    assert (code, "passwords of app, exporter are being changed" in complaint) == (2, True)
    assert rotated(made, url, "--finish")[0] == 0
    changed = {role for role, password in passwords(made).items() if password != before[role]}
    assert changed == {"app", "exporter"}


def test_who_is_connected_from_before_is_named_and_may_be_forced(server: Configured, made: Path):
    url = server.url_of("admin", password=False)
    with redis.Redis.from_url(server.url_of("app"), client_name="old-timer", socket_timeout=30) as client:
        client.ping()
        old = server.login("app")
        assert rotated(made, url, "--role", "app")[0] == 0
        code, said, complaint = rotated(made, url, "--finish")
        assert (code, said.count("app old-timer from 127.0.0.1:")) == (1, 1)
        assert "1 connections are from before; the old passwords of app stay good" in complaint
        assert accepts(server, "app", old)
        code, said, _ = rotated(made, url, "--finish", "--force")
        assert (code, "are forgotten" in said) == (0, True)
        assert client.ping()
        assert not accepts(server, "app", old)


class Killed(BaseException):
    """The process ends here: nothing catches this."""


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(("begin", "_write", 1), marks=pytest.mark.faults, id="begin-write-1"),
        pytest.param(("begin", "_rewrite", 1), marks=pytest.mark.faults, id="begin-rewrite-1"),
        pytest.param(("begin", "_rewrite", 2), id="begin-rewrite-2"),
        pytest.param(("begin", "_use", 1), id="begin-use-1"),
        pytest.param(("begin", "files.sync", 14), marks=pytest.mark.faults, id="begin-sync-14"),
        pytest.param(("begin", "_write", 2), marks=pytest.mark.faults, id="begin-write-2"),
        pytest.param(("finish", "_rewrite", 1), marks=pytest.mark.faults, id="finish-rewrite-1"),
        pytest.param(("finish", "_rewrite", 2), id="finish-rewrite-2"),
        pytest.param(("finish", "files.sync", 5), marks=pytest.mark.faults, id="finish-sync-5"),
    ],
)
def test_what_was_interrupted_is_done_again(
    at: tuple[str, str, int], server: Configured, made: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ended at any of its steps, it leaves passwords that work, and goes on when it is run again."""
    step, where, time = at
    old = passwords(made)
    url = server.url_of("admin", password=False)
    if step == "finish":
        rotate.begin(made, [url], timeout=30)
    module, name = (files, "sync") if where == "files.sync" else (rotate, where)
    real, left = getattr(module, name), [time]

    def dying(*words: Any) -> Any:  # noqa: ANN401 - as what it stands for
        left[0] -= 1
        if not left[0]:
            raise Killed
        return real(*words)

    monkeypatch.setattr(module, name, dying)
    with pytest.raises(Killed):
        getattr(rotate, step)(made, [url], timeout=30)
    assert [accepts(server, role, server.login(role)) for role in SOME] == [True] * len(SOME)
    if step == "begin":
        assert rotated(made, url)[0] == 0
        assert [accepts(server, role, old[role]) for role in SOME] == [True] * len(SOME)
    code, _, complaint = rotated(made, url, "--finish")
    assert code == 0 or "no passwords in" in complaint
    assert [accepts(server, role, old[role]) for role in SOME] == [False] * len(SOME)
    assert [accepts(server, role, server.login(role)) for role in SOME] == [True] * len(SOME)
    assert called("setup", str(made))[0] == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--url", "redis://127.0.0.1:1"), "127.0.0.1:1"),
        (("--url", "{app}"), "name a user that may do everything"),
        (("--url", "{admin}", "--finish"), "no passwords in"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    words: tuple[str, ...], what: str, server: Configured, made: Path
):
    before = passwords(made)
    filled = [word.format(app=server.url_of("app"), admin=server.url_of("admin")) for word in words]
    code, said, complaint = called("rotate", str(made), "--timeout", "30", *filled)
    assert (code, said, len(complaint.splitlines())) == (2, "", 2)
    assert what in complaint
    assert passwords(made) == before
    assert [accepts(server, role, before[role]) for role in SOME] == [True] * len(SOME)


@pytest.mark.parametrize("name", ["acl/users.acl", "acl/sentinel.acl"])
def test_users_that_cannot_be_read_are_said_before_a_server_hears_of_it(name: str, server: Configured, made: Path):
    before = passwords(made)
    (made / name).write_bytes(b"\xff\xfe")
    code, _, complaint = rotated(made, server.url_of("admin", password=False))
    assert (code, f"{name} has no password of app" in complaint, len(complaint.splitlines())) == (2, True, 2)
    assert passwords(made) == before
    (app,) = (line for line in server.command("ACL", "LIST") if line.startswith(b"user app "))
    assert app.count(b"#") == 1


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path):
    code, _, complaint = called("rotate", str(tmp_path))
    assert (code, "was not made by gridsync setup" in complaint) == (2, True)


def test_every_node_of_a_cluster_has_new_passwords(made: Path):
    with Member(None, made) as one, Member(None, made) as two:
        one.command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        one.command("CLUSTER", "MEET", "127.0.0.1", two.port)
        eventually(lambda: one.command("CLUSTER INFO")["cluster_known_nodes"] == "2", 60)
        eventually(lambda: b"handshake" not in repr(one.command("CLUSTER NODES")).encode(), 60)
        scheme, _, rest = one.url_of("admin", password=False).partition(":")
        url = f"{scheme}+cluster:{rest.replace('/0?', '/?')}"
        old = passwords(made)
        assert len(rotate.begin(made, [url], timeout=30).nodes) == 2
        assert rotate.finish(made, [url], timeout=30).done
        assert [accepts(server, role, old[role]) for server in (one, two) for role in SOME] == [False] * 2 * len(SOME)
