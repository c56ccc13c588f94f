"""How a grid finds its server: its settings, the place that a URL names, and how calls to it are governed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._audit import Audit
from gridsync._io.guard import Policy
from gridsync._io.route.open import open_place
from gridsync.embedded import EmbeddedServer, open_embedded
from gridsync.settings import Settings

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

    from gridsync._io.aio import AsyncIO
    from gridsync._io.guard import Listeners
    from gridsync._io.sync import SyncIO
    from gridsync._io.wire.place import Place


class Opened:
    """A server that was found: the embedded one, if it is ours, and where it is."""

    def __init__(self, settings: Settings, credentials: CredentialProvider | None, listeners: Listeners) -> None:
        self.embedded: EmbeddedServer | None = None
        url, password_file = settings.redis_url, settings.redis_password_file
        if url.startswith("embedded:"):
            self.embedded = open_embedded(url, timeout=settings.redis_connection_timeout)
            url, password_file = self.embedded.url, None
        try:
            self.place: Place = open_place(
                url,
                connect_timeout=settings.redis_connection_timeout,
                credentials=credentials,
                password_file=password_file,
            )
            self.place.server.guard.govern(policy_of(settings), listeners)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.embedded is not None:
            self.embedded.close()


def watch_over(io: SyncIO | AsyncIO, opened: Opened, namespace: str) -> None:
    if opened.embedded is None:
        io.audit(Audit(opened.place, namespace, opened.place.server.counts))


def chosen_settings(url: str | None, namespace: str | None, settings: Settings | None) -> Settings:
    given = {"redis_url": url, "gridsync_namespace": namespace}
    chosen = {name: value for name, value in given.items() if value is not None}
    if settings is None:
        return Settings(**chosen)
    # Validated again: a copy with changes would take anything.
    return Settings(**{**settings.model_dump(), **chosen}) if chosen else settings


def policy_of(settings: Settings) -> Policy:
    return Policy(
        enabled=settings.gridsync_breaker,
        failure_rate=settings.gridsync_breaker_failure_rate,
        min_calls=settings.gridsync_breaker_min_calls,
        pause_s=settings.gridsync_breaker_pause,
        retry_ratio=settings.gridsync_retry_ratio,
        retry_burst=settings.gridsync_retry_burst,
    )
