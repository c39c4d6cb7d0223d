"""How the hub is, as ``GET /state/health`` and ``state-hub status`` tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from activity_plumbing.clock import format_instant
from activity_plumbing.outbox import waiting
from state_hub import __version__
from state_hub.store import findings, plans, repos, sweeps
from state_hub.store.schema import outbox

if TYPE_CHECKING:
    from state_hub.store.store import Store


def health(store: Store) -> dict[str, object]:
    """``{status, db, version, …}``: `status` is ``ok`` or ``error``, `db` is ``ok`` or what is wrong with it."""
    wrong = store.check()
    if wrong is None:
        try:
            return {"status": "ok", "db": "ok", "version": __version__, **_facts(store)}
        except sa.exc.SQLAlchemyError as failure:
            wrong = str(getattr(failure, "orig", failure)).strip().splitlines()[0]
    return {"status": "error", "db": wrong, "version": __version__}


def _facts(store: Store) -> dict[str, object]:
    with store.reading() as connection:
        last = next(iter(sweeps.list_sweeps(connection, limit=1)), None)
        count, oldest = waiting(connection, outbox)
        return {
            "repos": repos.count_active(connection),
            "open_findings": findings.count_open(connection),
            "pending_writebacks": sum(plans.pending_repos(connection).values()),
            "outbox": {"waiting": count, "oldest_at": None if oldest is None else format_instant(oldest)},
            "last_sweep": None
            if last is None
            else {
                "id": last.id,
                "kind": last.kind,
                "started_at": format_instant(last.started_at),
                "ended_at": None if last.ended_at is None else format_instant(last.ended_at),
                "outcome": last.outcome,
            },
        }
