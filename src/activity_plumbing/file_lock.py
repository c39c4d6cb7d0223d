"""An advisory lock on a file (flock(2)) that says who holds it, and is gone with its holder however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import time
from typing import TYPE_CHECKING

from activity_plumbing.clock import format_instant

if TYPE_CHECKING:
    from pathlib import Path

    from activity_plumbing.clock import Instant


DEAD_HOLDER_S = 2.0
"""A child that a killed engine was just starting keeps the lock open until it has become its command."""


class LockHeld(Exception):
    """Another process holds the lock; `holder` is what it wrote down of itself."""

    def __init__(self, path: Path, holder: str) -> None:
        self.path = path
        self.holder = holder
        super().__init__(f"{path} is held by {holder}")


class FileLock:
    """Held from `acquire` until `release` or the end of the process, however it ends.

    `role` is the command that holds it, as others are told.
    """

    def __init__(self, path: Path, role: str) -> None:
        self._path = path
        self._role = role
        self._descriptor = -1

    def acquire(self, now: Instant) -> None:
        """Takes the lock, or raises LockHeld at once. Raises OSError where the file cannot be opened."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + DEAD_HOLDER_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as failure:
                if failure.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    os.close(descriptor)
                    raise
                holder = os.pread(descriptor, 500, 0).decode("utf-8", "replace").strip()
                if _is_dead(holder) and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                os.close(descriptor)
                raise LockHeld(self._path, holder or "a process that did not say which") from failure
        os.ftruncate(descriptor, 0)
        text = f"{self._role}, pid {os.getpid()} on {socket.gethostname()} since {format_instant(now)}"
        os.write(descriptor, text.encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Gives the lock back; safe to call twice."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def holder_of(path: Path) -> str | None:
    """Who holds the lock, or None when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.read(descriptor, 500).decode("utf-8", "replace").strip() or "an engine"
    finally:
        os.close(descriptor)
    return None


def _is_dead(holder: str) -> bool:
    """True when the process that wrote itself down as the holder is gone."""
    named = re.search(r"pid (\d+)", holder)
    if named is None:
        return True
    try:
        os.kill(int(named[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
