"""The first schema of the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates every table."""
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("exit_status", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "attempt"),
        comment="attempts that were followed by another one; the last attempt is in the run's own row",
    )
    op.create_table(
        "catalog_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("definition_id", sa.Text(), nullable=True),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("version_hash", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        comment="what happened to definition files: loaded, changed, refused, removed, enabled, disabled",
        sqlite_autoincrement=True,
    )
    op.create_index("catalog_log_of", "catalog_log", ["definition_id", "at"], unique=False)
    op.create_table(
        "cursors",
        sa.Column("definition_id", sa.Text(), nullable=False),
        sa.Column("trigger_hash", sa.Text(), nullable=False),
        sa.Column("slot", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("definition_id", "trigger_hash"),
        comment="the last slot considered, per definition and trigger",
    )
    op.create_table(
        "definitions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("version_hash", sa.Text(), nullable=False),
        sa.Column("trigger_hash", sa.Text(), nullable=False),
        sa.Column("in_force_since", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.Column("problem_json", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        comment="the holder of each id and its version in force; kept after removal",
    )
    op.create_table(
        "engines",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pid_started", sa.BigInteger(), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_boottime_us", sa.BigInteger(), nullable=False),
        sa.Column("stopped_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        comment="one row per engine start; stopped_at stays empty when it was killed",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "facts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        comment="what this ledger says of itself, such as its id",
    )
    op.create_table(
        "gaps",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("noticed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="times in which nothing could start: engine down, machine asleep, wall clock jumped",
        sqlite_autoincrement=True,
    )
    op.create_index("gaps_until", "gaps", ["until"], unique=False)
    op.create_table(
        "notifications",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("definition_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("sent_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        comment="written in the transaction that ends a failed run",
        sqlite_autoincrement=True,
    )
    op.create_index("notifications_of", "notifications", ["run_id"], unique=False)
    op.create_table(
        "pauses",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("definition_id", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("paused_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="a pause is by definition id and survives its versions",
        sqlite_autoincrement=True,
    )
    op.create_index("pauses_of", "pauses", ["definition_id", "since"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("definition_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("slot", sa.BigInteger(), nullable=False),
        sa.Column("item_key", sa.Text(), server_default="", nullable=False),
        sa.Column("request_id", sa.Text(), server_default="", nullable=False),
        sa.Column("last_slot", sa.BigInteger(), nullable=False),
        sa.Column("slot_count", sa.BigInteger(), nullable=False),
        sa.Column("origin_run", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("parent_run", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("item_json", sa.Text(), nullable=True),
        sa.Column("version_hash", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("blocked_by", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("granted_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("duration_us", sa.BigInteger(), nullable=True),
        sa.Column("is_serial", sa.Boolean(), nullable=False),
        sa.Column("permit_key", sa.Text(), nullable=True),
        sa.Column("permit_limit", sa.Integer(), nullable=True),
        sa.Column("max_parallel", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("interruptions", sa.Integer(), server_default="0", nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=True),
        sa.Column("engine_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("pid_started", sa.BigInteger(), nullable=True),
        sa.Column("cancel_asked_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_asked_by", sa.Text(), nullable=True),
        sa.Column("asked_by", sa.Text(), nullable=True),
        sa.Column("context_json", sa.Text(), nullable=True),
        sa.Column("rule_json", sa.Text(), nullable=True),
        sa.Column("exit_status", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("cpu_us", sa.BigInteger(), nullable=True),
        sa.Column("max_rss_bytes", sa.BigInteger(), nullable=True),
        sa.Column("stdout_bytes", sa.BigInteger(), nullable=True),
        sa.Column("stderr_bytes", sa.BigInteger(), nullable=True),
        sa.Column("pruned_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("definition_id", "kind", "slot", "item_key", "request_id", name="runs_identity"),
        comment="one row per slot, per range of given-up slots, or per item of a slot",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "runs_active",
        "runs",
        ["definition_id", "parent_run"],
        unique=False,
        sqlite_where=sa.text("state IN ('pending', 'retry_wait', 'running', 'waiting')"),
        postgresql_where=sa.text("state IN ('pending', 'retry_wait', 'running', 'waiting')"),
    )
    op.create_index(
        "runs_holders",
        "runs",
        ["definition_id"],
        unique=False,
        sqlite_where=sa.text(
            "parent_run IS NULL AND (state IN ('retry_wait', 'running', 'waiting')"
            " OR state = 'pending' AND (attempt > 0 OR granted_at IS NOT NULL))"
        ),
        postgresql_where=sa.text(
            "parent_run IS NULL AND (state IN ('retry_wait', 'running', 'waiting')"
            " OR state = 'pending' AND (attempt > 0 OR granted_at IS NOT NULL))"
        ),
    )
    op.create_index(
        "runs_items",
        "runs",
        ["parent_run", "state", "granted_at", "permit_key"],
        unique=False,
        sqlite_where=sa.text("parent_run IS NOT NULL"),
        postgresql_where=sa.text("parent_run IS NOT NULL"),
    )
    op.create_index(
        "runs_permits",
        "runs",
        ["permit_key"],
        unique=False,
        sqlite_where=sa.text(
            "(state = 'running' OR state = 'pending' AND granted_at IS NOT NULL) AND permit_key IS NOT NULL"
        ),
        postgresql_where=sa.text(
            "(state = 'running' OR state = 'pending' AND granted_at IS NOT NULL) AND permit_key IS NOT NULL"
        ),
    )
    op.create_index(
        "runs_waiting",
        "runs",
        ["definition_id", "is_serial", sa.text("attempt DESC"), "slot"],
        unique=False,
        sqlite_where=sa.text("state = 'pending' AND granted_at IS NULL AND parent_run IS NULL"),
        postgresql_where=sa.text("state = 'pending' AND granted_at IS NULL AND parent_run IS NULL"),
    )
    op.create_index(
        "runs_waiting_keys",
        "runs",
        ["permit_key", "slot", "id", "permit_limit", "is_serial", "definition_id", "parent_run"],
        unique=False,
        sqlite_where=sa.text("state = 'pending' AND granted_at IS NULL AND permit_key IS NOT NULL"),
        postgresql_where=sa.text("state = 'pending' AND granted_at IS NULL AND permit_key IS NOT NULL"),
    )
    op.create_index(
        "runs_waiting_limits",
        "runs",
        ["permit_key", "permit_limit"],
        unique=False,
        sqlite_where=sa.text("state = 'pending' AND granted_at IS NULL AND permit_key IS NOT NULL"),
        postgresql_where=sa.text("state = 'pending' AND granted_at IS NULL AND permit_key IS NOT NULL"),
    )
    op.create_table(
        "versions",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("definition_id", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("text", sa.LargeBinary(), nullable=False),
        sa.Column("plain_json", sa.Text(), nullable=False),
        sa.Column("loader", sa.Text(), nullable=False),
        sa.Column("git_commit", sa.Text(), nullable=True),
        sa.Column("git_blob", sa.Text(), nullable=True),
        sa.Column("first_seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hash"),
        comment="every content a definition ever had, by SHA-256 of the file",
    )
    op.create_index("versions_of", "versions", ["definition_id", "first_seen_at"], unique=False)
