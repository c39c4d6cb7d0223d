"""C-16, the pull gate: whether a clone may be fast-forwarded, and doing it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from state_hub.git.command import Deadline, run_git, without_filters

if TYPE_CHECKING:
    from collections.abc import Callable


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
        settings=without_filters(folder, deadline),
        environment={"GIT_WORK_TREE": str(folder)},
    )
    return bool(printed)


def file_in_the_way(folder: Path, head: str, commit: str, deadline: Deadline) -> str | None:
    """A file that git does not know and that the commit would bring: it is somebody's, so nothing goes over it."""
    printed = run_git(
        ["diff", "--name-only", "--no-renames", "--diff-filter=A", "-z", "--end-of-options", head, commit],
        folder=folder,
        deadline=deadline,
    )
    for name in printed.decode("utf-8", "surrogateescape").split("\0"):
        if name and _is_taken(folder, name):
            return name
    return None


def _is_taken(folder: Path, name: str) -> bool:
    if os.path.lexists(folder / name):
        return True
    above = [folder / part for part in Path(name).parents if part != Path()]
    return any(os.path.lexists(part) and (part.is_symlink() or not part.is_dir()) for part in above)


def fast_forward(folder: Path, commit: str, deadline: Deadline) -> None:
    """Moves branch, index and working tree forward to `commit`. Raises GitError; then nothing was touched."""
    run_git(
        ["merge", "--quiet", "--ff-only", "--no-verify", "--end-of-options", commit],
        folder=folder,
        deadline=deadline,
        settings=without_filters(folder, deadline),
        environment={"GIT_WORK_TREE": str(folder)},
    )
