"""The URL of a service that sentinels watch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync import Grid, InvalidURL, Settings
from gridsync._io.aio import AsyncIO
from gridsync._io.route.open import open_place
from gridsync._io.route.primary import Primary
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import redacted

if TYPE_CHECKING:
    from gridsync._io.wire.endpoint import Endpoint


def read(url: str) -> Primary:
    place = open_place(url, connect_timeout=5.0)
    assert isinstance(place, Primary)
    return place


def credentials(endpoint: Endpoint) -> tuple[str, ...] | None:
    return None if endpoint.credentials is None else tuple(endpoint.credentials.get_credentials())


def test_every_part_of_the_url_arrives():
    place = read(
        "redis+sentinel://app:se%2Fcret@one,two:7,[::1]:8/market/3"
        "?sentinel_username=watch&sentinel_password=dog&sentinel_timeout=0.1&client_name=trader"
    )
    assert place.service == "market"
    assert [(s.host, s.port) for s in place.sentinels] == [("one", 26379), ("two", 7), ("::1", 8)]
    assert {credentials(s) for s in place.sentinels} == {("watch", "dog")}
    assert {(s.db, s.connect_timeout, s.client_name) for s in place.sentinels} == {(0, 0.1, "trader")}
    assert (place.server.db, credentials(place.server), place.server.connect_timeout) == (3, ("app", "se/cret"), 5.0)


def test_what_is_not_said_has_a_default():
    place = read("valkey+sentinel://one/market")
    assert place.server.db == 0
    assert place.server.tls is None
    assert {(s.port, s.credentials, s.connect_timeout) for s in place.sentinels} == {(26379, None, 0.3)}


def test_tls_holds_for_the_servers_and_for_the_sentinels():
    place = read("rediss+sentinel://one/market?ssl_check_hostname=false&ssl_cert_reqs=none")
    assert place.server.tls is not None
    assert place.sentinels[0].tls is place.server.tls


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+sentinel://one", ["name of the service", "/service/0"]),
        ("redis+sentinel://one/", ["name of the service"]),
        ("redis+sentinel://one/market/0/more", ["name of the service"]),
        ("redis+sentinel:///market", ["a host is missing"]),
        ("redis+sentinel://one,,two/market", ["a host is missing"]),
        ("redis+sentinel://one:port/market", ["'one:port' is no host and port"]),
        ("redis+sentinel://one/market/zero", ["database number", "zero"]),
        ("redis+sentinel://one/market?sentinel_timeout=soon", ["sentinel_timeout must be seconds", "soon"]),
        ("redis+sentinel://one/market?sentinel_timeout=0", ["sentinel_timeout must be seconds"]),
        ("redis+sentinel://one/market?sentinel_pasword=x", ["unknown option 'sentinel_pasword'", "sentinel_password"]),
        ("unix+sentinel://one/market", ["cannot be read", "redis+sentinel://"]),
    ],
)
def test_a_url_that_cannot_be_used_is_explained(url: str, words: list[str]):
    with pytest.raises(InvalidURL) as raised:
        Grid(url)
    for word in (*words, "redis+sentinel" if "unix" not in url else "unix+sentinel"):
        assert word in str(raised.value)


def test_no_message_shows_a_password():
    url = "redis+sentinel://app:secret@one/market?sentinel_password=secret2&sentinel_username=secret3&client_name=x"
    for text in (redacted(url), repr(Settings(redis_url=url)), read(url).server.shown):
        assert "secret" not in text
        assert "client_name=x" in text
    with pytest.raises(InvalidURL) as raised:
        read(url + "&wrong=1")
    assert "secret" not in str(raised.value)


def test_the_sentinel_that_knew_of_a_move_first_is_asked_first():
    """The others may name the old primary for a while, and each such answer cost a caller another pause."""
    place = read("redis+sentinel://one,two,three/market")
    moved = place.named(place.sentinels[2], [b"other", b"7"])
    place.moved(moved)
    assert [sentinel.host for sentinel in place.sentinels] == ["three", "one", "two"]


async def test_a_move_during_an_attempt_ends_the_pause_after_it():
    """The attempt still fails at the old primary; without this its caller slept for up to half a second."""
    place = read("redis+sentinel://one/market")
    moved = place.named(place.sentinels[0], [b"other", b"7"])
    for io in (SyncIO(place, pool_size=1, timeout=1.0), AsyncIO(place, inflight_max=1, timeout=1.0)):
        pause = io._pauses()
        io._move(moved)
        await pause(3600.0)
