"""What the routes work with: settings, store and clock, and the certainty that the database is the one we opened."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from activity_plumbing.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

    from activity_plumbing.clock import Clock
    from state_hub.settings import Settings
    from state_hub.store.store import Store

BY = "api"
"""Who changed a status that came through a request."""


class DatabaseGoneError(Exception):
    """The database that was opened is no longer there; the message says what to do."""


class Hub:
    """One hub: its transactions are refused once the SQLite file under them was deleted or replaced.

    An open SQLite connection goes on answering, and taking writes, for a file that no longer has a name.
    """

    def __init__(self, settings: Settings, store: Store, clock: Clock | None = None) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock or SystemClock()
        self._file = _sqlite_file(store)
        self._opened = None if self._file is None else _identity(self._file)

    def gone(self) -> str | None:
        """None while the file is the one that was opened, else what happened to it. Always None on Postgres."""
        if self._file is None:
            return None
        found = _identity(self._file)
        if found == self._opened:
            return None
        what = "is gone" if found is None else "was replaced"
        return f"the database's file {what} while the hub had it open; put it back and start the hub again"

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees one state of the database. Raises DatabaseGoneError."""
        self._require()
        with self.store.reading() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction. Raises DatabaseGoneError, also after a commit into a file that went away meanwhile."""
        self._require()
        with self.store.writing() as connection:
            yield connection
        self._require()

    def _require(self) -> None:
        wrong = self.gone()
        if wrong is not None:
            raise DatabaseGoneError(wrong)


def _sqlite_file(store: Store) -> Path | None:
    url = store.engine.url
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    return Path(url.database)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
