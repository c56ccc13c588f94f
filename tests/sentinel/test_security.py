"""Sentinels and servers that speak TLS and want to know who asks."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from gridsync import AuthenticationFailed, GridsyncError, PermissionDenied, TLSFailed
from gridsync._io.route.question import NEEDED
from gridsync.testing.sentinels import SentinelSet
from gridsync.testing.servers import server_kinds
from tests.sentinel.helpers import KINDS, do, opened

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=[kind for kind in server_kinds() if kind.tls], ids=str)
def secure(request: pytest.FixtureRequest) -> Iterator[SentinelSet]:
    """A primary, a replica and three sentinels that speak nothing but TLS, each with a password."""
    with SentinelSet(request.param, replicas=1, tls=True, password="da:ta", sentinel_password="wa/tch") as running:
        yield running


async def refused(kind: str, url: str) -> GridsyncError:
    """Return the error of an attempt to open *url*, which must not take the time of a connection."""

    async def attempt() -> None:
        async with opened(kind, url, connect_timeout=60.0):
            pass

    with pytest.raises(GridsyncError) as raised:
        await asyncio.wait_for(attempt(), 20)
    return raised.value


@pytest.mark.parametrize("kind", KINDS)
async def test_everything_works_in_tls_and_follows_a_failover(kind: str, secure: SentinelSet):
    """Questions, the listener, the servers and the plain client: one of them in plain text would see nothing."""
    async with opened(kind, secure.url, timeout=30) as grid:
        first = await do(grid.lock("job").acquire)
        await do(first.release)
        old = secure.master
        assert await asyncio.to_thread(secure.failover) is not old
        second = await do(grid.lock("job").acquire, timeout=30)
        assert second.fence > first.fence
        assert await do(second.release)
        limiter = grid.limiter("calls", "5/minute")
        assert (await do(limiter.peek, "me", read_from="replica")).remaining == 5
        assert await do(grid.client.execute_command, "SET", "plain", "text", "PX", "60000")
        assert (await do(grid.health, timeout=10)).item("certificate").status in ("ok", "degraded")


def test_the_page_says_what_a_user_of_the_sentinels_needs():
    assert NEEDED in re.sub(r"\s+", " ", Path("docs/connecting.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_user_of_the_sentinels_needs_no_more_than_the_page_says(kind: str, secure: SentinelSet):
    for sentinel in secure.sentinels:
        sentinel.command("ACL", "SETUSER", "watcher", "reset", "on", ">dog", *NEEDED.split())
    url = secure.url.replace("sentinel_password=wa%2Ftch", "sentinel_username=watcher&sentinel_password=dog")
    async with opened(kind, url, timeout=30) as grid:
        assert await do(grid.limiter("calls", "5/minute").peek, "me", read_from="replica")
        await asyncio.to_thread(secure.failover)
        lease = await do(grid.lock("job").acquire, timeout=30)
        assert await do(lease.release)
    for sentinel in secure.sentinels:
        sentinel.command("ACL", "SETUSER", "watcher", "-sentinel|get-master-addr-by-name")
    error = await refused(kind, url)
    assert isinstance(error, PermissionDenied)
    assert "get-master-addr-by-name" in str(error)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_does_not_fit_is_told_at_once(kind: str, secure: SentinelSet):
    sentinel, master = secure.sentinels[0], secure.master
    assert secure.ca_file is not None
    authority = f"ssl_ca_certs={quote(str(secure.ca_file))}"
    cases = [
        (secure.url.replace(f"&{authority}", ""), TLSFailed, f"{sentinel.host}:{sentinel.port}", "not trusted"),
        (secure.url.replace("rediss", "redis").replace(f"&{authority}", ""), GridsyncError, "", "rediss://"),
        (secure.url.replace("wa%2Ftch", "wrong"), AuthenticationFailed, f"sentinel {sentinel.host}:", "sentinel_passw"),
        (secure.url.replace(":da%3Ata@", ":wrong@"), AuthenticationFailed, f"{master.host}:{master.port}", "refused"),
    ]
    for url, expected, who, why in cases:
        error = await refused(kind, url)
        assert isinstance(error, expected), (url, error)
        assert who in str(error)
        assert why in str(error)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tls_url_for_plain_sentinels_is_told_at_once(kind: str, healthy: SentinelSet):
    error = await refused(kind, healthy.url.replace("redis+", "rediss+"))
    assert isinstance(error, TLSFailed)
    assert "plain" in str(error)
