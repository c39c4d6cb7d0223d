"""The sweeps' own records: one row per sweep, and when each repo was last checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from activity_plumbing.clock import Instant
from state_hub.errors import NotFoundError
from state_hub.store.schema import repos, sweeps, visits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEPT = 2_000
"""Sweeps that are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep as recorded; `ended_at` None: it goes on, or was killed. `result` is JSON-like."""

    id: int
    kind: str
    by: str
    started_at: Instant
    ended_at: Instant | None
    planned: int
    checked: int
    failed: int
    outcome: str | None
    result: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitRow:
    """What came of the last look at a repo."""

    repo_id: int
    at: Instant
    outcome: str
    detail: str
    tip: str | None


def start_sweep(connection: sa.Connection, *, kind: str, by: str, planned: int, at: Instant) -> int:
    """Records a sweep's start; its number. Forgets the oldest beyond those kept."""
    inserted = connection.execute(
        sa.insert(sweeps),
        {
            "kind": kind,
            "by": by,
            "started_at": at,
            "planned": planned,
            "checked": 0,
            "failed": 0,
            "result_json": "{}",
        },
    ).inserted_primary_key
    assert inserted is not None
    number = int(inserted[0])
    connection.execute(sa.delete(sweeps).where(sweeps.c.id <= number - KEPT))
    return number


def note_visits(connection: sa.Connection, sweep_id: int, rows: Sequence[VisitRow]) -> None:
    """Records looks at repos, so that a sweep that is killed is resumed where it was."""
    for row in rows:
        values = {
            "checked_at": row.at,
            "sweep_id": sweep_id,
            "outcome": row.outcome,
            "detail": row.detail[:1000],
            "tip": row.tip,
        }
        done = connection.execute(sa.update(visits).where(visits.c.repo_id == row.repo_id).values(values))
        if done.rowcount == 0:
            connection.execute(sa.insert(visits), {"repo_id": row.repo_id, **values})
    connection.execute(sa.update(sweeps).where(sweeps.c.id == sweep_id).values(checked=sweeps.c.checked + len(rows)))


def end_sweep(
    connection: sa.Connection, sweep_id: int, *, failed: int, outcome: str, result: Mapping[str, object], at: Instant
) -> None:
    """Records a sweep's end."""
    connection.execute(
        sa.update(sweeps)
        .where(sweeps.c.id == sweep_id)
        .values(ended_at=at, failed=failed, outcome=outcome, result_json=json.dumps(result, ensure_ascii=False))
    )


def list_sweeps(connection: sa.Connection, *, before: int | None = None, limit: int = 20) -> list[Sweep]:
    """Sweeps, newest first."""
    query = sa.select(sweeps).order_by(sweeps.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(sweeps.c.id < before)
    return [_sweep(row) for row in connection.execute(query)]


def find_sweep(connection: sa.Connection, number: int) -> Sweep:
    """One sweep. Raises NotFoundError."""
    row = connection.execute(sa.select(sweeps).where(sweeps.c.id == number)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no sweep {number}")
    return _sweep(row)


def _sweep(row: sa.Row[tuple[object, ...]]) -> Sweep:
    values = dict(row._mapping)
    values["result"] = json.loads(values.pop("result_json"))
    return Sweep(**values)


def last_visits(connection: sa.Connection) -> dict[str, VisitRow]:
    """The last look at each repo, by slug."""
    query = sa.select(visits, repos.c.slug).join(repos, repos.c.id == visits.c.repo_id)
    return {
        row.slug: VisitRow(
            repo_id=row.repo_id, at=Instant(row.checked_at), outcome=row.outcome, detail=row.detail, tip=row.tip
        )
        for row in connection.execute(query)
    }
