"""One repo under visit: what is known of it, what was found, and what was done so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from state_hub.checks import Found, Severity
from state_hub.errors import GitError
from state_hub.git.clone import Clone
from state_hub.git.remote import Remotes, make_clone
from state_hub.settings import Settings, allow_remote
from state_hub.store import locks

if TYPE_CHECKING:
    import sqlalchemy as sa

    from activity_plumbing.clock import Clock
    from state_hub.git.command import Deadline
    from state_hub.registry import Repo
    from state_hub.store.store import Store

LEASE_SPARE_S = 30.0
"""How much longer a lock lasts than the visit may take."""
_LOCK_POLL_S = 0.2


class Outcome(StrEnum):
    """What a visit came to."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    BLOCKED = "blocked"
    """Something keeps the repo from being synced; a finding says what."""
    LOCKED = "locked"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to visit. `is_remote`: fetch, pull and write back; else only what the clone has, file → DB.

    `fix` False: look and record findings, change nothing else. `is_dry_run`: record nothing either.
    """

    is_remote: bool
    fix: bool = True
    is_dry_run: bool = False
    role: str = "sweep"
    lock_wait_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Visit:
    """What came of one visit. `did` tells it in lines."""

    slug: str
    repo_id: int
    outcome: Outcome = Outcome.UNCHANGED
    did: list[str] = field(default_factory=list)
    detail: str = ""
    tip: str | None = None
    found: list[Found] = field(default_factory=list)
    is_new_content: bool = False
    is_hub_fault: bool = False
    """The hub's own code failed, not the repo."""
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What visits need: one for a whole sweep."""

    settings: Settings
    store: Store
    clock: Clock
    remotes: Remotes


class Blocked(Exception):
    """The repo cannot be synced; the finding says why."""

    def __init__(self, found: Found) -> None:
        self.found = found


@dataclass(frozen=True, slots=True, kw_only=True)
class Refs:
    """Where the branch stands: in the clone, and as it was last fetched."""

    local: str | None
    tracking_name: str
    tracking: str | None


class Case:
    """A visit in the making. `is_looking`: this pass only looks, and changes nothing."""

    def __init__(self, repo: Repo, tools: Tools, options: Options, deadline: Deadline) -> None:
        self.repo = repo
        self.tools = tools
        self.store = tools.store
        self.options = options
        self.deadline = deadline
        self.path = Path(repo.path)
        self.result = Visit(slug=repo.slug, repo_id=repo.id)
        self.found: list[Found] = []
        self.is_looking = False
        self.asked_tip: str | None = None
        """What the remote said at the first look."""
        self.is_gate_passed = False
        self.has_tried_writing = False
        """What was to be written back was, or was refused; or there was nothing."""
        self._lock: locks.RepoLock | None = None

    @property
    def changes(self) -> bool:
        """Whether this pass may change the clone and the database's rows."""
        return self.options.fix and not self.options.is_dry_run and not self.is_looking

    # -- the clone --

    def open(self) -> Clone:
        """The clone, made again where it is the hub's own and gone. Raises Blocked."""
        try:
            if not self.path.exists():
                self._make_again()
            clone = Clone(self.path)
        except GitError as failure:
            raise Blocked(Found(check="C-01", subject="clone", message=str(failure))) from failure
        if clone.remote_named(self.repo.remote_url) is None:
            shown = ", ".join(clone.remote_urls()) or "none"
            message = f"no remote of the clone is {self.repo.remote_url}; found {shown}"
            raise Blocked(Found(check="C-01", subject="remote", message=message))
        return clone

    def _make_again(self) -> None:
        if not (self.repo.is_managed and self.options.is_remote and self.changes and self._lock is not None):
            if self.is_looking and self.repo.is_managed and self.options.is_remote and self.options.fix:
                self.did(f"would clone {self.repo.remote_url}")
            raise GitError(f"the clone {self.path} does not exist")
        allow_remote(self.tools.settings, self.repo.remote_url)
        make_clone(self.repo.remote_url, self.repo.branch, self.path, self.deadline)
        self.did(f"cloned {self.repo.remote_url}")

    def refs(self, clone: Clone) -> Refs:
        """The branch's refs in this clone."""
        name = clone.remote_named(self.repo.remote_url)
        assert name is not None
        tracking = f"refs/remotes/{name}/{self.repo.branch}"
        return Refs(
            local=clone.tip(f"refs/heads/{self.repo.branch}"), tracking_name=tracking, tracking=clone.tip(tracking)
        )

    # -- what was done and found --

    def did(self, line: str) -> None:
        """Notes something that was done, or would be."""
        self.result.did.append(line)
        if not line.startswith("would ") and self.result.outcome is not Outcome.BLOCKED:
            self.result.outcome = Outcome.CHANGED

    def find(self, check: str, subject: str, message: str, severity: Severity | None = None) -> None:
        """Notes a finding, in place of one of the same check and subject."""
        self.take([Found(check=check, subject=subject, message=message, severity=severity)])

    def take(self, several: list[Found]) -> None:
        """Notes findings, in place of those of an attempt before."""
        told = {(each.check, each.subject) for each in several}
        self.found = [each for each in self.found if (each.check, each.subject) not in told] + several

    def block(self, found: Found) -> None:
        """Notes a finding that keeps the repo from being synced."""
        self.result.outcome, self.result.detail = Outcome.BLOCKED, found.message
        self.take([found])

    def start_over(self) -> None:
        """Forgets what a look noted."""
        self.found = []
        self.result.did, self.result.outcome, self.result.detail = [], Outcome.UNCHANGED, ""
        self.is_gate_passed = self.has_tried_writing = False

    # -- the repo's lock --

    def lock(self) -> str | None:
        """Takes the repo's lock, or says who has it."""
        lease_us = int((max(0.0, self.deadline.remaining_s) + LEASE_SPARE_S) * 1e6)
        give_up_at = time.monotonic() + self.options.lock_wait_s
        while True:
            with self.store.writing() as connection:
                now = self.tools.clock.now()
                taken = locks.take_lock(connection, self.repo.id, self.options.role, now, lease_us)
            if isinstance(taken, locks.RepoLock):
                self._lock = taken
                return None
            if time.monotonic() >= give_up_at or self.deadline.remaining_s <= 0:
                return taken.holder
            time.sleep(_LOCK_POLL_S)

    def unlock(self) -> None:
        """Gives it back."""
        assert self._lock is not None
        with self.store.writing() as connection:
            locks.release_lock(connection, self._lock)

    def hold(self, connection: sa.Connection) -> None:
        """Makes sure, for the rest of this transaction, that the lock is ours. Raises LockLostError."""
        assert self._lock is not None
        locks.hold_lock(connection, self._lock)
