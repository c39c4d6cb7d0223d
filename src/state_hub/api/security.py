"""The guard before every route: host, origin, token and size, judged on the bytes that came.

Plain ASGI and outside the framework, so that neither routing nor redirects nor a forgotten dependency can open a
door: what is not exactly an open path needs the token.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping
    from typing import TypeAlias

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({b"/healthz", b"/state/health"})
"""Raw paths that answer without a token, to GET and HEAD."""
MAX_BODY_BYTES = 64 << 10
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?")
_POLICY_VIOLATION = 1008


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer given in place of the app's."""

    status: int
    detail: str
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())


_WRONG_HOST = Refusal(status=421, detail="this hub does not go by that name; add it to allowed_hosts if it should")
_CROSS_ORIGIN = Refusal(status=403, detail="requests from other origins may not change anything")
_NO_TOKEN = Refusal(
    status=401,
    detail="send the hub's token: 'Authorization: Bearer …'; `state-hub token` prints it",
    headers=((b"www-authenticate", b"Bearer"),),
)
_TOO_LARGE = Refusal(status=413, detail=f"the body has more than {MAX_BODY_BYTES:,} bytes")


def host_name(text: str) -> str | None:
    """The name or address in a Host header, without port, brackets and final dot; None if it is not one.

    >>> host_name("LocalHost:8000"), host_name("[::1]:80"), host_name("a b")
    ('localhost', '::1', None)
    """
    found = _HOST.fullmatch(text.lower())
    if found is None:
        return None
    return found["v6"] or found["name"].removesuffix(".")


class Guard:
    """Lets through to `app` what shows the token; see the module.

    `hosts`: names and addresses that the Host header may carry, besides this machine's own and the address the
    connection came in on. That keeps web pages from reaching the hub under a name of theirs (DNS rebinding).
    """

    def __init__(self, app: App, *, token: str, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._token = token.encode()
        named = {host_name(host) or host_name(f"[{host}]") for host in hosts}
        self._hosts = frozenset(LOCAL_NAMES) | {name for name in named if name}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one connection's worth of ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.refusal(scope)
        if refusal is not None:
            await _refuse(refusal, send)
            return
        try:
            body = await _read_body(receive)
        except _ClientLeft:
            return
        if body is None:
            await _refuse(_TOO_LARGE, send)
        else:
            await self._app(scope, _replayed(body, receive), send)

    def refusal(self, scope: Scope) -> Refusal | None:
        """None for a request that may pass."""
        hosts = _header(scope, b"host")
        if len(hosts) != 1 or not self._is_ours(hosts[0], scope):
            return _WRONG_HOST
        if scope["method"] not in _SAFE_METHODS:
            own = {f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower()}
            if any(origin.lower() not in own for origin in _header(scope, b"origin")):
                return _CROSS_ORIGIN
        is_open = scope.get("raw_path") in OPEN_PATHS and scope["method"] in ("GET", "HEAD")
        return None if is_open or self._shows_token(scope) else _NO_TOKEN

    def _is_ours(self, host: str, scope: Scope) -> bool:
        name = host_name(host)
        if name is None:
            return False
        server = scope.get("server")
        return name in self._hosts or (server is not None and name == server[0])

    def _shows_token(self, scope: Scope) -> bool:
        shown = _header(scope, b"authorization")
        if len(shown) != 1:
            return False
        scheme, _, token = shown[0].partition(" ")
        return scheme.lower() == "bearer" and compare_digest(token.strip().encode("latin-1"), self._token)


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


class _ClientLeft(Exception):
    """Nobody waits for an answer, and what came of the body is not all of it."""


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, which is small; None as soon as it is too large. The server throws away what still comes."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeft
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = json.dumps({"detail": refusal.detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *refusal.headers,
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
