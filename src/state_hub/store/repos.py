"""The registry's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from activity_plumbing.clock import Instant
from activity_plumbing.nearest import nearest
from state_hub.errors import NotFoundError, RefusedError
from state_hub.registry import Repo, RepoStatus
from state_hub.store.schema import findings, repos, visits, workstreams

if TYPE_CHECKING:
    from collections.abc import Iterable


def _repo(row: sa.Row[tuple[object, ...]]) -> Repo:
    values = dict(row._mapping)
    values["status"] = RepoStatus(values["status"])
    return Repo(**values)


def list_repos(connection: sa.Connection, status: RepoStatus | None = None) -> list[Repo]:
    """The repos, by slug."""
    query = sa.select(repos).order_by(repos.c.slug)
    if status is not None:
        query = query.where(repos.c.status == status.value)
    return [_repo(row) for row in connection.execute(query)]


def count_active(connection: sa.Connection) -> int:
    """How many repos are swept."""
    active = sa.select(sa.func.count()).where(repos.c.status == RepoStatus.ACTIVE.value)
    return int(connection.execute(active).scalar_one())


def find_repo(connection: sa.Connection, slug: str) -> Repo:
    """One repo. Raises NotFoundError with the nearest slug."""
    row = connection.execute(sa.select(repos).where(repos.c.slug == slug)).one_or_none()
    if row is None:
        known = connection.execute(sa.select(repos.c.slug)).scalars().all()
        raise NotFoundError(f"no repo is called {slug!r}{nearest(slug, known)}")
    return _repo(row)


def add_repo(
    connection: sa.Connection,
    *,
    slug: str,
    remote_url: str,
    branch: str,
    path: str,
    workplans: str,
    is_managed: bool,
    at: Instant,
) -> Repo:
    """Registers a repo; registering the same again changes nothing, and takes an archived one back.

    Raises RefusedError when the slug or the clone belongs to another.
    """
    known = connection.execute(
        sa.select(repos).where((repos.c.slug == slug) | (repos.c.path == path)).with_for_update()
    ).all()
    values: dict[str, object] = {"remote_url": remote_url, "branch": branch, "path": path, "workplans": workplans}
    if len(known) > 1 or (known and known[0].slug != slug):
        other = next(row.slug for row in known if row.slug != slug)
        raise RefusedError(f"the clone {path} is registered as {other!r}")
    if known:
        differs = [name for name, value in values.items() if getattr(known[0], name) != value]
        if differs and known[0].status == RepoStatus.ARCHIVED:  # it begins anew, from its files
            connection.execute(
                sa.update(repos).where(repos.c.slug == slug).values(**values, base_commit=None, read_commit=None)
            )
        elif differs:
            shown = ", ".join(f"{name} is {getattr(known[0], name)}" for name in differs)
            raise RefusedError(f"{slug!r} is registered already, and its {shown}; archive it, or choose another slug")
        connection.execute(
            sa.update(repos).where(repos.c.slug == slug).values(status=RepoStatus.ACTIVE.value, archived_at=None)
        )
    else:
        connection.execute(
            sa.insert(repos),
            {**values, "slug": slug, "status": RepoStatus.ACTIVE.value, "is_managed": is_managed, "added_at": at},
        )
    return find_repo(connection, slug)


def archive_repo(connection: sa.Connection, slug: str, at: Instant) -> Repo:
    """Takes a repo out of every sweep; its rows stay. Again without harm."""
    found = find_repo(connection, slug)
    if found.status is not RepoStatus.ARCHIVED:
        connection.execute(
            sa.update(repos).where(repos.c.id == found.id).values(status=RepoStatus.ARCHIVED.value, archived_at=at)
        )
    return find_repo(connection, slug)


def restore_repo(connection: sa.Connection, slug: str) -> Repo:
    """Takes an archived repo back into the sweeps, as it was registered. Again without harm."""
    found = find_repo(connection, slug)
    connection.execute(
        sa.update(repos).where(repos.c.id == found.id).values(status=RepoStatus.ACTIVE.value, archived_at=None)
    )
    return find_repo(connection, slug)


def set_base(connection: sa.Connection, repo_id: int, base: str | None, *, read: str | None) -> None:
    """Records the commit that files and rows were brought together at, and the one that was read."""
    connection.execute(sa.update(repos).where(repos.c.id == repo_id).values(base_commit=base, read_commit=read))


def checked_at(connection: sa.Connection) -> dict[int, Instant]:
    """When each repo was last checked, by number."""
    return {row.repo_id: Instant(row.checked_at) for row in connection.execute(sa.select(visits))}


def by_age(repos_found: Iterable[Repo], seen: dict[int, Instant]) -> list[Repo]:
    """Oldest-checked first; those never checked before all others."""
    return sorted(repos_found, key=lambda repo: (seen.get(repo.id, Instant(0)), repo.slug))


def count_workstreams(connection: sa.Connection) -> dict[int, int]:
    """How many workstreams each repo has, by number."""
    query = (
        sa.select(workstreams.c.repo_id, sa.func.count())
        .where(workstreams.c.removed_at.is_(None))
        .group_by(workstreams.c.repo_id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def count_open_findings(connection: sa.Connection) -> dict[int, int]:
    """How many open findings each repo has, by number."""
    query = (
        sa.select(findings.c.repo_id, sa.func.count())
        .where(findings.c.closed_at.is_(None))
        .group_by(findings.c.repo_id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}
