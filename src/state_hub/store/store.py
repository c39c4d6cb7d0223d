"""The hub's database: opened, migrated, and asked in transactions."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from activity_plumbing.database import DatabaseError, open_database, upgrade
from state_hub.errors import ConfigurationError
from state_hub.store.schema import HUB_HEAD, metadata

if TYPE_CHECKING:
    from collections.abc import Iterator


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
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction: committed at the end, undone by an exception."""
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

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
