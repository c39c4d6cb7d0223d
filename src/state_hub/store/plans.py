"""Workstreams and tasks as `reconcile` sees them, and its plans applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from activity_plumbing.clock import Instant
from state_hub.reconcile import (
    AddTask,
    AddWorkstream,
    BotWrite,
    Change,
    ChangeTask,
    ChangeWorkstream,
    Key,
    TaskRow,
    Values,
    WorkstreamRow,
    Writeback,
    plain_json,
)
from state_hub.store.findings import close_subject
from state_hub.store.schema import repos, tasks, workstreams, writebacks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from state_hub.workplan import Task

BY_FILE = "file"
"""Who changed a status that came from a file."""


def read_rows(connection: sa.Connection, repo_id: int, *, locks: bool = False) -> list[WorkstreamRow]:
    """The rows of a repo, tombstones too. `locks`: nobody else changes them until the transaction ends."""
    own = sa.select(workstreams).where(workstreams.c.repo_id == repo_id).order_by(workstreams.c.id)
    found = connection.execute(own.with_for_update() if locks else own).all()
    by_workstream: dict[int, list[TaskRow]] = {}
    wanted = (
        tasks.c.id,
        tasks.c.workstream_id,
        tasks.c.task_id,
        tasks.c.title,
        tasks.c.status,
        tasks.c.base_status,
        tasks.c.file_wins,
        tasks.c.position,
        tasks.c.depends_json,
        tasks.c.fields_json,
        tasks.c.removed_at,
    )
    query = (
        sa.select(*wanted)
        .join(workstreams, workstreams.c.id == tasks.c.workstream_id)
        .where(workstreams.c.repo_id == repo_id)
        .order_by(tasks.c.position, tasks.c.id)
    )
    for row in connection.execute(query.with_for_update(of=tasks) if locks else query):
        by_workstream.setdefault(row.workstream_id, []).append(
            TaskRow(
                pk=row.id,
                id=row.task_id,
                title=row.title,
                status=row.status,
                base_status=row.base_status,
                file_wins=bool(row.file_wins),
                position=row.position,
                depends_json=row.depends_json,
                fields_json=row.fields_json,
                is_removed=row.removed_at is not None,
            )
        )
    return [
        WorkstreamRow(
            pk=row.id,
            id=row.workplan_id,
            path=row.path,
            blob=row.blob,
            title=row.title,
            status=row.status,
            base_status=row.base_status,
            file_wins=bool(row.file_wins),
            depends_json=row.depends_json,
            fields_json=row.fields_json,
            is_removed=row.removed_at is not None,
            tasks=tuple(by_workstream.get(row.id, ())),
        )
        for row in found
    ]


def seen_commits(connection: sa.Connection, repo_id: int) -> dict[str, str]:
    """By workplan id: the commit its file was last read in."""
    query = sa.select(workstreams.c.workplan_id, workstreams.c.seen_commit).where(workstreams.c.repo_id == repo_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def held_elsewhere(connection: sa.Connection, repo_id: int, names: Sequence[str]) -> dict[str, str]:
    """Which of these workplan ids other repos hold, with the repo's slug.

    Tombstones and archived repos hold nothing.
    """
    found: dict[str, str] = {}
    for start in range(0, len(names), 500):
        query = (
            sa.select(workstreams.c.workplan_id, repos.c.slug)
            .join(repos, repos.c.id == workstreams.c.repo_id)
            .where(
                workstreams.c.repo_id != repo_id,
                workstreams.c.removed_at.is_(None),
                repos.c.status == "active",
                workstreams.c.workplan_id.in_(names[start : start + 500]),
            )
        )
        found.update((row[0], row[1]) for row in connection.execute(query))
    return found


def has_pending(connection: sa.Connection, repo_id: int) -> bool:
    """Whether any status of the repo was changed in the database and not written back yet."""
    own = (workstreams.c.repo_id == repo_id) & workstreams.c.removed_at.is_(None)
    in_workstreams = sa.select(workstreams.c.id).where(own, workstreams.c.status != workstreams.c.base_status)
    if connection.execute(in_workstreams.limit(1)).first() is not None:
        return True
    in_tasks = (
        sa.select(tasks.c.id)
        .join(workstreams, workstreams.c.id == tasks.c.workstream_id)
        .where(own, tasks.c.removed_at.is_(None), tasks.c.status != tasks.c.base_status)
    )
    return connection.execute(in_tasks.limit(1)).first() is not None


def pending_repos(connection: sa.Connection) -> dict[int, int]:
    """How many statuses wait to be written back, by repo."""
    counts: dict[int, int] = {}
    live = workstreams.c.removed_at.is_(None)
    for query in (
        sa.select(workstreams.c.repo_id, sa.func.count())
        .where(live, workstreams.c.status != workstreams.c.base_status)
        .group_by(workstreams.c.repo_id),
        sa.select(workstreams.c.repo_id, sa.func.count())
        .join(tasks, tasks.c.workstream_id == workstreams.c.id)
        .where(live, tasks.c.removed_at.is_(None), tasks.c.status != tasks.c.base_status)
        .group_by(workstreams.c.repo_id),
    ):
        for row in connection.execute(query):
            counts[row[0]] = counts.get(row[0], 0) + row[1]
    return counts


def overdue_pending(connection: sa.Connection, before: Instant) -> dict[int, Instant]:
    """By active repo: since when the oldest status waits to be written back, where that is before then."""
    oldest: dict[int, Instant] = {}
    live = workstreams.c.removed_at.is_(None) & (repos.c.status == "active")
    for table, source in (
        (workstreams, workstreams.join(repos, repos.c.id == workstreams.c.repo_id)),
        (
            tasks,
            tasks.join(workstreams, workstreams.c.id == tasks.c.workstream_id).join(
                repos, repos.c.id == workstreams.c.repo_id
            ),
        ),
    ):
        query = (
            sa.select(workstreams.c.repo_id, sa.func.min(table.c.status_changed_at))
            .select_from(source)
            .where(
                live,
                table.c.removed_at.is_(None),
                table.c.status != table.c.base_status,
                table.c.status_changed_at < before,
            )
            .group_by(workstreams.c.repo_id)
        )
        for row in connection.execute(query):
            oldest[row[0]] = Instant(min(row[1], oldest.get(row[0], row[1])))
    return oldest


# -- applying a plan --


def apply_changes(
    connection: sa.Connection, repo_id: int, changes: Sequence[Change], *, commit: str, at: Instant
) -> None:
    """Makes the rows what the plan says. Changes of one row are written as one."""
    of_workstreams: dict[int, Values] = {}
    of_tasks: dict[int, Values] = {}
    new_tasks: list[dict[str, object]] = []
    for change in changes:
        match change:
            case AddWorkstream():
                _add_workstream(connection, repo_id, change, commit, at, new_tasks)
            case AddTask():
                new_tasks.append(_task_values(change.task, change.row.pk, change.position, at))
            case ChangeWorkstream():
                of_workstreams.setdefault(change.row.pk, {}).update(change.values)
                if "status" in change.values:
                    close_subject(connection, repo_id, "C-10", change.row.id, at)
            case ChangeTask():
                of_tasks.setdefault(change.row.pk, {}).update(change.values)
                if "status" in change.values:
                    close_subject(connection, repo_id, "C-10", f"{change.workstream.id}/{change.row.id}", at)
    for pk, values in of_workstreams.items():
        if "blob" in values or "path" in values:
            values["seen_commit"] = commit
        connection.execute(sa.update(workstreams).where(workstreams.c.id == pk).values(_columns(values, at)))
    for pk, values in of_tasks.items():
        connection.execute(sa.update(tasks).where(tasks.c.id == pk).values(_columns(values, at)))
    if new_tasks:
        connection.execute(sa.insert(tasks), new_tasks)


def _columns(values: Values, at: Instant) -> Values:
    columns = {**values, "updated_at": at}
    if "is_removed" in columns:
        columns["removed_at"] = at if columns.pop("is_removed") else None
    if "status" in columns:
        columns |= {"status_changed_at": at, "status_changed_by": BY_FILE}
    return columns


def _add_workstream(
    connection: sa.Connection,
    repo_id: int,
    change: AddWorkstream,
    commit: str,
    at: Instant,
    new_tasks: list[dict[str, object]],
) -> None:
    plan = change.workplan
    values: dict[str, Any] = {
        "repo_id": repo_id,
        "path": change.path,
        "blob": change.blob,
        "seen_commit": commit,
        "title": plan.title,
        "status": plan.status.value,
        "base_status": plan.status.value,
        "file_wins": False,
        "status_changed_at": at,
        "status_changed_by": BY_FILE,
        "depends_json": plain_json(plan.depends_on),
        "fields_json": plain_json(plan.fields),
        "updated_at": at,
        "removed_at": None,
    }
    tombstone = connection.execute(
        sa.select(workstreams.c.id).where(workstreams.c.workplan_id == plan.id)
    ).one_or_none()
    if tombstone is None:
        inserted = connection.execute(sa.insert(workstreams), {"workplan_id": plan.id, **values}).inserted_primary_key
        assert inserted is not None
        pk = int(inserted[0])
    else:  # it has moved here from another repo, where it left a tombstone, or which is archived
        pk = tombstone.id
        connection.execute(sa.update(workstreams).where(workstreams.c.id == pk).values(values))
        connection.execute(sa.delete(tasks).where(tasks.c.workstream_id == pk))
    new_tasks += [_task_values(task, pk, position, at) for position, task in enumerate(plan.tasks)]


def _task_values(task: Task, workstream: int, position: int, at: Instant) -> dict[str, object]:
    return {
        "workstream_id": workstream,
        "task_id": task.id,
        "position": position,
        "title": task.title,
        "status": task.status.value,
        "base_status": task.status.value,
        "file_wins": False,
        "status_changed_at": at,
        "status_changed_by": BY_FILE,
        "depends_json": plain_json(task.depends_on),
        "fields_json": plain_json(task.fields),
        "updated_at": at,
    }


def drop_rows(connection: sa.Connection, repo_id: int) -> int:
    """Deletes the rows of a repo, and forgets pushes under way; how many workstreams there were."""
    connection.execute(sa.delete(writebacks).where(writebacks.c.repo_id == repo_id, writebacks.c.state != "pushed"))
    own = sa.select(workstreams.c.id).where(workstreams.c.repo_id == repo_id)
    connection.execute(sa.delete(tasks).where(tasks.c.workstream_id.in_(own)))
    return connection.execute(sa.delete(workstreams).where(workstreams.c.repo_id == repo_id)).rowcount


# -- writebacks --


def note_writebacks(
    connection: sa.Connection, repo_id: int, written: Sequence[Writeback], commit: str, at: Instant
) -> None:
    """Records what a commit is about to bring to the remote, before it is pushed."""
    connection.execute(
        sa.insert(writebacks),
        [
            {
                "repo_id": repo_id,
                "workplan_id": each.workplan_id,
                "task_id": each.task_id,
                "path": each.path,
                "old_status": each.old,
                "new_status": each.new,
                "commit_id": commit,
                "state": "pushing",
                "made_at": at,
            }
            for each in written
        ],
    )


def _of_commit(repo_id: int, commit: str) -> sa.ColumnElement[bool]:
    return (writebacks.c.repo_id == repo_id) & (writebacks.c.commit_id == commit)


def settle_writebacks(connection: sa.Connection, repo_id: int, commit: str, at: Instant) -> list[str]:
    """The commit has arrived: what it wrote becomes the base, where the base is what it was then. Its paths.

    A row that somebody changed again meanwhile keeps its status, and waits for the next writeback.
    """
    rows = connection.execute(sa.select(writebacks).where(_of_commit(repo_id, commit))).all()
    connection.execute(sa.update(writebacks).where(_of_commit(repo_id, commit)).values(state="pushed", settled_at=at))
    for row in rows:
        own = (workstreams.c.workplan_id == row.workplan_id) & (workstreams.c.repo_id == repo_id)
        values = {"base_status": row.new_status, "updated_at": at}
        if row.task_id is None:
            connection.execute(
                sa.update(workstreams).where(own, workstreams.c.base_status == row.old_status).values(values)
            )
        else:
            workstream = sa.select(workstreams.c.id).where(own).scalar_subquery()
            connection.execute(
                sa.update(tasks)
                .where(
                    tasks.c.workstream_id == workstream,
                    tasks.c.task_id == row.task_id,
                    tasks.c.base_status == row.old_status,
                )
                .values(values)
            )
    return sorted({row.path for row in rows})


def note_blob(connection: sa.Connection, repo_id: int, path: str, *, before: str, after: str, commit: str) -> None:
    """The file of a row was changed by the hub itself, from one object to the next."""
    connection.execute(
        sa.update(workstreams)
        .where(workstreams.c.repo_id == repo_id, workstreams.c.path == path, workstreams.c.blob == before)
        .values(blob=after, seen_commit=commit)
    )


def abandon_writebacks(connection: sa.Connection, repo_id: int, commit: str, at: Instant) -> None:
    """A push that is given up for lost."""
    connection.execute(
        sa.update(writebacks).where(_of_commit(repo_id, commit)).values(state="abandoned", settled_at=at)
    )


def drop_writebacks(connection: sa.Connection, repo_id: int, commit: str) -> None:
    """A push that was refused: nobody else has the commit."""
    connection.execute(sa.delete(writebacks).where(_of_commit(repo_id, commit)))


def unsettled_commits(connection: sa.Connection, repo_id: int) -> list[str]:
    """Commits of the hub whose push was begun and whose end is not known, oldest first."""
    query = (
        sa.select(writebacks.c.commit_id)
        .where(writebacks.c.repo_id == repo_id, writebacks.c.state == "pushing")
        .group_by(writebacks.c.commit_id)
        .order_by(sa.func.min(writebacks.c.id))
    )
    return list(connection.execute(query).scalars())


def lost_commits(connection: sa.Connection, repo_id: int, since: Instant) -> list[str]:
    """Commits whose push was given up for lost since then."""
    query = (
        sa.select(writebacks.c.commit_id)
        .where(writebacks.c.repo_id == repo_id, writebacks.c.state == "abandoned", writebacks.c.made_at >= since)
        .distinct()
    )
    return list(connection.execute(query).scalars())


def overdue_commits(connection: sa.Connection, before: Instant) -> list[tuple[int, str]]:
    """(repo, commit) of pushes begun before then whose end is not known."""
    query = (
        sa.select(writebacks.c.repo_id, writebacks.c.commit_id)
        .where(writebacks.c.state == "pushing", writebacks.c.made_at < before)
        .distinct()
    )
    return [(row[0], row[1]) for row in connection.execute(query)]


def last_writes(connection: sa.Connection, repo_id: int) -> dict[Key, tuple[BotWrite, str]]:
    """By status: what the hub wrote into it last, and the commit that brought it."""
    newest = (
        sa.select(sa.func.max(writebacks.c.id))
        .where(writebacks.c.repo_id == repo_id)
        .group_by(writebacks.c.workplan_id, writebacks.c.task_id)
    )
    query = sa.select(writebacks).where(writebacks.c.id.in_(newest))
    return {
        (row.workplan_id, row.task_id): (BotWrite(old=row.old_status, new=row.new_status), row.commit_id)
        for row in connection.execute(query)
    }


def list_writebacks(connection: sa.Connection, *, repo: str | None = None, limit: int = 50) -> list[dict[str, object]]:
    """What the hub wrote into files, newest first, as plain values."""
    query = (
        sa.select(writebacks, repos.c.slug)
        .join(repos, repos.c.id == writebacks.c.repo_id)
        .order_by(writebacks.c.id.desc())
        .limit(limit)
    )
    if repo is not None:
        query = query.where(repos.c.slug == repo)
    return [
        {
            "repo": row.slug,
            "workplan_id": row.workplan_id,
            "task_id": row.task_id,
            "path": row.path,
            "old": row.old_status,
            "new": row.new_status,
            "commit": row.commit_id,
            "state": row.state,
            "made_at": Instant(row.made_at),
            "settled_at": None if row.settled_at is None else Instant(row.settled_at),
        }
        for row in connection.execute(query)
    ]
