"""Certificates that only a test trusts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_certificates(directory: Path) -> Path:
    """Make an authority and two certificates in *directory*; returns the authority's file.

    ``server.pem`` and ``server.key`` serve ``127.0.0.1`` and ``localhost``; a client presents ``client.pem`` and
    ``client.key``.

    Raises:
        ModuleNotFoundError: The package trustme is missing.
    """
    try:
        import trustme  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError("TLS servers need trustme: pip install 'gridsync-redis[testing]'") from missing
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    server = authority.issue_cert("127.0.0.1", "localhost")
    for name, certificate in (("server", server), ("client", authority.issue_cert("client@example.org"))):
        certificate.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
        certificate.private_key_pem.write_to_path(directory / f"{name}.key")
    return directory / "ca.pem"
