"""Real sweeps as cron starts them: killed anywhere, two at once, with hooks in between; and their exit statuses."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import subprocess
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.state_hub.fleet import BOT_EMAIL, CLEANUP, HUB, PROJECT, SWEEP, commit, git, plan, standing, wait_for

if TYPE_CHECKING:
    from tests.state_hub.fleet import Fleet

KILLS = 25
EVERYTHING = [*SWEEP, "--remote", "--all"]


def _busy(folder: Path) -> list[str]:
    """Processes that work below a folder, such as the git that a killed sweep had started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(process.joinpath("cwd").readlink()).startswith(f"{folder}/"):
                found.append(process.name)
    return found


def _transitions(fleet: Fleet, slug: str) -> dict[str, list[str]]:
    """What the hub's commits wrote into each status, oldest first."""
    log = git(fleet.projects[slug].remote, "log", "--reverse", "-p", "--format=%x00%B", f"--author={BOT_EMAIL}", "main")
    found: dict[str, list[str]] = defaultdict(list)
    for text in log.split("\0")[1:]:
        said = re.findall(r"^- (\S+): (\S+) → (\S+)$", text, re.MULTILINE)
        diff = [line[1:].split()[1] for line in text.splitlines() if line.startswith("+status: ")]
        assert sorted(diff) == sorted(new for _, _, new in said), text
        for name, _, new in said:
            found[name].append(new)
    return found


def test_a_sweep_that_is_killed_anywhere_loses_nothing_and_writes_nothing_twice(fleet: Fleet) -> None:
    for number in range(1, 5):
        fleet.add(f"repo-{number}")
    fleet.sweep()
    names = [f"FLEET-WP-{number:04d}/{task}" for number in range(1, 5) for task in ("T01", "T02")]
    wanted: dict[str, list[str]] = {name: [] for name in names}
    chance = random.Random(4711)

    def change() -> None:
        for name in names:
            workplan, _, task = name.partition("/")
            others = [each for each in ("wait", "todo", "progress") if each != fleet.task(workplan, task).status]
            wanted[name].append(chance.choice(others))
            fleet.set(name, wanted[name][-1])

    change()
    began = time.monotonic()
    assert fleet.command(*EVERYTHING).returncode == 0
    whole_s = time.monotonic() - began
    for _ in range(KILLS):
        change()
        process = fleet.start(*EVERYTHING)
        try:
            process.wait(chance.uniform(0.1, 1.05) * whole_s)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    wait_for(lambda: not _busy(fleet.folder / "clones"), "what the killed sweeps had started")
    wait_for(lambda: not _busy(fleet.folder / "remotes"), "what the killed sweeps had started")
    last = fleet.command(*EVERYTHING, "--json")
    assert last.returncode == 0, last.stderr
    assert fleet.checks() == [], last.stdout
    fleet.assert_agreed()
    fleet.assert_settled()
    for number in range(1, 5):
        slug = f"repo-{number}"
        for name, written in _transitions(fleet, slug).items():
            assert all(one != other for one, other in pairwise(written)), (name, written)
            rest = iter(wanted[name])
            assert all(value in rest for value in written), (name, written, wanted[name])
            assert written[-1] == wanted[name][-1]
        clone = fleet.projects[slug].clone
        assert git(clone, "status", "--porcelain") == ""
        assert list((clone / ".git").rglob("*.lock")) == []
        git(clone, "fsck", "--strict")


def test_a_lock_file_that_git_left_is_a_finding_until_it_is_gone(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    lock = project.clone / ".git" / "index.lock"
    lock.touch()
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done"})})
    before = {name: entry for name, entry in standing(project.clone).items() if "ORIG_HEAD" not in name}
    assert fleet.command(*EVERYTHING).returncode == 0
    found = fleet.findings()
    assert [each.check for each in found] == ["C-16"]
    assert "index.lock" in found[0].message
    assert {name: entry for name, entry in standing(project.clone).items() if "ORIG_HEAD" not in name} == before
    assert fleet.task("FLEET-WP-0001", "T01").status == "done"
    lock.unlink()
    assert fleet.command(*EVERYTHING).returncode == 0
    assert fleet.checks() == []
    fleet.assert_agreed()


def test_a_second_sweep_over_everything_steps_aside_and_one_over_a_repo_waits_for_it(fleet: Fleet) -> None:
    first, second = fleet.add("repo-1"), fleet.add("repo-2")
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "done")
    here, go = fleet.folder / "here", fleet.folder / "go"
    first.hook("pre-receive", f"touch {here}; while [ ! -e {go} ]; do sleep 0.02; done")
    sweeping = fleet.start(*EVERYTHING)
    try:
        wait_for(here.exists, "the push")
        aside = fleet.command(*EVERYTHING)
        assert aside.returncode == 75
        assert f"consistency_check.py --remote --all, pid {sweeping.pid} on " in aside.stderr
        assert aside.stderr.count("\n") == 1
        commit(second.clone, {"workplans/repo-2.md": plan("FLEET-WP-0002", {"T01": "done"})})
        other = fleet.command(*SWEEP, "--repo", "repo-2")
        assert other.returncode == 0
        assert fleet.task("FLEET-WP-0002", "T01").status == "done"
        commit(first.clone, {"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "todo", "T02": "done"})})
        waiting = fleet.start(*SWEEP, "--repo", "repo-1")
        dry = fleet.command(*EVERYTHING, "--dry-run")
        assert dry.returncode == 0  # it changes nothing, so it may look at any time
        assert waiting.poll() is None
        assert fleet.task("FLEET-WP-0001", "T02").status == "progress"
    finally:
        go.touch()
        output = sweeping.communicate()
    assert sweeping.returncode == 0, output
    assert waiting.wait(60) == 0
    waiting.communicate()
    git(first.clone, "pull", "-q", "--rebase", "origin", "main")
    git(first.clone, "push", "-q", "origin", "main")
    git(second.clone, "push", "-q", "origin", "main")
    assert fleet.command(*EVERYTHING).returncode == 0
    assert len(first.bot_commits()) == 1
    assert first.read("workplans/repo-1.md").decode() == plan("FLEET-WP-0001", {"T01": "done", "T02": "done"})
    fleet.assert_agreed()
    assert fleet.checks() == []


def test_a_repo_whose_lock_stays_held_is_exit_status_75(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    from state_hub.cli import sweeping
    from state_hub.store import locks

    project = fleet.add("repo-1")
    fleet.sweep()
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done"})})
    with fleet.store.writing() as connection:
        locks.take_lock(connection, fleet.repo("repo-1").id, "the test", fleet.clock.now(), 3_600_000_000)
    monkeypatch.setattr(sweeping, "HOOK_WAIT_S", 0.1)
    monkeypatch.setenv("STATE_HUB_CONFIG", str(fleet.folder / "state-hub.toml"))
    with pytest.raises(SystemExit) as ended:
        sweeping.sweep_command(["--repo", "repo-1", "--remote"])
    assert ended.value.code == 75
    with pytest.raises(SystemExit) as ended:
        sweeping.sweep_command(["--all", "--remote"])
    assert ended.value.code == 0


def test_exit_statuses(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.add("repo-2")
    assert fleet.command(*EVERYTHING, "--strict").returncode == 0
    project.publish({"workplans/broken.md": "---\nid: [\n---\n"})
    done = fleet.command(*EVERYTHING)
    assert done.returncode == 0
    assert "C-02" in done.stdout
    assert fleet.command(*EVERYTHING, "--strict").returncode == 3
    project.publish({"workplans/broken.md": None})
    assert fleet.command(*EVERYTHING, "--strict").returncode == 0
    left = fleet.command(*EVERYTHING, "--strict", "--max-seconds", "0.001")
    assert left.returncode in (0, 4)
    assert ("the budget was spent before" in left.stdout) == (left.returncode == 4)
    assert fleet.command(*EVERYTHING, "--max-seconds", "0.001").returncode == 0
    unknown = fleet.command(*SWEEP, "--repo", "repo-11")
    assert unknown.returncode == 1
    assert unknown.stderr == "consistency_check.py: no repo is called 'repo-11'; did you mean 'repo-1'?\n"
    for wrong in ([], ["--all", "--repo", "repo-1"], ["--all", "--jobs", "0"], ["--all", "--max-seconds", "-1"]):
        assert fleet.command(*SWEEP, *wrong).returncode == 2
    missing = fleet.command(*SWEEP, "--all", "--config", str(fleet.folder / "nowhere.toml"))
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1
    fleet.write_settings(database_url="postgresql://127.0.0.1:1/nowhere")
    away = fleet.command(*EVERYTHING)
    assert away.returncode == 1
    assert away.stderr.count("\n") == 1 and "Traceback" not in away.stderr
    fleet.write_settings(sweep_lock=str(fleet.folder / "remotes"))
    assert "cannot be opened" in fleet.command(*EVERYTHING).stderr


def test_the_report_for_programs(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    project.publish({"workplans/broken.md": "---\nid: [\n---\n"})
    fleet.set("FLEET-WP-0001/T01", "done")
    report = json.loads(fleet.command(*EVERYTHING, "--json").stdout)
    assert set(report) == {"sweep", "kind", "duration_s", "left", "open_findings", "repos"}
    assert (report["kind"], report["left"], report["open_findings"]) == ("remote all", [], {"error": 1})
    (repo,) = report["repos"]
    assert set(repo) >= {"slug", "outcome", "detail", "did", "found", "duration_s"}
    assert (repo["slug"], repo["outcome"]) == ("repo-1", "changed")
    assert any(line.startswith("C-15 FLEET-WP-0001/T01") for line in repo["did"])
    assert [(each["check"], each["path"], each["line"] > 0) for each in repo["found"]] == [
        ("C-02", "workplans/broken.md", True)
    ]
    dry = json.loads(fleet.command(*EVERYTHING, "--json", "--dry-run").stdout)
    assert dry["sweep"] is None


def test_make_runs_both_jobs_and_takes_a_slug_as_it_is(fleet: Fleet) -> None:
    project = fleet.add("repo-1", {"workplans/a.md": plan("FLEET-WP-0001", status="finished")})
    commit(project.clone, {"notes": "x"})
    make = ["make", "--no-print-directory", "-C", str(PROJECT)]
    done = fleet.command(*make, "fix-consistency", "REPO=repo-1")
    assert done.returncode == 0, done.stderr
    assert fleet.task("FLEET-WP-0001", "T01").status == "todo"
    done = fleet.command(*make, "cleanup-stale")
    assert done.returncode == 0, done.stderr
    assert fleet.task("FLEET-WP-0001", "T01").status == "cancelled"
    ran = fleet.folder / "ran"
    evil = fleet.command(*make, "fix-consistency", REPO=f'"; touch {ran}; `touch {ran}` $$(touch {ran})')
    assert evil.returncode == 2
    assert fleet.command(*make, "fix-consistency").returncode == 2


def test_cleanup_by_command(fleet: Fleet) -> None:
    fleet.add("repo-1", {"workplans/a.md": plan("FLEET-WP-0001", {"T01": "todo", "T02": "done"}, status="archived")})
    fleet.sweep()
    dry = fleet.command(*CLEANUP, "--dry-run")
    assert dry.stdout.splitlines() == [
        "would cancel FLEET-WP-0001/T01 (todo, workstream archived) Step T01",
        "1 task(s) to cancel",
    ]
    assert fleet.task("FLEET-WP-0001", "T01").status == "todo"
    done = json.loads(fleet.command(*CLEANUP, "--json").stdout)
    assert [each["task_id"] for each in done["cancelled"]] == ["T01"]
    assert fleet.command(*CLEANUP).stdout == "no stale tasks\n"
    assert fleet.command(*HUB, "cleanup").stdout == "no stale tasks\n"
    assert fleet.command(*EVERYTHING).returncode == 0
    assert b"id: T01\nstatus: cancelled" in fleet.projects["repo-1"].read("workplans/a.md")
    assert fleet.checks() == []
    fleet.assert_agreed()


def test_a_killed_holder_of_the_sweeps_lock_file_does_not_keep_the_next_away(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "done")
    here = fleet.folder / "here"
    project.hook("pre-receive", f"touch {here}; while [ ! -e {fleet.folder}/go ]; do sleep 0.02; done")
    process = fleet.start(*EVERYTHING)
    wait_for(here.exists, "the push")
    os.kill(process.pid, 9)
    process.communicate()
    (fleet.folder / "go").touch()
    wait_for(lambda: not _busy(fleet.folder / "remotes") and not _busy(fleet.folder / "clones"), "the orphaned push")
    done = fleet.command(*EVERYTHING)
    assert done.returncode == 0, done.stderr
    assert len(project.bot_commits()) == 1
    fleet.assert_agreed()
    assert fleet.checks() == []
