"""Workstreams and tasks, and the one thing that may be changed of them: their status."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Query

from state_hub.api.hub import BY, Hub
from state_hub.api.shapes import (
    AfterId,
    Limit,
    Number,
    Page,
    Problem,
    Slug,
    TaskChange,
    TaskId,
    TaskView,
    WorkplanId,
    WorkstreamChange,
    WorkstreamView,
    page,
)
from state_hub.registry import TaskStatus, WorkstreamStatus
from state_hub.store import workstreams

log = logging.getLogger(__name__)

_CHANGE: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem},
    409: {"model": Problem, "description": "May not be changed here"},
}


def plan_routes(hub: Hub) -> APIRouter:
    """The routes on this hub."""
    router = APIRouter(tags=["workplans"])
    _add_workstreams(router, hub)
    _add_tasks(router, hub)
    return router


def _add_workstreams(router: APIRouter, hub: Hub) -> None:
    @router.get("/workstreams/")
    def list_workstreams(
        repo: Slug | None = None,
        status: Annotated[list[WorkstreamStatus], Query()] = [],  # noqa: B006  # FastAPI makes a new one each time
        removed: bool = False,
        after: AfterId = "",
        limit: Limit = 100,
    ) -> Page[WorkstreamView, str]:
        """Workstreams by id; `status` may be given several times, `removed` shows tombstones too."""
        with hub.reading() as connection:
            rows = workstreams.list_workstreams(
                connection, repo=repo, statuses=status, with_removed=removed, after=after, limit=limit + 1
            )
        return page(rows, limit, WorkstreamView.model_validate, lambda row: row.id)

    @router.get("/workstreams/{workplan_id}", responses={404: {"model": Problem}})
    def show_workstream(workplan_id: WorkplanId) -> WorkstreamView:
        """One workstream."""
        with hub.reading() as connection:
            return WorkstreamView.model_validate(workstreams.find_workstream(connection, workplan_id))

    @router.patch("/workstreams/{workplan_id}", responses=_CHANGE)
    def change_workstream(workplan_id: WorkplanId, change: WorkstreamChange) -> WorkstreamView:
        """Sets the status; the next sweep writes it into the file."""
        with hub.writing() as connection:
            changed = workstreams.set_workstream_status(
                connection, workplan_id, change.status, by=BY, at=hub.clock.now()
            )
        log.info("%s set to %s", workplan_id, change.status.value)
        return WorkstreamView.model_validate(changed)


def _add_tasks(router: APIRouter, hub: Hub) -> None:
    @router.get("/tasks/")
    def list_tasks(
        repo: Slug | None = None,
        workstream: WorkplanId | None = None,
        status: Annotated[list[TaskStatus], Query()] = [],  # noqa: B006  # FastAPI makes a new one each time
        removed: bool = False,
        after: Number = 0,
        limit: Limit = 100,
    ) -> Page[TaskView, int]:
        """Tasks in the order in which they were first seen; `status` may be given several times."""
        with hub.reading() as connection:
            rows = workstreams.list_tasks(
                connection,
                repo=repo,
                workplan_id=workstream,
                statuses=status,
                with_removed=removed,
                after=after,
                limit=limit + 1,
            )
        return page(rows, limit, TaskView.model_validate, lambda row: row.number)

    @router.get("/workstreams/{workplan_id}/tasks/{task_id}", responses={404: {"model": Problem}})
    def show_task(workplan_id: WorkplanId, task_id: TaskId) -> TaskView:
        """One task."""
        with hub.reading() as connection:
            return TaskView.model_validate(workstreams.find_task(connection, workplan_id, task_id))

    @router.patch("/workstreams/{workplan_id}/tasks/{task_id}", responses=_CHANGE)
    def change_task(workplan_id: WorkplanId, task_id: TaskId, change: TaskChange) -> TaskView:
        """Sets the status; the next sweep writes it into the file."""
        with hub.writing() as connection:
            changed = workstreams.set_task_status(
                connection, workplan_id, task_id, change.status, by=BY, at=hub.clock.now()
            )
        log.info("%s/%s set to %s", workplan_id, task_id, change.status.value)
        return TaskView.model_validate(changed)
