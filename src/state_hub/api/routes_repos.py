"""The registry of repos."""

import logging
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from fastapi import APIRouter

from state_hub.api.hub import Hub
from state_hub.api.shapes import Problem, Registration, RepoView, Slug
from state_hub.errors import GitError, RefusedError
from state_hub.registration import Request, register
from state_hub.registry import Repo, RepoStatus, check_remote_url, host_of
from state_hub.store import repos, sweeps

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)


class RepoChoice(StrEnum):
    """Which repos to list."""

    ACTIVE = "active"
    ARCHIVED = "archived"
    ALL = "all"


def repo_routes(hub: Hub) -> APIRouter:
    """The routes on this hub."""
    router = APIRouter(prefix="/repos", tags=["repos"])

    @router.get("/")
    def list_repos(status: RepoChoice = RepoChoice.ACTIVE) -> list[RepoView]:
        """The registered repos, by slug: the whole list, as `for_each` takes it."""
        with hub.reading() as connection:
            chosen = None if status is RepoChoice.ALL else RepoStatus(status.value)
            return _views(connection, repos.list_repos(connection, chosen))

    @router.post(
        "/", status_code=201, responses={409: {"model": Problem}, 502: {"model": Problem, "description": "git failed"}}
    )
    def register_repo(wanted: Registration) -> RepoView:
        """Registers a clone below `repo_roots`, or clones a URL first. The same again changes nothing."""
        repo = _register(hub, wanted)
        log.info("repo %s registered", repo.slug)
        return _view(hub, repo)

    @router.get("/{slug}", responses={404: {"model": Problem}})
    def show_repo(slug: Slug) -> RepoView:
        """One repo."""
        with hub.reading() as connection:
            return _views(connection, [repos.find_repo(connection, slug)])[0]

    @router.post("/{slug}/archive", responses={404: {"model": Problem}})
    def archive_repo(slug: Slug) -> RepoView:
        """Takes a repo out of every sweep; what is known of it stays. Again without harm."""
        with hub.writing() as connection:
            repo = repos.archive_repo(connection, slug, hub.clock.now())
        log.info("repo %s archived", slug)
        return _view(hub, repo)

    @router.post("/{slug}/restore", responses={404: {"model": Problem}})
    def restore_repo(slug: Slug) -> RepoView:
        """Takes an archived repo back into the sweeps. Again without harm."""
        with hub.writing() as connection:
            repo = repos.restore_repo(connection, slug)
        log.info("repo %s restored", slug)
        return _view(hub, repo)

    return router


def _register(hub: Hub, wanted: Registration) -> Repo:
    """Registers what is asked for. Raises RefusedError, GitError."""
    request = Request(
        slug=wanted.slug,
        path=None if wanted.path is None else _resolved(wanted.path),
        remote_url=wanted.remote_url,
        branch=wanted.branch,
        workplans=wanted.workplans,
    )
    if wanted.remote_url is not None:
        _require_below_roots(hub, check_remote_url(wanted.remote_url))
    with hub.reading():
        pass  # a database that is gone is told before anything is cloned
    try:
        return register(request, hub.settings, hub.store, hub.clock.now(), below_roots_only=True)
    except GitError as failure:
        if request.path is None:
            raise
        raise RefusedError(str(failure)) from failure  # what is wrong is the folder that was named


def _resolved(text: str) -> Path:
    try:
        return Path(text).resolve()
    except (OSError, RuntimeError, ValueError) as failure:  # a loop of links
        raise RefusedError(f"{text} is not a folder that can be found; name the clone's own") from failure


def _require_below_roots(hub: Hub, url: str) -> None:
    """A remote on this machine is a folder like any other: a request may name it below `repo_roots` only."""
    if host_of(url) != "":
        return
    path = _resolved(re.sub("^file://", "", url, flags=re.IGNORECASE))
    if not any(path.is_relative_to(root) for root in hub.settings.repo_roots):
        raise RefusedError(f"{url} is not below one of repo_roots; register it with `state-hub repos add`")


def _view(hub: Hub, repo: Repo) -> RepoView:
    with hub.reading() as connection:
        return _views(connection, [repo])[0]


def _views(connection: sa.Connection, chosen: "Sequence[Repo]") -> list[RepoView]:
    visits = sweeps.last_visits(connection)
    workstreams = repos.count_workstreams(connection)
    findings = repos.count_open_findings(connection)
    views = []
    for repo in chosen:
        visit = visits.get(repo.slug)
        views.append(
            RepoView(
                slug=repo.slug,
                remote_url=repo.remote_url,
                branch=repo.branch,
                path=repo.path,
                workplans=repo.workplans,
                status=repo.status,
                is_managed=repo.is_managed,
                added_at=repo.added_at,
                archived_at=repo.archived_at,
                base_commit=repo.base_commit,
                last_checked_at=None if visit is None else visit.at,
                last_outcome=None if visit is None else visit.outcome,
                last_detail=None if visit is None else visit.detail,
                workstreams=workstreams.get(repo.id, 0),
                open_findings=findings.get(repo.id, 0),
            )
        )
    return views
