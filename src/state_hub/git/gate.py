"""C-16, the pull gate: whether a clone may be fast-forwarded, and doing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from state_hub.git.command import Deadline, local_filters, run_git

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a clone stands. `ahead` and `behind` count commits of the registered branch against its remote."""

    branch: str
    checked_out: str | None
    in_progress: str | None
    ahead: int
    behind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The verdict: fast-forward, leave alone because there is nothing to do, or leave alone because of `reason`."""

    may_pull: bool = False
    reason: str | None = None


def judge(standing: Standing, has_changes: Callable[[], bool]) -> Gate:
    """What may be done to the clone. `has_changes` is asked only where the answer depends on it."""
    if standing.behind == 0:
        return Gate()
    news = f"{standing.behind} commit(s) behind its remote"
    if standing.ahead:
        return Gate(reason=f"diverged: {news} and {standing.ahead} ahead; rebase or merge, then push")
    if standing.in_progress is not None:
        return Gate(reason=f"{news}, with {standing.in_progress} in progress; finish or abort it")
    if standing.checked_out is None:
        return Gate(reason=f"{news}, with a detached HEAD; switch to {standing.branch}")
    if standing.checked_out != standing.branch:
        return Gate(reason=f"{news}, with {standing.checked_out} checked out; switch to {standing.branch}")
    if has_changes():
        return Gate(reason=f"{news}, with uncommitted changes; commit or stash them")
    return Gate(may_pull=True)


def has_changes(folder: Path, deadline: Deadline) -> bool:
    """Whether tracked files differ from the last commit. Untracked ones are in nobody's way until git says so."""
    printed = run_git(
        ["status", "--porcelain=v1", "-z", "--untracked-files=no", "--ignore-submodules=dirty"],
        folder=folder,
        deadline=deadline,
        settings=local_filters(folder, deadline),
    )
    return bool(printed)


def fast_forward(folder: Path, commit: str, deadline: Deadline) -> None:
    """Moves branch, index and working tree forward to `commit`. Raises GitError; then nothing was touched."""
    run_git(
        ["merge", "--quiet", "--ff-only", "--no-verify", "--end-of-options", commit],
        folder=folder,
        deadline=deadline,
        settings=local_filters(folder, deadline),
    )
