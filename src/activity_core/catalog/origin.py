"""Where a definition's content comes from in git: the commit and blob, when the file is committed as it is."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_GIT = (
    "git",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "safe.bareRepository=explicit",
)
_TIMEOUT_S = 10


def blob_of(text: bytes) -> str:
    """The name git gives these bytes (gitformat-pack: SHA-1 of ``blob <length>\\0`` and the content).

    >>> blob_of(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()


def is_in_git(path: Path) -> bool:
    """True when the file lies in a git work tree, without starting git."""
    return any((folder / ".git").exists() for folder in path.parents)


def git_origins(files: Mapping[Path, bytes]) -> dict[Path, tuple[str, str]]:
    """(commit, blob) of each file whose content is what HEAD holds; others are left out. Never raises."""
    origins: dict[Path, tuple[str, str]] = {}
    by_folder: dict[Path, list[Path]] = {}
    for path in files:
        by_folder.setdefault(path.parent, []).append(path)
    for folder, paths in by_folder.items():
        commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
        if commit is None:
            continue
        listed = _git(folder, "ls-tree", "-z", "HEAD", "./")
        committed = _blobs((listed or "").split("\0"))
        for path in paths:
            blob = blob_of(files[path])
            if committed.get(path.name) == blob:
                origins[path] = (commit.strip(), blob)
    return origins


def _blobs(entries: Iterable[str]) -> dict[str, str]:
    blobs = {}
    for entry in entries:
        facts, _, name = entry.partition("\t")
        if name:
            blobs[name.rsplit("/", 1)[-1]] = facts.split()[2]
    return blobs


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            [*_GIT, "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None
