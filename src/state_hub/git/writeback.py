"""C-15: a commit on top of the fetched tip, without a working tree, and its push."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from activity_plumbing.clock import SECOND_US
from state_hub.errors import GitError
from state_hub.git.command import Deadline, refuse_rewriting, run_git

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from activity_plumbing.clock import Instant

TRAILER = "State-Hub-Writeback"
_REF = "refs/state-hub/writeback"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file's new bytes, with the mode it had."""

    mode: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the hub commits as."""

    name: str
    email: str


class Pushed(Enum):
    """What became of a push."""

    DONE = auto()
    REJECTED = auto()
    """The remote has moved on: fetch, merge, and try again."""


def make_commit(
    folder: Path,
    *,
    parent: str,
    files: Mapping[str, NewFile],
    message: str,
    identity: Identity,
    at: Instant,
    deadline: Deadline,
) -> str:
    """A commit that changes exactly these files; its name. Kept by a ref of our own, on no branch. Raises GitError."""
    who = f"{identity.name} <{identity.email}> {at // SECOND_US} +0000\n".encode()
    text = message.encode()
    parts = [
        f"commit {_REF}\nmark :1\n".encode(),
        b"author " + who,
        b"committer " + who,
        f"data {len(text)}\n".encode() + text + b"\n",
        f"from {parent}\n".encode(),
    ]
    for path, file in sorted(files.items()):
        parts.append(f"M {file.mode:o} inline ".encode() + _quoted(path) + b"\n")
        parts.append(f"data {len(file.data)}\n".encode() + file.data + b"\n")
    parts.append(b"\nget-mark :1\ndone\n")
    printed = run_git(
        ["fast-import", "--quiet", "--done", "--force"], folder=folder, deadline=deadline, given=b"".join(parts)
    )
    return printed.decode("ascii").strip()


def _quoted(path: str) -> bytes:
    """A path as git-fast-import(1) reads it, C-style."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'.encode()


def push(folder: Path, url: str, commit: str, branch: str, deadline: Deadline) -> Pushed:
    """Pushes one commit to one branch, never by force. Raises GitError when trying again will not help."""
    refuse_rewriting(folder, deadline)
    try:
        run_git(
            [
                "push",
                "--quiet",
                "--no-verify",
                "--receive-pack=git-receive-pack",
                "--end-of-options",
                url,
                f"{commit}:refs/heads/{branch}",
            ],
            folder=folder,
            deadline=deadline,
        )
    except GitError as failure:
        if _has_moved_on(failure.output):
            return Pushed.REJECTED
        raise
    return Pushed.DONE


def _has_moved_on(printed: str) -> bool:
    """Whether the remote's branch is not where the commit expects it, by what git and receive-pack print."""
    if "[remote rejected]" in printed:  # two pushes at one time meet at the ref's lock
        return any(words in printed for words in ("cannot lock ref", "failed to update ref", "incorrect old value"))
    return "[rejected]" in printed
