"""Making the database's rows anew from the files: after history was rewritten, or when the database is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from state_hub.errors import RefusedError
from state_hub.registry import RepoStatus
from state_hub.store import locks, plans, repos

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from activity_plumbing.clock import Instant
    from state_hub.registry import Repo
    from state_hub.store.store import Store

LEASE_US = 60_000_000


def pending_changes(store: Store, chosen: Sequence[Repo]) -> dict[str, int]:
    """By slug: how many statuses were changed in the database and would be lost."""
    with store.reading() as connection:
        counts = plans.pending_repos(connection)
    return {repo.slug: counts[repo.id] for repo in chosen if counts.get(repo.id)}


def forget(store: Store, chosen: Sequence[Repo], now: Instant, *, discard: bool) -> int:
    """Forgets what was read from these repos, so that the next visit takes the files as they are; rows dropped.

    Refuses with RefusedError while statuses wait to be written back, unless `discard`, and while a repo's lock is
    held. Findings, sweeps and the record of writebacks stay.
    """
    dropped = 0
    with store.writing() as connection:
        for repo in chosen:  # so that nobody changes a status between the count and the end
            plans.read_rows(connection, repo.id, locks=True)
        counts = plans.pending_repos(connection)
        for repo in chosen:
            if repo.status is RepoStatus.ARCHIVED:
                raise RefusedError(f"{repo.slug} is archived; `state-hub repos add {repo.path}` takes it back")
            waiting = counts.get(repo.id, 0)
            if waiting and not discard:
                raise RefusedError(
                    f"{waiting} status(es) of {repo.slug} were changed in the database and are not in its files yet;"
                    " sweep first, or give --discard to drop them"
                )
            _refuse_while_locked(connection, repo, now)
            dropped += plans.drop_rows(connection, repo.id)
            repos.set_base(connection, repo.id, None, read=None)
    return dropped


def _refuse_while_locked(connection: sa.Connection, repo: Repo, now: Instant) -> None:
    taken = locks.take_lock(connection, repo.id, "rebuild", now, LEASE_US)
    if isinstance(taken, locks.HeldBy):
        raise RefusedError(f"{repo.slug} is being worked on by {taken.holder}; try again when it is done")
    locks.release_lock(connection, taken)
