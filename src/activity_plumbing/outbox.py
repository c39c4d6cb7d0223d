"""Events written in the same transaction as the change they tell of, to be sent afterwards (DESIGN 6).

Each system adds the table to its own metadata, so that its migrations make it. A row is sent when `sent_at` is set.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from activity_plumbing.clock import Instant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from activity_plumbing.cloudevents import Event


def outbox_table(metadata: sa.MetaData) -> sa.Table:
    """The table ``outbox`` of this metadata."""
    return sa.Table(
        "outbox",
        metadata,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("event_json", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("sent_at", sa.BigInteger),
        sa.Index(
            "outbox_waiting", "id", sqlite_where=sa.text("sent_at IS NULL"), postgresql_where=sa.text("sent_at IS NULL")
        ),
        comment="CloudEvents to be sent, in order; kept a while after they were",
        sqlite_autoincrement=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """An event and where it stands. `event` is its CloudEvents JSON, decoded."""

    id: int
    event_id: str
    type: str
    subject: str
    event: dict[str, object]
    created_at: Instant
    sent_at: Instant | None


def put_events(connection: sa.Connection, table: sa.Table, events: Iterable[Event], at: Instant) -> None:
    """Stores events on the caller's transaction: they are there if and only if the change is."""
    rows = [
        {
            "event_id": event.id,
            "type": event.type,
            "subject": event.subject or "",
            "event_json": event.to_json(),
            "created_at": at,
        }
        for event in events
    ]
    if rows:
        connection.execute(sa.insert(table), rows)


def waiting(connection: sa.Connection, table: sa.Table) -> tuple[int, Instant | None]:
    """How many events wait to be sent, and since when the oldest does."""
    count, oldest = connection.execute(
        sa.select(sa.func.count(), sa.func.min(table.c.created_at)).where(table.c.sent_at.is_(None))
    ).one()
    return count, None if oldest is None else Instant(oldest)


def list_events(
    connection: sa.Connection, table: sa.Table, *, is_sent: bool | None, after: int, limit: int
) -> list[OutboxRow]:
    """Rows with an id above `after`, in order; all of them, or only those sent or waiting."""
    query = sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(limit)
    if is_sent is not None:
        query = query.where(table.c.sent_at.is_not(None) if is_sent else table.c.sent_at.is_(None))
    return [
        OutboxRow(
            id=row.id,
            event_id=row.event_id,
            type=row.type,
            subject=row.subject,
            event=json.loads(row.event_json),
            created_at=Instant(row.created_at),
            sent_at=None if row.sent_at is None else Instant(row.sent_at),
        )
        for row in connection.execute(query)
    ]
