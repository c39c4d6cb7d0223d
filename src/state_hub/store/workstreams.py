"""Workstreams and tasks as people ask for them; and the one thing they may change: a status."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from activity_plumbing.clock import Instant
from state_hub.errors import NotFoundError, RefusedError
from state_hub.registry import OPEN_TASKS, OVER, RepoStatus, TaskStatus, WorkstreamStatus
from state_hub.store.findings import close_subject
from state_hub.store.schema import repos, tasks, workstreams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Workstream:
    """A workstream. `pending`: its status was changed here and is not written to the file yet."""

    id: str
    repo: str
    path: str
    title: str
    status: WorkstreamStatus
    is_pending: bool
    file_wins: bool
    depends_on: tuple[str, ...]
    fields: Mapping[str, object]
    status_changed_at: Instant
    status_changed_by: str
    updated_at: Instant
    removed_at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task of a workstream. `number` grows with each new one, for paging."""

    number: int
    id: str
    workplan_id: str
    repo: str
    title: str
    status: TaskStatus
    is_pending: bool
    file_wins: bool
    depends_on: tuple[str, ...]
    fields: Mapping[str, object]
    status_changed_at: Instant
    status_changed_by: str
    updated_at: Instant
    removed_at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleTask:
    """An open task in a finished or archived workstream."""

    pk: int
    repo: str
    workplan_id: str
    workplan_status: WorkstreamStatus
    task_id: str
    title: str
    status: TaskStatus
    file_wins: bool

    @property
    def name(self) -> str:
        """Workplan and task id."""
        return f"{self.workplan_id}/{self.task_id}"


def _optional(value: int | None) -> Instant | None:
    return None if value is None else Instant(value)


def _workstream(row: sa.Row[tuple[object, ...]]) -> Workstream:
    return Workstream(
        id=row.workplan_id,
        repo=row.slug,
        path=row.path,
        title=row.title,
        status=WorkstreamStatus(row.status),
        is_pending=row.base_status is not None and row.base_status != row.status and row.removed_at is None,
        file_wins=bool(row.file_wins),
        depends_on=tuple(json.loads(row.depends_json)),
        fields=json.loads(row.fields_json),
        status_changed_at=Instant(row.status_changed_at),
        status_changed_by=row.status_changed_by,
        updated_at=Instant(row.updated_at),
        removed_at=_optional(row.removed_at),
    )


def _task(row: sa.Row[tuple[object, ...]]) -> Task:
    return Task(
        number=row.id,
        id=row.task_id,
        workplan_id=row.workplan_id,
        repo=row.slug,
        title=row.title,
        status=TaskStatus(row.status),
        is_pending=row.base_status is not None and row.base_status != row.status and row.removed_at is None,
        file_wins=bool(row.file_wins),
        depends_on=tuple(json.loads(row.depends_json)),
        fields=json.loads(row.fields_json),
        status_changed_at=Instant(row.status_changed_at),
        status_changed_by=row.status_changed_by,
        updated_at=Instant(row.updated_at),
        removed_at=_optional(row.removed_at),
    )


_WORKSTREAMS = sa.select(workstreams, repos.c.slug).join(repos, repos.c.id == workstreams.c.repo_id)
_TASKS = (
    sa.select(tasks, workstreams.c.workplan_id, repos.c.slug)
    .join(workstreams, workstreams.c.id == tasks.c.workstream_id)
    .join(repos, repos.c.id == workstreams.c.repo_id)
)


def list_workstreams(
    connection: sa.Connection,
    *,
    repo: str | None = None,
    statuses: Sequence[WorkstreamStatus] = (),
    with_removed: bool = False,
    after: str = "",
    limit: int = 100,
) -> list[Workstream]:
    """Workstreams whose id sorts after `after`, by id."""
    query = _WORKSTREAMS.where(workstreams.c.workplan_id > after).order_by(workstreams.c.workplan_id).limit(limit)
    if repo is not None:
        query = query.where(repos.c.slug == repo)
    if statuses:
        query = query.where(workstreams.c.status.in_([status.value for status in statuses]))
    if not with_removed:
        query = query.where(workstreams.c.removed_at.is_(None))
    return [_workstream(row) for row in connection.execute(query)]


def find_workstream(connection: sa.Connection, workplan_id: str) -> Workstream:
    """One workstream. Raises NotFoundError."""
    row = connection.execute(_WORKSTREAMS.where(workstreams.c.workplan_id == workplan_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no workstream {workplan_id!r}")
    return _workstream(row)


def list_tasks(
    connection: sa.Connection,
    *,
    repo: str | None = None,
    workplan_id: str | None = None,
    statuses: Sequence[TaskStatus] = (),
    with_removed: bool = False,
    after: int = 0,
    limit: int = 100,
) -> list[Task]:
    """Tasks with a number above `after`, in order of their numbers."""
    query = _TASKS.where(tasks.c.id > after).order_by(tasks.c.id).limit(limit)
    if repo is not None:
        query = query.where(repos.c.slug == repo)
    if workplan_id is not None:
        query = query.where(workstreams.c.workplan_id == workplan_id)
    if statuses:
        query = query.where(tasks.c.status.in_([status.value for status in statuses]))
    if not with_removed:
        query = query.where(tasks.c.removed_at.is_(None), workstreams.c.removed_at.is_(None))
    return [_task(row) for row in connection.execute(query)]


def find_task(connection: sa.Connection, workplan_id: str, task_id: str) -> Task:
    """One task. Raises NotFoundError."""
    row = connection.execute(
        _TASKS.where(workstreams.c.workplan_id == workplan_id, tasks.c.task_id == task_id)
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no task {workplan_id}/{task_id}")
    return _task(row)


def set_workstream_status(
    connection: sa.Connection, workplan_id: str, status: WorkstreamStatus, *, by: str, at: Instant
) -> Workstream:
    """Sets a status here; the next sweep writes it to the file. Raises NotFoundError, RefusedError."""
    row = connection.execute(
        sa.select(workstreams, repos.c.status.label("repo_status"))
        .join(repos, repos.c.id == workstreams.c.repo_id)
        .where(workstreams.c.workplan_id == workplan_id)
        .with_for_update(of=workstreams)
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no workstream {workplan_id!r}")
    _may_change(workplan_id, row)
    if row.status != status.value:
        values = {"status": status.value, "status_changed_at": at, "status_changed_by": by, "updated_at": at}
        connection.execute(sa.update(workstreams).where(workstreams.c.id == row.id).values(values))
        close_subject(connection, row.repo_id, "C-10", workplan_id, at)
    return find_workstream(connection, workplan_id)


def set_task_status(
    connection: sa.Connection, workplan_id: str, task_id: str, status: TaskStatus, *, by: str, at: Instant
) -> Task:
    """Sets a status here; the next sweep writes it to the file. Raises NotFoundError, RefusedError."""
    row = connection.execute(
        sa.select(tasks, workstreams.c.repo_id, repos.c.status.label("repo_status"))
        .join(workstreams, workstreams.c.id == tasks.c.workstream_id)
        .join(repos, repos.c.id == workstreams.c.repo_id)
        .where(workstreams.c.workplan_id == workplan_id, tasks.c.task_id == task_id)
        .with_for_update(of=tasks)
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no task {workplan_id}/{task_id}")
    _may_change(f"{workplan_id}/{task_id}", row)
    if row.status != status.value:
        values = {"status": status.value, "status_changed_at": at, "status_changed_by": by, "updated_at": at}
        connection.execute(sa.update(tasks).where(tasks.c.id == row.id).values(values))
        close_subject(connection, row.repo_id, "C-10", f"{workplan_id}/{task_id}", at)
    return find_task(connection, workplan_id, task_id)


def _may_change(name: str, row: sa.Row[tuple[object, ...]]) -> None:
    if row.removed_at is not None:
        raise RefusedError(f"{name} was removed from its file; restore it there")
    if row.repo_status != RepoStatus.ACTIVE:
        raise RefusedError(f"{name} is in an archived repo, which nothing is written to")
    if row.file_wins:
        raise RefusedError(f"somebody took back what the hub wrote into {name}: change its status in the file")


def stale_tasks(connection: sa.Connection, *, locks: bool = False) -> list[StaleTask]:
    """Open tasks in finished or archived workstreams of active repos; `locks`: nobody else changes them meanwhile."""
    query = (
        sa.select(tasks, workstreams.c.workplan_id, workstreams.c.status.label("workplan_status"), repos.c.slug)
        .join(workstreams, workstreams.c.id == tasks.c.workstream_id)
        .join(repos, repos.c.id == workstreams.c.repo_id)
        .where(
            tasks.c.status.in_([status.value for status in OPEN_TASKS]),
            workstreams.c.status.in_([status.value for status in OVER]),
            tasks.c.removed_at.is_(None),
            workstreams.c.removed_at.is_(None),
            repos.c.status == RepoStatus.ACTIVE.value,
        )
        .order_by(workstreams.c.id, tasks.c.position, tasks.c.id)
    )
    found = [
        StaleTask(
            pk=row.id,
            repo=row.slug,
            workplan_id=row.workplan_id,
            workplan_status=WorkstreamStatus(row.workplan_status),
            task_id=row.task_id,
            title=row.title,
            status=TaskStatus(row.status),
            file_wins=bool(row.file_wins),
        )
        for row in connection.execute(query.with_for_update(of=tasks) if locks else query)
    ]
    return sorted(found, key=lambda each: each.workplan_id)  # locked in the order of numbers, as others do


def cancel_stale(connection: sa.Connection, stale: Sequence[StaleTask], *, by: str, at: Instant) -> None:
    """Cancels these tasks."""
    for start in range(0, len(stale), 500):
        numbers = [each.pk for each in stale[start : start + 500]]
        connection.execute(
            sa.update(tasks)
            .where(tasks.c.id.in_(numbers))
            .values(status=TaskStatus.CANCELLED.value, status_changed_at=at, status_changed_by=by, updated_at=at)
        )


def dependencies(connection: sa.Connection) -> list[tuple[int, str, str, str, tuple[str, ...]]]:
    """(repo, path, workplan id, task id or '', what it depends on) of everything that exists in active repos."""
    live = workstreams.c.removed_at.is_(None) & (repos.c.status == RepoStatus.ACTIVE.value)
    of_workstreams = (
        sa.select(
            workstreams.c.repo_id,
            workstreams.c.path,
            workstreams.c.workplan_id,
            sa.literal("").label("task_id"),
            workstreams.c.depends_json,
        )
        .join(repos, repos.c.id == workstreams.c.repo_id)
        .where(live)
    )
    of_tasks = (
        sa.select(
            workstreams.c.repo_id,
            workstreams.c.path,
            workstreams.c.workplan_id,
            tasks.c.task_id,
            tasks.c.depends_json,
        )
        .join(tasks, tasks.c.workstream_id == workstreams.c.id)
        .join(repos, repos.c.id == workstreams.c.repo_id)
        .where(live, tasks.c.removed_at.is_(None))
    )
    return [
        (row[0], row[1], row[2], row[3], tuple(json.loads(row[4])))
        for query in (of_workstreams, of_tasks)
        for row in connection.execute(query)
    ]
