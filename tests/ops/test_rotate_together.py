"""``gridsync rotate`` where servers are clients of each other, behind sentinels and in a cluster: under traffic."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import pytest

from gridsync import GridsyncError, Settings
from gridsync.errors import Misconfigured
from gridsync.ops import rotate
from gridsync.ops.roles import ROLES
from tests.ops.helpers import Configured, ConfiguredCluster, ConfiguredSentinel, ConfiguredSet
from tests.ops.test_rotate import SOME, Killed, accepts, passwords, rotated
from tests.wire.fake import eventually
from tests.wire.test_credentials import Traffic, opened

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.any_server, pytest.mark.leaves_keys, pytest.mark.timeout(300)]

Together = ConfiguredSet | ConfiguredCluster
PATIENCE_S = 30.0
"""For one call, or a connection: a machine that stalls makes none fail."""


@pytest.fixture
def behind(made: Path) -> Iterator[ConfiguredSet]:
    """A primary, two replicas and three sentinels."""
    with ConfiguredSet(None, made, replicas=2, sentinels=3) as running:
        yield running


@pytest.fixture
def cluster(made: Path) -> Iterator[ConfiguredCluster]:
    """Three primaries, each with a replica."""
    with ConfiguredCluster(None, made, replicas=3) as running:
        yield running


class Stubborn(Traffic):
    """Goes on after a call that a failover has cost; a user that is locked out ends it."""

    async def _repeat(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        async def spared() -> None:
            try:
                await step()
            except Misconfigured:
                raise
            except GridsyncError:
                await asyncio.sleep(0)
            else:
                self.done[name] += 1

        while not self._ended:
            await spared()


class Writers:
    """Traffic of threads and of asyncio, each in a namespace of its own."""

    def __init__(self, where: Together, kind: type[Traffic] = Traffic) -> None:
        self._where = where
        self._kind = kind
        self._stack = AsyncExitStack()
        self._running: list[tuple[Traffic, asyncio.Task[None]]] = []

    async def __aenter__(self) -> Self:
        for kind in ("sync", "asyncio"):
            settings = Settings(
                redis_url=self._where.url_of("app", password=False),
                redis_password_file=str(self._where.layout.password("app")),
                redis_connection_timeout=PATIENCE_S,
                redis_command_timeout=PATIENCE_S,
                gridsync_namespace=kind,
            )
            traffic = self._kind(await self._stack.enter_async_context(opened(kind, None, settings=settings)))
            self._running.append((traffic, asyncio.create_task(traffic.run())))
        await self.progress()
        return self

    async def progress(self) -> None:
        """Wait until each kind of call of both has succeeded ten more times; raise what one has raised."""
        await asyncio.gather(*(traffic.progress(task) for traffic, task in self._running))

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for traffic, task in self._running:
            traffic.stop()
            if kind is not None:
                task.cancel()
        try:
            done = await asyncio.gather(*(task for _, task in self._running), return_exceptions=kind is not None)
            assert kind is not None or done == [None, None]
        finally:
            await self._stack.aclose()


async def step(where: Together, *words: str) -> tuple[int, dict[str, Any], str]:
    """Take a step of a rotation; returns the exit code, what it said and what it complained of."""
    url = where.url_of("admin", password=False)
    code, said, complaint = await asyncio.to_thread(rotated, where.layout.root, url, "--json", *words)
    return code, json.loads(said or "{}"), complaint


def roles_at(member: Configured) -> set[str]:
    sentinel = isinstance(member, ConfiguredSentinel)
    return {role.name for role in ROLES.values() if (role.sentinel if sentinel else role.server)}


def only_new(where: Together, before: dict[str, str]) -> None:
    """See that every server and sentinel knows the new passwords alone."""
    for member in where.members:
        roles = [role for role in SOME if role in roles_at(member)]
        assert not [role for role in roles if accepts(member, role, before[role])], member
        assert [role for role in roles if accepts(member, role, member.login(role))] == roles, member


def met_anew(where: Together) -> None:
    """Cut what servers and sentinels have among each other, and wait until they have found together again."""
    for member in where.members:
        for role in {"replica", "sentinel"} & roles_at(member):
            member.command("CLIENT", "KILL", "USER", role)
    where.wait()
    for sentinel in getattr(where, "sentinels", []):
        eventually(lambda s=sentinel: s.command("SENTINEL", "CKQUORUM", where.service).startswith(b"OK"), 60)
    assert not [entry for member in where.members for entry in denied(member)]


def denied(member: Configured) -> list[Any]:
    """Return the logins that it has refused since the log of them was emptied."""
    return [entry for entry in member.command("ACL", "LOG") if entry[b"reason"] == b"auth"]


def dying(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the next rotation end where it would do *name*."""

    def die(*_: object) -> None:
        monkeypatch.undo()
        raise Killed

    monkeypatch.setattr(rotate, name, die)


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["behind", "cluster"])
async def test_no_call_fails_while_servers_change_their_passwords_too(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    """It is interrupted in the middle, and done again: calls, replication and sentinels go on all the time."""
    where: Together = request.getfixturevalue(kind)
    before = passwords(where.layout.root)
    for member in where.members:
        member.command("ACL", "LOG", "RESET")
    async with Writers(where) as writers:
        dying(monkeypatch, "_use")
        with pytest.raises(Killed):
            await step(where)
        await asyncio.to_thread(met_anew, where)
        await writers.progress()
        code, said, complaint = await step(where)
        assert (code, len(said["nodes"]), said["unsaved"]) == (0, len(where.members), []), complaint
        await asyncio.to_thread(met_anew, where)
        await writers.progress()
        code, said, _ = await step(where, "--finish")
        assert (code, "app" in {held["user"] for held in said["held"]}) == (1, True)
        dying(monkeypatch, "_rewrite")
        with pytest.raises(Killed):
            await step(where, "--finish", "--cut")
        await writers.progress()
        await asyncio.to_thread(met_anew, where)
        code, said, complaint = await step(where, "--finish", "--cut")
        assert (code, said.get("done")) == (0, True), complaint
        await writers.progress()
        await asyncio.to_thread(met_anew, where)
        await asyncio.to_thread(only_new, where, before)
        await writers.progress()


def test_a_replica_and_its_sentinels_have_new_passwords_too(made: Path):
    """Each has users of its own, and is a client of the others besides."""
    with ConfiguredSet(None, made, replicas=1, sentinels=2) as where:
        before = passwords(made)
        # The one that is named leads to the other one, and both to the servers.
        first, second = (f"{sentinel.host}:{sentinel.port}" for sentinel in where.sentinels)
        url = where.url_of("admin", password=False).replace(f"{first},{second}", first)
        assert len(rotate.begin(made, [url], timeout=30).nodes) == 4
        assert rotate.finish(made, [url], cut=True, timeout=30).done
        met_anew(where)
        only_new(where, before)


def fail_over(where: Together) -> None:
    """Make other servers the primaries."""
    if isinstance(where, ConfiguredSet):
        where.failover()
    else:
        where.failover(where.owner(0))


@pytest.mark.faults
@pytest.mark.parametrize("moment", ["begin _tell", "begin _use", "between", "finish _tell"])
@pytest.mark.parametrize("kind", ["behind", "cluster"])
async def test_a_failover_in_the_middle_locks_nobody_out(
    kind: str, moment: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    """Whoever is the primary then accepts what the files have, and so it is after the next failover."""
    where: Together = request.getfixturevalue(kind)
    before = passwords(where.layout.root)
    during, _, at = moment.partition(" ")
    real = getattr(rotate, at) if at else None

    def interrupted(*words: Any) -> Any:  # noqa: ANN401 - as what it stands for
        assert real is not None
        monkeypatch.undo()
        fail_over(where)
        return real(*words)

    async def taken(*words: str) -> dict[str, Any]:
        if at and (during == "finish") == bool(words):
            monkeypatch.setattr(rotate, at, interrupted)
        code, said, complaint = await step(where, *words)
        if code == 2 and "run the same again" in complaint:  # whoever becomes a replica cuts its clients
            code, said, complaint = await step(where, *words)
        assert code == 0, (said, complaint)
        return said

    async with Writers(where, Stubborn) as writers:
        await taken()
        if during == "between":
            await asyncio.to_thread(fail_over, where)
        await writers.progress()
        assert (await taken("--finish", "--cut"))["done"]
        await writers.progress()
        await asyncio.to_thread(met_anew, where)
        await asyncio.to_thread(only_new, where, before)
        await asyncio.to_thread(fail_over, where)
        await writers.progress()


@pytest.mark.faults
def test_servers_that_sentinels_have_reconfigured_find_each_other_after_a_restart(behind: ConfiguredSet):
    """A failover writes the password of replication into each server's own file, where it wins over the folder's."""
    behind.failover()
    root, url = behind.layout.root, behind.url_of("admin", password=False)
    assert rotated(root, url)[0] == 0
    assert rotated(root, url, "--finish", "--cut")[0] == 0
    for server in behind.replicas:
        server.stop()
        server.start()
    behind.wait()


def test_a_replica_that_is_not_found_again_keeps_the_old_passwords_good(made: Path):
    """It would come back with those alone; who has connected to the others would be locked out when it is promoted."""
    at_once = [("repl-diskless-sync-delay", "0")]
    with Configured(None, made, at_once) as primary:
        before = passwords(made)
        url = primary.url_of("admin", password=False)
        with Configured(None, made, [*at_once, ("replicaof", f"127.0.0.1 {primary.port}")]) as copy:
            eventually(lambda: copy.command("ROLE")[3] == b"connected", 60)
            assert len(rotate.begin(made, [url], timeout=30).nodes) == 2
            copy.command("REPLICAOF", "NO", "ONE")
            eventually(lambda: primary.command("ROLE")[2] == [], 60)
            code, _, complaint = rotated(made, url, "--finish", "--cut")
            assert (code, f"127.0.0.1:{copy.port} was there" in complaint) == (2, True)
            assert [accepts(primary, role, before[role]) for role in SOME] == [True] * len(SOME)
            copy.command("REPLICAOF", "127.0.0.1", primary.port)
            eventually(lambda: copy.command("ROLE")[3] == b"connected", 60)
            with Configured(None, made, [*at_once, ("replicaof", f"127.0.0.1 {primary.port}")]) as late:
                eventually(lambda: late.command("ROLE")[3] == b"connected", 60)
                code, _, complaint = rotated(made, url, "--finish", "--cut")
                assert (code, f"127.0.0.1:{late.port} was not there" in complaint) == (2, True)
                assert rotated(made, url)[0] == 0
                assert rotated(made, url, "--finish", "--cut")[0] == 0
                for server in (primary, copy, late):
                    assert not accepts(server, "app", before["app"])
                    assert accepts(server, "app", server.login("app"))
        code, _, _ = rotated(made, url)
        assert code == 0
