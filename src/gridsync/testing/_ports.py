"""Ports that stay ours while nobody listens on them."""

from __future__ import annotations

import socket


def hold_port(host: str) -> socket.socket:
    """Return a socket that is bound to a free port of *host* and never listens.

    A port on which nobody listens any more is free for everybody who asks for one: a server that restarts, or a proxy
    that refuses for a while, could find it taken.  While this socket is open the kernel gives the port to nobody else,
    connections to it are refused, and whoever names it and sets ``SO_REUSEADDR``, as servers do, can listen there.
    """
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, 0))
    except OSError:
        held.close()
        raise
    return held
