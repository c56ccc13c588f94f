"""A parser of structured fields, written after RFC 9651 section 4.2 and sharing nothing with what it checks."""

from __future__ import annotations

import base64
import string

Bare = int | str | bytes | bool
Item = tuple[Bare, dict[str, Bare]]

_KEY_FIRST = string.ascii_lowercase + "*"
_KEY = string.ascii_lowercase + string.digits + "_-.*"


class Malformed(ValueError):
    """The field fails parsing, so that a recipient ignores it."""


class _Reader:
    def __init__(self, text: str) -> None:
        if not text.isascii():
            raise Malformed(text)
        self.left = text

    def peek(self) -> str:
        return self.left[:1]

    def take(self) -> str:
        if not self.left:
            raise Malformed("it ends too early")
        taken, self.left = self.left[0], self.left[1:]
        return taken

    def skip(self, characters: str) -> None:
        self.left = self.left.lstrip(characters)

    def expect(self, wanted: str) -> None:
        if self.take() != wanted:
            raise Malformed(f"no {wanted!r} before {self.left!r}")

    def while_in(self, characters: str) -> str:
        rest = self.left.lstrip(characters)
        taken = self.left[: len(self.left) - len(rest)]
        self.left = rest
        return taken

    def key(self) -> str:
        if not self.peek() or self.peek() not in _KEY_FIRST:
            raise Malformed(f"no key before {self.left!r}")
        return self.while_in(_KEY)

    def text(self) -> str:
        self.expect('"')
        read = ""
        while (character := self.take()) != '"':
            if character == "\\":
                character = self.take()
                if character not in '"\\':
                    raise Malformed("a backslash before what needs none")
            elif not " " <= character <= "~":
                raise Malformed("a control character")
            read += character
        return read

    def bare(self) -> Bare:
        first = self.peek()
        if first == '"':
            return self.text()
        if first == ":":
            self.expect(":")
            encoded, closed, self.left = self.left.partition(":")
            if not closed:
                raise Malformed("bytes without an end")
            return base64.b64decode(encoded, validate=True)
        if first == "?":
            self.expect("?")
            return {"0": False, "1": True}[self.take()]
        sign = -1 if first == "-" and self.take() else 1
        digits = self.while_in(string.digits)
        if not 1 <= len(digits) <= 15 or self.peek() == ".":
            raise Malformed(f"no integer before {self.left!r}")
        return sign * int(digits)

    def item(self) -> Item:
        value, parameters = self.bare(), {}
        while self.peek() == ";":
            self.expect(";")
            self.skip(" ")
            name = self.key()
            parameters[name] = self.bare() if self.peek() == "=" and self.take() else True
        return value, parameters


def parse_list(text: str) -> list[Item]:
    """Return the items of a List."""
    reader, items = _Reader(text.strip(" ")), []
    while reader.left:
        items.append(reader.item())
        reader.skip(" \t")
        if not reader.left:
            break
        reader.expect(",")
        reader.skip(" \t")
        if not reader.left:
            raise Malformed("a comma at the end")
    return items
