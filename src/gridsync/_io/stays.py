"""What stays in its process: it has connections and threads, which nobody can copy or pickle."""

from __future__ import annotations

from typing import NoReturn

from gridsync.errors import UsageError


class Stays:
    """Refuses to be copied or pickled, and so does everything that refers to it: locks, limiters, event stores."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Say what to do instead.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "a grid, and what was made by it, cannot be copied or pickled: it has connections, which belong to this "
            "process; share it among threads, and open a grid in each process"
        )
