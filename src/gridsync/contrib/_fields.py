"""The header fields of rate limiting: written for clients, and read from servers.

``RateLimit`` and ``RateLimit-Policy`` are lists of structured fields (RFC 9651)::

    RateLimit-Policy: "burst";q=100;w=60, "daily";q=1000;w=86400
    RateLimit: "burst";r=99;t=60, "daily";r=50;t=30

Source: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (draft 11)
"""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELD_CHARS_MAX = 8_192
"""A field that is longer is not read: nobody who means well sends one."""

_STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
_WORD = r"[A-Za-z*][-!#$%&'*+.^_`|~:/0-9A-Za-z]*"
_INTEGER = r"-?[0-9]{1,15}"
_OTHER = r":[A-Za-z0-9+/=]*:|\?[01]|-?[0-9]{1,12}\.[0-9]{1,3}|@-?[0-9]{1,15}"
_PARAMETER = re.compile(rf"; *(?P<key>[a-z*][-_.*a-z0-9]*)(?:=(?:{_OTHER}|(?P<integer>{_INTEGER})|{_STRING}|{_WORD}))?")
_ITEM = re.compile(rf"(?P<name>{_STRING}|{_WORD})(?P<parameters>(?:{_PARAMETER.pattern.replace('?P<', '?P<_')})*)")
_COMMA = re.compile(r"[ \t]*,[ \t]*")


class Service(NamedTuple):
    """What a server says of one quota, in one item of ``RateLimit``."""

    remaining: int
    """Units left."""
    reset_s: int | None
    """Seconds until there are more, or ``None`` if it does not say."""


def policy_item(
    name: str, quota: int, window_s: float | None, partition: bytes | None = None, unit: str | None = None
) -> str:
    """Return one item of ``RateLimit-Policy``; without its window if that is no whole number of seconds."""
    told = window_s is not None and window_s >= 1 and window_s == int(window_s)
    quota_unit = "" if unit is None else f";qu={_string(unit)}"
    return f"{_string(name)};q={quota}{quota_unit}{f';w={window_s:.0f}' if told else ''}{_partition(partition)}"


def limit_item(name: str, remaining: int, reset_s: float, partition: bytes | None = None) -> str:
    """Return one item of ``RateLimit``; *reset_s* is rounded up."""
    return f"{_string(name)};r={remaining};t={ceil(reset_s)}{_partition(partition)}"


def read_limits(value: str) -> list[Service]:
    """Read a ``RateLimit`` field; whatever is malformed is ignored as a whole, as the draft asks."""
    try:
        return list(_services(value)) if len(value) <= FIELD_CHARS_MAX else []
    except ValueError:
        return []


def read_retry_after(value: str, sent: str | None, now_s: float) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for, or ``None`` if it cannot be read.

    Args:
        value: Seconds, or a date of HTTP.
        sent: The response's ``Date``, by whose clock the other date is meant.
        now_s: This machine's clock, in seconds since 1970, for a response without a ``Date``.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:15])
    until = _timestamp(value)
    if until is None:
        return None
    since = _timestamp(sent) if sent else None
    return max(0.0, until - (now_s if since is None else since))


def _timestamp(date: str) -> float | None:
    try:
        read = parsedate_to_datetime(date)
        return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _services(value: str) -> Iterator[Service]:
    at, value = 0, value.strip(" ")
    while at < len(value):
        item = _ITEM.match(value, at)
        if item is None:
            raise ValueError(value)
        numbers = {found["key"]: found["integer"] for found in _PARAMETER.finditer(item["parameters"])}
        remaining, reset_s = numbers.get("r"), numbers.get("t")
        if remaining is not None:
            yield Service(max(0, int(remaining)), None if reset_s is None else max(0, int(reset_s)))
        at = item.end()
        comma = _COMMA.match(value, at)
        if at < len(value) and (comma is None or comma.end() == len(value)):
            raise ValueError(value)
        at = at if comma is None else comma.end()


def _string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _partition(key: bytes | None) -> str:
    return "" if key is None else f";pk=:{b64encode(key).decode()}:"
