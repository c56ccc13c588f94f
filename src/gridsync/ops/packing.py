"""How the bytes of a backup get into a file and out again: compressed, and encrypted by `age` or GnuPG if asked.

The tools run as child processes between our pipe and the file, and are given the recipients' public keys only: no
secret is on a command line, and what is not encrypted never is in a file.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, cast

from gridsync.errors import Damaged, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from gridsync.ops.archive import Manifest, Part

__all__ = ["Packer", "best_compression", "encryption_for", "unpacked"]

_PIECE: Final = 1 << 18
_LEVEL: Final = 3


def best_compression() -> str:
    """Return ``zst`` where it is installed (extra ``archive``), else ``gz``."""
    try:
        importlib.import_module("zstandard")
    except ModuleNotFoundError:
        return "gz"
    return "zst"


def encryption_for(recipients: Sequence[str]) -> str:
    """Return which tool encrypts for *recipients*: ``age``, ``gpg``, or none if there are none.

    Raises:
        UsageError: They are of both kinds, or the tool is not installed.
    """
    if not recipients:
        return ""
    kinds = {"age" if each.startswith(("age1", "ssh-")) else "gpg" for each in recipients}
    if len(kinds) > 1:
        raise UsageError(
            "recipients of age and of GnuPG were given; one backup is encrypted by one of them: use one kind"
        )
    return _installed(kinds.pop())


def _installed(tool: str) -> str:
    if shutil.which(tool) is None:
        package = "gnupg" if tool == "gpg" else tool
        raise UsageError(f"{tool} is not installed here; install the package {package}, or use the other kind of key")
    return tool


def _encrypting(tool: str, recipients: Sequence[str]) -> list[str]:
    chosen = [word for each in recipients for word in ("-r", each)]
    if tool == "age":
        return ["age", *chosen]
    return ["gpg", "--batch", "--no-tty", "--trust-model", "always", "--compress-algo", "none", "--encrypt", *chosen]


def _decrypting(tool: str, identity: Path | None) -> list[str]:
    if tool == "gpg":
        return ["gpg", "--batch", "--quiet", "--decrypt"]
    if identity is None:
        raise UsageError("it is encrypted with age; say --identity, the file with the key that opens it")
    return ["age", "--decrypt", "-i", str(identity)]


class Packer:
    """One file of a backup that is being written.

    Attributes:
        size: Bytes given so far.
    """

    def __init__(self, path: Path, compression: str, encryption: str, recipients: Sequence[str]) -> None:
        self._path = path
        self._file = path.open("xb")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._tool: subprocess.Popen[bytes] | None = None
        sink: Any = self._file
        if encryption:
            command = _encrypting(encryption, recipients)
            self._tool = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._file, stderr=self._said)  # noqa: S603
            sink = self._tool.stdin
        self._sink = sink
        self._packed = _compressor(compression, sink)
        self._digest = hashlib.sha256()
        self.size: int = 0

    def write(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            OSError: The disk is full, or the like.
            UsageError: The tool that encrypts gave up.
        """
        self._digest.update(piece)
        self.size += len(piece)
        try:
            self._packed.write(piece)
        except BrokenPipeError:
            raise self._gave_up() from None

    def finish(self) -> str:
        """Write what is left, and return the SHA-256 of all that was given."""
        try:
            self._packed.close()
            if self._tool is not None:
                self._sink.close()
        except BrokenPipeError:
            raise self._gave_up() from None
        if self._tool is not None and self._tool.wait():
            raise self._gave_up()
        self._file.close()
        return self._digest.hexdigest()

    def _gave_up(self) -> UsageError:
        assert self._tool is not None  # noqa: S101
        self._tool.wait()
        self._said.seek(0)
        words = self._said.read(2000).decode(errors="replace").strip().replace("\n", ", ")
        return UsageError(f"{self._path.name} was not encrypted: {words}; see the recipients, and the room on the disk")

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything, finished or not."""
        if self._tool is not None and self._tool.poll() is None:
            self._tool.kill()
            self._tool.wait()
        for each in (self._tool and self._tool.stdin, self._file, self._said):
            if each:
                try:
                    each.close()
                except OSError:
                    continue


def _compressor(compression: str, sink: BinaryIO) -> Any:  # noqa: ANN401
    if compression == "gz":
        return gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=1)
    zstandard: Any = importlib.import_module("zstandard")
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).stream_writer(sink, closefd=False)


def unpacked(path: Path, manifest: Manifest, part: Part, identity: Path | None = None) -> Iterator[bytes]:
    """Yield what is in a file; at the end it is certain that it is what was taken.

    Raises:
        Damaged: It is not.
        UsageError: It cannot be decrypted.
    """
    with (path / part.file).open("rb") as file, tempfile.TemporaryFile() as said:
        tool: subprocess.Popen[bytes] | None = None
        source: BinaryIO = file
        if manifest.encryption:
            command = _decrypting(_installed(manifest.encryption), identity)
            tool = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=said)  # noqa: S603
            source = cast("BinaryIO", tool.stdout)
        digest, size = hashlib.sha256(), 0
        try:
            stream, broken = _decompressor(manifest.compression, source)
            try:
                while piece := stream.read(_PIECE):
                    digest.update(piece)
                    size += len(piece)
                    if size > part.raw_size:
                        # A few bytes can unpack to more than any disk holds.
                        raise Damaged(f"{part.file} holds more than was taken; use another backup", name=part.file)
                    yield piece
            except broken as error:
                if tool is None or not _failed(tool, source):
                    raise Damaged(
                        f"{part.file} cannot be unpacked: {error}; use another backup", name=part.file
                    ) from error
            if tool is not None and _failed(tool, source):
                said.seek(0)
                words = said.read(2000).decode(errors="replace").strip().replace("\n", ", ")
                raise UsageError(f"{part.file} cannot be decrypted: {words}; name the key that it was encrypted for")
        finally:
            if tool is not None:
                tool.kill()
                tool.wait()
                source.close()
        if (size, digest.hexdigest()) != (part.raw_size, part.raw_sha256):
            raise Damaged(f"{part.file} does not hold what was taken; use another backup", name=part.file)


def _failed(tool: subprocess.Popen[bytes], source: BinaryIO) -> bool:
    while source.read(_PIECE):
        pass
    return bool(tool.wait())


def _decompressor(compression: str, source: BinaryIO) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return something to read from, and what it raises when the file is not whole."""
    if compression == "gz":
        return gzip.GzipFile(fileobj=source, mode="rb"), (OSError, EOFError)
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ModuleNotFoundError:
        raise UsageError("it is compressed with zstd; pip install 'gridsync-redis[archive]'") from None
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(source), _PIECE), (OSError, zstandard.ZstdError)
