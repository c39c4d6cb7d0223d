"""The hub's tables. Instants are microseconds since the epoch, UTC; ``*_json`` columns hold JSON text.

Migrations in ``migrations/`` build exactly this; a test compares the two.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from activity_plumbing.outbox import outbox_table

HUB_HEAD = "0001"
"""The Alembic revision this program works with."""

metadata = sa.MetaData()

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # only INTEGER PRIMARY KEY is SQLite's rowid


def _where(text: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(text), "postgresql_where": sa.text(text)}


repos = sa.Table(
    "repos",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("slug", sa.Text, nullable=False, unique=True),
    sa.Column("remote_url", sa.Text, nullable=False),
    sa.Column("branch", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False, unique=True),
    sa.Column("workplans", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("is_managed", sa.Boolean, nullable=False),
    sa.Column("added_at", sa.BigInteger, nullable=False),
    sa.Column("archived_at", sa.BigInteger),
    sa.Column("base_commit", sa.Text),
    sa.Column("read_commit", sa.Text),
    comment="the registered repos; files and rows were brought together at base_commit, as far as it was pushed",
    sqlite_autoincrement=True,
)

workstreams = sa.Table(
    "workstreams",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("repo_id", Number, sa.ForeignKey("repos.id"), nullable=False),
    sa.Column("workplan_id", sa.Text, nullable=False, unique=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("blob", sa.Text, nullable=False),
    sa.Column("seen_commit", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("base_status", sa.Text),
    sa.Column("file_wins", sa.Boolean, nullable=False),
    sa.Column("status_changed_at", sa.BigInteger, nullable=False),
    sa.Column("status_changed_by", sa.Text, nullable=False),
    sa.Column("depends_json", sa.Text, nullable=False),
    sa.Column("fields_json", sa.Text, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("removed_at", sa.BigInteger),
    sa.Index("workstreams_of", "repo_id"),
    sa.Index("workstreams_pending", "repo_id", **_where("status <> base_status AND removed_at IS NULL")),
    comment="one row per workplan; blob and seen_commit: where last read; base_status: what both sides agreed on",
    sqlite_autoincrement=True,
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("workstream_id", Number, sa.ForeignKey("workstreams.id"), nullable=False),
    sa.Column("task_id", sa.Text, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("base_status", sa.Text),
    sa.Column("file_wins", sa.Boolean, nullable=False),
    sa.Column("status_changed_at", sa.BigInteger, nullable=False),
    sa.Column("status_changed_by", sa.Text, nullable=False),
    sa.Column("depends_json", sa.Text, nullable=False),
    sa.Column("fields_json", sa.Text, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("removed_at", sa.BigInteger),
    sa.UniqueConstraint("workstream_id", "task_id"),
    sa.Index("tasks_pending", "workstream_id", **_where("status <> base_status AND removed_at IS NULL")),
    sa.Index("tasks_by_status", "status", "id"),
    comment="one row per task block",
    sqlite_autoincrement=True,
)

findings = sa.Table(
    "findings",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("repo_id", Number, sa.ForeignKey("repos.id"), nullable=False),
    sa.Column("check_id", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("line", sa.Integer, nullable=False),
    sa.Column("col", sa.Integer, nullable=False),
    sa.Column("first_seen_at", sa.BigInteger, nullable=False),
    sa.Column("closed_at", sa.BigInteger),
    sa.Index("findings_open", "repo_id", "check_id", "subject", unique=True, **_where("closed_at IS NULL")),
    sa.Index("findings_by_check", "check_id", "id"),
    comment="what checks found; an open one was last seen when its repo was last checked",
    sqlite_autoincrement=True,
)

sweeps = sa.Table(
    "sweeps",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("planned", sa.Integer, nullable=False),
    sa.Column("checked", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("result_json", sa.Text, nullable=False),
    comment="one row per sweep; ended_at stays empty when it was killed; result_json names the repos with news",
    sqlite_autoincrement=True,
)

visits = sa.Table(
    "visits",
    metadata,
    sa.Column("repo_id", Number, sa.ForeignKey("repos.id"), primary_key=True),
    sa.Column("checked_at", sa.BigInteger, nullable=False),
    sa.Column("sweep_id", Number),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("tip", sa.Text),
    comment="when each repo was last checked, and what came of it: the sweep's own record",
)

writebacks = sa.Table(
    "writebacks",
    metadata,
    sa.Column("id", Number, primary_key=True),
    sa.Column("repo_id", Number, sa.ForeignKey("repos.id"), nullable=False),
    sa.Column("workplan_id", sa.Text, nullable=False),
    sa.Column("task_id", sa.Text),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("old_status", sa.Text, nullable=False),
    sa.Column("new_status", sa.Text, nullable=False),
    sa.Column("commit_id", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("settled_at", sa.BigInteger),
    sa.Index("writebacks_of", "repo_id", "workplan_id", "id"),
    comment="what the hub wrote into files; recorded before the push, so that it is known whatever happens after",
    sqlite_autoincrement=True,
)

repo_locks = sa.Table(
    "repo_locks",
    metadata,
    sa.Column("repo_id", Number, sa.ForeignKey("repos.id"), primary_key=True),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("pid_started", sa.BigInteger, nullable=False),
    sa.Column("taken_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    comment="one lock per repo for hook, sweep and writeback; a dead holder's is taken over",
)

outbox = outbox_table(metadata)
