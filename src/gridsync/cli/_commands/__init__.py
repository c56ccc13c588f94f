"""The commands of each wing and their options; what they do is imported when they run.

Here are the options that commands of several files have.
"""

from __future__ import annotations

from typing import Annotated

import typer

Url = Annotated[str | None, typer.Option(help="Which server: redis://…, rediss://…, unix://…; default is REDIS_URL.")]
Namespace = Annotated[str | None, typer.Option(help="First part of every key; default is GRIDSYNC_NAMESPACE.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
