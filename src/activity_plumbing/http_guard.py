"""HTTP GET that a checked-in file may ask for: bounded in size and time, and only to addresses that are allowed.

The address is judged where the connection is made, for every hop: a name is resolved once, every answer is
judged, and the connection goes to the judged address itself. So neither a redirect nor a name that resolves
differently the second time reaches the metadata service or a neighbour's loopback port.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import socket
import ssl
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

    import httpcore2

MAX_BODY_BYTES = 1 << 20
MAX_REDIRECTS = 5
MAX_JSON_DEPTH = 100
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",  # shared address space, RFC 6598
        "192.0.0.0/24",  # IETF protocol assignments, RFC 6890
        "::/96",  # IPv4-compatible, RFC 4291
        "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765
        "64:ff9b:1::/48",  # local-use translation, RFC 8215
    )
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class HttpGuardError(Exception):
    """The answer is not to be had; the message says why and, for a blocked address, how to allow it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and port that may be reached although its address is not public. Host as written, lower case."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Endpoint:
        """From ``host:port``, ``[::1]:port`` or a URL. Raises ValueError.

        >>> Endpoint.of("http://127.0.0.1:8000/x")
        Endpoint(host='127.0.0.1', port=8000)
        """
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if not parts.hostname:
            raise ValueError(f"{text!r} is not host:port")
        return cls(parts.hostname.lower(), parts.port or (443 if parts.scheme == "https" else 80))


def is_public(address: Address) -> bool:
    """True for an address anybody may be sent to; addresses that embed an IPv4 one are judged by that.

    >>> [is_public(ipaddress.ip_address(a)) for a in ("169.254.169.254", "::ffff:127.0.0.1", "93.184.216.34")]
    [False, False, True]
    """
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is None and address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(embedded)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not any(address in each for each in _NOT_PUBLIC)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response whose body was read to its end within the limits."""

    status: int
    content_type: str
    body: bytes

    def value(self) -> object:
        """The JSON value where the server says JSON, else the text. Raises HttpGuardError."""
        kind = self.content_type.split(";")[0].strip().lower()
        if kind == "application/json" or kind.endswith("+json"):
            return parse_json(self.body)
        charset = "utf-8"
        for parameter in self.content_type.split(";")[1:]:
            name, _, given = parameter.partition("=")
            if name.strip().lower() == "charset":
                charset = given.strip().strip('"')
        try:
            return self.body.decode(charset, "replace")
        except (LookupError, UnicodeError):  # no such charset, or one that is no charset of documents
            return self.body.decode("utf-8", "replace")


def parse_json(body: bytes) -> object:
    """A JSON value of at most 100 levels, of text that UTF-8 can carry. Raises HttpGuardError."""
    try:
        text = body.decode(json.detect_encoding(body))
        if _is_too_deep(text):
            raise HttpGuardError(f"the JSON is nested deeper than {MAX_JSON_DEPTH} levels")
        value: object = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:  # an escape may stand for half a character
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as failure:  # UnicodeError is a ValueError
        raise HttpGuardError(f"the answer is not valid JSON: {failure}") from failure
    return value


def _is_too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_JSON_DEPTH:
        return False
    depth = 0
    for found in _BRACKETS.finditer(text):
        mark = found[0]
        if mark in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                return True
        elif mark in "]}":
            depth -= 1
    return False


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


class GuardedClient:
    """Keeps connections open between requests; use it from one event loop and close it there."""

    def __init__(self, allowed: Iterable[Endpoint] = (), *, user_agent: str = "activity-core") -> None:
        import httpcore2

        self._headers = [
            ("User-Agent", user_agent),
            ("Accept", "application/json, */*;q=0.5"),
            ("Accept-Encoding", "identity"),
        ]
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=16,
            keepalive_expiry=30.0,
            network_backend=_guarded_backend(frozenset(allowed)),
        )

    async def get(
        self,
        url: str,
        *,
        timeout_s: float,
        headers: Iterable[tuple[str, str]] = (),
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Answer:
        """The answer to a GET, at most five redirects later. Raises HttpGuardError.

        `timeout_s` bounds the whole exchange, however slowly bytes trickle in. `headers` go to the first
        host only.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._follow(url, tuple(headers), timeout_s, max_bytes)
        except TimeoutError:
            raise HttpGuardError(f"{url}: no complete answer within {timeout_s:g} s") from None

    async def close(self) -> None:
        """Closes the kept connections."""
        await self._pool.aclose()

    async def _follow(self, url: str, headers: tuple[tuple[str, str], ...], timeout_s: float, max_bytes: int) -> Answer:
        first = _origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            sent = [*self._headers, *(headers if _origin(url) == first else ())]
            answer, location = await self._exchange(url, sent, timeout_s, max_bytes)
            if answer.status not in _REDIRECTS or location is None:
                return answer
            try:
                url = urljoin(url, location)
                scheme = urlsplit(url).scheme
            except ValueError as failure:
                raise HttpGuardError(f"{url}: redirected to {location!r}, which is not a URL") from failure
            if scheme not in ("http", "https"):
                raise HttpGuardError(f"redirected to {url!r}, which is not HTTP")
        raise HttpGuardError(f"{url}: more than {MAX_REDIRECTS} redirects")

    async def _exchange(
        self, url: str, headers: list[tuple[str, str]], timeout_s: float, max_bytes: int
    ) -> tuple[Answer, str | None]:
        import httpcore2

        timeouts = {"connect": timeout_s, "read": timeout_s, "write": timeout_s, "pool": timeout_s}
        try:
            async with self._pool.stream("GET", url, headers=headers, extensions={"timeout": timeouts}) as response:
                found = {name.lower(): value for name, value in response.headers}
                body = await _read(response, found.get(b"content-encoding", b"").lower().decode("latin-1"), max_bytes)
                answer = Answer(response.status, found.get(b"content-type", b"").decode("latin-1"), body)
                location = found.get(b"location")
                return answer, None if location is None else location.decode("latin-1")
        except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError) as failure:
            cause = str(failure) or str(failure.__cause__ or "") or type(failure).__name__
            raise HttpGuardError(f"{url}: {cause}") from failure
        except (httpcore2.UnsupportedProtocol, ValueError, TypeError) as failure:  # TypeError: a URL that is not ASCII
            raise HttpGuardError(f"{url}: {failure}") from failure


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port
    except ValueError as failure:
        raise HttpGuardError(f"{url!r} is not a URL: {failure}") from failure


async def _read(response: Any, encoding: str, max_bytes: int) -> bytes:
    """The decoded body. Inflating stops at the limit, so a small bomb stays small."""
    if encoding in ("", "identity"):
        inflate = None
    elif encoding in ("gzip", "deflate"):
        inflate = zlib.decompressobj(wbits=47 if encoding == "gzip" else 15)
    else:
        raise HttpGuardError(f"the answer is compressed with {encoding!r}, which was not asked for")
    body = bytearray()
    async for chunk in response.aiter_stream():
        try:
            body += chunk if inflate is None else inflate.decompress(chunk, max_bytes + 1 - len(body))
        except zlib.error as failure:
            raise HttpGuardError(f"the answer's {encoding} data is damaged") from failure
        if len(body) > max_bytes:
            raise HttpGuardError(f"the answer is larger than {max_bytes:,} bytes")
    if inflate is not None and (not inflate.eof or inflate.unused_data):
        raise HttpGuardError(f"the answer's {encoding} data is cut off, or more follows it")
    return bytes(body)


def _guarded_backend(allowed: frozenset[Endpoint]) -> httpcore2.AsyncNetworkBackend:
    """A network backend that resolves, judges, and connects to what it judged."""
    import httpcore2
    from httpcore2._backends.anyio import (
        AnyIOBackend,
    )  # the public AutoBackend resolves again behind our back

    class Guarded(AnyIOBackend):
        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,  # noqa: ASYNC109 - the interface of the class overridden
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore2.AsyncNetworkStream:
            addresses = await _judged_addresses(host, port, allowed)
            for address in addresses[:-1]:
                with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                    return await super().connect_tcp(str(address), port, timeout, local_address, socket_options)
            return await super().connect_tcp(str(addresses[-1]), port, timeout, local_address, socket_options)

        async def connect_unix_socket(self, *_arguments: Any, **_options: Any) -> httpcore2.AsyncNetworkStream:
            raise httpcore2.ConnectError("unix sockets are not reached from here")

    return Guarded()


async def _judged_addresses(host: str, port: int, allowed: frozenset[Endpoint]) -> list[Address]:
    """The addresses of the host, if all of them may be connected to. Raises HttpGuardError."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as failure:
        raise HttpGuardError(f"the host {host!r} cannot be resolved: {failure}") from failure
    addresses = [ipaddress.ip_address(str(entry[4][0]).split("%")[0]) for entry in found]
    if not addresses:
        raise HttpGuardError(f"the host {host!r} has no address")
    if Endpoint(host.lower(), port) not in allowed:
        for address in addresses:
            if not is_public(address):
                place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                raise HttpGuardError(
                    f"{place} is {address}, which is not a public address; to allow it, add"
                    f' "{place}" to http_allow in the settings'
                )
    return list(dict.fromkeys(addresses))
