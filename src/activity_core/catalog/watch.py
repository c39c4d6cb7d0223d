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

_SETTLE_MS = 150
_STEP_MS = 50
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
        import watchfiles

        try:
            for _ in watchfiles.watch(
                *self._folders,
                watch_filter=None,
                stop_event=self._stop,
                debounce=_SETTLE_MS,
                step=_STEP_MS,
                rust_timeout=_LOOK_UP_MS,
                raise_interrupt=False,
            ):
                if self._stop.is_set() or self._loop.is_closed():
                    return
                self._loop.call_soon_threadsafe(self._on_change)
        except Exception as failure:  # inotify limits, a file system without notifications
            log.warning(
                "definition folders cannot be watched (%s); they are read again every rescan_interval",
                failure,
            )
