"""Fan-out: what is published once reaches every client of every process, and who was cut off gets what it missed.

`Channel` and `AsyncChannel` are made by `Grid.channel` and `AsyncGrid.channel`.
"""

from gridsync.fanout._api import AsyncChannel, AsyncSubscription, Channel, Subscription
from gridsync.fanout._core import Member
from gridsync.fanout._mailbox import OnFull
from gridsync.fanout._message import Gap, Item, Message, Position

__all__ = [
    "AsyncChannel",
    "AsyncSubscription",
    "Channel",
    "Gap",
    "Item",
    "Member",
    "Message",
    "OnFull",
    "Position",
    "Subscription",
]
