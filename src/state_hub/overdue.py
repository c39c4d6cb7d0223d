"""C-14: nothing waits for longer than it should: to be written back, to be pushed, to be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from activity_plumbing import outbox as outbox_rows
from activity_plumbing.clock import Instant, format_instant
from activity_plumbing.units import format_duration
from state_hub.checks import Found, Severity
from state_hub.registry import RepoStatus
from state_hub.store import findings, plans, repos
from state_hub.store.schema import outbox

if TYPE_CHECKING:
    import sqlalchemy as sa

    from state_hub.store.store import Store

_MOST_EVENTS = 10_000


def check_overdue(store: Store, now: Instant, overdue_us: int) -> None:
    """Looks at all active repos; opens and closes findings of C-14, and writes nothing when they stand."""
    before = Instant(now - overdue_us)
    with store.reading() as connection:
        active = repos.list_repos(connection, RepoStatus.ACTIVE)
        numbers = {repo.slug: repo.id for repo in active}
        found = _events(connection, before, numbers)
        for repo_id, oldest in plans.overdue_pending(connection, before).items():
            message = (
                f"statuses changed in the database since {format_instant(oldest)} are not in their files after"
                f" {format_duration(overdue_us)}"
            )
            found.setdefault(repo_id, []).append(Found(check="C-14", subject="writeback", message=message))
        for repo_id, commit in plans.overdue_commits(connection, before):
            message = f"whether the push of {commit[:10]} arrived is not known"
            found.setdefault(repo_id, []).append(Found(check="C-14", subject=f"commit {commit[:10]}", message=message))
        known = findings.open_of_check(connection, "C-14")
    wanted = {(repo, each.subject, each.message) for repo, several in found.items() for each in several}
    if wanted == {(repo, each.subject, each.message) for repo, several in known.items() for each in several}:
        return
    store.write(lambda connection: findings.update_check(connection, "C-14", found, known, now))


def _events(connection: sa.Connection, before: Instant, numbers: dict[str, int]) -> dict[int, list[Found]]:
    oldest: dict[int, Instant] = {}
    for row in outbox_rows.list_events(connection, outbox, is_sent=False, after=0, limit=_MOST_EVENTS):
        data = row.event.get("data")
        slug = data.get("repo_slug") if isinstance(data, dict) else None
        repo_id = numbers.get(str(slug))
        if repo_id is not None and row.created_at < before:
            oldest.setdefault(repo_id, row.created_at)
    return {
        repo_id: [
            Found(
                check="C-14",
                subject="outbox",
                message=f"events wait in the outbox since {format_instant(since)}: nothing sends them yet",
                severity=Severity.NOTICE,
            )
        ]
        for repo_id, since in oldest.items()
    }
