"""How another process tells the engine to look at the ledger: one datagram, no content worth trusting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_LONGEST_PATH = 100  # sun_path of unix(7) holds 108 bytes


class Doorbell:
    """The engine's side: calls `on_ring` for each datagram, from the loop."""

    def __init__(self, path: Path, on_ring: Callable[[], None]) -> None:
        self._path = path
        self._on_ring = on_ring
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with _short(path) as address:
            self._socket.bind(address)
        path.chmod(0o600)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._ring)

    def close(self) -> None:
        """Removes the socket."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(16)
        self._on_ring()


def ring(path: Path) -> bool:
    """Tells the engine to look; False when none listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        try:
            with _short(path) as address:
                bell.sendto(b"look", address)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except BlockingIOError:
            return True  # its queue is full of bells
    return True


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """The address of a socket in a folder of any depth: through /proc/self/fd where the path is too long."""
    if len(os.fsencode(path)) < _LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
