"""Noticing saves within a moment, by the system's own notifications."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

_SETTLE_MS = 400
_STEP_MS = 300  # the watcher wakes this often even when nothing happens: twenty times a second would be seen
_LOOK_UP_MS = 10_000  # how often the folders themselves are looked at: a deleted one sends nothing when it is back


class FolderWatch:
    """Calls `on_change` from the running loop soon after anything below the folders changes.

    Folders may be missing, be deleted and come back.
    """

    def __init__(self, folders: Sequence[Path], on_change: Callable[[], None]) -> None:
        self._folders = tuple(folders)
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        threading.Thread(target=self._watch, name="folder-watch", daemon=True).start()

    def close(self) -> None:
        """Stops calling; the thread ends with the process."""
        self._stop.set()

    def _watch(self) -> None:
        from watchfiles._rust_notify import RustNotify  # documented as the "Rust backend"

        while not self._stop.is_set():
            there = self._there()
            try:
                with RustNotify([path for path, _ in there], False, False, 0, True, True) as notify:
                    self._tell()  # what was saved between the last look and now
                    while not self._stop.is_set() and self._there() == there:
                        if notify.watch(_SETTLE_MS, _STEP_MS, _LOOK_UP_MS, None) != "timeout":
                            self._tell()
            except Exception as failure:  # inotify limits, a file system without notifications
                log.warning("folders cannot be watched (%s); they are read again every rescan_interval", failure)
                return
            self._tell()

    def _there(self) -> list[tuple[str, int]]:
        """The folders that exist, with their inodes: one that was replaced must be watched anew."""
        found = []
        for folder in self._folders:
            try:
                found.append((str(folder), folder.stat().st_ino))
            except OSError:
                continue
        return found

    def _tell(self) -> None:
        if not self._stop.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_change)
