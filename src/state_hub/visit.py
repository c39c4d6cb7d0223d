"""One repo, from a look at its remote to rows and files that agree (DESIGN 7).

Look (read only, no lock, nothing written when nothing is new) → lock → fetch → pull gate → read → reconcile and
apply in one transaction → write back → fast-forward the clone. Each step leaves a state that the next visit
understands, so a visit may be killed anywhere.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import pygit2

from state_hub.checks import IN_FILES, Found, Severity
from state_hub.errors import GitError, LockLostError, RefusedError
from state_hub.git import gate, writeback
from state_hub.git.clone import Clone
from state_hub.git.remote import Remotes, fetch, make_clone, set_ref
from state_hub.reconcile import ChangeWorkstream, FileEntry, Plan, Writeback, describe
from state_hub.settings import Settings, allow_remote
from state_hub.sides import make_plan, read_files
from state_hub.store import findings, locks, plans, repos
from state_hub.workplan import MAX_BYTES, EditRefused, StatusEdit, edit_workplan

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy as sa

    from activity_plumbing.clock import Clock
    from state_hub.git.command import Deadline
    from state_hub.registry import Repo
    from state_hub.store.findings import OpenFinding
    from state_hub.store.store import Store

log = logging.getLogger(__name__)

PUSH_ATTEMPTS = 5
LEASE_SPARE_S = 30.0
"""How much longer a lock lasts than the visit may take."""
_LOCK_POLL_S = 0.2
_OF_THE_MOMENT = frozenset({"C-01", "C-13", "C-15", "C-16"})
"""Checks whose answer may change although no commit was made."""
_FLEET_WIDE = frozenset({"C-12", "C-14"})


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
    """What came of one visit. `did` tells it in lines; `wrote` counts changes to rows, files and git."""

    slug: str
    repo_id: int
    outcome: Outcome = Outcome.UNCHANGED
    did: list[str] = field(default_factory=list)
    detail: str = ""
    tip: str | None = None
    found: list[Found] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
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


def visit(repo: Repo, tools: Tools, options: Options, deadline: Deadline) -> Visit:
    """Visits one repo. Raises nothing for what is wrong with the repo, its remote or its files."""
    began = time.monotonic()
    result = Visit(slug=repo.slug, repo_id=repo.id)
    try:
        _Visitor(repo, tools, options, deadline, result).run()
    except LockLostError as failure:
        result.outcome, result.detail = Outcome.LOCKED, str(failure)
    except (GitError, pygit2.GitError, OSError) as failure:  # a corrupt clone, a full disk
        result.outcome, result.detail = Outcome.FAILED, f"{failure}"[:500]
    result.duration_s = time.monotonic() - began
    return result


class _Blocked(Exception):
    """The repo cannot be synced; the finding says why."""

    def __init__(self, found: Found) -> None:
        self.found = found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refs:
    """Where the branch stands: in the clone, as last fetched, and as the remote says now."""

    local: str | None
    tracking_name: str
    tracking: str | None


class _Visitor:
    def __init__(self, repo: Repo, tools: Tools, options: Options, deadline: Deadline, result: Visit) -> None:
        self._repo = repo
        self._tools = tools
        self._store = tools.store
        self._options = options
        self._deadline = deadline
        self._result = result
        self._path = Path(repo.path)
        self._found: list[Found] = []
        self._lock: locks.RepoLock | None = None
        self._is_looking = False
        self._asked_tip: str | None = None
        self._needs_fetch = False
        self._has_commits = False
        self._is_gate_passed = False

    # -- the course of a visit --

    def run(self) -> None:
        if self._options.is_dry_run:
            self._look()
            self._result.found = self._found
            return
        if not self._has_news() or self._is_known():
            return
        held_by = self._take_lock()
        if held_by is not None:
            self._result.outcome, self._result.detail = Outcome.LOCKED, f"locked by {held_by}"
            return
        try:
            self._work()
        finally:
            self._release_lock()
        self._result.found = self._found

    def _work(self) -> None:
        with self._store.reading() as connection:  # another may have moved it while we waited
            self._repo = repos.find_repo(connection, self._repo.slug)
        try:
            tip = self._bring_here()
            if self._options.fix:
                self._settle_left_over(tip)
            files = self._bring_together(self._commit_to_read(tip), tip)
        except _Blocked as blocked:
            self._block(blocked.found)
            files = None
        except (GitError, pygit2.GitError, OSError) as failure:
            self._block(Found(check="C-16", subject="visit", message=f"{failure}"[:500]))
            files = None
        self._record_findings(files)

    def _block(self, found: Found) -> None:
        self._result.outcome, self._result.detail = Outcome.BLOCKED, found.message
        self._found = [each for each in self._found if (each.check, each.subject) != (found.check, found.subject)]
        self._found.append(found)

    def _look(self) -> tuple[Plan | None, Mapping[str, FileEntry] | None]:
        """The plan that a visit would apply, and the files it was made from; changes nothing."""
        self._is_looking = True
        try:
            tip = self._bring_here()
            commit = self._commit_to_read(tip)
            with self._open() as clone, self._store.reading() as connection:
                files = read_files(connection, clone, self._repo, commit)
                plan = make_plan(connection, clone, self._repo, commit, files, locks=False)
            self._tell(plan, is_done=False)
            self._found += plan.found
            if commit != self._repo.base_commit:
                self._result.did.append(f"would take {commit[:10]} for the base")
            for each in plan.writebacks if self._may_write(commit, tip) else ():
                self._result.did.append(f"would write back {each}")
            return plan, files
        except _Blocked as blocked:
            self._block(blocked.found)
        except (GitError, pygit2.GitError, OSError) as failure:
            self._block(Found(check="C-16", subject="visit", message=f"{failure}"[:500]))
        finally:
            self._is_looking = False
        return None, None

    def _is_known(self) -> bool:
        """Whether a look finds just what is recorded already: then nothing needs a lock, or a write."""
        if self._needs_fetch or self._has_commits:
            return False
        _, files = self._look()
        is_known = not self._result.did and self._has_same_findings(files)
        if not is_known:
            self._found = []
            self._result.did, self._result.outcome, self._result.detail = [], Outcome.UNCHANGED, ""
        self._result.found = self._found
        return is_known

    # -- looking --

    def _has_news(self) -> bool:
        """Whether anything may have to be done. Reads only, and takes no lock."""
        try:
            with self._open() as clone:
                refs = self._refs(clone)
                self._result.tip = refs.local
                is_level = refs.local is not None and refs.local == self._repo.base_commit
                self._has_commits = not is_level
                if self._options.is_remote:
                    self._asked_tip = self._result.tip = self._remote_tip()
                    self._needs_fetch = self._asked_tip != refs.tracking
                    is_level = is_level and self._asked_tip == refs.local and not self._needs_fetch
                    self._has_commits = self._repo.base_commit not in (refs.local, self._asked_tip)
                    is_level = is_level and clone.checked_out == self._repo.branch and clone.in_progress() is None
        except (_Blocked, pygit2.GitError, OSError):
            return True
        with self._store.reading() as connection:
            known = findings.open_findings(connection, self._repo.id)
            if any(each.check in _OF_THE_MOMENT and not each.is_event for each in known):
                return True
            if self._options.is_remote and (
                plans.has_pending(connection, self._repo.id) or plans.unsettled_commits(connection, self._repo.id)
            ):
                return True
        return not is_level

    def _remote_tip(self) -> str:
        """The remote's tip. Raises _Blocked when it cannot be had."""
        try:
            allow_remote(self._tools.settings, self._repo.remote_url)
            if self._asked_tip is not None and self._is_looking:
                return self._asked_tip
            found = self._tools.remotes.tip(self._repo.remote_url, self._repo.branch, self._deadline)
        except RefusedError as failure:
            raise _Blocked(Found(check="C-01", subject="remote", message=str(failure))) from failure
        except GitError as failure:
            message = f"the remote cannot be asked: {failure}"
            raise _Blocked(Found(check="C-16", subject="remote", message=message)) from failure
        if found is None:
            message = f"{self._repo.remote_url} has no branch {self._repo.branch}"
            raise _Blocked(Found(check="C-01", subject="branch", message=message))
        return found

    def _open(self) -> Clone:
        """The clone, made again where it is the hub's own and gone. Raises _Blocked."""
        try:
            if not self._path.exists():
                self._make_again()
            clone = Clone(self._path)
        except GitError as failure:
            raise _Blocked(Found(check="C-01", subject="clone", message=str(failure))) from failure
        if clone.remote_named(self._repo.remote_url) is None:
            shown = ", ".join(clone.remote_urls()) or "none"
            message = f"no remote of the clone is {self._repo.remote_url}; found {shown}"
            raise _Blocked(Found(check="C-01", subject="remote", message=message))
        return clone

    def _make_again(self) -> None:
        options = self._options
        if not (self._repo.is_managed and options.is_remote and options.fix and self._lock is not None):
            raise GitError(f"the clone {self._path} does not exist")
        allow_remote(self._tools.settings, self._repo.remote_url)
        make_clone(self._repo.remote_url, self._repo.branch, self._path, self._deadline)
        self._did(f"cloned {self._repo.remote_url}")

    def _refs(self, clone: Clone) -> _Refs:
        name = clone.remote_named(self._repo.remote_url)
        assert name is not None
        tracking = f"refs/remotes/{name}/{self._repo.branch}"
        return _Refs(
            local=clone.tip(f"refs/heads/{self._repo.branch}"), tracking_name=tracking, tracking=clone.tip(tracking)
        )

    # -- fetch and pull gate --

    @property
    def _changes(self) -> bool:
        """Whether this pass may change the clone and the database's rows."""
        return self._options.fix and not self._options.is_dry_run and not self._is_looking

    def _bring_here(self) -> str | None:
        """Fetches and passes the pull gate; the remote's tip, or None where there is none to be had."""
        with self._open() as clone:
            if clone.checked_out != self._repo.branch:
                what = f"{clone.checked_out} is checked out" if clone.checked_out else "HEAD is detached"
                self._find("C-01", "checkout", f"{what}, registered is {self._repo.branch}", Severity.WARNING)
            if not self._options.is_remote:
                return None
            refs = self._refs(clone)
            try:
                tip = self._remote_tip()
                if tip != refs.tracking or not clone.has_commit(tip):
                    into = refs.tracking_name if self._changes else None
                    fetch(self._path, self._repo.remote_url, self._repo.branch, self._deadline, into=into)
            except _Blocked as blocked:
                self._block(blocked.found)
                return None
            except GitError as failure:
                self._block(Found(check="C-16", subject="remote", message=f"the remote cannot be fetched: {failure}"))
                return None
        with self._open() as clone:  # opened again, to see what was fetched
            if not clone.has_commit(tip):  # it moved between the question and the fetch
                tip = self._refs(clone).tracking or tip
            self._result.tip = tip
            self._pass_gate(clone, tip)
        return tip

    def _pass_gate(self, clone: Clone, tip: str) -> None:
        """C-16: fast-forwards the clone to the tip, or says why not."""
        local = self._refs(clone).local
        if local is None:
            self._find("C-16", "pull", f"the clone has no branch {self._repo.branch}; switch to it once")
            return
        standing = gate.Standing(
            branch=self._repo.branch,
            checked_out=clone.checked_out,
            in_progress=clone.in_progress(),
            ahead=clone.count_between(tip, local),
            behind=clone.count_between(local, tip),
        )
        try:
            verdict = gate.judge(standing, lambda: gate.has_changes(self._path, self._deadline))
            if verdict.reason is not None:
                self._find("C-16", "pull", verdict.reason)
                self._result.outcome, self._result.detail = Outcome.BLOCKED, verdict.reason
            elif verdict.may_pull:
                if self._changes:
                    gate.fast_forward(self._path, tip, self._deadline)
                    self._did(f"pulled {standing.behind} commit(s), {local[:10]} → {tip[:10]}")
                else:
                    self._did(f"would pull {standing.behind} commit(s), {local[:10]} → {tip[:10]}")
            elif standing.ahead:
                message = f"{standing.ahead} unpushed commit(s); until they are pushed nothing is written back"
                self._find("C-16", "pull", message, Severity.NOTICE)
            self._is_gate_passed = True
        except GitError as failure:
            self._find("C-16", "pull", f"cannot be fast-forwarded: {failure}")

    def _commit_to_read(self, tip: str | None) -> str:
        """The commit whose files count: the remote's tip, or the clone's branch when it is ahead of that.

        Raises _Blocked when it does not contain the base: files of such a commit are no news.
        """
        with self._open() as clone:
            local = self._refs(clone).local
            if tip is None or not clone.has_commit(tip):
                commit = local
            else:
                commit = local if local is not None and clone.contains(local, tip) else tip
            if commit is None:
                message = f"neither the clone nor its remote has the branch {self._repo.branch}"
                raise _Blocked(Found(check="C-01", subject="branch", message=message))
            base = self._repo.base_commit
            if base is None or clone.contains(commit, base):
                return commit
            if clone.contains(base, commit):
                return base  # behind: what is older than the base is no news
            shown = "is not in the clone any more" if not clone.has_commit(base) else f"is not part of {commit[:10]}"
            message = f"the base {base[:10]} {shown}: history was rewritten; nothing is synced"
            raise _Blocked(Found(check="C-13", subject="base", message=message))

    # -- reconciling and applying --

    def _bring_together(self, commit: str, tip: str | None) -> Mapping[str, FileEntry]:
        """Reconciles and applies; then writes back, up to five times when others push meanwhile. The files read."""
        for attempt in range(1, PUSH_ATTEMPTS + 1):
            with self._open() as clone:
                with self._store.reading() as connection:
                    files = read_files(connection, clone, self._repo, commit)
                plan = self._apply(clone, commit, files)
                if not (plan.writebacks and self._may_write(commit, tip)):
                    break
                if self._write_back(clone, commit, plan.writebacks) is not writeback.Pushed.REJECTED:
                    break
            if attempt == PUSH_ATTEMPTS:
                message = f"the push was rejected {attempt} times, as others were quicker; the next sweep tries again"
                self._find("C-15", "push", message, Severity.WARNING)
                break
            time.sleep(random.uniform(0.05, 0.3) * attempt)
            tip = self._bring_here()
            commit = self._commit_to_read(tip)
        return files

    def _apply(self, clone: Clone, commit: str, files: Mapping[str, FileEntry]) -> Plan:
        """Reconciles under the database's own lock and applies the file → DB half, as one transaction."""
        if not self._options.fix:
            with self._store.reading() as connection:
                plan = make_plan(connection, clone, self._repo, commit, files, locks=False)
            self._tell(plan, is_done=False)
            self._keep(plan)
            return plan
        with self._store.writing() as connection:
            self._hold(connection)
            plan = make_plan(connection, clone, self._repo, commit, files, locks=True)
            now = self._tools.clock.now()
            plans.apply_changes(connection, self._repo.id, plan.changes, commit=commit, at=now)
            events = [each for each in plan.found if each.is_event]
            if events:  # kept with the change they tell of
                findings.update_findings(connection, self._repo.id, events, is_judged=lambda _known: False, at=now)
            if commit != self._repo.base_commit:
                repos.set_base(connection, self._repo.id, commit)
        self._repo = replace(self._repo, base_commit=commit)
        if plan.changes:
            self._result.is_new_content = True
            if self._result.outcome is not Outcome.BLOCKED:
                self._result.outcome = Outcome.CHANGED
        self._tell(plan, is_done=True)
        self._keep(plan)
        return plan

    def _keep(self, plan: Plan) -> None:
        """The plan's findings, in place of those of an attempt before it."""
        told = {(each.check, each.subject) for each in plan.found}
        self._found = [each for each in self._found if (each.check, each.subject) not in told]
        self._found += plan.found

    def _tell(self, plan: Plan, *, is_done: bool) -> None:
        for change in plan.changes:
            if isinstance(change, ChangeWorkstream) and set(change.values) == {"blob"}:
                continue  # the file was read again; what it says anew has lines of its own
            self._result.did.append(describe(change) if is_done else f"would apply {describe(change)}")

    # -- writing back --

    def _may_write(self, commit: str, tip: str | None) -> bool:
        """Only onto the fetched tip, and not past commits that somebody has yet to push."""
        return self._options.is_remote and tip is not None and commit == tip and self._options.fix

    def _write_back(self, clone: Clone, commit: str, wanted: list[Writeback]) -> writeback.Pushed | None:
        """C-15: edits, one commit, its push, and the rows that now agree. None: there was nothing it could write."""
        files: dict[str, writeback.NewFile] = {}
        written: list[Writeback] = []
        for path in sorted({each.path for each in wanted}):
            of_path = [each for each in wanted if each.path == path]
            entry = clone.entry(commit, path)
            edits = [StatusEdit(task_id=each.task_id, old=each.old, new=each.new) for each in of_path]
            try:
                if entry is None or not entry.is_plain:
                    raise EditRefused(f"{path} is not a plain file any more")
                data = edit_workplan(clone.blob(entry.blob, most=MAX_BYTES), edits, path)
            except EditRefused as refused:
                self._find("C-15", path, str(refused))
                continue
            files[path] = writeback.NewFile(mode=entry.mode, data=data)
            written += of_path
        if not files:
            return writeback.Pushed.DONE
        settings = self._tools.settings
        now = self._tools.clock.now()
        made = writeback.make_commit(
            self._path,
            parent=commit,
            files=files,
            message=_message(written),
            identity=writeback.Identity(name=settings.bot_name, email=settings.bot_email),
            at=now,
            deadline=self._deadline,
        )
        with self._store.writing() as connection:
            self._hold(connection)
            plans.note_writebacks(connection, self._repo.id, written, made, now)
        try:
            pushed = writeback.push(self._path, self._repo.remote_url, made, self._repo.branch, self._deadline)
        except GitError as failure:
            if not failure.is_passing:  # else it may have arrived: the next visit looks
                self._settle(made, is_pushed=False)
            self._find("C-15", "push", f"cannot be pushed: {failure}")
            return None
        if pushed is writeback.Pushed.REJECTED:
            self._settle(made, is_pushed=False)
            return pushed
        with Clone(self._path) as after:
            blobs = {path: found.blob for path in files if (found := after.entry(made, path)) is not None}
        self._settle(made, is_pushed=True, blobs=blobs)
        self._did(f"wrote back {len(written)} status(es) in {made[:10]}")
        self._result.did += [f"C-15 {each}" for each in written]
        self._follow(made)
        return pushed

    def _settle(self, made: str, *, is_pushed: bool, blobs: Mapping[str, str] | None = None) -> None:
        with self._store.writing() as connection:
            self._hold(connection)
            plans.settle_writebacks(
                connection, self._repo.id, made, is_pushed=is_pushed, blobs=blobs or {}, at=self._tools.clock.now()
            )
            if is_pushed:
                repos.set_base(connection, self._repo.id, made)
        if is_pushed:
            self._repo = replace(self._repo, base_commit=made)

    def _settle_left_over(self, tip: str | None) -> None:
        """What a killed visit had begun to push: whether it arrived is plain from the remote's history."""
        if tip is None:
            return
        with self._store.reading() as connection:
            left = plans.unsettled_commits(connection, self._repo.id)
        if not left:
            return
        with self._open() as clone:
            arrived = {made: clone.contains(tip, made) for made, _ in left}
        for made, is_pushed in arrived.items():
            with self._store.writing() as connection:
                self._hold(connection)
                plans.settle_writebacks(
                    connection, self._repo.id, made, is_pushed=is_pushed, blobs={}, at=self._tools.clock.now()
                )
            if not is_pushed:
                self._did(f"the push of {made[:10]} had not arrived; its changes are written anew")

    def _follow(self, made: str) -> None:
        """Brings the clone to the commit that was just pushed, if it may be pulled."""
        try:
            with self._open() as clone:
                set_ref(self._path, self._refs(clone).tracking_name, made, self._deadline)
            with self._open() as clone:
                self._found = [each for each in self._found if (each.check, each.subject) != ("C-16", "pull")]
                self._pass_gate(clone, made)
                self._result.tip = made
        except GitError as failure:
            self._find("C-16", "pull", f"cannot be fast-forwarded: {failure}")

    # -- findings, lock, small things --

    def _is_judged(self, known: OpenFinding, files: Mapping[str, FileEntry] | None) -> bool:
        """Whether this visit would have found it again, were it still so. `files` None: it did not come to them."""
        if files is None or known.is_event or known.check in _FLEET_WIDE:
            return False
        if known.check in ("C-15", "C-16") or (known.check == "C-01" and known.subject != "checkout"):
            return self._is_gate_passed
        if known.check in IN_FILES:
            entry = files.get(known.path)
            return entry is None or entry.reading is not None
        return True

    def _has_same_findings(self, files: Mapping[str, FileEntry] | None) -> bool:
        """Whether what is open in the database is what was found now."""
        with self._store.reading() as connection:
            known = {(each.check, each.subject): each for each in findings.open_findings(connection, self._repo.id)}
        now = {(each.check, each.subject): each for each in self._found}
        return all(
            key in known and (known[key].message, known[key].path) == (each.message, each.path)
            for key, each in now.items()
        ) and all(key in now or not self._is_judged(each, files) for key, each in known.items())

    def _record_findings(self, files: Mapping[str, FileEntry] | None) -> None:
        """Opens and closes findings; writes nothing where they are as they were."""
        if self._has_same_findings(files):
            return
        with self._store.writing() as connection:
            self._hold(connection)
            self._result.opened, self._result.closed = findings.update_findings(
                connection,
                self._repo.id,
                self._found,
                is_judged=lambda known: self._is_judged(known, files),
                at=self._tools.clock.now(),
            )
        if self._result.outcome is Outcome.UNCHANGED:
            self._result.outcome = Outcome.CHANGED

    def _take_lock(self) -> str | None:
        """Takes the repo's lock, or says who has it."""
        lease_us = int((max(0.0, self._deadline.remaining_s) + LEASE_SPARE_S) * 1e6)
        give_up_at = time.monotonic() + self._options.lock_wait_s
        while True:
            with self._store.writing() as connection:
                taken = locks.take_lock(
                    connection, self._repo.id, self._options.role, self._tools.clock.now(), lease_us
                )
            if isinstance(taken, locks.RepoLock):
                self._lock = taken
                return None
            if time.monotonic() >= give_up_at or self._deadline.remaining_s <= 0:
                return taken.holder
            time.sleep(_LOCK_POLL_S)

    def _release_lock(self) -> None:
        assert self._lock is not None
        with self._store.writing() as connection:
            locks.release_lock(connection, self._lock)

    def _hold(self, connection: sa.Connection) -> None:
        assert self._lock is not None
        locks.hold_lock(connection, self._lock)

    def _did(self, line: str) -> None:
        self._result.did.append(line)
        if not line.startswith("would ") and self._result.outcome is not Outcome.BLOCKED:
            self._result.outcome = Outcome.CHANGED

    def _find(self, check: str, subject: str, message: str, severity: Severity | None = None) -> None:
        self._found = [each for each in self._found if (each.check, each.subject) != (check, subject)]
        self._found.append(Found(check=check, subject=subject, message=message, severity=severity))


def _message(written: list[Writeback]) -> str:
    """The bot's commit message: what changed, and a trailer that marks it."""
    names = [each.workplan_id if each.task_id is None else f"{each.workplan_id}/{each.task_id}" for each in written]
    subject = f"Set {names[0]} to {written[0].new}" if len(written) == 1 else f"Set {len(written)} statuses"
    lines = "\n".join(f"- {each}" for each in written)
    ids = ", ".join(sorted({each.workplan_id for each in written}))
    return f"{subject}\n\nChanged in the state hub:\n\n{lines}\n\n{writeback.TRAILER}: {ids}\n"


def is_bot_commit(message: str) -> bool:
    """Whether a commit message carries the hub's trailer."""
    return any(line.startswith(f"{writeback.TRAILER}: ") for line in message.splitlines())
