"""The ledger's tables. Instants are microseconds since the epoch, UTC; ``*_json`` columns hold JSON text.

Migrations in ``migrations/`` build exactly this; a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

LEDGER_HEAD = "0001"
"""The Alembic revision this program works with."""

OUTPUT_HEAD = "0001"

metadata = sa.MetaData()
output_metadata = sa.MetaData()

ACTIVE_STATES = ("pending", "retry_wait", "running", "waiting")

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # only INTEGER PRIMARY KEY is SQLite's rowid


def is_active(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """True for runs in progress, word for word as the partial indexes say it.

    SQLite uses a partial index only for a condition with its very words: no bound parameters, and the same order.
    """
    return table.c.state.in_([sa.literal_column(f"'{state}'") for state in ACTIVE_STATES])


def is_waiting(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """True for runs that wait to be let through, word for word as the partial indexes say it."""
    return (table.c.state == sa.literal_column("'pending'")) & table.c.granted_at.is_(None)


def is_at_work(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """True for runs that hold their permit: running, or let through and about to. Word for word, as above."""
    state = table.c.state
    let_through = (state == sa.literal_column("'pending'")) & table.c.granted_at.is_not(None)
    return (state == sa.literal_column("'running'")) | let_through


def is_holding(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """True for runs that hold their serial definition: all in progress but first attempts that wait. Word for word."""
    begun = (table.c.attempt > sa.literal_column("0")) | table.c.granted_at.is_not(None)
    others: list[sa.ColumnElement[str]] = [
        sa.literal_column(f"'{state}'") for state in ACTIVE_STATES if state != "pending"
    ]
    is_begun = (table.c.state == sa.literal_column("'pending'")) & begun
    return table.c.parent_run.is_(None) & (table.c.state.in_(others) | is_begun)


facts = sa.Table(
    "facts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    comment="what this ledger says of itself, such as its id",
)

engines = sa.Table(
    "engines",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("pid_started", sa.BigInteger, nullable=False),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("seen_boottime_us", sa.BigInteger, nullable=False),
    sa.Column("stopped_at", sa.BigInteger),
    comment="one row per engine start; stopped_at stays empty when it was killed",
    sqlite_autoincrement=True,
)

gaps = sa.Table(
    "gaps",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("since", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("noticed_at", sa.BigInteger, nullable=False),
    sa.Index("gaps_until", "until"),
    comment="times in which nothing could start: engine down, machine asleep, wall clock jumped",
    sqlite_autoincrement=True,
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("definition_id", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("text", sa.LargeBinary, nullable=False),
    sa.Column("plain_json", sa.Text, nullable=False),
    sa.Column("loader", sa.Text, nullable=False),
    sa.Column("git_commit", sa.Text),
    sa.Column("git_blob", sa.Text),
    sa.Column("first_seen_at", sa.BigInteger, nullable=False),
    sa.Index("versions_of", "definition_id", "first_seen_at"),
    comment="every content a definition ever had, by SHA-256 of the file",
)

definitions = sa.Table(
    "definitions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("version_hash", sa.Text, nullable=False),
    sa.Column("trigger_hash", sa.Text, nullable=False),  # empty while the definition is disabled
    sa.Column("in_force_since", sa.BigInteger, nullable=False),
    sa.Column("removed_at", sa.BigInteger),
    sa.Column("problem_json", sa.Text),
    comment="the holder of each id and its version in force; kept after removal",
)

catalog_log = sa.Table(
    "catalog_log",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("definition_id", sa.Text),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("version_hash", sa.Text),
    sa.Column("detail", sa.Text),
    sa.Index("catalog_log_of", "definition_id", "at"),
    comment="what happened to definition files: loaded, changed, refused, removed, enabled, disabled",
    sqlite_autoincrement=True,
)

pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("definition_id", sa.Text, nullable=False),
    sa.Column("since", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger),
    sa.Column("reason", sa.Text),
    sa.Column("paused_by", sa.Text, nullable=False),
    sa.Index("pauses_of", "definition_id", "since"),
    comment="a pause is by definition id and survives its versions",
    sqlite_autoincrement=True,
)

cursors = sa.Table(
    "cursors",
    metadata,
    sa.Column("definition_id", sa.Text, primary_key=True),
    sa.Column("trigger_hash", sa.Text, primary_key=True),
    sa.Column("slot", sa.BigInteger, nullable=False),
    comment="the last slot considered, per definition and trigger",
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", Number, primary_key=True),
    # identity
    sa.Column("definition_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("slot", sa.BigInteger, nullable=False),
    sa.Column("item_key", sa.Text, nullable=False, server_default=""),
    sa.Column("request_id", sa.Text, nullable=False, server_default=""),
    # a range of given-up slots has its last one and their number
    sa.Column("last_slot", sa.BigInteger, nullable=False),
    sa.Column("slot_count", sa.BigInteger, nullable=False),
    sa.Column("origin_run", Number),
    # an item has the run it belongs to, and its value
    sa.Column("parent_run", Number),
    sa.Column("item_json", sa.Text),
    sa.Column("version_hash", sa.Text, nullable=False),
    # where it stands
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("stage", sa.Text),
    sa.Column("detail", sa.Text),
    sa.Column("blocked_by", Number),
    # when
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("granted_at", sa.BigInteger),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("duration_us", sa.BigInteger),
    # what it must hold before it may start
    sa.Column("is_serial", sa.Boolean, nullable=False),
    sa.Column("permit_key", sa.Text),
    sa.Column("permit_limit", sa.Integer),
    sa.Column("max_parallel", sa.Integer),  # of the items of its parent
    # attempts
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("interruptions", sa.Integer, nullable=False, server_default="0"),
    sa.Column("fence", sa.BigInteger),
    sa.Column("engine_id", Number),
    sa.Column("pid", sa.Integer),
    sa.Column("pid_started", sa.BigInteger),
    sa.Column("cancel_asked_at", sa.BigInteger),
    sa.Column("cancel_asked_by", sa.Text),
    # what decided it and what came of it
    sa.Column("asked_by", sa.Text),
    sa.Column("context_json", sa.Text),
    sa.Column("rule_json", sa.Text),
    sa.Column("exit_status", sa.Integer),
    sa.Column("signal", sa.Integer),
    sa.Column("cpu_us", sa.BigInteger),
    sa.Column("max_rss_bytes", sa.BigInteger),
    sa.Column("stdout_bytes", sa.BigInteger),
    sa.Column("stderr_bytes", sa.BigInteger),
    sa.Column("pruned_at", sa.BigInteger),
    sa.UniqueConstraint("definition_id", "kind", "slot", "item_key", "request_id", name="runs_identity"),
    comment="one row per slot, per range of given-up slots, or per item of a slot",
    sqlite_autoincrement=True,
)

_is_active = is_active(runs)
sa.Index("runs_active", runs.c.definition_id, runs.c.parent_run, sqlite_where=_is_active, postgresql_where=_is_active)
_is_holding = is_holding(runs)
sa.Index("runs_holders", runs.c.definition_id, sqlite_where=_is_holding, postgresql_where=_is_holding)
_has_permit = is_at_work(runs) & runs.c.permit_key.is_not(None)
sa.Index("runs_permits", runs.c.permit_key, sqlite_where=_has_permit, postgresql_where=_has_permit)
# covers what is counted at the end of each item: its siblings by state, and those that wait
sa.Index(
    "runs_items",
    runs.c.parent_run,
    runs.c.state,
    runs.c.granted_at,
    runs.c.permit_key,
    sqlite_where=runs.c.parent_run.is_not(None),
    postgresql_where=runs.c.parent_run.is_not(None),
)
# The queues, each in the order in which it is let through. A run that never waits is in none of them.
_is_alone = is_waiting(runs) & runs.c.parent_run.is_(None)
sa.Index(
    "runs_waiting",
    runs.c.definition_id,
    runs.c.is_serial,
    runs.c.attempt.desc(),
    runs.c.slot,
    sqlite_where=_is_alone,
    postgresql_where=_is_alone,
)
_has_key = is_waiting(runs) & runs.c.permit_key.is_not(None)
# after the order come the columns by which rows are passed over, so that this touches no table row
sa.Index(
    "runs_waiting_keys",
    runs.c.permit_key,
    runs.c.slot,
    runs.c.id,
    runs.c.permit_limit,
    runs.c.is_serial,
    runs.c.definition_id,
    runs.c.parent_run,
    sqlite_where=_has_key,
    postgresql_where=_has_key,
)
sa.Index(
    "runs_waiting_limits",
    runs.c.permit_key,
    runs.c.permit_limit,
    sqlite_where=_has_key,
    postgresql_where=_has_key,
)
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("run_id", Number, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("detail", sa.Text),
    sa.Column("exit_status", sa.Integer),
    sa.Column("signal", sa.Integer),
    comment="attempts that were followed by another one; the last attempt is in the run's own row",
)

notifications = sa.Table(
    "notifications",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("run_id", Number, nullable=False),
    sa.Column("definition_id", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("sent_at", sa.BigInteger),
    sa.Index("notifications_of", "run_id"),
    comment="written in the transaction that ends a failed run",
    sqlite_autoincrement=True,
)

output = sa.Table(
    "output",
    output_metadata,
    sa.Column("run_id", Number, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("stream", sa.SmallInteger, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    comment="what commands printed; stream 1 is stdout, 2 stderr; offset is that of data within its stream",
)
