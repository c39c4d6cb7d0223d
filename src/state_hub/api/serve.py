"""The hub's server as a process."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import re
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from activity_plumbing.logs import TextLines
from state_hub.errors import ConfigurationError
from state_hub.settings import load_token
from state_hub.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from state_hub.settings import Settings

log = logging.getLogger(__name__)

SHORTEST_TOKEN = 16
STOP_S = 10
"""How long requests under way may take once the hub is told to stop."""
_BACKLOG = 256


def serve(settings: Settings) -> None:
    """Serves on ``settings.host:port`` until SIGTERM or SIGINT, then answers what is under way and returns.

    Logs to stderr. The token is the one in the settings, or that of the state folder, made at the first start.
    On an address that other machines reach, a token of fewer than 16 characters is refused: it could be guessed.
    Raises ConfigurationError for what the operator must change: address, port, token, database.
    """
    _log_to_stderr()
    address = _resolve(settings.host, settings.port)
    token = _token(settings, is_local=_is_loopback(address))
    listener = _listen(address, settings)
    try:
        store = Store.open(settings.database)
        try:
            _run(settings, store, token, listener)
        finally:
            store.close()
    finally:
        listener.close()
    log.info("stopped")


def _run(settings: Settings, store: Store, token: str, listener: socket.socket) -> None:
    import uvicorn

    from state_hub.api.app import create_app
    from state_hub.api.hub import Hub
    from state_hub.api.protocol import BoundedHttpProtocol

    class Server(uvicorn.Server):
        """Ends in good order on a signal; uvicorn's own would raise it again afterwards and end by it."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    app = create_app(Hub(settings, store), token=token, hosts=(settings.host, *settings.allowed_hosts))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
    )
    where = "the settings" if settings.token else str(settings.token_path)
    log.info("listening on %s; the token is in %s", _url(listener), where)
    Server(config).run(sockets=[listener])


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("alembic", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _token(settings: Settings, *, is_local: bool) -> str:
    token = load_token(settings, create=True)
    assert token is not None
    where = "token" if settings.token else str(settings.token_path)
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigurationError(f"{where}: a token is made of ASCII letters, digits and signs, without blanks")
    if is_local:
        return token
    if len(token) < SHORTEST_TOKEN:
        raise ConfigurationError(
            f"{where}: the hub is to listen on {settings.host}, which other machines reach; its token needs at least"
            f" {SHORTEST_TOKEN} characters. Leave `token` unset to have one made, or listen on 127.0.0.1"
        )
    log.warning(
        "%s is reached by other machines, and the token goes there unencrypted: put TLS before it", settings.host
    )
    return token


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The address to listen on; IPv4 where a name has both."""
    if port > 65535:
        raise ConfigurationError(f"port: {port} is not a port; use 1 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as failure:
        raise ConfigurationError(f"host: {host!r} is no address of this machine: {failure}") from failure
    family, _, _, _, address = min(found, key=lambda each: each[0] is not socket.AF_INET)
    return family, (str(address[0]), port)


def _is_loopback(address: tuple[socket.AddressFamily, tuple[str, int]]) -> bool:
    return ipaddress.ip_address(address[1][0].partition("%")[0]).is_loopback


def _listen(address: tuple[socket.AddressFamily, tuple[str, int]], settings: Settings) -> socket.socket:
    family, place = address
    try:
        return socket.create_server(place, family=family, backlog=_BACKLOG)
    except OSError as failure:
        said = "is taken" if failure.errno == errno.EADDRINUSE else f"cannot be used: {os.strerror(failure.errno or 0)}"
        raise ConfigurationError(
            f"port {settings.port} on {settings.host} {said};"
            " stop what listens there, or choose another with `port` or --port"
        ) from failure


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family is socket.AF_INET6 else f"http://{host}:{port}"
