"""From a remote to the commit whose files count: ask, fetch, pass the pull gate (C-16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from state_hub.case import Blocked, Case, Outcome
from state_hub.checks import Found, Severity
from state_hub.errors import GitError, RefusedError
from state_hub.git import gate
from state_hub.git.remote import fetch
from state_hub.settings import allow_remote

if TYPE_CHECKING:
    from state_hub.git.clone import Clone


def remote_tip(case: Case) -> str:
    """The remote's tip. Raises Blocked when it cannot be had."""
    try:
        allow_remote(case.tools.settings, case.repo.remote_url)
        if case.asked_tip is not None and case.is_looking:
            return case.asked_tip
        found = case.tools.remotes.tip(case.repo.remote_url, case.repo.branch, case.deadline)
    except RefusedError as failure:
        raise Blocked(Found(check="C-01", subject="remote", message=str(failure))) from failure
    except GitError as failure:
        message = f"the remote cannot be asked: {failure}"
        raise Blocked(Found(check="C-16", subject="remote", message=message)) from failure
    if found is None:
        message = f"{case.repo.remote_url} has no branch {case.repo.branch}"
        raise Blocked(Found(check="C-01", subject="branch", message=message))
    return found


def bring_here(case: Case) -> str | None:
    """Fetches and passes the pull gate; the remote's tip, or None where there is none to be had."""
    with case.open() as clone:
        if clone.checked_out != case.repo.branch:
            what = f"{clone.checked_out} is checked out" if clone.checked_out else "HEAD is detached"
            case.find("C-01", "checkout", f"{what}, registered is {case.repo.branch}", Severity.WARNING)
        if not case.options.is_remote:
            return None
        refs = case.refs(clone)
        try:
            tip = remote_tip(case)
            if tip != refs.tracking or not clone.has_commit(tip):
                into = refs.tracking_name if case.changes else None
                fetch(case.path, case.repo.remote_url, case.repo.branch, case.deadline, into=into)
        except Blocked as blocked:
            case.block(blocked.found)
            return None
        except GitError as failure:
            case.block(Found(check="C-16", subject="remote", message=f"the remote cannot be fetched: {failure}"))
            return None
    with case.open() as clone:  # opened again, to see what was fetched
        if not clone.has_commit(tip):  # it moved between the question and the fetch
            tip = case.refs(clone).tracking or tip
        case.result.tip = tip
        pass_gate(case, clone, tip)
    return tip


def pass_gate(case: Case, clone: Clone, tip: str) -> None:
    """C-16: fast-forwards the clone to the tip, or says why not."""
    local = case.refs(clone).local
    if local is None:
        case.find("C-16", "pull", f"the clone has no branch {case.repo.branch}; switch to it once")
        return
    standing = gate.Standing(
        branch=case.repo.branch,
        checked_out=clone.checked_out,
        in_progress=clone.in_progress(),
        ahead=clone.count_between(tip, local),
        behind=clone.count_between(local, tip),
    )
    try:
        verdict = gate.judge(standing, lambda: gate.has_changes(case.path, case.deadline))
        in_the_way = gate.file_in_the_way(case.path, local, tip, case.deadline) if verdict.may_pull else None
        if in_the_way is not None:
            news = f"{standing.behind} commit(s) behind its remote"
            verdict = gate.Gate(reason=f"{news}, with {in_the_way!r} in the way, unknown to git; move it elsewhere")
        if verdict.reason is not None:
            case.find("C-16", "pull", verdict.reason)
            case.result.outcome, case.result.detail = Outcome.BLOCKED, verdict.reason
        elif verdict.may_pull:
            line = f"{standing.behind} commit(s), {local[:10]} → {tip[:10]}"
            if case.changes:
                gate.fast_forward(case.path, tip, case.deadline)
                case.did(f"pulled {line}")
            else:
                case.did(f"would pull {line}")
        elif standing.ahead:
            message = f"{standing.ahead} unpushed commit(s); until they are pushed nothing is written back"
            case.find("C-16", "pull", message, Severity.NOTICE)
        case.is_gate_passed = True
    except GitError as failure:
        case.find("C-16", "pull", f"cannot be fast-forwarded: {failure}")


def commit_to_read(case: Case, tip: str | None) -> str:
    """The commit whose files count: the remote's tip, or the clone's branch when it is ahead of that.

    Raises Blocked when it does not contain the base: files of such a commit are no news.
    """
    with case.open() as clone:
        local = case.refs(clone).local
        if tip is None or not clone.has_commit(tip):
            commit = local
        else:
            commit = local if local is not None and clone.contains(local, tip) else tip
        if commit is None:
            message = f"neither the clone nor its remote has the branch {case.repo.branch}"
            raise Blocked(Found(check="C-01", subject="branch", message=message))
        base = case.repo.base_commit
        if base is None or clone.contains(commit, base):
            return commit
        if clone.contains(base, commit):
            return base  # behind: what is older than the base is no news
        shown = "is not in the clone any more" if not clone.has_commit(base) else f"is not part of {commit[:10]}"
        cause = "the clone is shallow; run git fetch --unshallow in it" if clone.is_shallow else "history was rewritten"
        message = f"the base {base[:10]} {shown}: {cause}; nothing is synced"
        raise Blocked(Found(check="C-13", subject="base", message=message))


def base_for(case: Case, clone: Clone, commit: str) -> str:
    """The base once `commit` was read: the newest part of its history that others have too.

    A commit that was not pushed may yet be amended or dropped, so it makes no base: the next one is then merged with
    the rows as any other. Where nothing was ever fetched the commit itself is all there is.
    """
    tracking = case.refs(clone).tracking
    if tracking is None or clone.contains(tracking, commit):
        return commit
    shared = clone.merge_base(commit, tracking) or commit
    base = case.repo.base_commit
    if base is not None and clone.contains(commit, base) and clone.contains(base, shared):
        return base  # the remote was rewound: what was pushed once stays the base
    return shared
