"""What an ASGI scope holds: the path inside an application, and what gridsync itself puts there."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
"""An ASGI connection scope."""

SUBJECT: Final = "gridsync.subject"
"""Where `limited` puts whom its dependency named, for the key function `subject`."""
HEADERS: Final = "gridsync.headers"
"""Where the dependencies of a route put what its response shall say."""


def inside(scope: Scope) -> str:
    """Return the path of a request inside its application, that is, without the path at which that is mounted."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    rest = path.removeprefix(root)
    return rest if rest[:1] in {"", "/"} else path
