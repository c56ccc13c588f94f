"""Where a connection leads: to one server for good, or to whoever is the primary at the moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gridsync._io.wire.endpoint import Endpoint


class Place(Protocol):
    """What finds the server for each new connection; an `Endpoint` finds itself."""

    @property
    def connect_timeout(self) -> float:
        """The longest time to set up one connection, in seconds."""

    @property
    def server(self) -> Endpoint:
        """How servers here are greeted: credentials, TLS, database; host and port are those of the first."""

    @property
    def known(self) -> Endpoint:
        """The server that was found last, or `server`; for what is shown to people."""

    @property
    def vouched(self) -> bool:
        """Whether others say that there is such a server: if it cannot be reached, that may heal."""

    def find(self, timeout: float) -> Endpoint:
        """Return the server to connect to now.

        Raises:
            Fault: Nobody could tell within *timeout* seconds.
            GridsyncError: Nobody can tell, for a reason that does not heal.
        """

    async def seek(self) -> Endpoint:
        """As `find`, for asyncio."""

    def doubt(self, endpoint: Endpoint) -> None:
        """Hear that no connection could be made to what `find` had returned."""


def leads_to(connected: Endpoint, endpoint: Endpoint) -> bool:
    """Tell whether a connection to *connected* is one to *endpoint*."""
    return (connected.host, connected.port, connected.path) == (endpoint.host, endpoint.port, endpoint.path)
