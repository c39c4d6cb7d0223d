"""Cancels tasks that are still open in finished or archived workstreams, and tells of each (the seed's B)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from activity_plumbing.clock import format_instant
from activity_plumbing.cloudevents import Event
from activity_plumbing.outbox import put_events
from state_hub.store import workstreams
from state_hub.store.schema import outbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from activity_plumbing.clock import Instant
    from state_hub.store.store import Store
    from state_hub.store.workstreams import StaleTask

EVENT_TYPE = "org.statehub.task.stale"
SOURCE = "/state-hub"
BY = "cleanup-stale"


def find_stale(store: Store) -> tuple[list[StaleTask], list[StaleTask]]:
    """What would be cancelled, and what would not because a person took back what the hub wrote there."""
    with store.reading() as connection:
        return _sorted_out(workstreams.stale_tasks(connection))


def cancel_stale(store: Store, now: Instant) -> tuple[list[StaleTask], list[StaleTask]]:
    """Cancels them; each cancellation and its event are one transaction. What was cancelled, and what was not.

    Idempotent: what is cancelled is not found again, and tells of itself once.
    """
    with store.writing() as connection:
        stale, kept = _sorted_out(workstreams.stale_tasks(connection, locks=True))
        if stale:
            workstreams.cancel_stale(connection, stale, by=BY, at=now)
            put_events(connection, outbox, [stale_event(each, now) for each in stale], now)
    return stale, kept


def _sorted_out(found: Sequence[StaleTask]) -> tuple[list[StaleTask], list[StaleTask]]:
    return [each for each in found if not each.file_wins], [each for each in found if each.file_wins]


def stale_event(task: StaleTask, now: Instant) -> Event:
    """``org.statehub.task.stale``: data ``{repo_slug, workplan_id, workplan_status, task_id, title, …}``."""
    return Event(
        id=str(uuid.uuid4()),
        source=SOURCE,
        type=EVENT_TYPE,
        subject=task.name,
        time=now,
        data={
            "repo_slug": task.repo,
            "workplan_id": task.workplan_id,
            "workplan_status": task.workplan_status.value,
            "task_id": task.task_id,
            "title": task.title,
            "previous_status": task.status.value,
            "status": "cancelled",
            "cancelled_at": format_instant(now),
        },
    )
