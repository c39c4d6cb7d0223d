"""Rows for the API to show, put into the store without git."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from activity_plumbing.clock import Instant, parse_instant
from activity_plumbing.cloudevents import Event
from activity_plumbing.outbox import put_events
from state_hub.reconcile import Writeback
from state_hub.registry import DEFAULT_WORKPLANS
from state_hub.store import findings, plans, repos, sweeps
from state_hub.store.schema import outbox, tasks, workstreams

if TYPE_CHECKING:
    from state_hub.checks import Found
    from state_hub.registry import Repo
    from state_hub.store.store import Store

NOW = parse_instant("2026-11-23T10:00:00Z")
NOW_TEXT = "2026-11-23T10:00:00Z"


class StillClock:
    """A clock that stands at `NOW`."""

    def now(self) -> Instant:
        return NOW

    def boottime_us(self) -> int:
        return 0

    def monotonic_us(self) -> int:
        return 0


def add_repo(store: Store, slug: str) -> Repo:
    with store.writing() as connection:
        return repos.add_repo(
            connection,
            slug=slug,
            remote_url=f"git@forge.example:org/{slug}.git",
            branch="main",
            path=f"/srv/{slug}",
            workplans=DEFAULT_WORKPLANS,
            is_managed=False,
            at=NOW,
        )


def add_workstream(store: Store, repo: Repo, name: str, status: str = "active", **columns: object) -> int:
    """A workstream; the number of its row."""
    values = {
        "repo_id": repo.id,
        "workplan_id": name,
        "path": f"workplans/{name}.md",
        "blob": "0" * 40,
        "seen_commit": "0" * 40,
        "depends_json": "[]",
        "fields_json": '{"owner":"ann"}',
    }
    return _insert(store, workstreams, {**values, **_status(name, status), **columns})


def add_task(store: Store, workstream: int, name: str, status: str = "todo", **columns: object) -> int:
    """A task; the number of its row."""
    values = {
        "workstream_id": workstream,
        "task_id": name,
        "position": int(name[1:]),
        "depends_json": '["T09"]',
        "fields_json": "{}",
    }
    return _insert(store, tasks, {**values, **_status(name, status), **columns})


def _status(name: str, status: str) -> dict[str, object]:
    return {
        "title": f"Title of {name}",
        "status": status,
        "base_status": status,
        "file_wins": False,
        "status_changed_at": NOW,
        "status_changed_by": "file",
        "updated_at": NOW,
    }


def _insert(store: Store, table: sa.Table, values: dict[str, object]) -> int:
    with store.writing() as connection:
        inserted = connection.execute(sa.insert(table), values).inserted_primary_key
    assert inserted is not None
    return int(inserted[0])


def add_findings(store: Store, repo: Repo, *found: Found) -> None:
    """Makes exactly these the open findings of the repo: others are closed."""
    with store.writing() as connection:
        findings.update_findings(connection, repo.id, found, is_judged=lambda _known: True, at=NOW)


def add_sweep(store: Store, *checked: Repo, outcome: str = "done") -> int:
    """A sweep that looked at these repos."""
    with store.writing() as connection:
        number = sweeps.start_sweep(connection, kind="remote-all", by="a test", planned=len(checked), at=NOW)
        rows = [sweeps.VisitRow(repo_id=repo.id, at=NOW, outcome="changed", detail="", tip=None) for repo in checked]
        sweeps.note_visits(connection, number, rows)
        result = {"repos": {repo.slug: {"outcome": "changed"} for repo in checked}}
        sweeps.end_sweep(connection, number, failed=0, outcome=outcome, result=result, at=NOW)
    return number


def add_writeback(store: Store, repo: Repo, workplan_id: str, task_id: str | None) -> None:
    written = Writeback(workplan_id=workplan_id, task_id=task_id, path="workplans/a.md", old="todo", new="done")
    with store.writing() as connection:
        plans.note_writebacks(connection, repo.id, [written], "c" * 40, NOW)


def add_event(store: Store, name: str) -> None:
    event = Event(id=name, source="/state-hub", type="org.example.thing", time=NOW, data={"n": 1}, subject="S")
    with store.writing() as connection:
        put_events(connection, outbox, [event], NOW)
