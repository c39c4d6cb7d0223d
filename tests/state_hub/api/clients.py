"""A client that sends what it is told to, byte for byte, and a server that serves whatever app is on stage."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from state_hub.api.protocol import BoundedHttpProtocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from state_hub.api.security import App, Message, Receive, Scope, Send

TOKEN = "a-token-for-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """What is wrong, as problems tell it."""
        value = self.value
        assert value.keys() == {"detail"}
        assert isinstance(value["detail"], str)
        return value["detail"]


class Client:
    """Sends requests to a port of this machine, with the token unless told otherwise."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"

    def send(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] | Mapping[str, str] = (),
        body: bytes | None = None,
        chunks: Iterable[bytes] = (),
    ) -> Answer:
        """One request with exactly this target and these headers; Host is added when none is given."""
        given = list(headers.items()) if hasattr(headers, "items") else list(headers)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            if not any(name.lower() == "host" for name, _ in given):
                connection.putheader("Host", self.host)
            for name, value in given:
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            for chunk in chunks:
                connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            if any(name.lower() == "transfer-encoding" for name, _ in given):
                connection.send(b"0\r\n\r\n")
            answer = connection.getresponse()
            return Answer(
                status=answer.status,
                headers={name.lower(): value for name, value in answer.getheaders()},
                body=answer.read(),
            )
        finally:
            connection.close()

    def get(self, target: str) -> Answer:
        """GET, with the token."""
        return self.send("GET", target, headers=BEARER)

    def give(self, method: str, target: str, value: object = None) -> Answer:
        """A request that carries JSON, with the token."""
        body = b"" if value is None else json.dumps(value).encode()
        return self.send(method, target, headers={**BEARER, "Content-Type": "application/json"}, body=body)


class Stage:
    """An ASGI app that is whatever app is on stage now."""

    app: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)


class StageServer:
    """A real server on a free port, in a thread, for as many tests as like; use as a context manager."""

    def __init__(self) -> None:
        self.stage = Stage()
        self._listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            self.stage,
            loop="uvloop",
            http=BoundedHttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})

    @property
    def port(self) -> int:
        port = self._listener.getsockname()[1]
        assert isinstance(port, int)
        return port

    def __enter__(self) -> StageServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._listener.close()


async def ask_app(app: App, scope: Scope, messages: Iterable[Message]) -> list[Message]:
    """What an app sends for a scope, given these messages one after the other."""
    waiting = iter(messages)
    sent: list[Message] = []

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent
