"""The migrations build the schema that the statements are written against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from activity_core.ledger import schema
from activity_core.ledger.store import LEDGER_FILE, Ledger
from activity_plumbing.database import DatabaseError, open_sqlite, upgrade_by_scripts

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa


BOTH = pytest.mark.parametrize(
    ("file", "scripts", "metadata"),
    [("ledger.db", "migrations", schema.metadata), ("output.db", "output_migrations", schema.output_metadata)],
)


@BOTH
def test_the_migrations_and_the_tables_agree(tmp_path: Path, file: str, scripts: str, metadata: sa.MetaData) -> None:
    engine = open_sqlite(tmp_path / file)
    upgrade_by_scripts(engine, f"activity_core.ledger:{scripts}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


@BOTH
def test_a_new_database_is_what_the_scripts_would_have_made(
    tmp_path: Path, file: str, scripts: str, metadata: sa.MetaData
) -> None:
    by_scripts = open_sqlite(tmp_path / file)
    upgrade_by_scripts(by_scripts, f"activity_core.ledger:{scripts}")
    Ledger.open(tmp_path / "state").close()

    def described(engine: sa.Engine) -> set[tuple[str, str]]:
        with engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
        return {(row[0], "".join(row[1].split())) for row in rows}

    assert described(open_sqlite(tmp_path / "state" / file)) == described(by_scripts)
    assert metadata.tables


@pytest.mark.parametrize(
    ("scripts", "head"), [("migrations", schema.LEDGER_HEAD), ("output_migrations", schema.OUTPUT_HEAD)]
)
def test_the_program_expects_the_newest_revision(scripts: str, head: str) -> None:
    config = Config()
    config.set_main_option("script_location", f"activity_core.ledger:{scripts}")
    assert ScriptDirectory.from_config(config).get_current_head() == head


def test_a_ledger_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    Ledger.open(tmp_path).close()
    engine = open_sqlite(tmp_path / LEDGER_FILE)
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(DatabaseError, match="newer activity-core"):
        Ledger.open(tmp_path)


def test_commits_survive_power_loss_and_readers_do_not_block_the_writer(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    with ledger.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    ledger.close()


def test_opening_a_ledger_to_read_it_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    with ledger.engine.connect().execution_options(writes=True) as writer, writer.begin():
        reader = Ledger.open(tmp_path)  # would fail after the busy timeout
        assert reader.history() == []
        reader.close()
    ledger.close()
