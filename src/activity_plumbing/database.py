"""Opening SQLite or Postgres with the settings our promises need, and committing in groups.

SQLite: WAL, ``synchronous=FULL`` (a commit is on disk before it is answered), foreign keys, a busy timeout;
write transactions start ``IMMEDIATE`` so that a reader never has to be upgraded and refused half-way.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger(__name__)

Op = TypeVar("Op")
Result = TypeVar("Result")

BUSY_TIMEOUT_MS = 10_000
RETRY_PAUSE_S = 0.25
GATHER_S = 0.001
BUSY_GROUP = 2
UPGRADE_LOCK = 4_711_040
"""The Postgres advisory lock under which schemas are made and migrated."""


class DatabaseError(Exception):
    """The database cannot be opened or migrated; the message says which file and what to do."""


def open_sqlite(path: Path, *, synchronous: str = "FULL", incremental_vacuum: bool = False) -> sa.Engine:
    """An engine on a SQLite file, created if missing (mode 0600). Raises DatabaseError.

    `synchronous` is SQLite's pragma: FULL survives power loss, NORMAL only a crash of the process.
    """
    path = Path(path)
    try:
        if not path.exists():
            path.touch(mode=0o600)
    except OSError as failure:
        raise DatabaseError(
            f"{path}: cannot create the database: {failure.strerror}; check the folder's owner and free space"
        ) from failure
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False, "isolation_level": None},
        max_overflow=-1,  # a connection per thread; a thread has one at a time
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        if incremental_vacuum:
            cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heeded only before the first table
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA cache_size = -2000")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def open_database(url: str) -> sa.Engine:
    """An engine on ``sqlite:///path``, a plain path, or ``postgresql://…``. Raises DatabaseError."""
    if "://" not in url:
        return open_sqlite(Path(url))
    try:
        parsed = sa.engine.make_url(url)
    except sa.exc.ArgumentError as failure:
        raise DatabaseError("the database URL cannot be read; write postgresql://user@host/name or a path") from failure
    if parsed.get_backend_name() == "sqlite":
        return open_sqlite(Path(parsed.database or ""))
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise DatabaseError(f"{parsed.get_backend_name()} databases are not supported; use sqlite or postgresql")
    try:
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=54,
            connect_args={
                "connect_timeout": 5,
                "tcp_user_timeout": 15_000,
                "options": "-c statement_timeout=60000 -c idle_in_transaction_session_timeout=120000",
            },
        )
    except ModuleNotFoundError as failure:
        raise DatabaseError("Postgres needs its driver: pip install 'activity-core[fleet]'") from failure


def is_passing(failure: sa.exc.DBAPIError) -> bool:
    """True for failures that end by themselves: disk full, file locked, I/O refused, server away."""
    if failure.connection_invalidated:
        return True
    if not isinstance(failure, sa.exc.OperationalError):
        return False
    text = str(failure.orig).lower()
    return any(word in text for word in ("full", "locked", "busy", "i/o error", "unable to open", "readonly"))


@lru_cache(maxsize=256)
def _rendered(dialect: sa.Dialect, statement: sa.Executable) -> tuple[str, tuple[str, ...] | None, dict[str, Any]]:
    compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # every executable clause has it
    names = None if compiled.positiontup is None else tuple(compiled.positiontup)
    return str(compiled), names, dict(compiled.params)


def execute_rendered(
    connection: sa.Connection, statement: sa.Executable, rows: Sequence[Mapping[str, Any]]
) -> sa.CursorResult[Any]:
    """Executes a statement for each row of parameters, its SQL rendered once for the life of the process.

    For the few statements on the path of every run: skips SQLAlchemy's work per execution. Values must be what
    the driver takes as they are: numbers, text, bytes, None. `statement` must be kept and used again, not rebuilt.
    """
    sql, names, fixed = _rendered(connection.dialect, statement)
    parameters: list[Any]
    if names is None:
        parameters = [{**fixed, **row} for row in rows]
    else:
        parameters = [tuple(row[name] if name in row else fixed[name] for name in names) for row in rows]
    return connection.exec_driver_sql(sql, parameters[0] if len(parameters) == 1 else parameters)


class GroupRefused(Exception):
    """Raised by `apply` when one op of a group was refused: the group is rolled back and tried one by one."""


class GroupCommit(Generic[Op, Result]):
    """A writer thread that puts everything waiting into one transaction.

    `apply(connection, ops)` returns one result per op. When it raises for a group of several, each op is
    tried in a transaction of its own, so that one refused op harms only its owner. A passing failure (disk
    full, file locked) is retried for as long as it lasts: nothing is answered that is not on disk.
    """

    def __init__(
        self,
        engine: sa.Engine,
        apply: Callable[[sa.Connection, Sequence[Op]], Sequence[Result]],
        *,
        name: str,
        on_trouble: Callable[[str | None], None] = lambda _trouble: None,
    ) -> None:
        self._engine = engine
        self._apply = apply
        self._on_trouble = on_trouble
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Op, asyncio.Future[Result]]] = []
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._closing = False
        self._is_busy = False
        """The last group had several ops: a moment's wait will gather several again."""
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, op: Op) -> asyncio.Future[Result]:
        """Queues one op; the future resolves after the commit that contains it."""
        future: asyncio.Future[Result] = self._loop.create_future()
        with self._lock:
            first = not self._waiting
            self._waiting.append((op, future))
        if first:  # not at once: what is submitted in the same turn of the loop shares the commit
            self._loop.call_soon(self._wake.set)
        return future

    def close(self, timeout_s: float = 10.0) -> bool:
        """Writes what is queued and ends the thread; False if it could not within the time."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        connection: sa.Connection | None = None
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._is_busy:
                time.sleep(GATHER_S)
            with self._lock:
                group, self._waiting = self._waiting, []
            self._is_busy = len(group) > BUSY_GROUP
            if group:
                connection = self._write_until_done(connection, group)
            elif self._closing:
                break
            if self._closing:
                self._wake.set()
        if connection is not None:
            connection.close()

    def _write_until_done(
        self, connection: sa.Connection | None, group: list[tuple[Op, asyncio.Future[Result]]]
    ) -> sa.Connection | None:
        ops = [op for op, _ in group]
        troubled = False
        while True:
            try:
                if connection is None:
                    connection = self._engine.connect().execution_options(writes=True)
                with connection.begin():
                    results = self._apply(connection, ops)
                break
            except sa.exc.DBAPIError as failure:
                _discard(connection)
                connection = None
                if is_passing(failure):
                    if not troubled:
                        troubled = True
                        log.error("the ledger cannot be written: %s; trying again until it can", failure.orig)
                        self._on_trouble(str(failure.orig))
                    time.sleep(RETRY_PAUSE_S)
                    continue
                if len(group) == 1:
                    self._answer(_fail, [group[0][1]], [failure])
                    return None
                return self._one_by_one(group)
            except GroupRefused:
                assert len(group) > 1, "a single op is answered, not refused"
                return self._one_by_one(group, connection)
            except Exception as failure:  # an op's own mistake must not stop the writer
                log.error("a group of %d writes failed and is tried one by one", len(group), exc_info=failure)
                _discard(connection)
                connection = None
                if len(group) == 1:
                    self._answer(_fail, [group[0][1]], [failure])
                    return None
                return self._one_by_one(group)
        if troubled:
            log.warning("the ledger can be written again")
            self._on_trouble(None)
        self._answer(_resolve, [future for _, future in group], results)
        return connection

    def _one_by_one(
        self, group: list[tuple[Op, asyncio.Future[Result]]], connection: sa.Connection | None = None
    ) -> sa.Connection | None:
        for each in group:
            connection = self._write_until_done(connection, [each])
        return connection

    def _answer(self, how: Callable[..., None], futures: list[asyncio.Future[Result]], values: Sequence[Any]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(how, futures, values)


def _discard(connection: sa.Connection | None) -> None:
    if connection is not None:
        connection.invalidate()
        connection.close()


def _resolve(futures: list[asyncio.Future[Result]], results: Sequence[Result]) -> None:
    for future, result in zip(futures, results, strict=True):
        if not future.done():
            future.set_result(result)


def _fail(futures: list[asyncio.Future[Result]], failures: Sequence[BaseException]) -> None:
    for future, failure in zip(futures, failures, strict=True):
        if not future.done():
            future.set_exception(failure)


_CREATE_VERSION = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL,"
    " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)


def upgrade(engine: sa.Engine, script_location: str, expected_head: str, metadata: sa.MetaData) -> None:
    """Brings the schema to `expected_head`: a new database at once, an older one by its Alembic scripts.

    The scripts are at `script_location` (``package:folder``); a test holds them against `metadata`. Alembic takes
    longer to import than a start may last, so it is loaded only for an older database. Raises DatabaseError for a
    schema newer than this program.
    """
    found = _revision(engine)  # a look only: most who open a database just want to read it
    if found == expected_head:
        return
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":  # two that start at once: the second waits, and finds it made
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        if not sa.inspect(connection).get_table_names():
            metadata.create_all(connection)
            connection.exec_driver_sql(_CREATE_VERSION)
            connection.execute(sa.text("INSERT INTO alembic_version VALUES (:head)"), {"head": expected_head})
            return
    found = _revision(engine)  # another process may have made it meanwhile
    if found != expected_head:
        upgrade_by_scripts(engine, script_location, found)


def _revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return found


def upgrade_by_scripts(engine: sa.Engine, script_location: str, found: str | None = None) -> None:
    """Runs the Alembic scripts from revision `found` on, all of them in one transaction. Raises DatabaseError."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", script_location)
    if found is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(found)
        except CommandError as failure:
            raise DatabaseError(
                f"{engine.url.render_as_string()}: the schema is at revision {found}, which this version does not"
                " know. It was written by a newer activity-core: upgrade the program, or restore a backup."
            ) from failure
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
