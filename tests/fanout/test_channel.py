"""What a user of a channel sees, on every kind of server, for threads and asyncio."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import TooSlow, UsageError
from gridsync.fanout import Gap, Position
from tests.fanout.conftest import KEYS, SECRET, Fan
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis

    OpenFan = Callable[..., Awaitable[Fan]]


async def test_what_is_published_reaches_every_process_in_order(open_fan: OpenFan) -> None:
    """Two gateways would show different books."""
    here, there = await open_fan(), await open_fan()
    async with here.reading() as one, there.reading() as two:
        for count in range(50):
            await (here if count % 2 else there).publish(f"{count}", key="k")
        expected = [b"%d" % count for count in range(50)]
        assert await one.take(50) == expected
        assert await two.take(50) == expected


async def test_payloads_are_any_bytes(fan: Fan) -> None:
    """A binary frame would come out changed."""
    payload = bytes(range(256)) * 3
    async with fan.reading() as reader:
        await fan.publish(payload, id="ä b\nc", key="schlüssel\n")
        await fan.publish("größer", key="k")
        message = await reader.message()
        assert (message.data, message.id, message.key) == (payload, "ä b\nc", "schlüssel\n")
        assert (await reader.message()).text == "größer"
    async with fan.reading(after=Position(message.epoch, 0, message.epoch)) as again:
        same = await again.message()
        assert (same.data, same.id, same.key, same.position) == (payload, "ä b\nc", "schlüssel\n", message.position)


async def test_an_id_is_published_once(fan: Fan) -> None:
    """A job that is repeated after a crash would send its message twice."""
    async with fan.reading() as reader:
        first = await fan.publish("1", id="job-1")
        assert await fan.publish("1", id="job-1") == first
        assert (await fan.publish("2")).offset == first.offset + 1
        assert await reader.take(2) == [b"1", b"2"]


async def test_who_comes_back_gets_exactly_what_it_missed(open_fan: OpenFan) -> None:
    """A page that was reloaded would show holes."""
    fan, other = await open_fan(), await open_fan()
    async with fan.reading() as reader:
        await fan.publish("seen")
        await reader.message()
        token = reader.token()
    for count in range(450):
        await fan.publish(f"{count}")
    async with other.reading(after=token) as back:
        assert back.recovered is True
        assert await back.take(450) == [b"%d" % count for count in range(450)]
        await fan.publish("live")
        assert await back.take(1) == [b"live"]


async def test_who_comes_back_to_a_process_that_remembers_asks_no_server(fan: Fan, raw: redis.Redis) -> None:
    """A thousand sockets that reconnect would ask a thousand times."""
    async with fan.reading() as stays:
        first = await fan.publish("1")
        await fan.publish("2")
        assert await stays.take(2) == [b"1", b"2"]
        before = _ranges(raw)
        async with fan.reading(after=first) as back:
            assert back.recovered is True
            assert await back.take(1) == [b"2"]
        assert _ranges(raw) == before


def _ranges(raw: redis.Redis) -> int:
    found = raw.info("commandstats").get("cmdstat_xrange", {"calls": 0})
    return int(found["calls"])


async def test_who_missed_more_than_is_kept_is_told(open_fan: OpenFan) -> None:
    """It would take the rest for everything."""
    fan = await open_fan(history=5)
    first = await fan.publish("0")
    for count in range(8):
        await fan.publish(f"{count}")
    async with fan.reading(after=first) as reader:
        assert reader.recovered is False
        gap = await reader.next()
        assert isinstance(gap, Gap)
        assert (gap.why, gap.missed) == ("history", 8)
        await fan.publish("next")
        assert await reader.take(1) == [b"next"]


async def test_offsets_of_a_channel_that_began_anew_are_not_compared(fan: Fan, raw: redis.Redis) -> None:
    """After a FLUSHALL a client would wait until the new offsets have passed the old ones."""
    async with fan.reading() as reader:
        for count in range(5):
            await fan.publish(f"{count}")
        await reader.take(5)
        old = reader.position
        raw.flushall()
        new = await fan.publish("new")
        assert (new.offset, new.epoch == old.epoch) == (1, False)
        gap = await reader.next()
        assert isinstance(gap, Gap)
        assert gap.why == "epoch"
        if gap.position.offset == 0:
            assert await reader.take(1) == [b"new"]
        await fan.publish("newer")
        assert await reader.take(1) == [b"newer"]
    async with fan.reading(after=old) as back:
        assert back.recovered is False


async def test_a_position_of_a_history_that_was_lost_is_not_resumed(fan: Fan) -> None:
    """After a failover a client would miss what took the offsets of what it had read."""
    at = await fan.publish("1")
    for after in (at._replace(mark="0" * 16), at._replace(offset=9), at._replace(epoch="0" * 12)):
        async with fan.reading(after=after) as reader:
            assert reader.recovered is False


async def test_a_token_that_was_not_made_here_is_none(open_fan: OpenFan) -> None:
    """A client could read what was published before it was let in, or somebody else's channel."""
    fan, elsewhere = await open_fan(), await open_fan("orders")
    async with fan.reading() as reader, elsewhere.reading() as other:
        await fan.publish("1")
        await reader.message()
        token = reader.token()
        assert token.split(".")[2] == "1"
        changed = token.replace(".1.", ".0.", 1)
        for wrong in (changed, other.token(), "", "1.2.3", "é", token + "0", "x" * 5000):
            async with fan.reading(after=wrong) as back:
                assert back.recovered is False
                assert (await back.next()).why == "token"


async def test_secrets_are_replaced_one_after_the_other(open_fan: OpenFan) -> None:
    """All clients would lose their place whenever a secret is renewed."""
    old, both, new = [
        await open_fan(secrets=secrets)
        for secrets in ([SECRET], ["another secret of them", SECRET], ["another secret of them"])
    ]
    async with old.reading() as reader:
        token = reader.token()
    async with both.reading(after=token) as reader:
        assert reader.recovered is True
        renewed = reader.token()
    async with new.reading(after=renewed) as reader:
        assert reader.recovered is True
    async with new.reading(after=token) as reader:
        assert reader.recovered is False


async def test_a_token_expires_by_the_clock_of_the_server(fan: Fan) -> None:
    """Whoever finds an old one would read on."""
    async with fan.reading() as reader:
        await fan.publish("1")
        await reader.message()
        short, long = reader.token(expires=0.001), reader.token(expires=3600)
    async with fan.reading(after=long) as back:
        assert back.recovered is True
    now_ms = int(short.split(".")[4])
    await soon(lambda: now_ms < _server_ms(back))
    async with fan.reading(after=short) as back:
        assert back.recovered is False
        assert (await back.next()).why == "token"


def _server_ms(reader: Any) -> int:  # noqa: ANN401 - either kind
    found: int = reader.subscription._subscriber._station.server_ms()
    return found


@pytest.mark.any_server
async def test_a_slow_client_drops_the_oldest_and_is_told_how_many(fan: Fan) -> None:
    """It would show a book with holes, and not know."""
    async with fan.reading(queue=3) as slow, fan.reading() as fast:
        for count in range(10):
            await fan.publish(f"{count}")
        await fast.take(10)
        gap = await slow.next()
        assert isinstance(gap, Gap)
        assert (gap.why, gap.missed, gap.position.offset) == ("slow", 7, 7)
        assert await slow.take(3) == [b"7", b"8", b"9"]


@pytest.mark.any_server
async def test_a_slow_client_that_conflates_gets_the_newest_of_each_key(fan: Fan) -> None:
    """It would draw each price of the last minute, one after the other, and be later and later."""
    async with fan.reading(queue=3, on_full="conflate") as slow, fan.reading() as fast:
        for count in range(10):
            await fan.publish(f"{count}", key="ab"[count % 2])
        await fast.take(10)
        gap = await slow.next()
        assert isinstance(gap, Gap)
        assert (gap.why, gap.missed) == ("conflated", 8)
        assert await slow.take(2) == [b"8", b"9"]


@pytest.mark.any_server
async def test_a_slow_client_is_cut_off_and_reads_the_rest_in_the_history(fan: Fan) -> None:
    """It would lose what was in its queue."""
    async with fan.reading(queue=3, on_full="disconnect_with_resume") as slow, fan.reading() as fast:
        await fan.publish("first")
        assert await slow.take(1) == [b"first"]
        for count in range(10):
            await fan.publish(f"{count}")
        await fast.take(11)
        with pytest.raises(TooSlow) as failure:
            await slow.next()
        assert failure.value.position.offset == 1
        token = slow.token()
    async with fan.reading(after=token) as back:
        assert await back.take(10) == [b"%d" % count for count in range(10)]


async def test_a_process_has_one_subscription_however_many_clients_it_has(fan: Fan, raw: redis.Redis) -> None:
    """Each socket would cost a connection, and each message as many copies as there are sockets."""
    live = f"{NAMESPACE_WAKE}*"
    async with fan.reading() as one, fan.reading() as two, fan.reading() as three:
        await soon(lambda: [raw.pubsub_numsub(channel)[0][1] for channel in raw.pubsub_channels(live)] == [1])
        await fan.publish("x")
        messages = [await reader.message() for reader in (one, two, three)]
        assert messages[0] is messages[1] is messages[2]
        assert messages[0].once(_as_json) is messages[1].once(_as_json)
    await soon(lambda: raw.pubsub_channels(live) == [])


NAMESPACE_WAKE = "test:wake:live:"


def _as_json(message: Any) -> str:  # noqa: ANN401 - a message
    return json.dumps(message.text)


async def test_members_are_present_while_they_are_subscribed(open_fan: OpenFan) -> None:
    """Nobody would know who watches the book."""
    fan, other = await open_fan(), await open_fan()
    async with fan.reading(member="ann", about='{"desk": 1}'), other.reading(member="bob"), other.reading(member="ann"):
        members = await fan.presence()
        assert sorted((member.name, member.about) for member in members) == [
            ("ann", ""),
            ("ann", '{"desk": 1}'),
            ("bob", ""),
        ]
        assert len({member.connection for member in members}) == 3
        assert await other.count() == 3
        assert len(await fan.presence(limit=2)) == 2
    for _ in range(1000):
        if not await fan.count():
            break
        await asyncio.sleep(0.02)
    assert await fan.presence() == []


async def test_every_key_of_a_channel_expires(fan: Fan, raw: redis.Redis) -> None:
    """Channels come and go; each would leave something for ever."""
    async with fan.reading(member="ann"):
        await fan.publish("1")
        keys = raw.keys("*")
        assert {key.decode() for key in keys} == set(KEYS)
        assert all(raw.pttl(key) > 0 for key in keys)


@pytest.mark.any_server
@pytest.mark.parametrize(
    "wrong",
    [
        {"history": 0},
        {"history": 10**6},
        {"keep": 0},
        {"secrets": "not a list of secrets"},
        {"secrets": ["short"]},
        {"name": ""},
    ],
    ids=str,
)
async def test_what_cannot_work_is_refused_at_once(open_fan: OpenFan, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        await open_fan(**wrong)


@pytest.mark.any_server
async def test_arguments_are_checked(fan: Fan, open_fan: OpenFan) -> None:
    for wrong in ({"queue": 0}, {"on_full": "explode"}, {"member": ""}, {"member": "m", "about": "x" * 5000}):
        with pytest.raises(UsageError):
            fan.channel.subscribe(**wrong)
    for payload in (7, None, "x" * (1 << 20) + "x"):
        with pytest.raises(UsageError):
            await fan.publish(payload)
    unsigned = await open_fan(secrets=())
    async with unsigned.reading() as reader:
        with pytest.raises(UsageError, match="secrets"):
            reader.token()


@pytest.mark.any_server
async def test_what_anybody_else_publishes_there_harms_nobody(fan: Fan, raw: redis.Redis) -> None:
    """A stray message would end the connection of a whole process, and with it all wake-ups."""
    async with fan.reading() as reader:
        [live] = raw.pubsub_channels(f"{NAMESPACE_WAKE}*")
        for junk in (
            b"",
            b"\xff\xfe",
            b"1 a b c d e f\n",
            b"1 e 1 m p 1 1\n\xff\xff",
            b"2 e 1 m p 0 0\nx",
            b"1 e 7 m p 0 0\nx",
        ):
            raw.publish(live, junk)
        await fan.publish("x")
        assert await reader.take(1) == [b"x"]
