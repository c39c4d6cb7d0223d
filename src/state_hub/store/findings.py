"""Findings: opened when a check finds something, closed when it no longer does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from activity_plumbing.clock import DAY_US, Instant
from state_hub.checks import Found, Severity, is_event
from state_hub.store.schema import findings, repos, visits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

EVENT_LIKE_FOR_US = 30 * DAY_US
"""How long a finding that tells of something that happened, not of something that is, stays open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A finding with its times. `last_seen_at`: when its repo was last checked, as long as it is open."""

    id: int
    repo: str
    check: str
    subject: str
    severity: Severity
    message: str
    path: str
    line: int
    column: int
    first_seen_at: Instant
    last_seen_at: Instant
    closed_at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFinding:
    """What tells an open finding from others."""

    id: int
    check: str
    subject: str
    severity: Severity
    message: str
    path: str
    line: int
    column: int

    def is_as(self, found: Found) -> bool:
        """Whether it says the same of the same place."""
        mine = (self.severity, self.message, self.path, self.line, self.column)
        return mine == (found.weight, found.message, found.path, found.line, found.column)

    @property
    def is_event(self) -> bool:
        """True for what tells of something that happened: nothing later finds it again."""
        return is_event(self.check, self.severity)


def open_findings(connection: sa.Connection, repo_id: int) -> list[OpenFinding]:
    """What is open for a repo."""
    query = sa.select(findings).where(findings.c.repo_id == repo_id, findings.c.closed_at.is_(None))
    return [
        OpenFinding(
            id=row.id,
            check=row.check_id,
            subject=row.subject,
            severity=Severity(row.severity),
            message=row.message,
            path=row.path,
            line=row.line,
            column=row.col,
        )
        for row in connection.execute(query)
    ]


def update_findings(
    connection: sa.Connection,
    repo_id: int,
    found: Iterable[Found],
    *,
    is_judged: Callable[[OpenFinding], bool],
    at: Instant,
) -> tuple[int, int]:
    """Opens what is new and closes what was judged and not found again; how many of each.

    Writes nothing for a finding that is still there as it was.
    """
    wanted = {(each.check, each.subject): each for each in found}
    opened = closed = 0
    for known in open_findings(connection, repo_id):
        still = wanted.pop((known.check, known.subject), None)
        if still is None:
            if is_judged(known):
                connection.execute(sa.update(findings).where(findings.c.id == known.id).values(closed_at=at))
                closed += 1
        elif not known.is_as(still):
            connection.execute(
                sa.update(findings)
                .where(findings.c.id == known.id)
                .values(
                    message=still.message,
                    path=still.path,
                    line=still.line,
                    col=still.column,
                    severity=still.weight.value,
                )
            )
    for each in wanted.values():
        connection.execute(
            sa.insert(findings),
            {
                "repo_id": repo_id,
                "check_id": each.check,
                "subject": each.subject,
                "severity": each.weight.value,
                "message": each.message,
                "path": each.path,
                "line": each.line,
                "col": each.column,
                "first_seen_at": at,
            },
        )
        opened += 1
    return opened, closed


def close_subject(connection: sa.Connection, repo_id: int, check: str, subject: str, at: Instant) -> None:
    """Closes what is open about a subject, because it has moved on."""
    connection.execute(
        sa.update(findings)
        .where(
            findings.c.repo_id == repo_id,
            findings.c.check_id == check,
            findings.c.subject == subject,
            findings.c.closed_at.is_(None),
        )
        .values(closed_at=at)
    )


def open_of_check(connection: sa.Connection, check: str) -> dict[int, list[OpenFinding]]:
    """What is open of one check, by repo."""
    query = sa.select(findings.c.repo_id).where(findings.c.check_id == check, findings.c.closed_at.is_(None)).distinct()
    return {
        repo_id: [each for each in open_findings(connection, repo_id) if each.check == check]
        for repo_id in connection.execute(query).scalars().all()
    }


def update_check(
    connection: sa.Connection,
    check: str,
    found: Mapping[int, Sequence[Found]],
    known: Iterable[int],
    at: Instant,
) -> None:
    """Brings the findings of one check up to date in all these repos, in the order of their numbers."""
    for repo_id in sorted({*found, *known}):
        update_findings(connection, repo_id, found.get(repo_id, ()), is_judged=lambda each: each.check == check, at=at)


def has_old_events(connection: sa.Connection, now: Instant) -> bool:
    """Whether `close_old_events` would close any."""
    return connection.execute(sa.select(findings.c.id).where(_is_old_event(now)).limit(1)).first() is not None


def _is_old_event(now: Instant) -> sa.ColumnElement[bool]:
    return (
        findings.c.closed_at.is_(None)
        & ((findings.c.check_id == "C-10") | ((findings.c.check_id == "C-15") & (findings.c.severity == "notice")))
        & (findings.c.first_seen_at < now - EVENT_LIKE_FOR_US)
    )


def close_old_events(connection: sa.Connection, now: Instant) -> int:
    """Closes conflicts and taken-back writebacks that have been shown for long enough."""
    return connection.execute(sa.update(findings).where(_is_old_event(now)).values(closed_at=now)).rowcount


def list_findings(
    connection: sa.Connection,
    *,
    repo: str | None = None,
    check: str | None = None,
    is_open: bool | None = True,
    after: int = 0,
    limit: int = 100,
) -> list[Finding]:
    """Findings with a number above `after`, in order."""
    query = (
        sa.select(findings, repos.c.slug, visits.c.checked_at)
        .join(repos, repos.c.id == findings.c.repo_id)
        .outerjoin(visits, visits.c.repo_id == findings.c.repo_id)
        .where(findings.c.id > after)
        .order_by(findings.c.id)
        .limit(limit)
    )
    if repo is not None:
        query = query.where(repos.c.slug == repo)
    if check is not None:
        query = query.where(findings.c.check_id == check)
    if is_open is not None:
        query = query.where(findings.c.closed_at.is_(None) if is_open else findings.c.closed_at.is_not(None))
    return [
        Finding(
            id=row.id,
            repo=row.slug,
            check=row.check_id,
            subject=row.subject,
            severity=Severity(row.severity),
            message=row.message,
            path=row.path,
            line=row.line,
            column=row.col,
            first_seen_at=Instant(row.first_seen_at),
            last_seen_at=Instant(row.closed_at or max(row.checked_at or 0, row.first_seen_at)),
            closed_at=None if row.closed_at is None else Instant(row.closed_at),
        )
        for row in connection.execute(query)
    ]


def count_open(connection: sa.Connection, repo_id: int | None = None) -> dict[str, int]:
    """Open findings of active repos, or of one, by severity."""
    query = (
        sa.select(findings.c.severity, sa.func.count())
        .join(repos, repos.c.id == findings.c.repo_id)
        .where(findings.c.closed_at.is_(None), repos.c.status == "active")
        .group_by(findings.c.severity)
    )
    if repo_id is not None:
        query = query.where(findings.c.repo_id == repo_id)
    return {row[0]: row[1] for row in connection.execute(query)}
