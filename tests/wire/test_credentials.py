"""Credentials that change, fail or block, and certificates of clients."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import inspect
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import trustme
from pydantic import BaseModel
from redis.credentials import CredentialProvider

from gridsync import AsyncGrid, AuthenticationFailed, Grid, Settings, TLSFailed, Unavailable
from gridsync._io.guard import ASKING_MAX
from gridsync._io.route.open import open_place
from gridsync._io.wire import credentials
from gridsync._io.wire.faults import Fault
from gridsync.testing.servers import RedisServer, server_kinds
from tests.wire.fake import endpoint, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from gridsync._io.wire.endpoint import Endpoint

KINDS = pytest.mark.parametrize("kind", ["sync", "asyncio"])


class Ordered(BaseModel):
    """An event."""

    number: int


class Vault(CredentialProvider):
    """Hands out what is in it, from a blocking method only, as most providers do."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.asked = 0

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        return "app", self.password


class AsyncVault(Vault):
    """The same from a coroutine; the blocking method must not be called by asyncio."""

    async def get_credentials_async(self) -> tuple[str, str]:
        await asyncio.sleep(0)
        self.asked += 1
        return "app", self.password


@contextlib.asynccontextmanager
async def opened(kind: str, url: str | None, **options: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - as Grid
    """Open a grid of either kind; a sync one in a thread, so that it does not block the test."""
    if kind == "sync":
        grid = await asyncio.to_thread(Grid, url, **options)
        try:
            yield grid
        finally:
            await asyncio.to_thread(grid.close)
    else:
        async with AsyncGrid(url, **options) as grid:
            yield grid


async def do(call: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - a call of either kind
    """Make a call of either kind."""
    if inspect.iscoroutinefunction(call):
        return await call(*args, **options)
    return await asyncio.to_thread(call, *args, **options)


@pytest.fixture
def guarded() -> Iterator[RedisServer]:
    """A server with the user ``app``, whose password is ``first``."""
    with RedisServer(users=["user app on >first ~* &* +@all"]) as running:
        yield running


class Traffic:
    """Locks, limits and events in turn, until told to stop; counts, and keeps what was raised."""

    def __init__(self, grid: Any) -> None:  # noqa: ANN401 - a grid of either kind
        self._grid = grid
        self._ended = False
        self.done = {"locks": 0, "limits": 0, "appends": 0, "handled": 0}
        self._store = grid.events("orders", Ordered)
        self._group = self._store.group("book")

    async def _locks(self) -> None:
        lease = await do(self._grid.lock("job").acquire)
        await do(lease.release)

    async def _limits(self) -> None:
        await do(self._grid.limiter("orders", "1000000/minute").hit, "me")

    async def _appends(self) -> None:
        await do(self._store.append, "a", [Ordered(number=self.done["appends"])])

    async def _repeat(self, name: str, step: Any) -> None:  # noqa: ANN401
        while not self._ended:
            await step()
            self.done[name] += 1

    def _handle(self, recorded: Any) -> None:  # noqa: ANN401
        del recorded
        self.done["handled"] += 1

    async def run(self) -> None:
        """Go on until `stop`; raises what any call raised."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat("locks", self._locks))
            group.create_task(self._repeat("limits", self._limits))
            group.create_task(self._repeat("appends", self._appends))
            group.create_task(do(self._group.consume, self._handle))

    def stop(self) -> None:
        """End all of it."""
        self._ended = True
        self._group.stop()

    async def progress(self, running: asyncio.Task[None]) -> None:
        """Wait until each kind of call has succeeded ten more times."""
        before = dict(self.done)
        await soon(lambda: running.done() or all(self.done[name] >= before[name] + 10 for name in before), 60.0)
        if running.done():
            running.result()


@KINDS
@pytest.mark.parametrize("vault", [Vault, AsyncVault])
@pytest.mark.leaves_keys
async def test_a_password_changes_under_traffic_and_no_call_fails(kind: str, vault: type[Vault], guarded: RedisServer):
    """Both passwords are accepted for a while, then the old one goes and every connection is cut."""
    provider = vault("first")
    async with opened(kind, f"redis://{guarded.host}:{guarded.port}", credentials=provider) as grid:
        traffic = Traffic(grid)
        running = asyncio.create_task(traffic.run())
        await traffic.progress(running)
        for old, new in (("first", "second"), ("second", "third")):
            guarded.command("ACL", "SETUSER", "app", f">{new}")
            provider.password = new
            guarded.command("ACL", "SETUSER", "app", f"<{old}")
            asked = provider.asked
            guarded.command("CLIENT", "KILL", "USER", "app")
            await traffic.progress(running)
            assert provider.asked > asked
        traffic.stop()
        await running
        assert grid.stats().connections_reopened > 0


@KINDS
async def test_a_provider_that_kept_the_old_password_is_refused_at_once(kind: str, guarded: RedisServer):
    provider = Vault("first")
    async with opened(kind, f"redis://{guarded.host}:{guarded.port}", credentials=provider) as grid:
        guarded.command("ACL", "SETUSER", "app", "resetpass", ">second")
        guarded.command("CLIENT", "KILL", "USER", "app")
        asked = provider.asked
        with pytest.raises(AuthenticationFailed):
            await do(grid.limiter("orders", "5/second").peek, "me")
        assert provider.asked == asked + 1


@KINDS
async def test_a_password_in_a_file_is_read_for_each_connection(kind: str, guarded: RedisServer, tmp_path: Path):
    """Who replaces the file has changed the password; no program is started anew for it."""
    file = tmp_path / "app.password"
    file.write_text("first\n")
    url = f"redis://app@{guarded.host}:{guarded.port}"
    async with opened(kind, None, settings=Settings(redis_url=url, redis_password_file=str(file))) as grid:
        await do(grid.limiter("orders", "5/second").peek, "me")
        guarded.command("ACL", "SETUSER", "app", "resetpass", ">second")
        file.write_text("second\n")
        guarded.command("CLIENT", "KILL", "USER", "app")
        await do(grid.limiter("orders", "5/second").peek, "me")


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), ("\n", "is empty"), ("wrong", "refused the credentials")]
)
@KINDS
async def test_a_password_file_that_does_not_serve_is_named(
    kind: str, content: str | None, why: str, guarded: RedisServer, tmp_path: Path
):
    file = tmp_path / "app.password"
    if content is not None:
        file.write_text(content)
    settings = Settings(redis_url=f"redis://app@{guarded.host}:{guarded.port}", redis_password_file=str(file))
    with pytest.raises((Unavailable, AuthenticationFailed), match=why):
        async with opened(kind, None, settings=settings):
            pass


@pytest.mark.parametrize(
    ("url", "ours", "theirs"),
    [
        ("redis://app@h", ("app", "filed"), None),
        ("redis://h", ("default", "filed"), None),
        ("redis://app:said@h", ("app", "said"), None),
        ("redis+cluster://app@h1,h2", ("app", "filed"), None),
        ("redis+sentinel://app@h/s", ("app", "filed"), None),
        ("redis+sentinel://app@h/s?sentinel_username=watch", ("app", "filed"), ("watch", "filed")),
        (
            "redis+sentinel://app@h/s?sentinel_username=watch&sentinel_password=said",
            ("app", "filed"),
            ("watch", "said"),
        ),
    ],
)
def test_a_password_in_the_url_wins_over_the_file(
    url: str, ours: tuple[str, str], theirs: tuple[str, str] | None, tmp_path: Path
):
    (tmp_path / "file").write_text("filed\n")
    place = open_place(url, connect_timeout=5.0, password_file=str(tmp_path / "file"))

    def said(at: Endpoint) -> tuple[str, str] | None:
        return None if at.credentials is None else at.credentials.get_credentials()

    assert said(place.server) == ours
    assert [said(sentinel) for sentinel in getattr(place, "sentinels", [])] == [theirs] * ("sentinel" in url)


class Broken(CredentialProvider):
    """Its vault is away."""

    def get_credentials(self) -> tuple[str, str]:
        raise LookupError("the vault is sealed")


@KINDS
async def test_a_provider_that_raises_is_named(kind: str, guarded: RedisServer):
    with pytest.raises(Unavailable, match=r"credential provider Broken failed: .*the vault is sealed"):
        async with opened(kind, f"redis://{guarded.host}:{guarded.port}", credentials=Broken()):
            pass


@KINDS
async def test_a_provider_that_fails_for_a_moment_costs_no_call(kind: str, guarded: RedisServer):
    class Moody(Vault):
        def get_credentials(self) -> tuple[str, str]:
            if self.asked == 1:
                self.asked += 1
                raise LookupError("not now")
            return super().get_credentials()

    async with opened(kind, f"redis://{guarded.host}:{guarded.port}", credentials=(moody := Moody("first"))) as grid:
        guarded.command("CLIENT", "KILL", "USER", "app")
        assert await do(grid.limiter("orders", "5/second").hit, "me")
    assert moody.asked >= 3


@KINDS
@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b"", "it is empty"), (b"tops\xffcret", "can't decode")]
)
async def test_a_password_file_that_cannot_be_used_is_named_and_not_shown(
    kind: str, content: bytes | None, why: str, guarded: RedisServer, tmp_path: Path
):
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    settings = Settings(redis_url=f"redis://app@{guarded.host}:{guarded.port}", redis_password_file=str(file))
    with pytest.raises(Unavailable, match=why) as raised:
        async with opened(kind, None, settings=settings):
            pass
    assert f"no password from {file}" in str(raised.value)
    assert "see REDIS_PASSWORD_FILE" in str(raised.value)
    assert "cret" not in str(raised.value)


class Stuck(CredentialProvider):
    """Its vault does not answer."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def get_credentials(self) -> tuple[str, str]:
        self.released.wait(60)
        return "app", "first"


@KINDS
async def test_a_provider_that_blocks_is_named_and_blocks_no_loop(kind: str, guarded: RedisServer):
    settings = Settings(redis_url=f"redis://{guarded.host}:{guarded.port}", redis_connection_timeout=3.0)
    provider, turns = Stuck(), 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    turning = asyncio.create_task(turn())
    with pytest.raises(Unavailable, match="credential provider Stuck did not answer within"):
        async with opened(kind, None, settings=settings, credentials=provider):
            pass
    assert turns > 5
    turning.cancel()
    provider.released.set()


@KINDS
async def test_a_provider_that_never_answers_is_not_asked_by_more_and_more_threads(kind: str):
    def threads() -> int:
        return sum(thread.name == "gridsync-credentials" for thread in set(threading.enumerate()) - earlier)

    async def ask() -> object:
        if kind == "asyncio":
            return await credentials.aask(server, server.connect_timeout, met_before=True)
        return await asyncio.to_thread(credentials.ask, server, server.connect_timeout, met_before=True)

    earlier = set(threading.enumerate())
    provider = Stuck()
    server = dataclasses.replace(endpoint(connect_timeout=0.01), credentials=provider)
    for _ in range(ASKING_MAX + 20):
        with pytest.raises(Fault, match="credential provider Stuck did not answer within"):
            await ask()
    assert threads() == ASKING_MAX
    provider.released.set()
    await soon(lambda: not threads())
    server = dataclasses.replace(server, connect_timeout=20)
    assert await ask() == ("app", "first")


@dataclasses.dataclass
class Plain(CredentialProvider):
    """Compares by value, and so has no hash."""

    password: str

    def get_credentials(self) -> tuple[str, str]:
        return "app", self.password


@KINDS
async def test_a_provider_needs_no_hash(kind: str, guarded: RedisServer):
    async with opened(kind, f"redis://{guarded.host}:{guarded.port}", credentials=Plain("first")) as grid:
        assert await do(grid.limiter("orders", "5/second").hit, "me")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def write(directory: Path, name: str, certificate: trustme.LeafCert) -> tuple[str, str]:
    """Write a certificate and its key; returns both files."""
    certificate.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
    certificate.private_key_pem.write_to_path(directory / f"{name}.key")
    return str(directory / f"{name}.pem"), str(directory / f"{name}.key")


@pytest.fixture
def strict(authority: trustme.CA, tmp_path: Path) -> Iterator[RedisServer]:
    """A TLS server that asks every client for a certificate of *authority*."""
    kind = next(kind for kind in server_kinds() if kind.tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate, key = write(tmp_path, "server", authority.issue_cert("127.0.0.1"))
    with RedisServer(kind, tls=True) as running:
        running.command(
            *("CONFIG", "SET", "tls-ca-cert-file", str(tmp_path / "ca.pem"), "tls-cert-file", certificate),
            *("tls-key-file", key, "tls-auth-clients", "yes"),
        )
        yield running


def secure_url(server: RedisServer, directory: Path, client: tuple[str, str] | None = None) -> str:
    """Return the URL of *server*, with a client's certificate and key."""
    files = {"ssl_ca_certs": str(directory / "ca.pem")}
    if client is not None:
        files |= {"ssl_certfile": client[0], "ssl_keyfile": client[1]}
    return f"rediss://{server.host}:{server.port}?" + "&".join(f"{name}={quote(file)}" for name, file in files.items())


@KINDS
async def test_a_client_certificate_opens_the_door(
    kind: str, strict: RedisServer, authority: trustme.CA, tmp_path: Path
):
    client = write(tmp_path, "client", authority.issue_cert("client@example.org"))
    async with opened(kind, secure_url(strict, tmp_path, client)) as grid:
        assert await do(grid.limiter("orders", "5/second").hit, "me")
        pong = grid.client.ping()
        assert await pong if inspect.isawaitable(pong) else pong


@KINDS
async def test_a_missing_client_certificate_is_named(kind: str, strict: RedisServer, tmp_path: Path):
    with pytest.raises(TLSFailed, match="ssl_certfile=… and ssl_keyfile=…"):
        async with opened(kind, secure_url(strict, tmp_path)):
            pass


@KINDS
@pytest.mark.parametrize("fault", ["another authority", "expired"])
async def test_a_client_certificate_that_is_refused_is_named(
    kind: str, fault: str, strict: RedisServer, authority: trustme.CA, tmp_path: Path
):
    yesterday = dt.datetime.now(tz=dt.UTC) - dt.timedelta(days=1)
    issuer = trustme.CA() if fault == "another authority" else authority
    ends = None if fault == "another authority" else yesterday
    client = write(tmp_path, "client", issuer.issue_cert("client@example.org", not_after=ends))
    with pytest.raises(TLSFailed, match=r"client\.pem"):
        async with opened(kind, secure_url(strict, tmp_path, client)):
            pass


@KINDS
async def test_an_expired_server_certificate_is_named(
    kind: str, strict: RedisServer, authority: trustme.CA, tmp_path: Path
):
    yesterday = dt.datetime.now(tz=dt.UTC) - dt.timedelta(days=1)
    client = write(tmp_path, "client", authority.issue_cert("client@example.org"))
    url = secure_url(strict, tmp_path, client)
    with Grid(url) as grid:
        certificate, key = write(tmp_path, "old", authority.issue_cert("127.0.0.1", not_after=yesterday))
        grid.client.execute_command("CONFIG", "SET", "tls-cert-file", certificate, "tls-key-file", key)
        with pytest.raises(TLSFailed, match="it has expired: renew it on the server"):
            async with opened(kind, url):
                pass
