"""Calls that are packed beforehand send what they would send otherwise, and are repeated as any other."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridsync._io import Bound, load

ACQUIRE = load("gridsync.locks", "acquire")
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
KNOWN = st.one_of(st.none(), TEXT)


def packed(words: bytes | tuple[str, ...]) -> bytes:
    return words if isinstance(words, bytes) else hiredis.pack_command(words)


@given(keys=st.lists(TEXT, max_size=3), known=st.lists(KNOWN, max_size=6), key=TEXT, data=st.data())
def test_the_same_bytes_are_sent(keys: list[str], known: list[str | None], key: str, data: st.DataObject):
    gaps = [data.draw(TEXT) for _ in range(known.count(None))]
    filling = iter(gaps)
    args = [next(filling) if arg is None else arg for arg in known]
    bound = Bound(ACQUIRE, keys, known)
    whole = keys or [key]
    assert packed(bound.words(whole, gaps)) == hiredis.pack_command(ACQUIRE.words(whole, args))
    assert bound.whole(whole, gaps) == (ACQUIRE, whole, tuple(args))


@pytest.mark.parametrize("gap", ["meter:7", "100%", "%s%d", "", "a\r\n$3\r\nb"])
def test_ascii_is_packed_whatever_it_is(gap: str):
    words = Bound(ACQUIRE, ("{50%}",), ("10", None, "%d", None, None)).words(("{50%}",), (gap, "x", gap))
    assert words == hiredis.pack_command(ACQUIRE.words(("{50%}",), ("10", gap, "%d", "x", gap)))


@pytest.mark.parametrize("gaps", [(), ("a",), ("a", "b", "c"), ("a", "b", "c", "d")])
def test_too_few_and_too_many_gaps_are_an_error(gaps: tuple[str, ...]):
    with pytest.raises(TypeError):
        Bound(ACQUIRE, ("k",), (None, None)).words(("k",), gaps)
