"""Registering repos: what may be registered, and under which name, remote and branch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from state_hub.errors import GitError, RefusedError
from state_hub.git.clone import Clone, glob_expression
from state_hub.git.command import Deadline
from state_hub.git.remote import make_clone
from state_hub.registry import DEFAULT_WORKPLANS, Repo, check_branch, check_remote_url, check_slug
from state_hub.settings import Settings, allow_remote
from state_hub.store import repos

if TYPE_CHECKING:
    from pathlib import Path

    from activity_plumbing.clock import Instant
    from state_hub.store.store import Store

CLONE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A repo to register. Exactly one of `path` (a clone that exists) and `remote_url` (the hub makes one) is given."""

    slug: str | None = None
    path: Path | None = None
    remote_url: str | None = None
    branch: str | None = None
    workplans: str = DEFAULT_WORKPLANS


def register(request: Request, settings: Settings, store: Store, now: Instant, *, below_roots_only: bool) -> Repo:
    """Registers a repo; clones it first where only its URL is given. Raises RefusedError, GitError.

    `below_roots_only`: existing clones must lie below one of the settings' `repo_roots`.
    """
    check_workplans(request.workplans)
    if request.path is not None and request.remote_url is None:
        return _register_clone(request, request.path, settings, store, now, below_roots_only=below_roots_only)
    if request.remote_url is not None and request.path is None:
        return _register_url(request, request.remote_url, settings, store, now)
    raise RefusedError("give either the path of a clone or the URL of a remote")


def check_workplans(pattern: str) -> str:
    """The glob itself. Raises RefusedError for one that leaves the repo or could take for ever to match."""
    parts = pattern.split("/")
    if not pattern or len(pattern) > 200 or pattern.startswith("/") or ".." in parts or "\0" in pattern:
        raise RefusedError(f"{pattern!r} is not a glob within a repo; use for example {DEFAULT_WORKPLANS}")
    if pattern.count("*") > 6:
        raise RefusedError(f"{pattern!r} has more than six stars; name the folder instead")
    glob_expression(pattern)
    return pattern


def slug_of(name: str) -> str:
    """A slug from the last part of a path or URL. Raises RefusedError when nothing usable is in it."""
    last = re.split(r"[/:]", name.rstrip("/"))[-1].removesuffix(".git").lower()
    return check_slug(re.sub(r"[^a-z0-9._-]+", "-", last).strip("-._"))


def _register_clone(
    request: Request, path: Path, settings: Settings, store: Store, now: Instant, *, below_roots_only: bool
) -> Repo:
    try:
        path = path.expanduser().resolve()
    except (RuntimeError, OSError) as failure:  # no such account, a loop of links
        raise RefusedError(f"{path}: {failure}") from failure
    if below_roots_only and not any(path.is_relative_to(root) for root in settings.repo_roots):
        shown = ", ".join(str(root) for root in settings.repo_roots) or "none are set"
        raise RefusedError(f"{path} is not below one of repo_roots ({shown}); register it with `state-hub repos add`")
    with Clone(path) as clone:
        urls = clone.remote_urls()
        if not urls:
            raise RefusedError(f"{path} has no remote; add one with `git remote add origin URL`")
        branch = request.branch or clone.checked_out
        if branch is None:
            raise RefusedError(f"{path} has a detached HEAD; name the branch to follow with --branch")
        check_branch(branch)
        if clone.tip(f"refs/heads/{branch}") is None:
            raise RefusedError(f"{path} has no branch {branch} with a commit on it")
    url = check_remote_url(urls[0])
    allow_remote(settings, url)
    slug = check_slug(request.slug) if request.slug is not None else slug_of(urls[0])
    return _add(
        store, slug=slug, url=url, branch=branch, path=path, workplans=request.workplans, is_managed=False, now=now
    )


def _register_url(request: Request, url: str, settings: Settings, store: Store, now: Instant) -> Repo:
    url = check_remote_url(url)
    allow_remote(settings, url)
    slug = check_slug(request.slug) if request.slug is not None else slug_of(url)
    branch = check_branch(request.branch or "main")
    path = settings.clones_dir.resolve() / slug
    if not path.exists():
        try:
            make_clone(url, branch, path, Deadline.after(CLONE_S))
        except OSError as failure:
            raise GitError(f"{path} cannot be made: {failure.strerror}") from failure
    with Clone(path) as clone:
        if clone.remote_named(url) is None:
            shown = ", ".join(clone.remote_urls()) or "none"
            raise RefusedError(
                f"{path} is there already and its remote is {shown}; move it away, or choose another slug"
            )
    return _add(
        store, slug=slug, url=url, branch=branch, path=path, workplans=request.workplans, is_managed=True, now=now
    )


def _add(
    store: Store, *, slug: str, url: str, branch: str, path: Path, workplans: str, is_managed: bool, now: Instant
) -> Repo:
    """Stores it; `write` looks again when another registered the same at the same time."""
    return store.write(
        lambda connection: repos.add_repo(
            connection,
            slug=slug,
            remote_url=url,
            branch=branch,
            path=str(path),
            workplans=workplans,
            is_managed=is_managed,
            at=now,
        )
    )
