"""Where a server is and how to say hello: the URL, the TLS context, the credentials, and what a failed connect means.

redis-py reads the URL, builds the TLS context and defines the credential provider, so that what works there works
here; the handshake is our own because the wires are.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import hiredis
from redis.asyncio.connection import RedisSSLContext
from redis.connection import SSLConnection, UnixDomainSocketConnection, parse_url
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from gridsync._io.counts import Counts
from gridsync._io.guard import Guard
from gridsync._io.wire.credentials import PasswordFile
from gridsync._io.wire.faults import Exhausted, Fault, ReplyError, as_public, is_transient
from gridsync.errors import AuthenticationFailed, GridsyncError, InvalidURL, Misconfigured, TLSFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")
TLS_PATIENCE_S = 0.3
"""How long a TLS handshake may take before the port is asked whether it is a plain one."""
ROLE = ("ROLE",)
PATIENCE_SHARE = 0.3
"""How much of the time for the connection that may be at most: the question after it takes as long."""
_ALL_SHARE = 0.9
"""An attempt that had so much of the connect timeout had all of it: finding the server takes a moment."""
NO_REPLY = object()
"""What a reader returns when it needs more bytes; a reply may be ``None`` or ``False``."""

_TLS_OPTIONS = {
    "ssl_keyfile": "keyfile",
    "ssl_certfile": "certfile",
    "ssl_ca_certs": "ca_certs",
    "ssl_ca_path": "ca_path",
    "ssl_password": "password",
    "ssl_ciphers": "ciphers",
}
_TLS_CHECKS = {"ssl_cert_reqs", "ssl_check_hostname"}
_OTHER_OPTIONS = {"host", "port", "db", "username", "password", "path", "client_name", "connection_class"}
# Up to the last "@": one that was not percent-encoded must not show the rest of a password.
_CREDENTIALS_IN_URL = re.compile(
    r"(?<=://).*(?=@)|(?<=[?&]password=)[^&#]*|(?<=[?&]username=)[^&#]*|(?<=_password=)[^&#]*|(?<=_username=)[^&#]*"
)
_ROUTED = re.compile(
    r"(?P<scheme>rediss?|valkeys?)\+(?P<topology>cluster)://(?P<login>.*@)?(?P<hosts>[^/?#@]*)(?P<rest>.*)"
)
_CERTIFICATE_ADVICE = {
    9: "it is not valid yet: look at the clocks of both machines",
    10: "it has expired: renew it on the server",
    62: "write a host that the certificate names into the URL",
    64: "write an address that the certificate names into the URL",
}
"""By OpenSSL's code of the verification."""
_HANGING_UP = (ConnectionResetError, BrokenPipeError, EOFError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_HTTP = ('got "H"', 'got "<"')
"""How the parser complains of a status line, or of a page without one, as old servers answer what they cannot read."""
_OWN_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_ENCODE = "write host:port, and percent-encode special characters in user and password (@ is %40, / is %2F)"


def redacted(url: str) -> str:
    """Return *url* with user and password hidden, for messages and logs."""
    return _CREDENTIALS_IN_URL.sub("***", url)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server."""

    host: str
    port: int
    path: str | None
    db: int
    credentials: CredentialProvider | None = field(hash=False)
    tls: ssl.SSLContext | None
    connect_timeout: float
    client_name: str = "gridsync"
    shown: str = field(default="", compare=False)
    """The URL without its credentials."""
    tls_options: dict[str, Any] = field(default_factory=dict, compare=False)
    """The ``ssl_…`` options of the URL, for a plain redis-py client."""
    counts: Counts = field(default_factory=Counts, compare=False, repr=False)
    """Where everything that connects here counts."""
    role: str = ""
    """What others say that it is, ``master`` or ``slave``: each new connection asks the server itself."""
    topology: str = "standalone"
    """Which way to its servers the URL asks for: ``standalone`` or ``cluster``."""
    seeds: tuple[tuple[str, int], ...] = ()
    """Every host and port that the URL names, for a topology of several servers."""
    vouched: bool = field(default=False, compare=False)
    """Others say that it is there: that it cannot be reached is no wrong address, and may heal."""

    @property
    def known(self) -> Endpoint:
        """Return this server."""
        return self

    @property
    def server(self) -> Endpoint:
        """Return this server; see `Place` for this and the next three."""
        return self

    def find(self, timeout: float) -> Endpoint:  # noqa: ARG002 - nobody is asked
        """Return this server, which never moves."""
        return self

    async def seek(self) -> Endpoint:
        """Return this server."""
        return self

    def doubt(self, endpoint: Endpoint) -> None:
        """Know no other."""

    guard: Guard = field(default_factory=Guard, compare=False, repr=False)
    """The breakers and the retry budget of everything that connects here."""

    def __str__(self) -> str:
        """Host and port, or the socket's path."""
        return self.path or f"{self.host}:{self.port}"

    def hello(self, username: str | None, password: str | None) -> list[tuple[Any, ...]]:
        """Return the commands that open a session; they leave in one write."""
        words: list[str] = ["HELLO", "3"]
        if password is not None:
            words += ["AUTH", username or "default", password]
        words += ["SETNAME", self.client_name]
        commands: list[tuple[Any, ...]] = [tuple(words)]
        if self.db:
            commands.append(("SELECT", str(self.db)))
        if self.role == "slave" and self.topology == "cluster":
            commands.append(("READONLY",))
        if self.role:
            commands.append(ROLE)
        return commands


def parse(
    url: str, *, connect_timeout: float, credentials: CredentialProvider | None = None, password_file: str | None = None
) -> Endpoint:
    """Read a connection URL.

    *credentials* win over user and password in it, and these over *password_file*.

    Raises:
        InvalidURL: The scheme, an option or a value cannot be used; the message says which.
        TLSFailed: A certificate or key file that the URL names cannot be loaded.
    """
    shown = redacted(url)
    topology = "standalone"
    seeds: tuple[tuple[str, int], ...] = ()
    routed = _ROUTED.fullmatch(url)
    if routed is not None:
        topology = routed["topology"]
        seeds = tuple(_host_port(host, shown) for host in routed["hosts"].split(","))
        first = routed["hosts"].split(",")[0]
        url = f"{routed['scheme']}://{routed['login'] or ''}{first}{routed['rest']}"
    scheme = url.partition("://")[0]
    if "://" not in url or scheme not in SCHEMES:
        routed_schemes = ("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
        allowed = ", ".join(f"{s}://" for s in (*SCHEMES, *routed_schemes, "embedded"))
        raise InvalidURL(f"{shown!r} is not a connection URL; begin it with one of {allowed}")
    try:
        options: dict[str, Any] = parse_url(re.sub("^valkey", "redis", url))  # type: ignore[no-untyped-call]
        path = urlsplit(url).path
    except ValueError as error:
        # The parser's own words may quote what it took for a port, and that may be a piece of a password.
        why = "" if "@" in url else f": {error}"
        raise InvalidURL(f"{shown!r} cannot be read{why}; {_ENCODE}") from None
    if "," in options.get("host", ""):
        text = "several hosts are those of a cluster or of sentinels; write redis+cluster:// or redis+sentinel://"
        raise InvalidURL(f"{shown!r}: {text}")
    unix = options.get("connection_class") is UnixDomainSocketConnection
    secure = options.get("connection_class") is SSLConnection
    if unix and "path" not in options:
        raise InvalidURL(f"{shown!r} names no socket; write unix:///path/of/redis.sock")
    if not unix and "@" in path:
        raise InvalidURL(f"{shown!r} cannot be read; {_ENCODE}")
    if not unix and path.strip("/") and not path.strip("/").isdigit():
        raise InvalidURL(f"{shown!r}: the path must be a database number such as /0, not {path!r}")
    known = _OTHER_OPTIONS | (set(_TLS_OPTIONS) | _TLS_CHECKS if secure else set())
    if unknown := sorted(set(options) - known):
        if unknown[0] in {*_TLS_OPTIONS, *_TLS_CHECKS}:
            raise InvalidURL(f"{shown!r}: {unknown[0]!r} is an option of TLS: write rediss:// or valkeys://")
        allowed = ", ".join(sorted(known - {"connection_class"}))  # redis-py's own word for the scheme
        raise InvalidURL(f"{shown!r}: unknown option {unknown[0]!r}; allowed are {allowed}")
    if credentials is None and options.get("password") is not None:
        credentials = UsernamePasswordCredentialProvider(options.get("username"), options["password"])
    elif credentials is None and password_file is not None:
        credentials = PasswordFile(options.get("username"), password_file)
    try:
        db = int(options.get("db", 0))
    except ValueError:
        raise InvalidURL(f"{shown!r}: db must be a whole number, not {options['db']!r}") from None
    if db < 0:
        raise InvalidURL(f"{shown!r}: db must not be negative, but is {db}")
    if topology == "cluster" and db:
        raise InvalidURL(f"{shown!r}: a cluster has database 0 only, not {db}")
    return Endpoint(
        host=options.get("host", "localhost"),
        port=options.get("port", 6379),
        path=options.get("path"),
        db=db,
        credentials=credentials,
        tls=_tls(options, shown) if secure else None,
        connect_timeout=connect_timeout,
        client_name=options.get("client_name", "gridsync"),
        shown=shown,
        tls_options={name: value for name, value in options.items() if name.startswith("ssl_")},
        topology=topology,
        seeds=seeds,
    )


def _host_port(text: str, shown: str) -> tuple[str, int]:
    """Read one of several hosts, such as ``10.0.0.1:7000``, ``name`` or ``[::1]:7000``."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise InvalidURL(f"{shown!r}: each host must be written as host:port, separated by commas, not {text!r}")
    return host, 6379 if port is None else port


def _tls(options: dict[str, Any], shown: str) -> ssl.SSLContext:
    chosen = {ours: options[theirs] for theirs, ours in _TLS_OPTIONS.items() if theirs in options}
    required = options.get("ssl_cert_reqs", "required")
    check = options.get("ssl_check_hostname", True)
    if required not in ("none", "optional", "required"):
        raise InvalidURL(f"{shown!r}: ssl_cert_reqs must be none, optional or required, not {required!r}")
    try:
        return RedisSSLContext(
            cert_reqs=required, check_hostname=str(check).lower() not in {"false", "0", "no"}, **chosen
        ).get()
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(f"{name}={options[name]}" for name in _TLS_OPTIONS if name in options)
        # OpenSSL says no more than "PEM lib" of a key that is missing.
        advice = "a certificate needs its private key, both in PEM, in the same file or in that of ssl_keyfile=…"
        why = f"{error}; {advice}" if isinstance(error, ssl.SSLError) and "ssl_certfile" in options else str(error)
        raise TLSFailed(f"{shown!r}: cannot load {files}: {why}") from None


def new_reader() -> hiredis.Reader:
    """Return a parser whose error replies are `ReplyError` and that tells 'not enough' from a null reply."""
    return hiredis.Reader(protocolError=ProtocolError, replyError=ReplyError, notEnoughData=NO_REPLY)


class ProtocolError(Exception):
    """The bytes are not RESP."""


def greeting_failed(endpoint: Endpoint, replies: Sequence[object]) -> Exception | None:
    """Return what the replies to `Endpoint.hello` mean, or ``None`` when all is well."""
    for reply in replies:
        if not isinstance(reply, ReplyError):
            continue
        text = str(reply)
        if is_transient(reply):
            return Fault(f"{endpoint} is not ready: {text}", applied=False)
        if reply.code == "NOAUTH":
            return AuthenticationFailed(
                f"{endpoint} asks for a password, and {endpoint.shown} came without one (NOAUTH); "
                "name a file with it in REDIS_PASSWORD_FILE, write redis://user:password@host, or pass credentials=…"
            )
        if reply.code == "NOPROTO" or "unknown command" in text.lower():
            # Servers quote the words of a command that they do not know, and the password is one of them.
            text = text.partition(", with args")[0]
            return Misconfigured(
                f"{endpoint} does not speak RESP3 ({text}); use Redis or Valkey 7.0 or newer, and let it answer HELLO"
            )
        if reply.code == "WRONGPASS" or "AUTH" in text:
            return AuthenticationFailed(f"{endpoint} refused the credentials of {endpoint.shown}: {text}")
        if "DB index" in text:
            return InvalidURL(f"{endpoint.shown!r}: the server has no database {endpoint.db} ({text})")
        return as_public(reply, "the greeting")
    if not isinstance(replies[0], dict) or not isinstance(replies[0].get(b"id"), int):
        text = f"it answered HELLO with {replies[0]!r:.80}"
        return Misconfigured(f"{endpoint} does not speak RESP3 ({text}); use Redis or Valkey 7.0 or newer")
    return wrong_role(endpoint, replies[-1]) if endpoint.role else None


def wrong_role(endpoint: Endpoint, reply: object) -> Fault | None:
    """Return what is wrong if *reply* to ROLE is not what *endpoint* should be, or is a replica without its primary."""
    words = reply if isinstance(reply, list) and reply else [reply]
    role, link = _text(words[0]), _text(words[3]) if len(words) > 3 else ""  # noqa: PLR2004 - where ROLE has it
    if role != endpoint.role:
        name = "primary" if endpoint.role == "master" else "replica"
        return Fault(f"{endpoint} is no {name}, its role is {role!r}: what named it is out of date", applied=False)
    if role == "slave" and link != "connected":
        return Fault(f"the replica {endpoint} has lost its primary (its link is {link!r})", applied=False)
    return None


def _text(word: object) -> str:
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


def certificate_ends(secure: Any) -> float | None:  # noqa: ANN401 - a TLS socket or object
    """Return when the peer's certificate ends, in seconds since 1970; ``None`` if none was checked."""
    found = None if secure is None else secure.getpeercert()
    return ssl.cert_time_to_seconds(found["notAfter"]) if found else None


def tls_patience_s(timeout: float) -> float:
    """Return how long a handshake may take before the port is asked, of *timeout* seconds for the whole connection."""
    return min(TLS_PATIENCE_S, PATIENCE_SHARE * timeout)


def speaks_plain(endpoint: Endpoint, timeout: float) -> bool:
    """Tell whether a port that does not answer in TLS answers a plain PING.

    Redis takes a TLS greeting for the beginning of a long line and waits for its end, so that nothing but a second
    connection tells a plain port from a slow one.
    """
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(1) in {b"+", b"-"}
    except OSError:
        return False


def not_tls(endpoint: Endpoint, why: str) -> TLSFailed:
    """Return the exception for a port that does not speak TLS."""
    return TLSFailed(f"{endpoint} did not answer in TLS ({why}); is it a plain port? then use redis://")


def hung_up(endpoint: Endpoint, error: BaseException) -> BaseException:
    """Return why a TLS server hung up during the greeting, or *error* if it does not say; blocks for a moment.

    In TLS 1.3 a server refuses a client's certificate after the client has finished, when the greeting is already under
    way; then it may reset the connection before its alert could be read.  So it is asked again, and nothing is sent.
    """
    if endpoint.tls is None or not isinstance(error, _HANGING_UP):
        return error
    try:
        with (
            socket.create_connection((endpoint.host, endpoint.port), TLS_PATIENCE_S) as plain,
            endpoint.tls.wrap_socket(plain, server_hostname=endpoint.host) as secure,
        ):
            secure.recv(1)
    except ssl.SSLError as alert:
        return alert
    except OSError:
        pass
    return error


def _refused_by_peer(endpoint: Endpoint, reason: str) -> TLSFailed:
    said = reason.lower().replace("_", " ")
    own = endpoint.tls_options.get("ssl_certfile")
    if own is None:
        advice = "if it asks for a client certificate, name one with ssl_certfile=… and ssl_keyfile=… in the URL"
    else:
        advice = f"look whether the certificate in {own} is still valid and of an authority that the server trusts"
    return TLSFailed(f"{endpoint} ended the TLS handshake ({said}); {advice}")


def connect_failed(
    endpoint: Endpoint, error: BaseException, *, met_before: bool, timeout: float | None = None
) -> Exception:
    """Say what a failed connection attempt means.

    A server that was never met is reported at once, since a wrong address does not heal; one that was met before, or
    that another server named, may be restarting, so the failure is a `Fault` that the retry layer repeats until the
    deadline.  *timeout* is what the attempt was given, if that is not the endpoint's connect timeout.
    """
    if isinstance(error, GridsyncError | Fault):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = _CERTIFICATE_ADVICE.get(error.verify_code, "name the authority's file with ssl_ca_certs=… in the URL")
        return TLSFailed(f"{endpoint} shows a certificate that is not trusted: {error.verify_message}; {advice}")
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return _refused_by_peer(endpoint, error.reason)
    if isinstance(error, ssl.SSLError) and not (met_before and isinstance(error, _HANGING_UP)):
        return not_tls(endpoint, error.reason or str(error))
    if isinstance(error, ProtocolError) and any(sign in str(error) for sign in _HTTP):
        text = f"{endpoint} answers in HTTP: this is the port of a web server; Redis has 6379 unless told otherwise"
        return Misconfigured(text)
    if isinstance(error, ProtocolError):
        return TLSFailed(f"{endpoint} did not answer in RESP ({error}); is it a TLS port? then use rediss://")
    if isinstance(error, TimeoutError):
        given = endpoint.connect_timeout if timeout is None else timeout
        whose = (
            "what the call had left" if given < _ALL_SHARE * endpoint.connect_timeout else "REDIS_CONNECTION_TIMEOUT"
        )
        text = f"{endpoint} did not answer within {given:.3g} s ({whose})"
    elif isinstance(error, _HANGING_UP):
        text = f"{endpoint} closed the connection during the greeting; if it is a TLS port, use rediss://"
    elif isinstance(error, socket.gaierror):
        text = f"the host name of {endpoint} cannot be resolved: {error.strerror}"
    elif isinstance(error, OSError) and error.errno in _OWN_LIMITS:
        text = (
            f"cannot connect to {endpoint}: {error.strerror}; this is a limit of this process or machine (ulimit -n "
            f"for open files), not of the server"
        )
        return Exhausted(text) if met_before else Unavailable(text)
    elif isinstance(error, OSError):
        text = f"cannot connect to {endpoint}: {error.strerror or error}; is a server running there?"
    else:
        return error if isinstance(error, Exception) else RuntimeError(str(error))
    return Fault(text, applied=False) if met_before else Unavailable(text)
