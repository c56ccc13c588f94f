"""What is given to hiredis to pack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hiredis
from pydantic import BaseModel

import gridsync._io.sync
from gridsync import Grid

if TYPE_CHECKING:
    import pytest

    from gridsync.testing.servers import RedisServer


class Metered(BaseModel):
    """A reading."""

    wh: int


def test_no_number_is_left_for_hiredis_to_write(flushed: RedisServer, monkeypatch: pytest.MonkeyPatch):
    """Version 3.5 crashes the process if a signal handler raises while it turns a number into text."""
    packed: list[tuple[Any, ...]] = []

    def pack(words: tuple[Any, ...]) -> bytes:
        packed.append(words)
        return hiredis.pack_command(words)

    monkeypatch.setattr(gridsync._io.sync, "_pack", pack)
    with Grid(flushed.url) as grid:
        with grid.lock("job") as lease:
            lease.extend()
            assert grid.lock("job").try_acquire() is None
        limiter = grid.limiter("calls", "5/second", "50/minute")
        assert limiter.hit("me", cost=2)
        assert limiter.peek("me")
        limiter.reset("me")
        store = grid.events("meters", Metered)
        store.append("m1", [Metered(wh=1), Metered(wh=2)], expected_version=0)
        assert [recorded.event.wh for recorded in store.read("m1", limit=2)] == [1, 2]
        assert store.group("sum").consume(lambda _: None, idle_stop=0.05).handled == 2
    assert len(packed) > 10
    assert {type(word) for words in packed for word in words} <= {str, bytes}
