"""The post-commit hook: installed beside whatever a repo has, removed without a trace, and at work."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.state_hub.fleet import HUB, PROJECT, commit, git, plan, wait_for

from state_hub import hooks
from state_hub.errors import RefusedError
from state_hub.registry import Repo, RepoStatus
from state_hub.store import locks

if TYPE_CHECKING:
    from tests.state_hub.fleet import Fleet

    from activity_plumbing.clock import Instant


def _repo(clone: Path, slug: str = "repo-1") -> Repo:
    return Repo(
        id=1,
        slug=slug,
        remote_url="/nowhere",
        branch="main",
        path=str(clone),
        workplans="workplans/**/*.md",
        status=RepoStatus.ACTIVE,
        is_managed=False,
        added_at=_NEVER,
        archived_at=None,
        base_commit=None,
        read_commit=None,
    )


_NEVER: Instant = 0  # type: ignore[assignment]  # when does not matter here


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone with a blank"
    git(tmp_path, "init", "-q", "-b", "main", "--template=", str(folder))
    return folder


def _write(path: Path, content: bytes, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


# -- installing --


def test_without_a_hook_one_is_made_and_taken_away_again(clone: Path) -> None:
    path = clone / ".git" / "hooks" / "post-commit"
    state = hooks.install_hook(_repo(clone), PROJECT)
    assert (state.path, state.is_installed, state.is_current, state.note) == (path, True, True, "")
    assert os.access(path, os.X_OK)
    once = path.read_bytes()
    hooks.install_hook(_repo(clone), PROJECT)
    assert path.read_bytes() == once
    assert hooks.uninstall_hook(_repo(clone))
    assert not path.exists()
    assert not hooks.uninstall_hook(_repo(clone))


HOOKS = {
    "sh": b"#!/bin/sh\necho hello\n",
    "no-newline": b"#!/bin/sh\necho hello",
    "only-shebang": b"#!/bin/sh",
    "made-by-hand-as-ours": b"#!/bin/sh\n",
    "env-bash": b"#!/usr/bin/env bash\nset -euo pipefail\ntrue\n",
    "crlf": b"#!/bin/sh\r\ntrue\r\n",
    "bytes": b"#!/bin/sh\n# \xff\xfe\x00\n",
    "many-newlines": b"#!/bin/zsh -e\n\n\n\n",
    "exit": b"#!/bin/bash\necho hello\nexit 0\n",
    "exec": b'#!/bin/sh\nexec other-hook "$@"\n',
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_that_is_there_stays_as_it_was_around_our_block(clone: Path, name: str) -> None:
    path = _write(clone / ".git" / "hooks" / "post-commit", HOOKS[name], 0o750)
    state = hooks.install_hook(_repo(clone), PROJECT)
    once = path.read_bytes()
    assert once.startswith(HOOKS[name])
    assert path.stat().st_mode & 0o7777 == 0o750
    assert ("may end the hook" in state.note) == (name in ("exit", "exec"))
    hooks.install_hook(_repo(clone), PROJECT)
    assert path.read_bytes() == once
    assert hooks.uninstall_hook(_repo(clone))
    assert path.read_bytes() == HOOKS[name]
    assert path.stat().st_mode & 0o7777 == 0o750


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shebang=st.sampled_from([b"#!/bin/sh", b"#! /bin/bash -e", b"#!/usr/bin/env zsh", b"#!/bin/dash"]),
    body=st.one_of(
        st.binary(max_size=200),
        st.text("\r\n#<> abstate-hubrepo1", max_size=200).map(str.encode),
        st.lists(
            st.sampled_from(
                [
                    b"\n",
                    b"# >>> state-hub repo-1 >>>",
                    b"# <<< state-hub repo-1 <<<\n",
                    b"# >>> state-hub repo-2 >>> [created]\n",
                    b"# <<< state-hub repo-2 <<<\n",
                    b"true\n",
                    b"exit 0",
                ]
            ),
            max_size=3,
        ).map(b"".join),
    ),
    before=st.sampled_from(["", "repo-2"]),
)
def test_installing_and_uninstalling_gives_back_any_shell_hook_byte_for_byte(
    shebang: bytes, body: bytes, before: str
) -> None:
    original = shebang + b"\n" + body
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = _write(Path(folder) / "post-commit", original)
        patch.setattr(hooks, "hook_path", lambda _repo: path)
        if any(hooks._without(original, slug)[0] != original for slug in ("repo-1", "repo-2")):
            return  # it holds what is, to the byte, a block of ours
        if before:  # two clones with one folder of hooks
            hooks.install_hook(_repo(Path(folder), before), PROJECT)
        hooks.install_hook(_repo(Path(folder)), PROJECT)
        once = path.read_bytes()
        hooks.install_hook(_repo(Path(folder)), PROJECT)
        assert path.read_bytes() == once
        assert hooks.uninstall_hook(_repo(Path(folder)))
        if before:
            hooks.uninstall_hook(_repo(Path(folder), before))
        assert path.read_bytes() == original


def test_two_blocks_come_out_in_either_order(clone: Path) -> None:
    for original in (None, b"#!/bin/sh\necho hello", b"#!/bin/sh\n"):
        path = clone / ".git" / "hooks" / "post-commit"
        if original is not None:
            _write(path, original)
        hooks.install_hook(_repo(clone, "one"), PROJECT)
        hooks.install_hook(_repo(clone, "two"), PROJECT)
        hooks.uninstall_hook(_repo(clone, "one"))
        assert hooks.hook_state(_repo(clone, "two"), PROJECT).is_current
        hooks.uninstall_hook(_repo(clone, "two"))
        left = path.read_bytes() if path.exists() else None
        assert left in (original, b"#!/bin/sh\n" if original is None else original)


def test_what_a_person_adds_later_survives_the_removal(clone: Path) -> None:
    path = clone / ".git" / "hooks" / "post-commit"
    hooks.install_hook(_repo(clone), PROJECT)
    with path.open("ab") as file:
        file.write(b"echo mine\n")
    hooks.uninstall_hook(_repo(clone))
    assert path.read_bytes() == b"#!/bin/sh\necho mine\n"


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"#!/usr/bin/env python3\nprint()\n", 0o755, "no shell script"),
        (b"\x7fELF\x02", 0o755, "no shell script"),
        (b"#!/bin/sh\necho\n", 0o644, "not executable"),
    ],
)
def test_a_hook_that_our_block_would_break_is_refused_and_left(
    clone: Path, content: bytes, mode: int, words: str
) -> None:
    path = _write(clone / ".git" / "hooks" / "post-commit", content, mode)
    with pytest.raises(RefusedError, match=words):
        hooks.install_hook(_repo(clone), PROJECT)
    assert path.read_bytes() == content
    assert not hooks.hook_state(_repo(clone), PROJECT).is_installed


@pytest.mark.parametrize("is_absolute", [True, False])
def test_a_hooks_path_of_ones_own_is_followed(clone: Path, is_absolute: bool) -> None:
    folder = clone.parent / "shared" if is_absolute else clone / ".githooks"
    git(clone, "config", "core.hooksPath", str(folder) if is_absolute else ".githooks")
    state = hooks.install_hook(_repo(clone), PROJECT)
    assert state.path == folder / "post-commit"
    assert not (clone / ".git" / "hooks").exists()
    hooks.uninstall_hook(_repo(clone))
    assert not (folder / "post-commit").exists()


def test_a_linked_hook_stays_a_link(clone: Path) -> None:
    target = _write(clone.parent / "elsewhere" / "hook", b"#!/bin/sh\ntrue\n")
    path = clone / ".git" / "hooks" / "post-commit"
    path.parent.mkdir()
    path.symlink_to(target)
    hooks.install_hook(_repo(clone), PROJECT)
    assert path.is_symlink()
    assert b"state-hub repo-1" in target.read_bytes()
    hooks.uninstall_hook(_repo(clone))
    assert target.read_bytes() == b"#!/bin/sh\ntrue\n"


def test_the_block_is_brought_up_to_date_when_the_hub_has_moved(clone: Path, tmp_path: Path) -> None:
    other = tmp_path / "o'ther $(touch ran) hub"
    (other / "scripts").mkdir(parents=True)
    shutil.copy(PROJECT / "scripts" / "post_commit.sh", other / "scripts")
    shutil.copy(PROJECT / "Makefile", other)
    path = _write(clone / ".git" / "hooks" / "post-commit", b"#!/bin/sh\ntrue\n")
    hooks.install_hook(_repo(clone), other)
    assert not hooks.hook_state(_repo(clone), PROJECT).is_current
    assert hooks.install_hook(_repo(clone), PROJECT).is_current
    assert path.read_bytes().count(b">>> state-hub repo-1 >>>") == 1
    hooks.install_hook(_repo(clone), other)
    git(clone, "commit", "-q", "--allow-empty", "-m", "x")
    assert not list(tmp_path.rglob("ran"))
    hooks.uninstall_hook(_repo(clone))
    assert path.read_bytes() == b"#!/bin/sh\ntrue\n"


# -- at work --


@pytest.fixture
def hooked(fleet: Fleet) -> Fleet:
    """Two repos with the hook, installed by the command; commits find this fleet's hub by their environment."""
    for number in (1, 2):
        fleet.add(f"repo-{number}")
    fleet.sweep()
    done = fleet.command(*HUB, "hooks", "install", "--all", "--home", str(PROJECT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("installed in ") == 2
    return fleet


def _in_the_foreground(fleet: Fleet) -> None:
    """Lets commits wait for what the hook starts, so that it can be told that nothing was."""
    path = fleet.projects["repo-1"].clone / ".git" / "hooks" / "post-commit"
    hook = path.read_bytes()
    assert hook.count(b" &\n") == 1
    path.write_bytes(hook.replace(b" &\n", b"\n"))


def _runs(fleet: Fleet) -> int:
    """How often a hook had the first repo visited."""
    with fleet.store.reading() as connection:
        found = connection.exec_driver_sql("SELECT count(*) FROM sweeps WHERE kind = 'repo repo-1'").scalar()
    assert isinstance(found, int)
    return found


def _commit(fleet: Fleet, folder: Path, text: str, *arguments: str, **more: str) -> None:
    (folder / "workplans" / "repo-1.md").write_text(text)
    git(
        folder,
        "commit",
        "-q",
        "-a",
        "-m",
        "By a person",
        *arguments,
        variables={"STATE_HUB_CONFIG": str(fleet.folder / "state-hub.toml"), **more},
    )


def _status(fleet: Fleet) -> str:
    return fleet.task("FLEET-WP-0001", "T01").status.value


def _log(fleet: Fleet) -> Path:
    return fleet.projects["repo-1"].clone / ".git" / "state-hub-hook.log"


def test_a_commit_reaches_the_row_at_once(hooked: Fleet) -> None:
    clone = hooked.projects["repo-1"].clone
    _commit(hooked, clone, plan("FLEET-WP-0001", {"T01": "done"}))
    wait_for(lambda: _status(hooked) == "done", "the row")
    wait_for(lambda: "repo-1: changed" in _log(hooked).read_text(), "the hook's log")
    # variables that git itself sets for hooks, and that lead elsewhere, do no harm
    other = hooked.projects["repo-2"]
    _commit(
        hooked,
        clone,
        plan("FLEET-WP-0001", {"T01": "wait"}),
        GIT_DIR=str(clone / ".git"),
        GIT_WORK_TREE=str(clone),
        GIT_INDEX_FILE=str(clone / ".git" / "index"),
    )
    wait_for(lambda: _status(hooked) == "wait", "the row")
    assert git(other.clone, "status", "--porcelain") == ""
    assert git(clone, "status", "--porcelain") == ""


def test_a_commit_is_not_held_up_by_the_hub(hooked: Fleet) -> None:
    with hooked.store.writing() as connection:
        number = hooked.repo("repo-1").id
        held = locks.take_lock(connection, number, "the test", hooked.clock.now(), 3_600_000_000)
    assert isinstance(held, locks.RepoLock)
    _commit(hooked, hooked.projects["repo-1"].clone, plan("FLEET-WP-0001", {"T01": "done"}))
    assert _status(hooked) == "todo"  # the commit came back, and its visit still waits
    with hooked.store.writing() as connection:
        locks.release_lock(connection, held)
    wait_for(lambda: _status(hooked) == "done", "the row")


def test_commits_elsewhere_are_none_of_its_business(hooked: Fleet, tmp_path: Path) -> None:
    _in_the_foreground(hooked)
    clone = hooked.projects["repo-1"].clone
    git(clone, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    _commit(hooked, tmp_path / "side", plan("FLEET-WP-0001", {"T01": "cancelled"}))
    git(clone, "checkout", "-q", "-b", "topic")
    _commit(hooked, clone, plan("FLEET-WP-0001", {"T01": "cancelled"}))
    git(clone, "checkout", "-q", "--detach")
    _commit(hooked, clone, plan("FLEET-WP-0001", {"T01": "wait"}))
    git(clone, "checkout", "-q", "main")
    git(clone, "worktree", "remove", "--force", str(tmp_path / "side"))
    git(clone, "worktree", "add", "-q", "--force", "-B", "other", str(tmp_path / "main-too"), "main")
    _commit(hooked, tmp_path / "main-too", plan("FLEET-WP-0001", {"T01": "progress"}))
    assert _runs(hooked) == 0
    _commit(hooked, clone, plan("FLEET-WP-0001", {"T01": "done"}))
    assert (_status(hooked), _runs(hooked)) == ("done", 1)


def test_the_steps_of_a_rebase_are_no_news(hooked: Fleet) -> None:
    _in_the_foreground(hooked)
    clone = hooked.projects["repo-1"].clone
    with_config = {"STATE_HUB_CONFIG": str(hooked.folder / "state-hub.toml")}
    git(clone, "config", "core.hooksPath", "/dev/null")
    git(clone, "checkout", "-q", "-b", "base")
    commit(clone, {"base.txt": "base"})
    git(clone, "checkout", "-q", "main")
    for number in range(3):
        commit(clone, {f"{number}.txt": "x"})
    git(clone, "config", "--unset", "core.hooksPath")
    git(clone, "rebase", "-q", "base", "--exec", "git commit -q --allow-empty -m step", variables=with_config)
    assert _runs(hooked) == 0
    _commit(hooked, clone, plan("FLEET-WP-0001", {"T01": "done"}))
    assert (_status(hooked), _runs(hooked)) == ("done", 1)


def test_the_hubs_own_commits_do_not_start_it(hooked: Fleet) -> None:
    _in_the_foreground(hooked)
    project = hooked.projects["repo-1"]
    hooked.set("FLEET-WP-0001/T01", "done")
    done = hooked.command(*HUB, "sweep", "--all", "--remote")
    assert done.returncode == 0, done.stderr
    assert len(project.bot_commits()) == 1
    with_trailer = "By a person\n\nState-Hub-Writeback: FLEET-WP-0001"
    git(
        project.clone,
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        with_trailer,
        variables={"STATE_HUB_CONFIG": str(hooked.folder / "state-hub.toml")},
    )
    _commit(hooked, project.clone, plan("FLEET-WP-0001", {"T01": "done", "T02": "done"}))
    assert hooked.task("FLEET-WP-0001", "T02").status == "done"
    assert _runs(hooked) == 1


def test_a_hub_that_is_gone_does_not_disturb_a_commit(hooked: Fleet, tmp_path: Path) -> None:
    clone = hooked.projects["repo-1"].clone
    path = clone / ".git" / "hooks" / "post-commit"
    path.write_bytes(path.read_bytes().replace(str(PROJECT).encode(), str(tmp_path / "gone").encode()))
    done = git(clone, "commit", "--allow-empty", "-m", "x")
    assert "gone" not in done


def test_status_and_uninstall_by_command(hooked: Fleet) -> None:
    shown = hooked.command(*HUB, "hooks", "status", "--home", str(PROJECT))
    assert shown.stdout.count("installed") == 2, shown.stdout
    dry = hooked.command(*HUB, "hooks", "install", "repo-1", "--home", str(PROJECT), "--dry-run")
    assert "would add the block" in dry.stdout
    assert hooked.command(*HUB, "hooks", "uninstall", "--all").stdout.count("removed") == 2
    assert not (hooked.projects["repo-1"].clone / ".git" / "hooks" / "post-commit").exists()
    again = hooked.command(str(PROJECT / "scripts" / "install_hooks.sh"))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("installed in ") == 2
    refused = hooked.command(*HUB, "hooks", "install", "repo-1", "--home", str(hooked.folder))
    assert refused.returncode == 1
    assert "STATE_HUB_HOME" in refused.stderr
    _write(hooked.projects["repo-1"].clone / ".git" / "hooks" / "post-commit", b"#!/usr/bin/python3\n")
    mixed = hooked.command(*HUB, "hooks", "install", "--all", "--home", str(PROJECT))
    assert (mixed.returncode, mixed.stdout.count("installed in ")) == (1, 1)
    assert "no shell script" in mixed.stderr
