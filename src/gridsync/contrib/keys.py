"""Whom a request is counted for: functions that make a limiter's key of an ASGI scope.

::

    address = ClientAddress(trusted=["10.0.0.0/8"])
    key = join(user(otherwise=address), endpoint)      # user=alice:GET /orders/{id}

A key function takes the scope of a request and returns whom it counts for, or ``None`` if the policy does not concern
it.  Any function of that shape will do; these are the common ones.  None of them lets a client choose the beginning of
somebody else's key, and `join` never makes one key of two different lists of parts.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final, Literal

from gridsync.contrib._scope import SUBJECT, Scope, inside
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address

__all__ = ["ClientAddress", "KeyFunction", "Scope", "endpoint", "header", "join", "subject", "user"]

KeyFunction = Callable[[Scope], str | None]
"""Tells whom a request counts for; ``None`` if nobody."""

UNMATCHED: Final = "unmatched"
METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "TRACE", "CONNECT"})
HOPS_MAX = 32
FIELD_CHARS_MAX = 8_192
IPV6_BITS = 128

_LITERAL = re.compile(r"\[[0-9a-f:.]+\](?:/[0-9]{1,3})?")
_ESCAPES = str.maketrans({"%": "%25", ":": "%3A", "[": "%5B"})
_PORT = r"(?::[0-9]{1,5})?"
_HOP = re.compile(rf"\[(?P<six>[0-9A-Fa-f:.]+)\]{_PORT}|(?P<four>[0-9.]+){_PORT}|(?P<bare>[0-9A-Fa-f:.]+)")
_PAIR = re.compile(
    r"""[ \t]*(?P<name>[-!#$%&'*+.^_`|~0-9A-Za-z]+)=
    (?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[-!#$%&'*+.^_`|~0-9A-Za-z]+))[ \t]*(?P<end>[;,]|$)""",
    re.VERBOSE,
)


class ClientAddress:
    """A key function: the address of the client, behind as many proxies as you run.

    The peer of the connection is the client, unless it is a proxy of yours.  Then the field that your proxies write is
    read from right to left, that is, from what the nearest of them wrote, up to the first address that is none of
    yours.  Whatever stands to the left of it was written by the client, and is not looked at.

    Args:
        trusted: Networks of your proxies, such as ``"10.0.0.0/8"``; ``"unix"`` for one that connects by a Unix socket.
        field: The field that they write.  One only: a proxy hands on what it does not know, so that the other field
            would be the client's own words.
        ipv6_prefix: IPv6 addresses count by their network of so many bits, since one customer gets all of a /64, as a
            rule; 128 for each alone.

    Raises:
        UsageError: A network cannot be read, or the prefix is not from 1 to 128.

    The key is ``203.0.113.7`` or ``[2001:db8:1:2::]/64``.  A field that is malformed up to where it is read, that has
    more than 32 addresses of yours, or that names no address (``unknown``), counts for the peer: for the proxy.
    A peer without an address is ``unix``.

    Not guaranteed: anything if your outermost proxy does not write the field, or if *trusted* holds more than your
    proxies; and if the ASGI server rewrote the peer by such a field already, its own settings decide.
    """

    __slots__ = ("_field", "_networks", "_prefix", "_unix")

    def __init__(
        self,
        trusted: Iterable[str | IPv4Network | IPv6Network] = (),
        *,
        field: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for",
        ipv6_prefix: int = 64,
    ) -> None:
        if isinstance(trusted, str):
            raise UsageError(f"trusted must be several networks, such as [{trusted!r}], not one string")
        networks = list(trusted)
        self._unix = "unix" in networks
        try:
            self._networks = tuple(ip_network(network) for network in networks if network != "unix")
        except ValueError as error:
            raise UsageError(f"trusted must be networks such as '10.0.0.0/8': {error}") from None
        if field not in {"x-forwarded-for", "forwarded"}:
            raise UsageError(f"field must be 'x-forwarded-for' or 'forwarded', not {field!r}")
        if not 1 <= ipv6_prefix <= IPV6_BITS:
            raise UsageError(f"ipv6_prefix must be from 1 to {IPV6_BITS} bits, not {ipv6_prefix!r}")
        self._field = field.encode()
        self._prefix = ipv6_prefix

    def __call__(self, scope: Scope) -> str:
        """Return the address or the network of the client."""
        client = scope.get("client")
        peer = _address(client[0]) if client else None
        if not self._trusts(peer):
            return self._named(peer)
        found = peer
        for count, hop in enumerate(self._hops(scope)):
            if hop is None or count == HOPS_MAX:
                return self._named(peer)
            found = hop
            if not self._trusts(hop):
                break
        return self._named(found)

    def _trusts(self, address: IPv4Address | IPv6Address | None) -> bool:
        if address is None:
            return self._unix
        return any(address in network for network in self._networks)

    def _named(self, address: IPv4Address | IPv6Address | None) -> str:
        if address is None:
            return "unix"
        if not isinstance(address, IPv6Address):
            return str(address)
        if self._prefix == IPV6_BITS:
            return f"[{address}]"
        network = IPv6Network((address, self._prefix), strict=False)
        return f"[{network.network_address}]/{self._prefix}"

    def _hops(self, scope: Scope) -> Iterator[IPv4Address | IPv6Address | None]:
        """Yield what the proxies wrote, the nearest first; ``None`` for what is no address."""
        lines = [value.decode("latin-1") for name, value in scope["headers"] if name == self._field]
        if not lines:
            return
        whole = ",".join(lines)
        if self._field == b"forwarded":
            yield from _forwarded(whole)
            return
        while True:
            whole, more, last = whole.rpartition(",")
            yield _hop(last.strip(" \t"))
            if not more:
                return


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _hop(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, with or without a port."""
    found = _HOP.fullmatch(text)
    return None if found is None else _address(found["six"] or found["four"] or found["bare"])


def _forwarded(whole: str) -> Iterator[IPv4Address | IPv6Address | None]:
    """Yield the ``for`` of each element of a Forwarded field (RFC 7239), the last first.

    It is read from the left, strictly and whole, since only so one knows what is inside a quoted string.
    """
    if len(whole) > FIELD_CHARS_MAX:
        yield None
        return
    elements: list[str | None] = [None]
    at = 0
    while at < len(whole):
        pair = _PAIR.match(whole, at)
        if pair is None:
            yield None
            return
        if pair["name"].lower() == "for":
            if elements[-1] is not None:
                yield None
                return
            quoted = pair["quoted"]
            elements[-1] = pair["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = pair.end()
        if pair["end"] == ",":
            elements.append(None)
    for element in reversed(elements):
        yield None if element is None else _hop(element)


def endpoint(scope: Scope) -> str:
    """Return the method and the route's template, such as ``GET /orders/{id}``: a key function.

    Not the path: whoever asks for a thousand orders has used one endpoint a thousand times.

    Works with Starlette and FastAPI, in a middleware and in a dependency.  What no route matches is ``unmatched``, in
    one key for all, and so is everything in an application without Starlette's routes; HEAD counts as GET, a method
    that nobody knows as ``OTHER``, and the opening of a websocket as ``WEBSOCKET``.

    Cost: one regular expression for each route before the right one.
    """
    app = scope.get("app") or scope.get("router")
    socket = scope["type"] == "websocket"
    method = "GET" if socket or scope["method"] == "HEAD" else scope["method"]
    template = _template(getattr(app, "routes", None) or (), inside(scope), None if socket else method)
    if template is None:
        return UNMATCHED
    return f"{'WEBSOCKET' if socket else method if method in METHODS else 'OTHER'} {template}"


def _template(routes: Iterable[Any], path: str, method: str | None) -> str | None:
    """Return the template of the route that Starlette would choose; *method* is ``None`` for a websocket."""
    for route in itertools.chain.from_iterable(map(_effective, routes)):
        pattern = getattr(route, "path_regex", None)
        found = pattern.match(path) if pattern is not None else None
        inner = getattr(route, "routes", None)
        if pattern is None and inner:  # Host: its patterns are about another part of the address
            if (template := _template(inner, path, method)) is not None:
                return template
        elif found is None:
            continue
        elif inner is not None:  # Mount
            below = _template(inner, "/" + found["path"], method)
            return f"{route.path_format.removesuffix('/{path}')}{below if below is not None else '/*'}"
        elif hasattr(route, "methods") != (method is not None):
            continue
        elif method is None or not route.methods or method in route.methods:
            return str(route.path_format)
    return None


def _effective(route: Any) -> Iterator[Any]:  # noqa: ANN401 - of any version of Starlette and FastAPI
    """Yield a route as requests see it: newer FastAPIs keep an included router as one route, with its prefix beside."""
    included = getattr(route, "effective_route_contexts", None)
    if included is None:
        yield route
    else:
        for context in included():
            yield context.starlette_route or context


def user(otherwise: KeyFunction, *, attribute: str = "display_name") -> KeyFunction:
    """Return a key function: the user that Starlette's ``AuthenticationMiddleware`` found.

    Args:
        otherwise: The key function for requests without one.
        attribute: What names a user.

    The key is ``user=alice``, so that nobody has the address of somebody else for a name.
    """

    def key(scope: Scope) -> str | None:
        who = scope.get("user")
        if who is None or not getattr(who, "is_authenticated", False):
            return otherwise(scope)
        return f"user={getattr(who, attribute)}"

    return key


def header(name: str, otherwise: KeyFunction) -> KeyFunction:
    """Return a key function: the value of a request's header, such as an API key.

    Args:
        name: The header.
        otherwise: The key function for requests that lack it, so that leaving it out is no way around.

    The key is ``x-api-key=`` and 32 hexadecimal digits of the value's SHA-256: values are secrets, as a rule, and keys
    of Redis are not.

    Not guaranteed: that the value is worth anything.  Who may invent values has as many quotas; check them first.
    """
    field, label = name.lower().encode("latin-1"), name.lower()

    def key(scope: Scope) -> str | None:
        values = [value for found, value in scope["headers"] if found == field]
        if not any(values):
            return otherwise(scope)
        return f"{label}={sha256(b','.join(values)).hexdigest()[:32]}"

    return key


def subject(scope: Scope) -> str | None:
    """Return what the *subject* of `gridsync.contrib.fastapi.limited` returned, as ``subject=alice``: a key function.

    ``None`` stays ``None``: such requests do not concern the policy.

    Raises:
        UsageError: There was no *subject*.
    """
    if SUBJECT not in scope:
        raise UsageError("the key function `subject` needs limited(…, subject=a dependency that tells who it is)")
    value = scope[SUBJECT]
    return None if value is None else f"subject={value}"


def join(*parts: KeyFunction | str) -> KeyFunction:
    """Return a key function: all *parts*, with colons between them; ``None`` if one of them is.

    Colons inside a part are written ``%3A``, so that no two lists of parts make the same key; those of an IPv6 address
    stay, since it is in brackets.

    Raises:
        UsageError: There is no part, or one is neither a key function nor a string.
    """
    if not parts:
        raise UsageError("join needs one part or more, such as join(address, endpoint)")
    for part in parts:
        if not isinstance(part, str) and (not callable(part) or isinstance(part, type)):
            raise UsageError(f"join joins key functions, such as ClientAddress(), and strings, not {part!r:.100}")

    def key(scope: Scope) -> str | None:
        texts = [part if isinstance(part, str) else part(scope) for part in parts]
        return None if None in texts else ":".join(_part(text) for text in texts if text is not None)

    return key


def _part(text: str) -> str:
    return text if _LITERAL.fullmatch(text) else text.translate(_ESCAPES)
