"""Remotes: where a branch stands, at the least cost that proves it; and bringing it here.

Over HTTP one ``ls-refs`` request of git's protocol version 2 (gitprotocol-v2(5)) over a kept-alive connection
asks for a single ref; it costs a fraction of a fetch. Where that is not possible the git command is asked.
"""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpcore2
import pygit2

from state_hub.errors import GitError
from state_hub.git.command import Deadline, refuse_rewriting, run_git

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWER_BYTES = 1 << 20
_PROBE_S = 20.0
_OBJECT_NAME = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class Remotes:
    """Asks remotes; one for a whole sweep, so that connections are used again. Safe to share between threads."""

    def __init__(self, *, connections: int = 32) -> None:
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=30.0,
        )
        self._uses_proxy = any(
            os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "ALL_PROXY")
        )

    def close(self) -> None:
        """Closes the connections."""
        self._pool.close()

    def tip(self, url: str, branch: str, deadline: Deadline) -> str | None:
        """The commit at the branch's tip; None when the remote has no such branch. Raises GitError."""
        if url.startswith(("/", "file://")):
            found = _local_tip(Path(url.removeprefix("file://")), branch)
            if found is not None:
                return found
        elif url.startswith(("http://", "https://")) and not self._uses_proxy:
            answered, found = self._http_tip(url, branch, deadline)
            if answered:
                return found
        printed = run_git(
            ["ls-remote", "--refs", "--upload-pack=git-upload-pack", "--end-of-options", url, f"refs/heads/{branch}"],
            folder=None,
            deadline=deadline,
        )
        for line in printed.decode("utf-8", "replace").splitlines():
            name, _, ref = line.partition("\t")
            if ref == f"refs/heads/{branch}" and _OBJECT_NAME.fullmatch(name):
                return name
        return None

    def _http_tip(self, url: str, branch: str, deadline: Deadline) -> tuple[bool, str | None]:
        """(whether the server answered in protocol 2, the tip). Anything unusual is left to the git command."""
        ref = f"refs/heads/{branch}"
        body = _packet("command=ls-refs\n") + b"0001" + _packet(f"ref-prefix {ref}\n") + b"0000"
        timeout_s = min(_PROBE_S, deadline.remaining_s)
        if timeout_s <= 0:
            raise GitError("no time left to ask the remote", is_passing=True)
        limits = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
        headers = [
            ("Content-Type", "application/x-git-upload-pack-request"),
            ("Accept", "application/x-git-upload-pack-result"),
            ("Git-Protocol", "version=2"),
            ("User-Agent", "git/2 (state-hub)"),
        ]
        try:
            with self._pool.stream(
                "POST",
                url.rstrip("/") + "/git-upload-pack",
                headers=headers,
                content=body,
                extensions={"timeout": limits},
            ) as answer:
                kind = next((value for name, value in answer.headers if name.lower() == b"content-type"), b"")
                if answer.status != 200 or kind != b"application/x-git-upload-pack-result":
                    return False, None
                text = _read_capped(answer.iter_stream(), deadline)
        except (
            httpcore2.NetworkError,
            httpcore2.TimeoutException,
            httpcore2.ProtocolError,
            OSError,
            ValueError,
            TypeError,
        ):
            return False, None
        return _tip_in(text, ref)


def _packet(text: str) -> bytes:
    data = text.encode()
    return f"{len(data) + 4:04x}".encode() + data


def _read_capped(chunks: Iterator[bytes], deadline: Deadline) -> bytes:
    text = bytearray()
    for chunk in chunks:
        text += chunk
        if len(text) > _ANSWER_BYTES or deadline.remaining_s <= 0:
            break
    return bytes(text)


def _tip_in(text: bytes, ref: str) -> tuple[bool, str | None]:
    """The tip in an ls-refs answer: packets of ``<name> <ref>``, ended by a flush packet."""
    position = 0
    found = None
    while position + 4 <= len(text):
        try:
            length = int(text[position : position + 4], 16)
        except ValueError:
            return False, None
        if length == 0:
            return True, found
        if length < 4 or position + length > len(text):
            return False, None
        line = text[position + 4 : position + length].decode("utf-8", "replace").rstrip("\n")
        words = line.split(" ")
        if len(words) < 2 or not _OBJECT_NAME.fullmatch(words[0]):
            return False, None
        if words[1] == ref:
            found = words[0]
        position += length
    return False, None


def _local_tip(path: Path, branch: str) -> str | None:
    try:
        repository = pygit2.Repository(str(path))
    except (pygit2.GitError, KeyError):
        return None
    try:
        return str(repository.lookup_reference(f"refs/heads/{branch}").resolve().target)
    except (KeyError, pygit2.GitError, ValueError):
        return None
    finally:
        repository.free()


def fetch(folder: Path, url: str, branch: str, deadline: Deadline, *, into: str | None) -> None:
    """Brings the branch's commits here, and moves the ref `into` to its tip; None: only the commits.

    No tags, no submodules, no LFS. Raises GitError.
    """
    refuse_rewriting(folder, deadline)
    refspec = f"refs/heads/{branch}" if into is None else f"+refs/heads/{branch}:{into}"
    run_git(
        [
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--no-auto-maintenance",
            "--upload-pack=git-upload-pack",
            "--end-of-options",
            url,
            refspec,
        ],
        folder=folder,
        deadline=deadline,
    )


def set_ref(folder: Path, ref: str, commit: str, deadline: Deadline) -> None:
    """Moves a remote-tracking ref, as a fetch would. Raises GitError."""
    run_git(["update-ref", "-m", "state-hub: push", ref, commit], folder=folder, deadline=deadline)


def make_clone(url: str, branch: str, path: Path, deadline: Deadline) -> None:
    """Clones into a folder that does not exist yet: there as a whole, or not at all. Raises GitError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        made = Path(scratch) / "clone"
        run_git(
            [
                "clone",
                "--quiet",
                "--no-tags",
                "--no-recurse-submodules",
                "--template=",
                "--upload-pack=git-upload-pack",
                f"--branch={branch}",
                "--end-of-options",
                url,
                str(made),
            ],
            folder=None,
            deadline=deadline,
        )
        made.rename(path)
