"""Writebacks that meet resistance: rivals, refusals, stalls. Nothing is lost, nothing written twice."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest
from tests.state_hub.fleet import BOT_EMAIL, commit, git, plan, wait_for

from state_hub.case import Outcome

if TYPE_CHECKING:
    from tests.state_hub.fleet import Fleet, Project


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts the hub lets others go first; here it need not."""
    monkeypatch.setattr(random, "uniform", lambda _low, _high: 0.001)


@pytest.mark.parametrize("when", ["info/refs?service=git-receive-pack", "POST /repo-1.git/git-receive-pack"])
def test_a_push_that_a_person_overtakes_is_made_anew_on_top(fleet: Fleet, when: str) -> None:
    project = fleet.add("repo-1", is_http=True)
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "done")
    edits: list[dict[str, str | bytes | None]] = [
        {"notes.txt": "one"},
        {"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "todo", "T02": "cancelled", "T03": "todo"})},
    ]

    def overtake(request: str) -> None:
        if when in request and edits:
            project.publish(edits.pop(0), "Rival")

    fleet.http.hook = overtake
    report = fleet.sweep()
    assert edits == []
    assert report.visits[0].outcome is Outcome.CHANGED
    wanted = {"T01": "done", "T02": "cancelled", "T03": "todo"}
    assert project.read("workplans/repo-1.md").decode() == plan("FLEET-WP-0001", wanted)
    assert project.read("notes.txt") == b"one"
    assert project.log("%s")[1:3] == ["Rival", "Rival"]
    assert len(project.bot_commits()) == 1
    assert fleet.checks() == []
    fleet.assert_agreed()
    fleet.assert_settled()


def test_a_rival_whose_push_lands_between_check_and_update_is_no_refusal(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    rival = commit(project.work, {"notes.txt": "rival"}, "Rival")
    git(project.work, "push", "-q", "origin", "HEAD:refs/heads/rival")
    project.hook("update", f"[ -e {fleet.folder}/once ] || {{ touch {fleet.folder}/once; git update-ref $1 {rival}; }}")
    fleet.set("FLEET-WP-0001/T01", "done")
    fleet.sweep()
    assert project.log("%s")[1] == "Rival"
    assert len(project.bot_commits()) == 1
    assert fleet.checks() == []
    fleet.assert_agreed()


def test_a_conflicting_rival_is_merged_by_the_rule(fleet: Fleet) -> None:
    project = fleet.add("repo-1", is_http=True)
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "progress")
    fleet.set("FLEET-WP-0001/T02", "done")
    edits = [plan("FLEET-WP-0001", {"T01": "wait", "T02": "wait"})]

    def overtake(request: str) -> None:
        if "POST /repo-1.git/git-receive-pack" in request and edits:
            project.publish({"workplans/repo-1.md": edits.pop()}, "Rival")

    fleet.http.hook = overtake
    fleet.sweep()
    wanted = plan("FLEET-WP-0001", {"T01": "wait", "T02": "done"})
    assert project.read("workplans/repo-1.md").decode() == wanted
    assert sorted((each.check, each.subject) for each in fleet.findings()) == [
        ("C-10", "FLEET-WP-0001/T01"),
        ("C-10", "FLEET-WP-0001/T02"),
    ]
    fleet.assert_agreed()
    fleet.assert_settled()


def test_after_five_overtaken_pushes_it_is_left_to_the_next_sweep(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1", is_http=True)
    any_fleet.sweep()
    any_fleet.set("FLEET-WP-0001/T01", "done")
    pushed: list[str] = []

    def overtake(request: str) -> None:
        if "POST /repo-1.git/git-receive-pack" in request:
            pushed.append(request)
            project.publish({"notes.txt": f"{len(pushed)}"}, "Rival")

    any_fleet.http.hook = overtake
    any_fleet.sweep()
    assert len(pushed) == 5
    assert [(each.check, each.subject) for each in any_fleet.findings()] == [("C-15", "push")]
    assert any_fleet.task("FLEET-WP-0001", "T01").is_pending
    assert any_fleet.dump()["repo_locks"] == []
    assert any_fleet.dump()["writebacks"] == [], "nobody else has what was refused"
    any_fleet.http.hook = lambda _request: None
    any_fleet.sweep()
    assert len(project.bot_commits()) == 1
    assert any_fleet.checks() == []
    any_fleet.assert_agreed()
    any_fleet.assert_settled()


def test_a_protected_branch_keeps_the_change_pending_and_says_why(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1")
    any_fleet.sweep()
    project.hook("pre-receive", "echo 'main is protected: ask a person' >&2; exit 1")
    any_fleet.set("FLEET-WP-0001/T01", "done")
    any_fleet.sweep()
    found = any_fleet.findings()
    assert [each.check for each in found] == ["C-15"]
    assert "main is protected: ask a person" in found[0].message
    assert any_fleet.task("FLEET-WP-0001", "T01").is_pending
    tip = git(project.clone, "rev-parse", "HEAD").strip()
    assert tip == project.tip
    any_fleet.sweep()
    assert any_fleet.findings()[0].first_seen_at == found[0].first_seen_at
    assert len(any_fleet.findings()) == 1
    any_fleet.clock.advance(2 * 3_600_000_000)
    any_fleet.sweep()
    assert any_fleet.checks() == ["C-14", "C-15"]
    (project.remote / "hooks" / "pre-receive").unlink()
    any_fleet.sweep()
    assert any_fleet.checks() == []
    assert len(project.bot_commits()) == 1
    any_fleet.assert_agreed()
    any_fleet.assert_settled()


def test_a_push_that_stalls_ends_with_the_visit_and_is_settled_by_the_next(fleet: Fleet) -> None:
    project = fleet.add("repo-1", is_http=True)
    fine = fleet.add("repo-2")
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "done")
    fleet.set("FLEET-WP-0002/T01", "done")
    fleet.http.hook = lambda request: "stall" if "POST /repo-1.git/git-receive-pack" in request else None
    fleet.sweep(repo_timeout=1_500_000)
    assert fleet.checks("repo-1") == ["C-15"]
    assert len(fine.bot_commits()) == 1
    assert fleet.task("FLEET-WP-0001", "T01").is_pending
    assert fleet.dump()["repo_locks"] == []
    fleet.http.hook = lambda _request: None
    fleet.sweep()
    assert len(project.bot_commits()) == 1
    assert fleet.checks() == []
    fleet.assert_agreed()
    fleet.assert_settled()


def test_a_push_that_arrived_although_its_answer_did_not_is_not_made_twice(fleet: Fleet) -> None:
    project = fleet.add("repo-1", is_http=True)
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "done")
    project.hook("post-receive", f"touch {fleet.folder}/arrived; sleep 30 >/dev/null 2>&1")
    fleet.sweep(repo_timeout=1_500_000)
    assert (fleet.folder / "arrived").exists()
    assert len(project.bot_commits()) == 1
    (project.remote / "hooks" / "post-receive").unlink()
    fleet.sweep()
    assert len(project.bot_commits()) == 1
    assert fleet.checks() == []
    fleet.assert_agreed()
    fleet.assert_settled()


def test_a_person_who_edits_commits_and_pushes_in_mid_sweep_loses_nothing(fleet: Fleet) -> None:
    project = fleet.add("repo-1", is_http=True)
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "done")
    edited = plan("FLEET-WP-0001", {"T01": "todo", "T02": "done"}) + "\nA person's own words.\n"

    def edit(request: str) -> None:
        if "POST /repo-1.git/git-receive-pack" in request and not project.bot_commits():
            (project.clone / "workplans/repo-1.md").write_text(edited)  # not committed: the gate must see it

    fleet.http.hook = edit
    fleet.sweep()
    assert (project.clone / "workplans/repo-1.md").read_text() == edited
    assert fleet.checks() == ["C-16"]
    fleet.http.hook = lambda _request: None
    git(project.clone, "commit", "-q", "-a", "-m", "Mine")
    fleet.sweep()
    assert fleet.checks() == ["C-16"]  # diverged: the person must rebase
    git(project.clone, "pull", "-q", "--rebase", str(project.remote), "main")
    git(project.clone, "push", "-q", str(project.remote), "main")
    fleet.sweep()
    wanted = plan("FLEET-WP-0001", {"T01": "done", "T02": "done"}) + "\nA person's own words.\n"
    assert project.read("workplans/repo-1.md").decode() == wanted
    assert fleet.checks() == []
    fleet.assert_agreed()


def test_persons_and_sweeps_in_one_clone_at_once_lose_nothing(fleet: Fleet) -> None:
    """A person commits and pushes from the registered clone itself, while sweeps write back again and again."""
    project = fleet.add("repo-1", {"workplans/a.md": plan("FLEET-WP-0001", {"T01": "todo"})})
    fleet.sweep()
    done = threading.Event()
    failures: list[BaseException] = []

    def sweep_on() -> None:
        states = ["progress", "todo"]
        try:
            while not done.is_set():
                fleet.set("FLEET-WP-0001/T01", states[0])
                states.reverse()
                fleet.sweep()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=sweep_on)
    thread.start()
    try:
        for number in range(8):
            person_commits(project, number)
    finally:
        done.set()
        thread.join()
    assert failures == []
    notes = git(project.remote, "ls-tree", "-r", "--name-only", "main", "notes/").splitlines()
    assert notes == [f"notes/{number}.txt" for number in range(8)]
    git(project.clone, "pull", "-q", "--rebase", "origin", "main")
    fleet.sweep()
    fleet.sweep()
    assert fleet.checks() == []
    fleet.assert_agreed()


def person_commits(project: Project, number: int) -> None:
    """What a person does whom git tells of a lock or of a moved remote: try again."""

    def is_done(*arguments: str) -> bool:
        try:
            git(project.clone, *arguments)
        except AssertionError as failure:
            expected = ("lock", "rejected", "fetch first", "cannot pull", "fast-forward", "unstaged", "uncommitted")
            assert any(word in str(failure) for word in expected), failure
            return False
        return True

    path = project.clone / "notes" / f"{number}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"note {number}\n")
    wait_for(lambda: is_done("add", "notes"), "git add")
    wait_for(lambda: is_done("commit", "-q", "-m", f"Note {number}"), "git commit")
    wait_for(
        lambda: is_done("pull", "-q", "--rebase", "origin", "main") and is_done("push", "-q", "origin", "HEAD:main"),
        "git push",
    )


def test_the_bot_never_writes_what_a_person_has_not_pushed(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    commit(project.clone, {"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "todo", "T02": "wait"})}, "Not yet")
    fleet.sweep()
    assert fleet.task("FLEET-WP-0001", "T02").status == "wait"  # news, although it is only here
    fleet.set("FLEET-WP-0001/T01", "done")
    fleet.sweep()
    assert git(project.remote, "log", f"--author={BOT_EMAIL}", "--format=%H").strip() == ""
    git(project.clone, "push", "-q", "origin", "main")
    fleet.sweep()
    fleet.assert_agreed()
    assert fleet.checks() == []
