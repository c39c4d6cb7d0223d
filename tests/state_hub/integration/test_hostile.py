"""Clones and commits made to run something, or to be read as what they are not: none gets its way."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest
from tests.state_hub.fleet import SWEEP, Fleet, Project, commit, git, name_of, plan, snapshot, standing

from state_hub.errors import GitError, RefusedError
from state_hub.registration import Request, register

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOOKS = (
    "post-merge",
    "post-checkout",
    "post-commit",
    "pre-commit",
    "pre-merge-commit",
    "commit-msg",
    "pre-push",
    "reference-transaction",
    "post-index-change",
    "post-rewrite",
    "update",
    "pre-auto-gc",
    "push-to-checkout",
    "fsmonitor-watchman",
)


class Trap:
    """Commands that leave a mark when they are run; a test fails if any was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def command(self, name: str) -> str:
        script = self.folder / f"{name}.sh"
        # a filter hands on what it is given; whoever else is asked for more than input finds none
        script.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(self.folder))}/{name}.ran\ncat\n")
        script.chmod(0o755)
        return str(script)

    @property
    def sprung(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.ran"))


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "trap")


def _hooks(folder: Path, trap: Trap, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for hook in HOOKS:
        (folder / hook).symlink_to(trap.command(f"{name}-{hook}"))


def _plain_hooks(project: Project, trap: Trap) -> None:
    _hooks(project.clone / ".git" / "hooks", trap, "hooks")


def _hooks_path(project: Project, trap: Trap) -> None:
    _hooks(project.clone.parent / "hooks", trap, "hookspath")
    git(project.clone, "config", "core.hooksPath", str(project.clone.parent / "hooks"))


def _programs(project: Project, trap: Trap) -> None:
    for key in (
        "core.sshCommand",
        "core.fsmonitor",
        "core.pager",
        "core.editor",
        "core.askPass",
        "core.gitProxy",
        "sequence.editor",
        "credential.helper",
        "diff.external",
        "gpg.program",
        "merge.tool.cmd",
        "uploadpack.packObjectsHook",
        "protocol.ext.allow",
        "browser.x.cmd",
        "trailer.x.command",
        "interactive.diffFilter",
        "pager.merge",
        "alias.merge",
        "alias.status",
        "alias.fetch",
    ):
        value = "always" if key.startswith("protocol") else trap.command(key)
        git(project.clone, "config", key, ("!" if key.startswith("alias") else "") + value)


def _remote_programs(project: Project, trap: Trap) -> None:
    for remote in ("origin", project.url):
        for key in ("uploadpack", "receivepack"):
            git(project.clone, "config", f"remote.{remote}.{key}", trap.command(f"{key}-of-{remote == 'origin'}"))
        git(project.clone, "config", f"remote.{remote}.proxy", "http://127.0.0.1:1")
    git(project.clone, "config", f"remote.{project.url}.proxy", "")
    git(project.clone, "config", "branch.main.mergeOptions", "--no-ff")


def _filters(project: Project, trap: Trap) -> None:
    for kind in ("smudge", "clean", "process"):
        git(project.clone, "config", f"filter.evil.{kind}", trap.command(f"filter-{kind}"))
    git(project.clone, "config", "filter.evil.required", "true")
    (project.clone / ".git" / "info").mkdir(exist_ok=True)
    (project.clone / ".git" / "info" / "attributes").write_text("* filter=evil diff=evil merge=evil\n")
    git(project.clone, "config", "diff.evil.textconv", trap.command("textconv"))
    git(project.clone, "config", "merge.evil.driver", trap.command("merge-driver"))


def _filters_of_an_included_file(project: Project, trap: Trap) -> None:
    more = project.clone.parent / "more"
    smudge, clean = trap.command("included-smudge"), trap.command("included-clean")
    more.write_text(f'[filter "evil"]\n\tsmudge = {smudge}\n\tclean = {clean}\n[core]\n\tfsmonitor = {smudge}\n')
    git(project.clone, "config", "include.path", str(more))
    (project.clone / ".git" / "info").mkdir(exist_ok=True)
    (project.clone / ".git" / "info" / "attributes").write_text("* filter=evil\n")


def _filters_of_the_worktree(project: Project, trap: Trap) -> None:
    git(project.clone, "config", "core.repositoryFormatVersion", "1")
    git(project.clone, "config", "extensions.worktreeConfig", "true")
    smudge, clean = trap.command("worktree-smudge"), trap.command("worktree-clean")
    text = f'[filter "evil"]\n\tsmudge = {smudge}\n\tclean = {clean}\n'
    (project.clone / ".git" / "config.worktree").write_text(text)
    (project.clone / ".git" / "info").mkdir(exist_ok=True)
    (project.clone / ".git" / "info" / "attributes").write_text("* filter=evil\n")


def _alternates(project: Project, trap: Trap) -> None:
    (project.clone / ".git" / "objects" / "info").mkdir(exist_ok=True)
    (project.clone / ".git" / "objects" / "info" / "alternates").write_text(f"{project.remote}/objects\n")
    git(project.clone, "config", "core.alternateRefsCommand", trap.command("alternate-refs"))


def _promisor(project: Project, trap: Trap) -> None:
    """A tree is missing, so that git would ask the remote that promises to have it, by a program of its own."""
    for name in [git(project.clone, "rev-parse", f"HEAD:{path}").strip() for path in ("other", "other/file")]:
        (project.clone / ".git" / "objects" / name[:2] / name[2:]).unlink()
    git(project.clone, "config", "core.repositoryFormatVersion", "1")
    git(project.clone, "config", "extensions.partialClone", "evil")
    git(project.clone, "config", "remote.evil.promisor", "true")
    git(project.clone, "config", "remote.evil.url", str(project.remote))
    git(project.clone, "config", "remote.evil.uploadpack", f"{trap.command('promisor')} </dev/null; false")


HOSTILE = {
    "hooks": _plain_hooks,
    "hooks-path": _hooks_path,
    "programs": _programs,
    "remote-programs": _remote_programs,
    "filters": _filters,
    "included-filters": _filters_of_an_included_file,
    "worktree-filters": _filters_of_the_worktree,
    "alternates": _alternates,
    "promisor": _promisor,
}


@pytest.mark.parametrize(
    ("name", "over"), [*((name, "file") for name in HOSTILE), ("remote-programs", "http"), ("programs", "http")]
)
def test_nothing_that_a_clone_says_is_run_by_a_pull_or_a_writeback(
    fleet: Fleet, trap: Trap, name: str, over: str
) -> None:
    text = plan("FLEET-WP-0001")
    project = fleet.add("repo-1", {"workplans/a.md": text, "other/file": "x\n"}, is_http=over == "http")
    fleet.sweep()
    spoil: Callable[[Project, Trap], None] = HOSTILE[name]
    spoil(project, trap)
    project.publish({"workplans/a.md": text + "\nmore\n", ".gitattributes": "* filter=evil\n", "other/file": "y\n"})
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "done")
    fleet.sweep()
    assert trap.sprung == []
    if name != "promisor":
        assert fleet.checks() == []
        fleet.assert_agreed()
        assert (project.clone / "workplans/a.md").read_bytes() == project.read("workplans/a.md")
    fleet.clock.advance(1)
    (project.clone / "other" / "file").write_text("a person's\n")  # so that the gate asks for changes
    project.publish({"other/file": "z\n"})
    fleet.sweep()
    assert trap.sprung == []
    assert (project.clone / "other" / "file").read_text() == "a person's\n"


@pytest.mark.parametrize("key", ["credential.helper", "credential.{url}.helper", "core.askPass"])
def test_a_clone_does_not_choose_who_is_asked_for_a_password(fleet: Fleet, trap: Trap, key: str) -> None:
    project = fleet.add("repo-1", is_http=True)
    fleet.sweep()
    command = trap.command("credentials")
    git(project.clone, "config", key.format(url=fleet.http.url), command if key == "core.askPass" else f"!{command} x")
    project.publish({"a": "b"})
    fleet.http.hook = lambda request: 401 if "receive-pack" in request else None
    fleet.set("FLEET-WP-0001/T01", "done")
    fleet.sweep()
    assert fleet.checks() == ["C-15"]
    fleet.http.hook = lambda _request: 401
    fleet.sweep()
    assert trap.sprung == []


def test_the_operator_chooses_who_is_asked_for_a_password(
    fleet: Fleet, trap: Trap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = fleet.add("repo-1", is_http=True)
    fleet.sweep()
    own = tmp_path / "gitconfig"
    own.write_text(f'[credential]\n\thelper = "!{trap.command("own")} x"\n')
    evil = trap.command("evil")
    git(project.clone, "config", "credential.helper", f"!{evil} x")
    fleet.write_settings()
    fleet.http.hook = lambda request: 401 if "receive-pack" in request else None
    fleet.set("FLEET-WP-0001/T01", "done")
    done = fleet.command(*SWEEP, "--all", "--remote", GIT_CONFIG_GLOBAL=str(own))
    assert done.returncode == 0, done.stderr
    assert trap.sprung == ["own"]


@pytest.mark.parametrize("key", ["insteadOf", "pushInsteadOf"])
@pytest.mark.parametrize("over", ["file", "http"])
def test_a_clone_does_not_lead_fetch_or_push_elsewhere(fleet: Fleet, trap: Trap, key: str, over: str) -> None:
    project = fleet.add("repo-1", is_http=over == "http")
    fleet.sweep()
    elsewhere = fleet.folder / "elsewhere.git"
    git(fleet.folder, "clone", "-q", "--bare", str(project.remote), str(elsewhere))
    before = snapshot(elsewhere)
    for target in (f"ext::{trap.command('ext')} x", str(elsewhere)):
        git(project.clone, "config", f"url.{target}.{key}", project.url)
        project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "wait"})})
        fleet.sweep()
        fleet.set("FLEET-WP-0001/T01", "done")
        fleet.sweep()
        git(project.clone, "config", "--unset", f"url.{target}.{key}")
    assert trap.sprung == []
    assert snapshot(elsewhere) == before
    fleet.sweep()
    fleet.assert_agreed()


def test_a_clone_whose_place_holds_a_bare_repo_is_not_entered(fleet: Fleet, trap: Trap) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    evil = project.clone
    evil.rename(evil.with_name("kept"))
    git(evil.parent, "init", "-q", "--bare", "--template=", str(evil))
    git(evil, "config", "core.fsmonitor", trap.command("fsmonitor"))
    git(evil, "config", "remote.origin.url", project.url)
    _hooks(evil / "hooks", trap, "bare")
    before = snapshot(evil)
    fleet.set("FLEET-WP-0001/T01", "done")
    fleet.sweep()
    assert trap.sprung == []
    assert fleet.checks() == ["C-01"]
    assert snapshot(evil) == before


def test_a_bare_repo_within_a_commit_is_just_files(fleet: Fleet, trap: Trap) -> None:
    config = (
        f"[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = ..\n\tfsmonitor = {trap.command('x')}\n"
    )
    files: dict[str, str | bytes] = {
        "workplans/evil/HEAD": "ref: refs/heads/main\n",
        "workplans/evil/config": config,
        "workplans/evil/objects/keep": "",
        "workplans/evil/refs/keep": "",
        "workplans/evil/hooks/post-merge": f"#!/bin/sh\n{trap.command('hook')}\n",
        "workplans/a.md": plan("FLEET-WP-0001"),
    }
    project = fleet.add("repo-1", files)
    fleet.sweep()
    project.publish({"workplans/evil/objects/more": "more\n"})
    fleet.set("FLEET-WP-0001/T01", "done")
    fleet.sweep()
    assert trap.sprung == []
    fleet.assert_agreed()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../secret.md", "other.md"])
def test_a_linked_workplan_is_a_finding_and_its_target_stays_unread(fleet: Fleet, target: str) -> None:
    project = fleet.add("repo-1", {"workplans/a.md": plan("FLEET-WP-0001"), "workplans/other.md": "# no plan\n"})
    (fleet.folder / "secret.md").write_text(plan("FLEET-WP-0666"))
    fleet.sweep()
    (project.work / "workplans" / "a.md").unlink()
    (project.work / "workplans" / "a.md").symlink_to(target)
    (project.work / "workplans" / "b.md").symlink_to(fleet.folder / "secret.md")
    commit(project.work, {}, "Links")
    git(project.work, "push", "-q", "origin", "HEAD:main")
    fleet.sweep()
    assert {(each.check, each.path) for each in fleet.findings()} >= {
        ("C-02", "workplans/a.md"),
        ("C-02", "workplans/b.md"),
    }
    assert {each.check for each in fleet.findings()} <= {"C-02", "C-07"}
    fleet.set("FLEET-WP-0001/T01", "done")
    secret = snapshot(fleet.folder / "secret.md")
    fleet.sweep()
    fleet.sweep()
    assert snapshot(fleet.folder / "secret.md") == secret
    assert project.bot_commits() == []
    with fleet.store.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM workstreams").scalar() == 1
    project.publish({"workplans/a.md": None, "workplans/b.md": None, "workplans/c.md": plan("FLEET-WP-0001")})
    fleet.sweep()
    assert fleet.checks() == []
    fleet.assert_agreed()


def test_a_folder_that_became_a_link_leads_nowhere(fleet: Fleet, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.md").write_text(plan("FLEET-WP-0666"))
    project = fleet.add("repo-1", {"workplans/plans/a.md": plan("FLEET-WP-0001")})
    fleet.sweep()
    (project.work / "workplans/plans/a.md").unlink()
    (project.work / "workplans/plans").rmdir()
    (project.work / "workplans/plans").symlink_to(outside)
    commit(project.work, {}, "A link")
    git(project.work, "push", "-q", "origin", "HEAD:main")
    fleet.sweep()
    assert fleet.workstream("FLEET-WP-0001").removed_at is not None
    assert (outside / "a.md").read_text() == plan("FLEET-WP-0666")
    with fleet.store.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM workstreams").scalar() == 1


def test_submodules_and_gitlinks_are_neither_fetched_nor_entered(fleet: Fleet, tmp_path: Path) -> None:
    inner = fleet.add("repo-2")
    project = fleet.add("repo-1")
    tip = inner.tip
    modules = (
        f'[submodule "m"]\n\tpath = workplans/m\n\turl = {inner.remote}\n\tupdate = !touch {tmp_path}/ran\n'
        f'[submodule "x"]\n\tpath = -x\n\turl = -u./payload\n'
    )
    (project.work / ".gitmodules").write_text(modules)
    git(project.work, "add", ".gitmodules")
    git(project.work, "update-index", "--add", "--cacheinfo", f"160000,{tip},workplans/m")
    git(project.work, "update-index", "--add", "--cacheinfo", f"160000,{tip},workplans/gitlink.md")
    git(project.work, "commit", "-q", "-m", "A submodule")
    git(project.work, "push", "-q", "origin", "HEAD:main")
    git(project.clone, "config", "submodule.recurse", "true")
    git(project.clone, "config", "submodule.active", ".")
    git(project.clone, "config", "fetch.recurseSubmodules", "true")
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "done")
    fleet.sweep()
    assert not (project.clone / ".git" / "modules").exists()
    assert list((project.clone / "workplans" / "m").iterdir()) == []
    assert not (tmp_path / "ran").exists()
    assert fleet.checks("repo-1") == []
    assert len(project.bot_commits()) == 1


def test_replacements_and_grafts_do_not_lie_about_history(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    evil = commit(project.work, {"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "cancelled"})})
    git(project.work, "reset", "-q", "--hard", "HEAD~1")
    made = project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "progress"})})
    git(project.work, "push", "-q", str(project.clone), f"{evil}:refs/heads/evil", f"{made}:refs/heads/made")
    git(project.clone, "replace", made, evil)
    fleet.sweep()
    assert fleet.task("FLEET-WP-0001", "T01").status == "progress"
    assert b"id: T01\nstatus: progress" in (project.clone / "workplans/repo-1.md").read_bytes()


def _bomb() -> str:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return plan("FLEET-WP-0009", more="\n".join(levels) + "\n")


MONSTERS: dict[str, Callable[[], str]] = {
    "huge": lambda: plan("FLEET-WP-0009") + "x" * (3 << 20),
    "alias-bomb": _bomb,
    "nested-yaml": lambda: plan("FLEET-WP-0009", more="deep: " + "[" * 20_000 + "]" * 20_000 + "\n"),
    "nested-quotes": lambda: plan("FLEET-WP-0009") + "> " * 20_000 + "\n```task\nid: T09\n```\n",
    "python-object": lambda: plan("FLEET-WP-0009", more="x: !!python/object/apply:os.system ['touch ran']\n"),
    "duplicate-keys": lambda: plan("FLEET-WP-0009", more="title: again\n"),
    "nul": lambda: plan("FLEET-WP-0009", more='x: "\0"\n'),
    "many-tasks": lambda: plan("FLEET-WP-0009", {f"T{number:04d}": "todo" for number in range(2_500)}),
}


@pytest.mark.parametrize("name", MONSTERS)
def test_a_monstrous_workplan_is_a_finding_and_others_are_fine(fleet: Fleet, name: str) -> None:
    project = fleet.add("repo-1", {"workplans/a.md": plan("FLEET-WP-0001"), "workplans/monster.md": MONSTERS[name]()})
    fleet.sweep()
    if name != "nested-quotes":
        assert {each.check for each in fleet.findings()} <= {"C-02", "C-03"}
        assert {each.path for each in fleet.findings()} == {"workplans/monster.md"}
    assert fleet.task("FLEET-WP-0001", "T01").status == "todo"
    fleet.assert_settled()
    project.publish({"workplans/monster.md": plan("FLEET-WP-0009")})
    fleet.sweep()
    assert fleet.checks() == []
    fleet.assert_agreed()


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% ran",
        "--upload-pack=touch ran",
        "ssh://-oProxyCommand=touch%20ran/x",
        "-oProxyCommand=touch ran:x",
        "fd::17",
        "file:///srv/../etc",
        "https://user:secret@forge.example/a.git",
        "git://forge.example/a.git",
        "",
        "a b",
    ],
)
def test_an_url_that_runs_something_is_refused_before_git_sees_it(fleet: Fleet, url: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        register(
            Request(slug="x", remote_url=url), fleet.settings, fleet.store, fleet.clock.now(), below_roots_only=False
        )
    assert not (tmp_path / "ran").exists()
    assert not (fleet.settings.clones_dir / "x").exists()


@pytest.mark.parametrize("branch", ["--upload-pack=x", "-x", "a..b", "a b", "x.lock", "@{1}", "a/", ""])
def test_a_branch_that_looks_like_an_option_is_refused(fleet: Fleet, branch: str) -> None:
    project = fleet.add("repo-1")
    request = Request(slug="x", remote_url=project.url, branch=branch or None)
    if not branch:
        return
    with pytest.raises(RefusedError):
        register(request, fleet.settings, fleet.store, fleet.clock.now(), below_roots_only=False)


def test_a_remote_made_to_run_something_when_it_is_cloned_does_not(fleet: Fleet, trap: Trap) -> None:
    project = fleet.add("repo-9", is_http=True)
    fleet.sweep()
    project.publish({".gitattributes": "* filter=evil\n", ".lfsconfig": "[lfs]\n\turl = http://127.0.0.1:1\n"})
    repo = register(
        Request(slug="made", remote_url=project.url),
        fleet.settings,
        fleet.store,
        fleet.clock.now(),
        below_roots_only=False,
    )
    assert repo.is_managed
    report = fleet.sweep("made")
    assert fleet.checks("made") == ["C-04"], report  # it is the same plan a second time
    assert trap.sprung == []
    missing = Request(slug="gone", remote_url=f"{fleet.http.url}/nowhere.git")
    with pytest.raises(GitError):
        register(missing, fleet.settings, fleet.store, fleet.clock.now(), below_roots_only=False)
    assert not (fleet.settings.clones_dir / "gone").exists()
    assert [path.name for path in fleet.settings.clones_dir.iterdir()] == ["made"]


def test_a_clone_that_another_worktree_setting_points_elsewhere_is_not_written_there(
    fleet: Fleet, tmp_path: Path
) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    victim = tmp_path / "victim"
    (victim / "workplans").mkdir(parents=True)
    (victim / "workplans" / "repo-1.md").write_text(plan(name_of("repo-1")))
    before = standing(victim)
    git(project.clone, "config", "core.worktree", str(victim))
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done"})})
    fleet.sweep()
    assert standing(victim) == before
