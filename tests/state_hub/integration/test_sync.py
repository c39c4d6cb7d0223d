"""Files and rows, kept in step by sweeps over real repos: what moves where, and that nothing else does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.state_hub.fleet import BOT_EMAIL, BOT_NAME, commit, git, plan, snapshot

from state_hub.case import Outcome
from state_hub.errors import RefusedError
from state_hub.rebuild import forget

if TYPE_CHECKING:
    from tests.state_hub.fleet import Fleet


def test_new_files_become_rows_and_a_second_sweep_writes_nothing(any_fleet: Fleet) -> None:
    for number in range(1, 4):
        any_fleet.add(f"repo-{number}")
    report = any_fleet.sweep()
    assert [visit.outcome for visit in report.visits] == [Outcome.CHANGED] * 3
    assert any_fleet.workstream("FLEET-WP-0002").status == "active"
    assert any_fleet.task("FLEET-WP-0003", "T02").status == "progress"
    any_fleet.assert_agreed()
    any_fleet.assert_settled()
    assert any_fleet.checks() == []


def test_what_a_person_pushes_reaches_the_row_and_the_clone(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1")
    any_fleet.sweep()
    made = project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done", "T03": "wait"})})
    any_fleet.sweep()
    assert any_fleet.task("FLEET-WP-0001", "T01").status == "done"
    assert any_fleet.task("FLEET-WP-0001", "T03").status == "wait"
    removed = any_fleet.task("FLEET-WP-0001", "T02")
    assert removed.removed_at is not None
    assert removed.status == "cancelled"
    assert git(project.clone, "rev-parse", "HEAD").strip() == made
    assert git(project.clone, "status", "--porcelain") == ""
    any_fleet.assert_agreed()
    any_fleet.assert_settled()


def test_statuses_changed_in_the_database_come_to_their_files_in_one_bot_commit_per_repo(any_fleet: Fleet) -> None:
    crlf = plan("FLEET-WP-0011").replace("\n", "\r\n").encode()
    first = any_fleet.add("repo-1", {"workplans/repo-1.md": plan("FLEET-WP-0001"), "workplans/crlf.md": crlf})
    second = any_fleet.add("repo-2")
    any_fleet.sweep()
    tips = [first.tip, second.tip]
    any_fleet.set("FLEET-WP-0001/T01", "done")
    any_fleet.set("FLEET-WP-0001/T02", "done")
    any_fleet.set("FLEET-WP-0001", "finished")
    any_fleet.set("FLEET-WP-0011/T01", "progress")
    any_fleet.set("FLEET-WP-0002/T01", "cancelled")
    any_fleet.sweep()
    for project, tip in zip((first, second), tips, strict=True):
        assert git(project.remote, "rev-list", "--count", f"{tip}..main").strip() == "1"
        shown = git(project.remote, "log", "-1", "--format=%an|%ae|%cn|%ce|%(trailers:key=State-Hub-Writeback)", "main")
        assert shown.startswith(f"{BOT_NAME}|{BOT_EMAIL}|{BOT_NAME}|{BOT_EMAIL}|State-Hub-Writeback: FLEET-WP-")
        assert git(project.clone, "rev-parse", "HEAD").strip() == project.tip
        assert git(project.clone, "status", "--porcelain") == ""
    expected = (
        plan("FLEET-WP-0001").replace("status: active", "status: finished").replace("status: todo", "status: done")
    )
    assert first.read("workplans/repo-1.md").decode() == expected.replace("status: progress", "status: done")
    wanted = crlf.replace(b"status: todo", b"status: progress", 1)
    assert (first.clone / "workplans/crlf.md").read_bytes() == wanted
    blob = git(first.remote, "rev-parse", "main:workplans/crlf.md").strip()
    assert blob == git(first.work, "hash-object", "--stdin", given=wanted).strip()
    any_fleet.assert_agreed()
    any_fleet.assert_settled()


def test_a_local_sweep_takes_what_was_committed_and_neither_asks_the_remote_nor_writes_files(fleet: Fleet) -> None:
    project = fleet.add("repo-1", is_http=True)
    fleet.sweep(is_remote=False)
    commit(project.clone, {"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done", "T02": "progress"})})
    fleet.set("FLEET-WP-0001/T02", "done")
    before = snapshot(project.clone)
    requests = len(fleet.http.requests)
    fleet.sweep(is_remote=False)
    assert fleet.task("FLEET-WP-0001", "T01").status == "done"
    assert fleet.task("FLEET-WP-0001", "T02").is_pending
    assert snapshot(project.clone) == before
    assert len(fleet.http.requests) == requests


def test_nothing_is_written_back_past_commits_that_somebody_has_yet_to_push(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1")
    any_fleet.sweep()
    commit(project.clone, {"notes.txt": "mine"})
    any_fleet.set("FLEET-WP-0001/T01", "done")
    before = snapshot(project.clone)
    any_fleet.sweep()
    assert project.bot_commits() == []
    assert any_fleet.checks() == ["C-16"]
    assert any_fleet.task("FLEET-WP-0001", "T01").is_pending
    assert snapshot(project.clone) == before
    any_fleet.assert_settled()
    git(project.clone, "push", "-q", str(project.remote), "main")
    any_fleet.sweep()
    assert len(project.bot_commits()) == 1
    assert any_fleet.checks() == []
    any_fleet.assert_agreed()


# -- files that come, go and move --


def test_a_file_that_is_renamed_is_followed_by_its_id(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1")
    any_fleet.sweep()
    before = any_fleet.task("FLEET-WP-0001", "T01")
    project.publish(
        {"workplans/repo-1.md": None, "workplans/old/renamed.md": plan("FLEET-WP-0001", {"T01": "todo"}) + "\nmore\n"}
    )
    report = any_fleet.sweep()
    assert any("C-05" in line for line in report.visits[0].did)
    assert any_fleet.workstream("FLEET-WP-0001").path == "workplans/old/renamed.md"
    assert any_fleet.task("FLEET-WP-0001", "T01").number == before.number
    any_fleet.assert_agreed()
    any_fleet.assert_settled()


def test_a_pending_change_follows_a_file_that_is_renamed(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "done")
    project.publish({"workplans/repo-1.md": None, "workplans/b.md": plan("FLEET-WP-0001")})
    fleet.sweep()
    assert b"id: T01\nstatus: done" in project.read("workplans/b.md")
    fleet.assert_agreed()


def test_a_deleted_file_leaves_a_tombstone_and_cancelled_tasks_and_comes_back_to_life(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1", {"workplans/a.md": plan("FLEET-WP-0001", {"T01": "todo", "T02": "done"})})
    any_fleet.sweep()
    number = any_fleet.task("FLEET-WP-0001", "T01").number
    project.publish({"workplans/a.md": None})
    any_fleet.sweep()
    gone = any_fleet.task("FLEET-WP-0001", "T01")
    assert any_fleet.workstream("FLEET-WP-0001").removed_at is not None
    assert (gone.status, gone.removed_at is not None) == ("cancelled", True)
    assert any_fleet.task("FLEET-WP-0001", "T02").status == "done"
    with pytest.raises(RefusedError, match="removed from its file"):
        any_fleet.set("FLEET-WP-0001/T01", "done")
    any_fleet.assert_settled()
    project.publish({"workplans/back.md": plan("FLEET-WP-0001", {"T01": "progress", "T02": "done"})})
    any_fleet.sweep()
    back = any_fleet.task("FLEET-WP-0001", "T01")
    assert (back.status, back.removed_at, back.number) == ("progress", None, number)
    assert any_fleet.workstream("FLEET-WP-0001").path == "workplans/back.md"
    assert any_fleet.checks() == []
    any_fleet.assert_agreed()
    any_fleet.assert_settled()


def test_a_copied_id_stays_with_its_first_holder_until_the_copy_is_mended(any_fleet: Fleet) -> None:
    first = any_fleet.add("repo-1")
    second = any_fleet.add("repo-2")
    any_fleet.sweep()
    first.publish({"workplans/a-copy.md": plan("FLEET-WP-0001", {"T01": "done"})})
    second.publish({"workplans/copy.md": plan("FLEET-WP-0001", {"T01": "done"})})
    any_fleet.sweep()
    assert {(each.check, each.repo, each.path) for each in any_fleet.findings()} == {
        ("C-04", "repo-1", "workplans/a-copy.md"),
        ("C-04", "repo-2", "workplans/copy.md"),
    }
    assert any_fleet.workstream("FLEET-WP-0001").path == "workplans/repo-1.md"
    assert any_fleet.task("FLEET-WP-0001", "T01").status == "todo"
    any_fleet.assert_settled()
    first.publish({"workplans/a-copy.md": plan("FLEET-WP-0071")})
    second.publish({"workplans/copy.md": None})
    any_fleet.sweep()
    assert any_fleet.checks() == []
    any_fleet.assert_agreed()


def test_a_workplan_moves_to_another_repo_whichever_is_visited_first(fleet: Fleet) -> None:
    first, second = fleet.add("repo-1"), fleet.add("repo-2")
    fleet.sweep()
    for source, target in ((first, second), (second, first)):
        source.publish({"workplans/repo-1.md": None})
        target.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done", "T05": "todo"})})
        fleet.sweep(target.slug)  # which comes too early: the other repo still holds it
        assert fleet.workstream("FLEET-WP-0001").repo == source.slug
        assert fleet.checks(target.slug) == ["C-04"]
        fleet.sweep(source.slug)
        fleet.sweep()
        assert fleet.workstream("FLEET-WP-0001").repo == target.slug
        assert fleet.task("FLEET-WP-0001", "T05").status == "todo"
        assert fleet.checks() == []
        fleet.assert_agreed()
    fleet.assert_settled()


# -- history --


def test_rewritten_history_stops_the_sync_until_the_repo_is_rebuilt(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1")
    any_fleet.sweep()
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "progress"})})
    any_fleet.sweep()
    any_fleet.set("FLEET-WP-0001/T01", "done")
    git(project.work, "reset", "-q", "--hard", "HEAD~1")
    commit(project.work, {"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "wait", "T09": "todo"})})
    git(project.work, "push", "-q", "--force", "origin", "HEAD:main")
    before = snapshot(project.clone / "workplans")
    any_fleet.sweep()
    assert any_fleet.checks() == ["C-13", "C-16"]
    assert any_fleet.task("FLEET-WP-0001", "T01").status == "done"
    assert snapshot(project.clone / "workplans") == before
    assert project.bot_commits() == []
    any_fleet.assert_settled()
    repo = any_fleet.repo("repo-1")
    with pytest.raises(RefusedError, match="--discard"):
        forget(any_fleet.store, [repo], any_fleet.clock.now(), discard=False)
    git(project.clone, "fetch", "-q", str(project.remote), "main")
    git(project.clone, "reset", "-q", "--hard", "FETCH_HEAD")
    forget(any_fleet.store, [repo], any_fleet.clock.now(), discard=True)
    any_fleet.sweep()
    assert any_fleet.task("FLEET-WP-0001", "T09").status == "todo"
    assert any_fleet.checks() == []
    any_fleet.assert_agreed()
    any_fleet.assert_settled()


def test_a_clone_that_is_behind_the_base_is_no_news(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done", "T02": "done"})})
    fleet.sweep()
    rows = fleet.dump()
    git(project.clone, "reset", "-q", "--hard", "HEAD~1")
    fleet.sweep(is_remote=False)
    assert {**fleet.dump(), "findings": []} == {**rows, "findings": []}
    assert fleet.checks() == []
    fleet.sweep()
    assert git(project.clone, "rev-parse", "HEAD").strip() == project.tip
    fleet.assert_agreed()


def test_a_remote_set_back_to_an_older_commit_is_no_news_either(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done"})})
    fleet.sweep()
    git(project.remote, "update-ref", "refs/heads/main", "main~1")
    fleet.sweep()
    assert fleet.task("FLEET-WP-0001", "T01").status == "done"
    assert fleet.task("FLEET-WP-0001", "T02").removed_at is not None
    fleet.assert_settled()


# -- both sides --


def test_a_conflict_has_a_winner_by_rule_and_its_loser_in_a_finding(any_fleet: Fleet) -> None:
    tasks = {"T01": "todo", "T02": "todo", "T03": "todo", "T04": "todo"}
    project = any_fleet.add("repo-1", {"workplans/a.md": plan("FLEET-WP-0001", tasks)})
    any_fleet.sweep()
    any_fleet.set("FLEET-WP-0001/T01", "done")  # closed beats open
    any_fleet.set("FLEET-WP-0001/T02", "progress")  # open against open: the file
    any_fleet.set("FLEET-WP-0001/T03", "done")  # closed against closed: the file
    any_fleet.set("FLEET-WP-0001/T04", "progress")  # both the same: no conflict
    project.publish(
        {"workplans/a.md": plan("FLEET-WP-0001", {"T01": "wait", "T02": "wait", "T03": "cancelled", "T04": "progress"})}
    )
    any_fleet.sweep()
    expected = {"T01": "done", "T02": "wait", "T03": "cancelled", "T04": "progress"}
    assert {task: any_fleet.task("FLEET-WP-0001", task).status for task in expected} == expected
    assert project.read("workplans/a.md").decode() == plan("FLEET-WP-0001", expected)
    found = {each.subject: each.message for each in any_fleet.findings()}
    assert set(any_fleet.checks()) == {"C-10"}
    assert found == {
        "FLEET-WP-0001/T01": "the database says done and won; the file said wait",
        "FLEET-WP-0001/T02": "the file says wait and won; the database said progress",
        "FLEET-WP-0001/T03": "the file says cancelled and won; the database said done",
    }
    any_fleet.assert_agreed()
    any_fleet.assert_settled()
    project.publish(
        {"workplans/a.md": plan("FLEET-WP-0001", {"T01": "done", "T02": "done", "T03": "cancelled", "T04": "done"})}
    )
    any_fleet.sweep()
    assert sorted(each.subject for each in any_fleet.findings()) == ["FLEET-WP-0001/T01", "FLEET-WP-0001/T03"]
    any_fleet.clock.advance(31 * 86_400_000_000)
    any_fleet.sweep()
    assert any_fleet.checks() == []


def test_a_person_who_takes_back_a_writeback_has_the_last_word(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1")
    any_fleet.sweep()
    any_fleet.set("FLEET-WP-0001/T01", "done")
    any_fleet.sweep()
    git(project.work, "pull", "-q", "origin", "main")
    git(project.work, "revert", "--no-edit", "HEAD")
    git(project.work, "push", "-q", "origin", "HEAD:main")
    any_fleet.sweep()
    task = any_fleet.task("FLEET-WP-0001", "T01")
    assert (task.status, task.file_wins, task.is_pending) == ("todo", True, False)
    assert any_fleet.checks() == ["C-15"]
    with pytest.raises(RefusedError, match="change its status in the file"):
        any_fleet.set("FLEET-WP-0001/T01", "done")
    any_fleet.assert_settled()
    assert len(project.bot_commits()) == 1
    any_fleet.assert_agreed()


def test_a_status_that_is_changed_again_while_its_writeback_is_pushed_waits_for_the_next(fleet: Fleet) -> None:
    project = fleet.add("repo-1", is_http=True)
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "progress")

    def change(request: str) -> None:
        if request == "POST /repo-1.git/git-receive-pack" and not project.bot_commits():
            fleet.set("FLEET-WP-0001/T01", "done")

    fleet.http.hook = change
    fleet.sweep()
    task = fleet.task("FLEET-WP-0001", "T01")
    assert (task.status, task.is_pending) == ("done", True)
    fleet.sweep()
    assert len(project.bot_commits()) == 2
    fleet.assert_agreed()
    fleet.assert_settled()


def test_two_hundred_workplans_are_written_back_in_one_commit(fleet: Fleet) -> None:
    names = [f"FLEET-WP-{number:04d}" for number in range(1, 201)]
    project = fleet.add("repo-1", {f"workplans/{name}.md": plan(name, {"T01": "todo"}) for name in names})
    fleet.sweep()
    for name in names:
        fleet.set(f"{name}/T01", "done")
    fleet.sweep()
    assert len(project.bot_commits()) == 1
    changed = git(project.remote, "diff", "--numstat", "main~1", "main").splitlines()
    assert len(changed) == 200
    assert {tuple(line.split()[:2]) for line in changed} == {("1", "1")}
    fleet.assert_agreed()


def test_names_of_files_with_odd_characters_are_written_back_as_they_are(fleet: Fleet) -> None:
    odd = 'workplans/a "quoted" \\ tab\tand ünïcode\n.md'.replace("\n", "")
    project = fleet.add("repo-1", {odd: plan("FLEET-WP-0001")})
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "done")
    fleet.sweep()
    assert b"id: T01\nstatus: done" in project.read(odd)
    fleet.assert_settled()


def test_commits_that_are_not_pushed_yet_may_be_amended_rebased_or_dropped(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1")
    any_fleet.sweep()
    start = git(project.clone, "rev-parse", "HEAD").strip()
    commit(project.clone, {"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "progress", "T02": "progress"})})
    any_fleet.sweep("repo-1", is_remote=False)  # as the hook does
    assert any_fleet.task("FLEET-WP-0001", "T01").status == "progress"
    (project.clone / "workplans/repo-1.md").write_text(plan("FLEET-WP-0001", {"T01": "done", "T02": "progress"}))
    git(project.clone, "commit", "-q", "-a", "--amend", "-m", "Amended")
    any_fleet.sweep("repo-1", is_remote=False)
    assert any_fleet.task("FLEET-WP-0001", "T01").status == "done"
    project.publish({"notes.txt": "theirs"})
    git(project.clone, "pull", "-q", "--rebase", str(project.remote), "main")
    any_fleet.sweep("repo-1", is_remote=False)
    any_fleet.sweep()
    assert any_fleet.task("FLEET-WP-0001", "T01").status == "done"
    assert "C-13" not in any_fleet.checks()
    assert any_fleet.findings(check="C-10") == []
    git(project.clone, "reset", "-q", "--hard", start)  # never mind
    any_fleet.sweep()
    any_fleet.sweep()
    assert "C-13" not in any_fleet.checks()
    assert project.bot_commits() == []
    any_fleet.assert_settled()


def test_a_task_added_and_dropped_without_ever_being_pushed_leaves_no_ghost(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    start = git(project.clone, "rev-parse", "HEAD").strip()
    tasks = {"T01": "done", "T02": "progress", "T03": "todo"}
    commit(project.clone, {"workplans/repo-1.md": plan("FLEET-WP-0001", tasks)})
    commit(project.clone, {"workplans/new.md": plan("FLEET-WP-0011")})
    fleet.sweep("repo-1", is_remote=False)
    assert fleet.task("FLEET-WP-0001", "T03").status == "todo"
    git(project.clone, "reset", "-q", "--hard", start)
    fleet.sweep()
    assert fleet.task("FLEET-WP-0001", "T01").status == "todo"
    assert "C-13" not in fleet.checks()
    assert project.bot_commits() == []
    fleet.assert_settled()
    left = [each.check for each in fleet.findings()]
    assert fleet.task("FLEET-WP-0001", "T03").removed_at is not None or "C-07" in left
    assert fleet.workstream("FLEET-WP-0011").removed_at is not None or "C-07" in left


def test_a_change_in_the_database_is_not_lost_when_an_unpushed_commit_is_amended(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    commit(project.clone, {"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "progress", "T02": "progress"})})
    fleet.sweep("repo-1", is_remote=False)
    fleet.set("FLEET-WP-0001/T02", "done")
    git(project.clone, "commit", "-q", "--amend", "-m", "Amended")
    fleet.sweep("repo-1", is_remote=False)
    fleet.sweep()
    assert fleet.task("FLEET-WP-0001", "T02").status == "done"
    git(project.clone, "push", "-q", "origin", "main")
    fleet.sweep()
    assert project.read("workplans/repo-1.md").decode() == plan("FLEET-WP-0001", {"T01": "progress", "T02": "done"})
    assert fleet.checks() == []
    fleet.assert_agreed()
    fleet.assert_settled()
