"""Repos, workstreams and tasks as values, with the words for their states (DESIGN 7)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from state_hub.errors import RefusedError

if TYPE_CHECKING:
    from activity_plumbing.clock import Instant

SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
WORKPLAN_ID = re.compile(r"(?:[A-Z][A-Z0-9]{0,15}-){0,3}WP-[0-9]{3,6}")
TASK_ID = re.compile(r"T[0-9]{2,4}")
DEFAULT_WORKPLANS = "workplans/**/*.md"


class RepoStatus(StrEnum):
    """Whether a repo is swept."""

    ACTIVE = "active"
    ARCHIVED = "archived"


class WorkstreamStatus(StrEnum):
    """Where a workplan stands."""

    PROPOSED = "proposed"
    ACTIVE = "active"
    BLOCKED = "blocked"
    FINISHED = "finished"
    ARCHIVED = "archived"


class TaskStatus(StrEnum):
    """Where a task stands."""

    WAIT = "wait"
    TODO = "todo"
    PROGRESS = "progress"
    DONE = "done"
    CANCELLED = "cancelled"


CLOSED: frozenset[str] = frozenset(
    {TaskStatus.DONE, TaskStatus.CANCELLED, WorkstreamStatus.FINISHED, WorkstreamStatus.ARCHIVED}
)
"""Statuses that beat open ones when both sides changed."""

OPEN_TASKS = (TaskStatus.WAIT, TaskStatus.TODO, TaskStatus.PROGRESS)
OVER = (WorkstreamStatus.FINISHED, WorkstreamStatus.ARCHIVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repo:
    """A registered repo. `path` is its clone on this machine; `workplans` a glob within it.

    `base_commit` is the commit up to which database and files were brought together, as far as it was pushed;
    `read_commit` the one that was read last.
    `is_managed`: the clone was made by the hub.
    """

    id: int
    slug: str
    remote_url: str
    branch: str
    path: str
    workplans: str
    status: RepoStatus
    is_managed: bool
    added_at: Instant
    archived_at: Instant | None
    base_commit: str | None
    read_commit: str | None


def check_slug(slug: str) -> str:
    """The slug itself. Raises RefusedError for one that could be taken for an option, a path or a pattern."""
    if not SLUG.fullmatch(slug) or slug.endswith((".", ".git")):
        raise RefusedError(
            f"{slug!r} is not a slug; use small letters, digits, dots, dashes and underscores, such as state-hub"
        )
    return slug


_BRANCH_REFUSED = re.compile(r"[\x00-\x20~^:?*\[\\\x7f]|\.\.|@\{|//|^[-/.]|[/.]$|\.lock$|/\.|\.lock/")


def check_branch(branch: str) -> str:
    """The branch name itself, by the rules of git-check-ref-format(1). Raises RefusedError."""
    if not branch or len(branch) > 200 or branch in ("@", "HEAD") or _BRANCH_REFUSED.search(branch):
        raise RefusedError(f"{branch!r} is not a branch name; use for example main or release/2.0")
    return branch


_SCHEME_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.+)", re.IGNORECASE | re.DOTALL)
_SCP_URL = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?!:)(?P<path>[^:].*)")
_HOST = re.compile(r"(?:[^@/]*@)?(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(?::[0-9]{1,5})?(?:/|$)")
SCHEMES = ("https", "http", "ssh", "file")


def check_remote_url(url: str) -> str:
    """The URL itself, if git may be given it: https, http, ssh, file, ``user@host:path`` or an absolute path.

    Raises RefusedError for transports that run commands (``ext::``), for what git or ssh would take for an
    option, and for passwords, which would be stored and shown.
    """
    if not url or len(url) > 1000 or any(ord(character) < 33 or ord(character) == 127 for character in url):
        raise RefusedError(f"{url[:100]!r} is not a remote URL: it is empty, too long, or holds blanks")
    if url.startswith("/"):
        if ".." in url.split("/") or "://" in url:
            raise RefusedError(f"{url}: write a path without '..' and '://'")
        return url
    found = _SCHEME_URL.fullmatch(url)
    if found is not None:
        scheme = found["scheme"].lower()
        if scheme not in SCHEMES:
            raise RefusedError(f"{url}: {scheme} is not allowed; use {', '.join(SCHEMES)} or user@host:path")
        if scheme == "file":
            if not found["rest"].startswith("/"):
                raise RefusedError(f"{url}: an absolute path must follow file://, as in file:///srv/repos/a.git")
            return "file://" + check_remote_url(found["rest"])
        host = _HOST.match(found["rest"])
        if host is None:
            raise RefusedError(f"{url}: the host does not look like one")
        account = found["rest"].split("/")[0].rpartition("@")[0]
        if ":" in account:
            raise RefusedError("the URL holds a password; leave it out and give git a credential helper")
        if account.startswith("-"):
            raise RefusedError(f"{url}: the account must not start with a dash")
        return url
    scp = None if "://" in url or "::" in url else _SCP_URL.fullmatch(url)
    if scp is None or scp["path"].startswith("-"):
        raise RefusedError(
            f"{url!r} is not a remote URL; use https://host/repo.git, user@host:path or an absolute path"
        )
    return url


def host_of(url: str) -> str:
    """The host a URL leads to, for caps per host; empty for this machine.

    >>> host_of("git@forge.example:a/b.git"), host_of("https://u@forge.example:3000/a"), host_of("/srv/a.git")
    ('forge.example', 'forge.example:3000', '')
    """
    if url.startswith(("/", "file:")):
        return ""
    found = _SCHEME_URL.fullmatch(url)
    if found is not None:
        return found["rest"].split("/")[0].rpartition("@")[2]
    scp = _SCP_URL.fullmatch(url)
    return scp["host"] if scp is not None else ""
