"""The git command, run so that neither a repo's own configuration nor a prompt nor a dead host gets a say.

Sources: git-config(1) for what may run programs, git(1) for the environment, SECURITY in git-fetch(1).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from state_hub.errors import GitError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_KEPT_VARIABLES = (
    "GIT_SSL_",
    "GIT_SSH",
    "GIT_ASKPASS",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
)
"""What an operator may set for git; everything else that starts with GIT_ would point it elsewhere."""

_SETTINGS = (
    ("safe.bareRepository", "explicit"),
    ("core.fsmonitor", "false"),
    ("core.hooksPath", "/dev/null"),
    ("core.pager", "cat"),
    ("core.editor", "false"),
    ("core.askPass", ""),
    ("core.alternateRefsCommand", "true"),
    ("commit.gpgSign", "false"),
    ("push.gpgSign", "false"),
    ("push.followTags", "false"),
    ("push.recurseSubmodules", "no"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("fetch.writeCommitGraph", "false"),
    ("merge.autoStash", "false"),
    ("merge.verifySignatures", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("protocol.version", "2"),
    ("advice.detachedHead", "false"),
)
_SSH = "ssh -oBatchMode=yes -oConnectTimeout=10"
_TRUSTED_SCOPES = ("system", "global")
_PASSING = (
    "could not resolve host",
    "connection timed out",
    "connection refused",
    "connection reset",
    "failed to connect",
    "couldn't connect",
    "could not connect",
    "early eof",
    "hung up",
    "the requested url returned error: 5",
    ".lock': file exists",
    "another git process",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """An instant of the monotonic clock, in seconds, after which nothing may go on."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline in so many seconds."""
        return cls(at=time.monotonic() + seconds)

    @property
    def remaining_s(self) -> float:
        """Seconds left; zero or less when it has passed."""
        return self.at - time.monotonic()


@lru_cache(maxsize=1)
def _trusted() -> tuple[tuple[str, str], ...]:
    """The settings of the account and the machine, which the operator answers for."""
    listed = subprocess.run(
        ["git", "config", "--list", "--show-scope", "--null"],
        cwd="/",
        env=plain_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=30,
        check=False,
    ).stdout
    fields = listed.decode("utf-8", "replace").split("\0")
    found = []
    for scope, entry in zip(fields[::2], fields[1::2], strict=False):
        if scope in _TRUSTED_SCOPES:
            key, _, value = entry.partition("\n")
            found.append((key, value))
    return tuple(found)


def plain_environment() -> dict[str, str]:
    """Our environment without what would point git elsewhere, and without ways for it to ask anybody."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith(_KEPT_VARIABLES)
    }
    return {
        **kept,
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_ALLOW_PROTOCOL": "https:http:ssh:file",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GCM_INTERACTIVE": "never",
        "SSH_ASKPASS_REQUIRE": "never",
    }


def _environment(more_settings: Sequence[tuple[str, str]], more: Mapping[str, str]) -> dict[str, str]:
    trusted = _trusted()
    # an empty helper forgets those of the repo's own configuration; the trusted ones are named again after it
    credentials = [("credential.helper", "")]
    credentials += [(key, value) for key, value in trusted if key.startswith("credential.") and key.endswith("helper")]
    settings = [*_SETTINGS, *credentials, *more_settings]
    environment = plain_environment()
    ssh = next((value for key, value in reversed(trusted) if key == "core.sshcommand"), None)
    environment.setdefault("GIT_SSH_COMMAND", ssh or _SSH)
    environment["GIT_CONFIG_COUNT"] = str(len(settings))
    for index, (key, value) in enumerate(settings):
        environment[f"GIT_CONFIG_KEY_{index}"] = key
        environment[f"GIT_CONFIG_VALUE_{index}"] = value
    return {**environment, **more}


def run_git(
    arguments: Sequence[str],
    *,
    folder: Path | None,
    deadline: Deadline,
    given: bytes | None = None,
    settings: Sequence[tuple[str, str]] = (),
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """What git prints on stdout. Raises GitError when it fails, or is not done by the deadline.

    It is then killed with everything it started. `folder` is the clone it works in; None: none.
    """
    name = arguments[0]
    timeout_s = deadline.remaining_s
    if timeout_s <= 0:
        raise GitError(f"no time left for git {name}", is_passing=True)
    try:
        process = subprocess.Popen(
            ["git", *arguments],
            cwd="/" if folder is None else folder,
            env=_environment(settings, environment or {}),
            stdin=subprocess.PIPE if given is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as failure:
        what = "git is not installed" if folder is None or folder.is_dir() else f"{folder} does not exist"
        raise GitError(what) from failure
    except OSError as failure:
        raise GitError(f"git {name} cannot be started: {failure.strerror}") from failure
    try:
        out, err = process.communicate(given, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise GitError(f"git {name} took longer than {timeout_s:.0f} s and was ended", is_passing=True) from None
    finally:
        _end_group(process)
    if process.returncode != 0:
        said = err.decode("utf-8", "replace")
        raise GitError(
            f"git {name} failed", said=_last_words(said), output=said[-20_000:], is_passing=_is_passing(said)
        )
    return out


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends what git left behind, such as an ssh that hangs; harmless when nothing is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.poll() is None:
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _is_passing(said: str) -> bool:
    lowered = said.lower()
    return any(words in lowered for words in _PASSING)


def _last_words(said: str) -> str:
    """The lines that say what is wrong, without progress and hints, as one line."""
    lines = [line.strip() for line in said.replace("\r", "\n").splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "!", "ssh:"))] or lines
    return " / ".join(telling[:3])[:400]


def without_filters(folder: Path, deadline: Deadline) -> list[tuple[str, str]]:
    """Settings that switch off the filters which the clone's own configuration defines: they run programs."""
    off = []
    for key in _own_settings(folder, deadline):
        if key.startswith("filter.") and key.endswith((".clean", ".smudge", ".process")):
            off += [(key, ""), (key.rpartition(".")[0] + ".required", "false")]
    return off


def refuse_rewriting(folder: Path, deadline: Deadline) -> None:
    """Raises GitError when the clone's own configuration would lead a fetch or push to another URL."""
    for key in _own_settings(folder, deadline):
        if key.startswith("url.") and key.endswith((".insteadof", ".pushinsteadof")):
            raise GitError(f"the clone's configuration rewrites URLs ({key}); remove that, or set it for the account")


def _own_settings(folder: Path, deadline: Deadline) -> list[str]:
    """The names of what is set in the clone itself, its worktree's part and what they include."""
    listed = run_git(["config", "--list", "--show-scope", "--null", "--name-only"], folder=folder, deadline=deadline)
    fields = listed.decode("utf-8", "replace").split("\0")
    pairs = zip(fields[::2], fields[1::2], strict=False)
    return list(dict.fromkeys(key for scope, key in pairs if scope not in (*_TRUSTED_SCOPES, "command")))
