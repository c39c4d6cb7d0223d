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
_STEP_MS = 200  # the watcher wakes this often even when nothing happens: twenty times a second would be seen
_LOOK_UP_MS = 3_600_000  # only bounds how long the thread sleeps; it wakes for changes and for the stop event


class FolderWatch:
    """Calls `on_change` from the running loop soon after anything below the folders changes.

    Folders that do not exist yet are not watched; the engine's slow rescan finds them.
    """

    def __init__(self, folders: Sequence[Path], on_change: Callable[[], None]) -> None:
        self._folders = [folder for folder in folders if folder.is_dir()]
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        if self._folders:
            threading.Thread(target=self._watch, name="folder-watch", daemon=True).start()

    def close(self) -> None:
        """Stops calling; the thread ends with the process."""
        self._stop.set()

    def _watch(self) -> None:
        from watchfiles._rust_notify import RustNotify  # documented as the "Rust backend"

        try:
            paths = [str(folder) for folder in self._folders]
            with RustNotify(paths, False, False, 0, True, True) as notify:
                self._tell()  # what was saved between the last look and now
                while not self._stop.is_set():
                    if notify.watch(_SETTLE_MS, _STEP_MS, _LOOK_UP_MS, self._stop) != "timeout":
                        self._tell()
        except Exception as failure:  # inotify limits, a file system without notifications
            log.warning("definition folders cannot be watched (%s); they are read again every rescan_interval", failure)

    def _tell(self) -> None:
        if not self._stop.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_change)
