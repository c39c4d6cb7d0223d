"""One repo, from a look at its remote to rows and files that agree (DESIGN 7).

Look (read only, no lock, nothing written when nothing is new) → lock → fetch → pull gate → read → reconcile and
apply in one transaction → write back → fast-forward the clone. Each step leaves a state that the next visit
understands, so a visit may be killed anywhere.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pygit2

from state_hub.case import Blocked, Case, Options, Outcome, Tools, Visit
from state_hub.checks import IN_FILES, Found, Severity
from state_hub.errors import GitError, LockLostError
from state_hub.git import writeback
from state_hub.pull import base_for, bring_here, commit_to_read, remote_tip
from state_hub.reconcile import ChangeWorkstream, FileEntry, Plan, describe
from state_hub.sides import make_plan, read_files
from state_hub.store import findings, plans, repos
from state_hub.write_back import may_write, settle_left_over, write_back

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy as sa

    from state_hub.git.clone import Clone
    from state_hub.git.command import Deadline
    from state_hub.registry import Repo
    from state_hub.store.findings import OpenFinding

PUSH_ATTEMPTS = 5
_OF_THE_MOMENT = frozenset({"C-01", "C-04", "C-13", "C-15", "C-16"})
"""Checks whose answer may change although no commit was made here: by the clone, the remote, another repo."""
_FLEET_WIDE = frozenset({"C-12", "C-14"})

_BROKEN = (GitError, pygit2.GitError, OSError)
"""What a corrupt clone, a full disk or a hanging remote raises."""

Files = dict[str, FileEntry]


def visit(repo: Repo, tools: Tools, options: Options, deadline: Deadline) -> Visit:
    """Visits one repo. Raises nothing for what is wrong with the repo, its remote or its files."""
    began = time.monotonic()
    case = Case(repo, tools, options, deadline)
    result = case.result
    try:
        _visit(case)
    except LockLostError as failure:
        result.outcome, result.detail = Outcome.LOCKED, str(failure)
    except _BROKEN as failure:
        result.outcome, result.detail = Outcome.FAILED, _said(failure)
    result.found = case.found
    result.duration_s = time.monotonic() - began
    return result


def _visit(case: Case) -> None:
    if case.options.is_dry_run:
        _look(case)
        return
    has_news, is_only_known = _glance(case)
    if not has_news or (is_only_known and _finds_what_is_known(case)):
        return
    held_by = case.lock()
    if held_by is not None:
        case.result.outcome, case.result.detail = Outcome.LOCKED, f"locked by {held_by}"
        return
    try:
        _work(case)
    finally:
        case.unlock()


def _glance(case: Case) -> tuple[bool, bool]:
    """(whether anything may have to be done, whether without new commits). Reads only, and takes no lock."""
    has_commits = needs_fetch = False
    repo = case.repo
    try:
        with case.open() as clone:
            refs = case.refs(clone)
            tips = [refs.local]
            case.result.tip = refs.local
            is_level = refs.local is not None and refs.local == repo.base_commit == repo.read_commit
            if case.options.is_remote:
                case.asked_tip = case.result.tip = remote_tip(case)
                tips.append(case.asked_tip)
                needs_fetch = case.asked_tip != refs.tracking
                is_level = is_level and case.asked_tip == refs.local and not needs_fetch
                is_level = is_level and clone.checked_out == repo.branch and clone.in_progress() is None
            has_commits = repo.read_commit not in tips
    except (Blocked, *_BROKEN):
        return True, True
    with case.store.reading() as connection:
        known = findings.open_findings(connection, repo.id)
        has_doubts = any(each.check in _OF_THE_MOMENT and not each.is_event for each in known)
        if case.options.is_remote and (
            plans.has_pending(connection, repo.id) or plans.unsettled_commits(connection, repo.id)
        ):
            return True, False
    return has_doubts or not is_level, not (has_commits or needs_fetch)


def _look(case: Case) -> Files | None:
    """Notes what a visit would do and find; changes nothing. The files it came to."""
    case.is_looking = True
    try:
        tip = bring_here(case)
        commit = commit_to_read(case, tip)
        with case.open() as clone, case.store.reading() as connection:
            files = read_files(connection, clone, case.repo, commit, case.deadline)
            plan = make_plan(connection, clone, case.repo, commit, files, locks=False)
            base = base_for(case, clone, commit)
        _tell(case, plan, is_done=False)
        case.take(plan.found)
        if (base, commit) != (case.repo.base_commit, case.repo.read_commit):
            case.did(f"would read {commit[:10]}, with {base[:10]} for the base")
        for each in plan.writebacks if may_write(case, commit, tip) else ():
            case.did(f"would write back {each}")
        return files
    except Blocked as blocked:
        case.block(blocked.found)
    except _BROKEN as failure:
        case.block(Found(check="C-16", subject="visit", message=_said(failure)))
    finally:
        case.is_looking = False
    return None


def _finds_what_is_known(case: Case) -> bool:
    """Whether a look finds just what is recorded already: then nothing needs a lock, or a write."""
    files = _look(case)
    case.has_tried_writing = not case.result.did
    if not case.result.did and _has_same_findings(case, files):
        return True
    case.start_over()
    return False


def _work(case: Case) -> None:
    with case.store.reading() as connection:  # another may have moved it while we waited
        case.repo = repos.find_repo(connection, case.repo.slug)
    files: Files | None = None
    try:
        tip = bring_here(case)
        if case.options.fix:
            settle_left_over(case, tip)
        files = _bring_together(case, commit_to_read(case, tip), tip)
    except Blocked as blocked:
        case.block(blocked.found)
    except _BROKEN as failure:
        case.block(Found(check="C-16", subject="visit", message=_said(failure)))
    _record_findings(case, files)


def _bring_together(case: Case, commit: str, tip: str | None) -> Files:
    """Reconciles and applies; then writes back, up to five times when others push meanwhile. The files read."""
    attempt = 1
    while True:
        with case.open() as clone:
            with case.store.reading() as connection:
                files = read_files(connection, clone, case.repo, commit, case.deadline)
            plan = _apply(case, clone, commit, files)
            is_allowed = may_write(case, commit, tip)
            case.has_tried_writing = is_allowed or (case.changes and not plan.writebacks)
            if not (plan.writebacks and is_allowed):
                return files
            if write_back(case, clone, commit, plan.writebacks) is not writeback.Pushed.REJECTED:
                return files
        if attempt == PUSH_ATTEMPTS:
            message = f"the push was rejected {attempt} times, as others were quicker; the next sweep tries again"
            case.find("C-15", "push", message, Severity.WARNING)
            return files
        time.sleep(random.uniform(0.05, 0.3) * attempt)  # so that rivals do not meet again
        attempt += 1
        tip = bring_here(case)
        commit = commit_to_read(case, tip)


def _apply(case: Case, clone: Clone, commit: str, files: Files) -> Plan:
    """Reconciles under the database's own lock and applies the file → DB half, as one transaction."""
    if not case.changes:
        with case.store.reading() as connection:
            plan = make_plan(connection, clone, case.repo, commit, files, locks=False)
        _tell(case, plan, is_done=False)
        case.take(plan.found)
        return plan
    base = base_for(case, clone, commit)

    def apply(connection: sa.Connection) -> Plan:
        case.hold(connection)
        plan = make_plan(connection, clone, case.repo, commit, files, locks=True)
        now = case.tools.clock.now()
        plans.apply_changes(connection, case.repo.id, plan.changes, commit=commit, at=now)
        events = [each for each in plan.found if each.is_event]
        if events:  # kept with the change they tell of
            findings.update_findings(connection, case.repo.id, events, is_judged=lambda _known: False, at=now)
        if (base, commit) != (case.repo.base_commit, case.repo.read_commit):
            repos.set_base(connection, case.repo.id, base, read=commit)
        return plan

    plan = case.store.write(apply)
    case.repo = replace(case.repo, base_commit=base, read_commit=commit)
    if plan.changes:
        case.result.is_new_content = True
        if case.result.outcome is not Outcome.BLOCKED:
            case.result.outcome = Outcome.CHANGED
    _tell(case, plan, is_done=True)
    case.take(plan.found)
    return plan


def _tell(case: Case, plan: Plan, *, is_done: bool) -> None:
    for change in plan.changes:
        if isinstance(change, ChangeWorkstream) and set(change.values) == {"blob"}:
            continue  # the file was read again; what it says anew has lines of its own
        case.result.did.append(describe(change) if is_done else f"would apply {describe(change)}")


# -- findings --


def _is_judged(case: Case, known: OpenFinding, files: Mapping[str, FileEntry] | None) -> bool:
    """Whether this visit would have found it again, were it still so. `files` None: it did not come to them."""
    if files is None or known.is_event or known.check in _FLEET_WIDE:
        return False
    if known.check == "C-15":
        return case.has_tried_writing
    if known.check == "C-16" or (known.check == "C-01" and known.subject != "checkout"):
        return case.is_gate_passed
    if known.check in IN_FILES or known.check == "C-07":
        entry = files.get(known.path)
        return entry is None or entry.reading is not None
    return True


def _has_same_findings(case: Case, files: Mapping[str, FileEntry] | None) -> bool:
    """Whether what is open in the database is what was found now."""
    with case.store.reading() as connection:
        known = {(each.check, each.subject): each for each in findings.open_findings(connection, case.repo.id)}
    now = {(each.check, each.subject): each for each in case.found}
    return all(key in known and known[key].is_as(each) for key, each in now.items()) and all(
        key in now or not _is_judged(case, each, files) for key, each in known.items()
    )


def _record_findings(case: Case, files: Mapping[str, FileEntry] | None) -> None:
    """Opens and closes findings; writes nothing where they are as they were."""
    if _has_same_findings(case, files):
        return
    with case.store.writing() as connection:
        case.hold(connection)
        findings.update_findings(
            connection,
            case.repo.id,
            case.found,
            is_judged=lambda known: _is_judged(case, known, files),
            at=case.tools.clock.now(),
        )
    if case.result.outcome is Outcome.UNCHANGED:
        case.result.outcome = Outcome.CHANGED


def _said(failure: BaseException) -> str:
    return f"{failure}"[:500]
