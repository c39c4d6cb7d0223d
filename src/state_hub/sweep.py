"""Visits to many repos: oldest-checked first, several at once, within a budget; and the record of it."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa

from state_hub.case import Options, Outcome, Tools, Visit
from state_hub.dependencies import check_dependencies
from state_hub.errors import RefusedError, StateHubError
from state_hub.git.command import Deadline
from state_hub.overdue import check_overdue
from state_hub.registry import Repo, RepoStatus, host_of
from state_hub.store import findings, locks, repos, sweeps
from state_hub.visit import visit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

NOTE_EVERY_S = 1.0
"""How often finished visits are recorded, all of them at once."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What a sweep came to. `left`: slugs that the budget did not reach; they come first in the next sweep."""

    kind: str
    number: int | None = None
    visits: list[Visit] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    open_findings: dict[str, int] = field(default_factory=dict)
    duration_s: float = 0.0

    @property
    def failed(self) -> list[Visit]:
        """Visits that broke off."""
        return [each for each in self.visits if each.outcome is Outcome.FAILED]

    def count(self, outcome: Outcome) -> int:
        """How many visits ended so."""
        return sum(each.outcome is outcome for each in self.visits)


def chosen_repos(tools: Tools, slug: str | None) -> list[Repo]:
    """All active repos, oldest-checked first; or one. Raises NotFoundError, RefusedError."""
    with tools.store.reading() as connection:
        if slug is not None:
            repo = repos.find_repo(connection, slug)
            if repo.status is RepoStatus.ARCHIVED:
                raise RefusedError(f"{slug} is archived; `state-hub repos add {repo.path}` takes it back")
            return [repo]
        return repos.by_age(repos.list_repos(connection, RepoStatus.ACTIVE), repos.checked_at(connection))


def sweep(
    chosen: Sequence[Repo],
    tools: Tools,
    options: Options,
    *,
    kind: str,
    budget_s: float | None = None,
    jobs: int | None = None,
    on_visit: Callable[[Visit], None] = lambda _visit: None,
) -> Report:
    """Visits the repos; no visit starts once the budget is spent, and each ends by its own timeout.

    One bad repo harms only its own visit. Raises for what concerns them all, such as a database that is gone.
    """
    return _Sweep(chosen, tools, options, kind, budget_s, jobs or tools.settings.jobs, on_visit).run()


class _Sweep:
    def __init__(
        self,
        chosen: Sequence[Repo],
        tools: Tools,
        options: Options,
        kind: str,
        budget_s: float | None,
        jobs: int,
        on_visit: Callable[[Visit], None],
    ) -> None:
        self._waiting = list(chosen)
        self._only = chosen[0].id if len(chosen) == 1 else None
        self._tools = tools
        self._options = options
        self._deadline = None if budget_s is None else Deadline.after(budget_s)
        self._jobs = max(1, min(jobs, len(chosen) or 1))
        self._on_visit = on_visit
        self._report = Report(kind=kind)
        self._at_host: dict[str, int] = {}
        self._to_note: list[sweeps.VisitRow] = []
        self._noted_at = time.monotonic()
        self._records = not options.is_dry_run
        self._stop = threading.Event()

    def run(self) -> Report:
        began = time.monotonic()
        report = self._report
        if self._records:
            with self._tools.store.writing() as connection:
                report.number = sweeps.start_sweep(
                    connection,
                    kind=report.kind,
                    by=f"pid {os.getpid()} on {socket.gethostname()}",
                    planned=len(self._waiting),
                    at=self._tools.clock.now(),
                )
        outcome = "broken off"
        try:
            self._visit_all()
            if self._records:
                self._look_at_all()
            outcome = "budget spent" if report.left else "done"
        finally:
            report.duration_s = time.monotonic() - began
            if self._records:
                self._end(outcome)
        with self._tools.store.reading() as connection:
            report.open_findings = findings.count_open(connection, self._only)
        return report

    def _visit_all(self) -> None:
        pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="visit")
        running: dict[Future[Visit], Repo] = {}
        try:
            while True:
                while len(running) < self._jobs and (repo := self._next()) is not None:
                    running[pool.submit(self._visit, repo)] = repo
                if not running:
                    break
                done, _ = wait(running, timeout=NOTE_EVERY_S, return_when=FIRST_COMPLETED)
                for future in done:
                    self._finished(running.pop(future), future)
                if time.monotonic() - self._noted_at >= NOTE_EVERY_S:
                    self._note()
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)
            self._report.left += [repo.slug for repo in self._waiting]
            self._note()

    def _next(self) -> Repo | None:
        """The oldest-checked repo whose host has room; None when there is none, or no time."""
        if self._deadline is not None and self._deadline.remaining_s <= 0:
            return None
        for index, repo in enumerate(self._waiting):
            host = host_of(repo.remote_url) if self._options.is_remote else ""
            if host == "" or self._at_host.get(host, 0) < self._tools.settings.jobs_per_host:
                self._at_host[host] = self._at_host.get(host, 0) + 1
                return self._waiting.pop(index)
        return None

    def _visit(self, repo: Repo) -> Visit:
        if self._stop.is_set():
            raise StateHubError("the sweep was broken off")
        return visit(repo, self._tools, self._options, Deadline.after(self._tools.settings.repo_timeout / 1e6))

    def _finished(self, repo: Repo, future: Future[Visit]) -> None:
        host = host_of(repo.remote_url) if self._options.is_remote else ""
        self._at_host[host] -= 1
        failure = future.exception()
        if isinstance(failure, sa.exc.DBAPIError) and failure.connection_invalidated:
            raise failure
        if failure is not None:  # our own mistake: it must not keep the others from being visited
            log.error("the visit to %s broke the hub's own code", repo.slug, exc_info=failure)
            result = Visit(
                slug=repo.slug,
                repo_id=repo.id,
                outcome=Outcome.FAILED,
                is_hub_fault=True,
                detail=f"the hub itself failed: {type(failure).__name__}: {failure}"[:500],
            )
        else:
            result = future.result()
        self._report.visits.append(result)
        self._to_note.append(
            sweeps.VisitRow(
                repo_id=repo.id,
                at=self._tools.clock.now(),
                outcome=result.outcome.value,
                detail=result.detail,
                tip=result.tip,
            )
        )
        self._on_visit(result)

    def _note(self) -> None:
        self._noted_at = time.monotonic()
        rows, self._to_note = self._to_note, []
        if not (rows and self._records):
            return
        assert self._report.number is not None
        number = self._report.number
        rows.sort(key=lambda row: row.repo_id)  # two sweeps lock them in one order
        self._tools.store.write(lambda connection: sweeps.note_visits(connection, number, rows))

    def _look_at_all(self) -> None:
        """What only the whole fleet tells: dependencies, and what waits for too long."""
        now = self._tools.clock.now()
        if any(each.is_new_content for each in self._report.visits):
            check_dependencies(self._tools.store, now)
        check_overdue(self._tools.store, now, self._tools.settings.overdue)
        with self._tools.store.reading() as connection:
            has_old = findings.has_old_events(connection, now)
            abandoned = locks.abandoned_locks(connection, now)
        if has_old or abandoned:
            with self._tools.store.writing() as connection:
                findings.close_old_events(connection, now)
                for lock in abandoned:
                    locks.release_lock(connection, lock)

    def _end(self, outcome: str) -> None:
        report = self._report
        assert report.number is not None
        news = {
            each.slug: {"outcome": each.outcome.value, "did": each.did[:100], "detail": each.detail}
            for each in report.visits
            if each.outcome is not Outcome.UNCHANGED
        }
        with self._tools.store.writing() as connection:
            sweeps.end_sweep(
                connection,
                report.number,
                failed=len(report.failed),
                outcome=outcome,
                result={"repos": news, "left": report.left, "duration_s": round(report.duration_s, 3)},
                at=self._tools.clock.now(),
            )
