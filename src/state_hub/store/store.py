"""The hub's database: opened, migrated, and asked in transactions."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa

from activity_plumbing.database import DatabaseError, open_database, upgrade
from state_hub.errors import ConfigurationError
from state_hub.store.schema import HUB_HEAD, metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")

WRITE_ATTEMPTS = 5
_RACES = frozenset({"40001", "40P01", "23505"})
"""Serialization failure, deadlock, unique violation (Postgres, appendix A)."""


def _is_race(failure: sa.exc.DBAPIError) -> bool:
    return isinstance(failure, sa.exc.IntegrityError) or getattr(failure.orig, "sqlstate", None) in _RACES


class Store:
    """One database. Every function of this package takes a connection from `reading` or `writing`."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str) -> Store:
        """The database of this URL or path, its schema brought up to date. Raises ConfigurationError."""
        try:
            if "://" not in url:
                Path(url).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            engine = open_database(url)
            upgrade(engine, "state_hub.store:migrations", HUB_HEAD, metadata)
        except DatabaseError as failure:
            raise ConfigurationError(str(failure)) from failure
        except (sa.exc.DBAPIError, OSError) as failure:
            said = str(getattr(failure, "orig", failure)).strip().splitlines()[0]
            shown = sa.engine.make_url(url).render_as_string() if "://" in url else url
            raise ConfigurationError(f"the database {shown} cannot be opened: {said}; is it running?") from failure
        return cls(engine)

    def close(self) -> None:
        """Lets go of every connection."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees one state of the database."""
        engine = self.engine
        if engine.dialect.name == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction: committed at the end, undone by an exception."""
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def write(self, work: Callable[[sa.Connection], Result]) -> Result:
        """What `work` gives back, run as a transaction; again when another one was quicker at the same rows."""
        for attempt in range(1, WRITE_ATTEMPTS + 1):
            try:
                with self.writing() as connection:
                    return work(connection)
            except sa.exc.DBAPIError as failure:
                if attempt == WRITE_ATTEMPTS or not _is_race(failure):
                    raise
        raise AssertionError("unreachable")

    def check(self) -> str | None:
        """None when the database answers and has our schema, else what is wrong."""
        try:
            with self.reading() as connection:
                found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
                connection.exec_driver_sql("SELECT count(*) FROM repos").scalar()
        except sa.exc.DBAPIError as failure:
            return str(failure.orig).strip().splitlines()[0]
        except sa.exc.SQLAlchemyError as failure:
            return str(failure).splitlines()[0]
        return None if found == HUB_HEAD else f"the schema is at revision {found}, not {HUB_HEAD}"
