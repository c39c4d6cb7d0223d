"""A clone as libgit2 reads it: refs, history, trees and blobs. Never the working tree, never a hook or filter."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pygit2

from state_hub.errors import GitError

if TYPE_CHECKING:
    from types import TracebackType

MOST_FILES = 5_000
MAX_TREE_DEPTH = 32

_IN_PROGRESS = (
    ("rebase-merge", "a rebase"),
    ("rebase-apply", "a rebase or git am"),
    ("MERGE_HEAD", "a merge"),
    ("CHERRY_PICK_HEAD", "a cherry-pick"),
    ("REVERT_HEAD", "a revert"),
    ("BISECT_LOG", "a bisect"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of a tree: its object name and mode."""

    blob: str
    mode: int

    @property
    def is_plain(self) -> bool:
        """False for links, which are not followed."""
        return stat.S_ISREG(self.mode)


class Clone:
    """An open clone; use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Raises GitError when there is no clone at exactly this path."""
        try:
            self._repository = pygit2.Repository(str(path))
        except (pygit2.GitError, KeyError, ValueError) as failure:
            said = str(failure).removesuffix(".")
            raise GitError(f"{path} is not a git clone that may be read", said=said) from failure
        self.path = path
        if self._repository.is_bare:
            raise GitError(f"{path} is a bare repository; register a clone with a working tree")
        if Path(self._repository.workdir).resolve() != path.resolve():
            elsewhere = self._repository.workdir
            raise GitError(f"the working tree of {path} is said to be {elsewhere}; unset core.worktree")

    def __enter__(self) -> Clone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._repository.free()

    # -- refs --

    @property
    def checked_out(self) -> str | None:
        """The branch that is checked out; None when detached."""
        head = self._repository.lookup_reference("HEAD")
        target = head.target
        if isinstance(target, str) and target.startswith("refs/heads/"):
            return target.removeprefix("refs/heads/")
        return None

    def in_progress(self) -> str | None:
        """What is under way in the clone, such as ``a rebase``."""
        folder = Path(self._repository.path)
        return next((what for name, what in _IN_PROGRESS if (folder / name).exists()), None)

    def tip(self, ref: str) -> str | None:
        """The commit a full ref name leads to."""
        try:
            found = self._repository.lookup_reference(ref).resolve()
        except (KeyError, pygit2.GitError, ValueError):
            return None
        return str(found.target)

    def remote_named(self, url: str) -> str | None:
        """The name of the remote with this URL."""
        wanted = _plain_url(url)
        for remote in self._repository.remotes:
            if remote.url is not None and _plain_url(remote.url) == wanted:
                return remote.name
        return None

    def remote_urls(self) -> list[str]:
        """The URLs of all remotes, ``origin`` first."""
        found = sorted(self._repository.remotes, key=lambda remote: (remote.name != "origin", remote.name or ""))
        return [remote.url for remote in found if remote.url]

    # -- history --

    def has_commit(self, commit: str) -> bool:
        """Whether the commit is here."""
        try:
            return isinstance(self._repository.get(commit), pygit2.Commit)
        except ValueError:
            return False

    def contains(self, commit: str, ancestor: str) -> bool:
        """Whether `ancestor` is `commit` or in its history; False when either is not here."""
        if commit == ancestor:
            return self.has_commit(commit)
        if not (self.has_commit(commit) and self.has_commit(ancestor)):
            return False
        return bool(self._repository.descendant_of(commit, ancestor))

    def merge_base(self, one: str, other: str) -> str | None:
        """The newest commit that both have in their history."""
        found = self._repository.merge_base(one, other)
        return None if found is None else str(found)

    def count_between(self, ancestor: str, commit: str) -> int:
        """How many commits `commit` is ahead of `ancestor`."""
        return int(self._repository.ahead_behind(commit, ancestor)[0])

    def parent(self, commit: str) -> str:
        """Its first parent. Raises GitError when the commit is not here."""
        found = self._repository.get(commit)
        if not isinstance(found, pygit2.Commit) or not found.parent_ids:
            raise GitError(f"the commit {commit} and its parent are not in {self.path}")
        return str(found.parent_ids[0])

    @property
    def is_shallow(self) -> bool:
        """Whether its history was cut off when it was cloned."""
        return bool(self._repository.is_shallow)

    # -- files --

    def entries(self, commit: str, pattern: str) -> dict[str, Entry]:
        """The files of a commit whose path matches the glob. Raises GitError when there are too many."""
        matches = glob_expression(pattern)
        tree = self._tree(commit)
        prefix: list[str] = []
        for part in pattern.split("/")[:-1]:
            if re.search(r"[*?\[]", part):
                break
            try:
                below = tree[part]
            except KeyError:
                return {}
            if not isinstance(below, pygit2.Tree):
                return {}
            prefix.append(part)
            tree = below
        found: dict[str, Entry] = {}
        waiting = [("/".join(prefix), tree, len(prefix))]
        while waiting:
            folder, tree, depth = waiting.pop()
            for item in tree:
                name = item.name
                if name is None:
                    continue
                path = f"{folder}/{name}" if folder else name
                if not _is_text(path):  # shown with escapes; refused unread, as nothing could be written back
                    shown = path.encode("utf-8", "backslashreplace").decode()
                    if not isinstance(item, pygit2.Tree) and matches.fullmatch(path):
                        found[shown] = Entry(blob=str(item.id), mode=0)
                    continue
                if isinstance(item, pygit2.Tree):
                    if depth < MAX_TREE_DEPTH:
                        waiting.append((path, item, depth + 1))
                elif item.filemode != pygit2.GIT_FILEMODE_COMMIT and matches.fullmatch(path):
                    found[path] = Entry(blob=str(item.id), mode=int(item.filemode))
                    if len(found) > MOST_FILES:
                        raise GitError(f"more than {MOST_FILES:,} files match {pattern}; register a narrower glob")
        return found

    def entry(self, commit: str, path: str) -> Entry | None:
        """One file of a commit."""
        try:
            item = self._tree(commit)[path]
        except (KeyError, GitError):
            return None
        return Entry(blob=str(item.id), mode=int(item.filemode))

    def blob(self, name: str, *, most: int) -> bytes:
        """The bytes of an object. Raises GitError, unread, when there are more than `most`."""
        try:
            kind_and_size = self._repository.odb.read_header(name)
            if kind_and_size[1] > most:
                raise GitError(f"{kind_and_size[1]:,} bytes; at most {most:,} are read")
            found = self._repository[name]
        except KeyError as failure:
            raise GitError(f"the object {name} is missing from {self.path}; run git fsck there") from failure
        assert isinstance(found, pygit2.Blob)
        return found.data

    def _tree(self, commit: str) -> pygit2.Tree:
        found = self._repository.get(commit)
        if not isinstance(found, pygit2.Commit):
            raise GitError(f"the commit {commit} is not in {self.path}")
        return found.tree


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def glob_expression(pattern: str) -> re.Pattern[str]:
    """A glob as a pattern for whole paths: ``*`` and ``?`` stay within a folder, ``**/`` spans any number of them.

    >>> expression = glob_expression("workplans/**/*.md")
    >>> bool(expression.fullmatch("workplans/a.md")), bool(expression.fullmatch("workplans/b/c/a.md"))
    (True, True)
    >>> bool(expression.fullmatch("other/workplans/a.md"))
    False
    """
    parts = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern):
        parts.append({"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token, re.escape(token)))
    return re.compile("".join(parts))


def _plain_url(url: str) -> str:
    return url.removeprefix("file://").rstrip("/").removesuffix(".git")
