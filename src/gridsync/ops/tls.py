"""A certificate authority for development and closed networks, and the certificates that it signs.

Where a company has an authority of its own, its certificates take the place of these: same files, same names.
Importing this needs the extra ``ops``.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FILES", "flaw", "issue"]

_NAMES: Final = ("ca", "server", "client")
FILES: Final = tuple(f"{name}.{kind}" for name in _NAMES for kind in ("crt", "key"))
_CLOCKS_APART: Final = timedelta(hours=1)
"""How far the clocks of two machines may be apart: a certificate is valid from so long ago."""
_SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
_CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH


def issue(hosts: Sequence[str], days: int) -> dict[str, bytes]:
    """Make an authority, a certificate for a server of all *hosts*, and one for its clients.

    Args:
        hosts: Names and addresses.
        days: How long all of them are valid.

    Returns:
        The contents of `FILES`, in PEM.  The server's certificate also serves as a client's: a replica, a sentinel and
        a node of a cluster present it to others.

    Raises:
        UsageError: A host is neither a name nor an address.
    """
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in _NAMES}
    ends = datetime.now(UTC) + timedelta(days=days)
    names = x509.SubjectAlternativeName([_general(host) for host in hosts])
    signed = {
        "ca": _signed("authority", keys["ca"], keys["ca"], ends),
        "server": _signed("server", keys["server"], keys["ca"], ends, uses=(_SERVER, _CLIENT), names=names),
        "client": _signed("client", keys["client"], keys["ca"], ends, uses=(_CLIENT,)),
    }
    files = {f"{name}.crt": certificate.public_bytes(Encoding.PEM) for name, certificate in signed.items()}
    for name, key in keys.items():
        files[f"{name}.key"] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return files


def _name(what: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"gridsync {what}")])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not host.isascii() or not host.replace("-", "").replace(".", "").replace("*", "").isalnum():
        raise UsageError(
            f"{host!r} is neither a host name nor an address; write --host db.example.org or --host 10.0.0.7"
        )
    return x509.DNSName(host)


def _signed(
    what: str,
    key: ec.EllipticCurvePrivateKey,
    authority: ec.EllipticCurvePrivateKey,
    ends: datetime,
    *,
    uses: Sequence[x509.ObjectIdentifier] = (),
    names: x509.SubjectAlternativeName | None = None,
) -> x509.Certificate:
    # Python 3.13 and OpenSSL 3 check strictly: the usages must be critical, and both key identifiers must be there.
    itself = not uses
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=itself,
        crl_sign=itself,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(what))
        .issuer_name(_name("authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _CLOCKS_APART)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=itself, path_length=0 if itself else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
    )
    if uses:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(uses)), critical=False)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(authority, hashes.SHA256())


def flaw(files: Mapping[str, bytes], hosts: Sequence[str]) -> str:
    """Say what is wrong with certificates and keys that are to serve *hosts*; nothing if they do.

    Whoever signed them: those of a company's own authority are as good.
    """
    try:
        signed = {name: x509.load_pem_x509_certificate(files[f"{name}.crt"]) for name in _NAMES}
        for name in ("server", "client"):
            signed[name].verify_directly_issued_by(signed["ca"])
            key = load_pem_private_key(files[f"{name}.key"], None)
            if _public(key) != _public(signed[name]):
                return f"tls/{name}.key is not the key of tls/{name}.crt"
    except InvalidSignature:
        return "tls/server.crt or tls/client.crt was not signed by tls/ca.crt"
    except (ValueError, TypeError) as error:
        return f"tls/ has a certificate or key that cannot be read ({error})"
    for name, certificate in signed.items():
        if certificate.not_valid_after_utc <= datetime.now(UTC):
            return f"tls/{name}.crt has expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    try:
        names = signed["server"].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "tls/server.crt names no host"
    missing = [host for host in hosts if _general(host) not in names]
    return f"tls/server.crt does not name {', '.join(missing)}" if missing else ""


def _public(of: object) -> bytes:
    key = of.public_key()  # type: ignore[attr-defined] # both certificates and private keys have one
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
