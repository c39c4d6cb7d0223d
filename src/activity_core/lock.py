"""One engine per state folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from activity_core.errors import ConfigurationError
from activity_plumbing.file_lock import FileLock, LockHeld

if TYPE_CHECKING:
    from activity_plumbing.clock import Instant


class EngineLock(FileLock):
    """Held from `acquire` until `release` or the end of the process, however it ends."""

    def acquire(self, now: Instant) -> None:
        """Takes the lock. Raises ConfigurationError naming the holder."""
        try:
            super().acquire(now)
        except LockHeld as held:
            raise ConfigurationError(
                f"{held.path.parent} is in use by another engine ({held.holder});"
                " stop that one, or use another state folder"
            ) from held
