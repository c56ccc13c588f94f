"""Events as lines of JSON: what archives and exports consist of.

The first line says what follows, then comes one line per event with ``p``, its position, and the fields that it has in
the log, in their order.  The last line says how many there were and what their digest is: a file without it is torn.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import json
import os
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from gridsync.errors import Damaged
from gridsync.streams._pages import is_hole, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FORMAT: Final = 1
LINE_MAX: Final = 2**30
"""Bytes of a line at most: what is longer was not written here."""


def line_of(entry: Any) -> bytes:  # noqa: ANN401 - [id, [field, value, ...]]
    """Return an entry of the log as a line.  Bytes that are no text survive as lone surrogates."""
    texts = [each.decode(errors="surrogateescape") for each in entry[1]]
    return _line({"p": number(entry), **dict(zip(texts[::2], texts[1::2], strict=True))})


def entry_of(line: bytes, where: str) -> Any:  # noqa: ANN401
    """Return the entry of the log that a line was made of."""
    said = _object(line, where)
    try:
        position = int(said.pop("p"))
        flat = [text.encode(errors="surrogateescape") for pair in said.items() for text in pair]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise damaged(where, f"a line is no event: {line!r:.100}") from error
    return [b"%d-0" % position, flat]


def written(head: dict[str, Any], entries: Iterable[Any]) -> Iterator[bytes]:
    """Yield the lines of a file."""
    yield _line({"gridsync": "events", "format": FORMAT, **head})
    digest, count = hashlib.sha256(), 0
    for entry in entries:
        if b"d" not in entry[1][::2] and not is_hole(entry):
            raise damaged(f"the event at position {number(entry)}", "its payload is in no stream any more")
        line = line_of(entry)
        digest.update(line)
        count += 1
        yield line
    yield _line({"end": count, "sha256": digest.hexdigest()})


def read_head(file: BinaryIO, where: str) -> dict[str, Any]:
    """Read the first line of a file."""
    head = _object(_next(file, where), where)
    if head.get("gridsync") != "events" or head.get("format") != FORMAT:
        raise damaged(where, f"it is no file of events of format {FORMAT}")
    return head


def read_entries(file: BinaryIO, where: str) -> Iterator[Any]:
    """Yield the entries behind the first line; at the end it is certain that they are all, and as they were written."""
    digest, count = hashlib.sha256(), 0
    while True:
        line = _next(file, where)
        if line.startswith(b'{"end":'):
            end = _object(line, where)
            if end != {"end": count, "sha256": digest.hexdigest()} or file.read(1):
                raise damaged(where, f"it does not end as it should behind {count} events")
            return
        digest.update(line)
        count += 1
        yield entry_of(line, where)


def opened(path: Path, mode: str) -> BinaryIO:
    """Open a file of events, compressed as the end of its name says: ``.zst``, ``.gz`` or not at all.

    Raises:
        ModuleNotFoundError: It ends in ``.zst``, and nothing here can read that.
    """
    if path.suffix == ".gz":
        return cast("BinaryIO", gzip.open(path, mode))
    if path.suffix == ".zst":
        file: Any = _zstd().open(path, mode)
        return cast("BinaryIO", file if mode == "wb" else io.BufferedReader(file))
    return cast("BinaryIO", path.open(mode))


def write_file(path: Path, lines: Iterable[bytes]) -> None:
    """Write lines into a file that is there once it is whole and on the disk."""
    temporary = path.with_name(f"new-{path.name}")
    try:
        with opened(temporary, "wb") as file:
            for line in lines:
                file.write(line)
        _synchronise(temporary)
        temporary.replace(path)
        _synchronise(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def best_suffix() -> str:
    """Return how new files are compressed: by zstd where it is installed, else by gzip."""
    try:
        _zstd()
    except ModuleNotFoundError:
        return ".gz"
    return ".zst"


def damaged(where: str, what: str) -> Damaged:
    """Return the error for a file that is not what was written."""
    return Damaged(f"{where}: {what}; it was cut off or changed since: restore it from a copy", name=where)


def _zstd() -> Any:  # noqa: ANN401 - a module, one of two with the same open()
    try:
        return importlib.import_module("compression.zstd")
    except ModuleNotFoundError:
        return importlib.import_module("zstandard")


def _line(what: dict[str, Any]) -> bytes:
    return json.dumps(what, separators=(",", ":")).encode() + b"\n"


def _next(file: BinaryIO, where: str) -> bytes:
    try:
        line = file.readline(LINE_MAX)
    except Exception as error:  # each library has errors of its own for what it cannot decompress
        raise damaged(where, f"it cannot be read: {error}") from error
    if not line.endswith(b"\n"):
        raise damaged(where, "it is torn: its last line is not whole")
    return line


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise damaged(where, f"a line is no JSON: {line!r:.100}") from error
    if not isinstance(said, dict):
        raise damaged(where, f"a line is no object: {line!r:.100}")
    return said
