"""The post-commit hook: one marked block in whatever hook a repo has, and its removal without a trace.

The block only starts ``scripts/post_commit.sh`` in the background; everything it does stands there. Where git
keeps hooks is asked of git: ``core.hooksPath`` and linked worktrees are its business (githooks(5)).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from state_hub.errors import ConfigurationError, GitError, RefusedError
from state_hub.git.command import plain_environment

if TYPE_CHECKING:
    from state_hub.registry import Repo

HOOK = "post-commit"
SCRIPT = "scripts/post_commit.sh"
_ADDED = b" added by `state-hub hooks install`"
_SHELLS = re.compile(rb"#!\s*(?:/usr/bin/env\s+)?(?:\S*/)?(?:sh|bash|dash|ksh|zsh)\b")
_STOPS_EARLY = re.compile(rb"^(?:exit\b|exec\s+(?![<>0-9]))")


@dataclass(frozen=True, slots=True, kw_only=True)
class HookState:
    """What a repo's hook file holds. `note`: what to know about it, such as a line that ends it before our block."""

    slug: str
    path: Path
    is_installed: bool
    is_current: bool
    note: str = ""


def hub_home(given: Path | None = None) -> Path:
    """The folder with the hub's Makefile and scripts. Raises ConfigurationError."""
    named = os.environ.get("STATE_HUB_HOME")
    candidates = [given] if given is not None else [Path(named)] if named else [Path(__file__).parents[2]]
    for candidate in candidates:
        home = candidate.expanduser().resolve()
        if (home / SCRIPT).is_file() and (home / "Makefile").is_file():
            return home
    raise ConfigurationError(
        f"{candidates[0]} holds no {SCRIPT} and Makefile; name the hub's folder with --home or STATE_HUB_HOME"
    )


def hook_path(repo: Repo) -> Path:
    """The hook file of a repo, as git would run it. Raises GitError."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "--git-path", f"hooks/{HOOK}"],
            cwd=repo.path,
            env=plain_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise GitError(f"git cannot be asked where the hooks of {repo.slug} are: {failure}") from failure
    if asked.returncode != 0:
        raise GitError(f"{repo.path} is not a git clone", said=asked.stderr.decode("utf-8", "replace").strip()[:200])
    return (Path(repo.path) / os.fsdecode(asked.stdout.rstrip(b"\n"))).absolute()


def install_hook(repo: Repo, home: Path) -> HookState:
    """Appends our block, or brings it up to date. Again without harm. Raises RefusedError, GitError."""
    path = hook_path(repo)
    block = _block(repo, home)
    before = _content(path)
    if before is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, b"#!/bin/sh\n" + _marked(repo.slug, block, created=True), 0o755)
        return hook_state(repo, home)
    rest, marks = _without(before, repo.slug)
    if rest != before and block in before:
        return hook_state(repo, home)
    if rest and not _SHELLS.match(rest):
        first = rest.split(b"\n", 1)[0][:60].decode("utf-8", "replace")
        raise RefusedError(f"{path} is no shell script ({first!r}); call {home / SCRIPT} from it by hand")
    if not os.access(path, os.X_OK):
        raise RefusedError(f"{path} is not executable, so git ignores it; chmod +x it, or remove it, first")
    created = "created" in marks
    after = rest + _marked(repo.slug, block, created=created, ends_open=bool(rest) and not rest.endswith(b"\n"))
    if after != before:
        _replace(path, after, path.stat().st_mode & 0o7777)
    return hook_state(repo, home)


def uninstall_hook(repo: Repo) -> bool:
    """Removes our block and leaves every other byte; False when there was none. Raises GitError."""
    path = hook_path(repo)
    before = _content(path)
    if before is None:
        return False
    rest, marks = _without(before, repo.slug)
    if rest == before:
        return False
    if "created" in marks and rest == b"#!/bin/sh\n":
        path.unlink()
    else:
        _replace(path, rest, path.stat().st_mode & 0o7777)
    return True


def hook_state(repo: Repo, home: Path) -> HookState:
    """Whether the block is there and as this version would write it. Raises GitError."""
    path = hook_path(repo)
    content = _content(path)
    if content is None:
        return HookState(slug=repo.slug, path=path, is_installed=False, is_current=False)
    rest, _ = _without(content, repo.slug)
    is_installed = rest != content
    note = ""
    if is_installed and not os.access(path, os.X_OK):
        note = "not executable: git ignores it"
    elif is_installed:
        ended = next((number for number, line in enumerate(rest.split(b"\n"), 1) if _STOPS_EARLY.match(line)), None)
        if ended is not None:
            note = f"line {ended} may end the hook before our block"
    return HookState(
        slug=repo.slug,
        path=path,
        is_installed=is_installed,
        is_current=is_installed and _block(repo, home) in content,
        note=note,
    )


def _block(repo: Repo, home: Path) -> bytes:
    """The command of the block: in the background, detached from the commit's terminal, harmless if we are gone."""
    script = shlex.quote(str(home / SCRIPT))
    words = " ".join(shlex.quote(word) for word in (repo.slug, repo.path, repo.branch))
    where = "".join(
        f"{name}={shlex.quote(os.environ[name])} "
        for name in ("STATE_HUB_CONFIG", "STATE_HUB_STATE_DIR")
        if os.environ.get(name)
    )
    return f"[ ! -x {script} ] || {where}{script} {words} </dev/null >/dev/null 2>&1 &\n".encode()


def _marked(slug: str, block: bytes, *, created: bool = False, ends_open: bool = False) -> bytes:
    """The block between its marks; the first says what uninstalling must also undo."""
    marks = "".join(f" [{word}]" for word, is_so in (("created", created), ("newline", ends_open)) if is_so)
    start = f"# >>> state-hub {slug} >>>{marks}".encode() + _ADDED + b"\n"
    return (b"\n" if ends_open else b"") + start + block + f"# <<< state-hub {slug} <<<\n".encode()


def _without(content: bytes, slug: str) -> tuple[bytes, frozenset[str]]:
    """The content without our block, and the marks of it."""
    name = re.escape(slug.encode())
    found = re.search(
        rb"^# >>> state-hub " + name + rb" >>>(?P<marks>(?: \[\w+\])*)" + re.escape(_ADDED) + rb"\n"
        rb"[^\n]*\n# <<< state-hub " + name + rb" <<<\n",
        content,
        re.MULTILINE,
    )
    if found is None:
        return content, frozenset()
    before, after = content[: found.start()], content[found.end() :]
    marks = frozenset(word.decode() for word in re.findall(rb"\[(\w+)\]", found["marks"]))
    heir = re.match(rb"# >>> state-hub [^ \n]+ >>>", after)
    if heir is not None:  # the block of another repo: what is to be undone passes to it
        after = heir[0] + found["marks"] + after[heir.end() :]
    elif "newline" in marks and not after:
        before = before[:-1]
    return before + after, marks


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as failure:
        raise GitError(f"{path} cannot be read: {failure.strerror}") from failure


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Writes the file as a whole: git never sees half a hook. A link stays a link."""
    target = path.resolve()
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        scratch.chmod(mode)
        scratch.replace(target)
    except OSError as failure:
        scratch.unlink(missing_ok=True)
        raise GitError(f"{path} cannot be written: {failure.strerror}") from failure
