"""Archives: the log in files, so that it may leave the server and still be read.

A directory holds segments, each a file of events (`_lines.py`), and a manifest that lists them: first and last
position, count, digest.  A segment counts when the manifest names it.  Both are written under another name,
synchronised to the disk and renamed, so whatever breaks off in between leaves the archive as it was, and the next run
begins there again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gridsync.errors import UsageError
from gridsync.streams._lines import best_suffix, damaged, opened, read_entries, read_head, write_file, written
from gridsync.streams._pages import is_hole, mark_of, number, read_mark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync.streams._pages import Mark

SEGMENT: Final = 10_000
"""Events of one file at most; a reader holds the file it is at in memory."""
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of an archive."""

    file: str
    first: int
    last: int
    count: int
    sha256: str
    end: str
    """The checkpoint of its last event."""


class Archive:
    """The files of one log.  Its methods block; a driver runs them aside."""

    def __init__(self, directory: str | os.PathLike[str], store: str, partition: int = 0) -> None:
        """Nothing is read yet."""
        self._directory = Path(directory)
        self._store = store
        self._partition = partition
        self._lock: int | None = None
        self._segments: list[Segment] = []
        self._stamp: tuple[int, int] | None = None
        # What was read last: a reader goes from page to page in one file.
        self._loaded: tuple[Segment, list[Any]] | None = None
        self._heads: dict[str, dict[str, Any]] = {}

    def begin(self) -> Mark | None:
        """Take the archive for writing, alone, and return the last event that is in it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        # The lock of a process that died is gone with it.
        self._lock = os.open(self._directory / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._load()
        known = {segment.file for segment in self._segments}
        for path in self._directory.glob("*.jsonl*"):
            if path.name not in known:
                path.unlink()  # of a run that broke off
        return self.last()

    def end(self) -> None:
        """Let others write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def last(self) -> Mark | None:
        """Return the last event that is in it; ``None`` if there is none."""
        self._load()
        return read_mark(self._segments[-1].end) if self._segments else None

    def add(self, entries: Sequence[Any]) -> None:
        """Add the next entries of the log; afterwards they are on the disk."""
        first, last = number(entries[0]), number(entries[-1])
        versions: dict[str, list[int]] = {}
        for entry in entries:
            fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
            name, version = fields[b"s"].decode(errors="surrogateescape"), int(fields[b"v"])
            versions.setdefault(name, [version, version])[1] = version
        head = {"store": self._store, "partition": self._partition, "first": first, "last": last, "streams": versions}
        path = self._directory / f"{first:016d}-{last:016d}.jsonl{best_suffix()}"
        write_file(path, written(head, entries))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        segment = Segment(path.name, first, last, len(entries), digest, mark_of(entries[-1]).checkpoint())
        self._write_manifest([*self._segments, segment])

    def page(self, low: int, count: int) -> list[Any]:
        """Return the entries of the log from *low* on, or from its first, at most *count*."""
        self._load(again=False)
        low = max(low, self._segments[0].first if self._segments else 0)
        found: list[Any] = []
        while len(found) < count and (segment := self._holding(low + len(found))) is not None:
            begin = low + len(found) - segment.first
            found += self._read(segment)[begin : begin + count - len(found)]
        return found

    def stream_page(self, stream: str, low: int, count: int) -> list[Any]:
        """Return the events of a stream from version *low* on as the stream has them, or from its first."""
        self._load()
        found: list[Any] = []
        for segment in self._segments:
            _, last = self._head(segment)["streams"].get(stream, (0, -1))
            if last < low:
                continue
            for entry in self._read(segment):
                event = _in_stream(stream, entry)
                if event is not None and number(event) >= low and len(found) < count:
                    found.append(event)
            if len(found) == count:
                break
        return found

    def _holding(self, position: int) -> Segment | None:
        for again in (False, True):
            self._load(again=again)
            for segment in reversed(self._segments):
                if segment.first <= position <= segment.last:
                    return segment
        return None

    def _load(self, *, again: bool = True) -> None:
        """Read the manifest if it is another one than before."""
        path = self._directory / MANIFEST
        if not again and self._stamp is not None:
            return
        try:
            stat = path.stat()
        except FileNotFoundError:
            self._segments = []
            return
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp == self._stamp:
            return
        where = str(path)
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            whose, segments = (said["store"], said["partition"]), [Segment(**each) for each in said["segments"]]
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(where, "it is no manifest") from error
        if whose != (self._store, self._partition):
            raise UsageError(f"{where} is of partition {whose[1]} of {whose[0]!r}, not of {self._partition} of "
                             f"{self._store!r}: give each store a directory of its own")  # fmt: skip
        for before, after in pairwise(segments):
            if after.first != before.last + 1:
                raise damaged(where, f"{after.file} does not follow {before.file}")
        self._segments, self._stamp = segments, stamp

    def _head(self, segment: Segment) -> dict[str, Any]:
        if segment.file not in self._heads:
            path = self._directory / segment.file
            try:
                with opened(path, "rb") as file:
                    self._heads[segment.file] = read_head(file, str(path))
            except OSError as error:
                raise damaged(str(path), f"it cannot be opened: {error}") from error
        return self._heads[segment.file]

    def _read(self, segment: Segment) -> list[Any]:
        if self._loaded is not None and self._loaded[0] == segment:
            return self._loaded[1]
        path = self._directory / segment.file
        where = str(path)
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest != segment.sha256:
                raise damaged(where, f"its digest is {digest}, and the manifest says {segment.sha256}")
            with opened(path, "rb") as file:
                read_head(file, where)
                entries = list(read_entries(file, where))
        except OSError as error:
            raise damaged(where, f"it cannot be opened: {error}") from error
        if [number(entry) for entry in entries] != list(range(segment.first, segment.last + 1)):
            raise damaged(where, f"it does not hold the positions from {segment.first} to {segment.last}")
        self._loaded = segment, entries
        return entries

    def _write_manifest(self, segments: list[Segment]) -> None:
        said = {"store": self._store, "partition": self._partition, "segments": [asdict(each) for each in segments]}
        path = self._directory / MANIFEST
        write_file(path, [json.dumps(said, indent=1).encode() + b"\n"])
        self._load()


def _in_stream(stream: str, entry: Any) -> Any:  # noqa: ANN401
    """Return an entry of the log as its stream has it; ``None`` if it is of another one."""
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
    if fields.get(b"s") != stream.encode(errors="surrogateescape"):
        return None
    if is_hole(entry):
        return [fields[b"v"] + b"-0", entry[1]]
    version = fields.pop(b"v")
    del fields[b"s"]
    flat = [b"i", fields.pop(b"i"), b"p", entry[0][:-2]]
    for name, value in fields.items():
        flat += (name, value)
    return [version + b"-0", flat]
