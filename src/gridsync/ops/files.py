"""Files that are there as a whole or not at all, also when the program is killed or the machine loses its power."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from typing import TYPE_CHECKING

from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Owner", "fill", "held", "publish", "replace", "workplace"]

Owner = tuple[int, int]
"""User and group, as numbers."""


def write(file: Path, content: bytes, owner: Owner | None) -> None:
    """Write a new file that only its owner may read, and have it on the disk.

    Raises:
        OSError: It cannot be; the error names it.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as opened:  # noqa: PTH123 - of a descriptor
            opened.write(content)
            if owner is not None:
                os.fchown(descriptor, *owner)
            opened.flush()
            os.fsync(descriptor)
    except OSError as error:
        # A full disk names none.
        error.filename = str(file)
        raise


def fill(root: Path, contents: dict[str, bytes], directories: list[str], owner: Owner | None) -> None:
    """Write all *contents*, by their names below *root*, and make all *directories*."""
    made = {str(parent) for name in [*contents, *directories] for parent in (root / name).relative_to(root).parents}
    for name in sorted(made | set(directories)):
        (root / name).mkdir(mode=0o700, exist_ok=True)
    for name, content in contents.items():
        write(root / name, content, owner)
    for name in sorted(made | set(directories)):
        if owner is not None:
            os.chown(root / name, *owner)
        sync(root / name)


def publish(made: Path, at: Path) -> None:
    """Let the directory *made* appear at *at*, in one step.

    Raises:
        UsageError: There is something already, or another disk.
    """
    try:
        made.rename(at)
    except OSError as error:
        text = f"{at} cannot be made ({error.strerror}); name a folder that is not there yet, below one of your own"
        raise UsageError(text) from None
    sync(at.parent)


def replace(file: Path, content: bytes) -> None:
    """Let *file* have another content, in one step; its owner stays."""
    beside = file.with_name(f".{file.name}.new")
    beside.unlink(missing_ok=True)
    about = file.stat() if file.exists() else file.parent.stat()
    ours = (about.st_uid, about.st_gid) == (os.geteuid(), os.getegid())
    write(beside, content, None if ours else (about.st_uid, about.st_gid))
    beside.replace(file)
    sync(file.parent)


def sync(directory: Path) -> None:
    """Have the names in *directory* on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(directory: Path, doing: str) -> Iterator[None]:
    """Keep other processes from working on *directory*; whoever is killed lets go of it.

    Raises:
        UsageError: Somebody works on it.
    """
    with _locked(os.open(directory, os.O_RDONLY), f"another process is {doing} {directory}"):
        yield


@contextlib.contextmanager
def workplace(made: Path, doing: str) -> Iterator[Path]:
    """Make an empty directory for one process at a time; what a killed one left is removed, and so is it at the end.

    Raises:
        UsageError: Somebody works in it, or it is not ours: what was in it would be removed, and whose it is could put
            other files into the place of those that are written there.
    """
    with contextlib.suppress(FileExistsError):
        made.mkdir(mode=0o700)
    # Not through a link that somebody may have put there, who is waiting for root to pass by.
    try:
        descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise UsageError(f"{made} is in the way ({error.strerror}); see who made it, and remove it") from None
    with _locked(descriptor, f"another process is {doing} {made}"):
        if not os.path.samestat(os.fstat(descriptor), made.lstat()):
            raise UsageError(f"another process was {doing} {made}; run it again")
        if made.lstat().st_uid != os.geteuid():
            raise UsageError(f"{made} belongs to somebody else; see who made it, and remove it")
        for left in made.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        made.chmod(0o700)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def _locked(descriptor: int, otherwise: str) -> Iterator[None]:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{otherwise}; wait until it has ended") from None
        yield
    finally:
        os.close(descriptor)
