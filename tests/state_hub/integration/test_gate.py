"""C-01, C-02 and C-16: clones and files that a sweep must leave alone, say so about, and take up again when mended."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from tests.state_hub.fleet import commit, git, plan, snapshot, standing

from state_hub.case import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.state_hub.fleet import Fleet, Project


def _dirty(clone: Path) -> None:
    (clone / "workplans/repo-1.md").write_text("a person is in the middle of this\n")


def _dirty_in_the_index(clone: Path) -> None:
    (clone / "workplans/repo-1.md").write_text("a person is in the middle of this\n")
    git(clone, "add", "-A")


def _clean(clone: Path) -> None:
    git(clone, "reset", "-q", "--hard")


def _untracked_in_the_way(clone: Path) -> None:
    (clone / "news.txt").write_text("mine\n")


def _diverge(clone: Path) -> None:
    commit(clone, {"mine.txt": "mine"})


def _rebase_and_push(clone: Path) -> None:
    git(clone, "pull", "-q", "--rebase", "origin", "main")
    git(clone, "push", "-q", "origin", "main")


def _detach(clone: Path) -> None:
    git(clone, "checkout", "-q", "--detach")


def _switch_away(clone: Path) -> None:
    git(clone, "checkout", "-q", "-b", "topic")
    commit(clone, {"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "cancelled"})})


def _switch_back(clone: Path) -> None:
    git(clone, "checkout", "-q", "main")


def _stop_in_a_rebase(clone: Path) -> None:
    git(clone, "commit", "-q", "--allow-empty", "-m", "one")
    git(clone, "rebase", "-q", "-i", "HEAD~1", variables={"GIT_SEQUENCE_EDITOR": "sed -i s/^pick/edit/"})


def _abort_the_rebase(clone: Path) -> None:
    git(clone, "rebase", "--abort")
    git(clone, "reset", "-q", "--hard", "HEAD~1")


def _stop_in_a_rebase_of_nothing(clone: Path) -> None:
    git(clone, "rebase", "-q", "-i", "HEAD", variables={"GIT_SEQUENCE_EDITOR": "printf 'break\\n' >"})


def _abort(clone: Path) -> None:
    git(clone, "rebase", "--abort")


CASES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], list[str]]] = {
    "dirty": (_dirty, _clean, ["C-16"]),
    "dirty-index": (_dirty_in_the_index, _clean, ["C-16"]),
    "untracked": (_untracked_in_the_way, lambda clone: (clone / "news.txt").unlink(), ["C-16"]),
    "diverged": (_diverge, _rebase_and_push, ["C-16"]),
    "detached": (_detach, _switch_back, ["C-01", "C-16"]),
    "other-branch": (_switch_away, _switch_back, ["C-01", "C-16"]),
    "rebase-of-a-commit": (_stop_in_a_rebase, _abort_the_rebase, ["C-01", "C-16"]),
    "rebase": (_stop_in_a_rebase_of_nothing, _abort, ["C-01", "C-16"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_clone_that_is_in_use_is_left_alone_and_pulled_when_it_is_free_again(fleet: Fleet, name: str) -> None:
    hamper, mend, checks = CASES[name]
    project = fleet.add("repo-1")
    fine = fleet.add("repo-2")
    fleet.sweep()
    hamper(project.clone)
    before = standing(project.clone)
    files = {"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done", "T02": "progress"}), "news.txt": "theirs\n"}
    project.publish(files)
    fine.publish({"workplans/repo-2.md": plan("FLEET-WP-0002", {"T01": "done"})})
    fleet.sweep()
    assert standing(project.clone) == before
    assert fleet.checks("repo-1") == checks
    first_seen = {each.id: each.first_seen_at for each in fleet.findings("repo-1")}
    assert fleet.task("FLEET-WP-0002", "T01").status == "done"
    if name != "diverged":
        assert fleet.task("FLEET-WP-0001", "T01").status == "done"  # the row follows the remote all the same
    fleet.assert_settled()
    assert {each.id: each.first_seen_at for each in fleet.findings("repo-1")} == first_seen
    mend(project.clone)
    fleet.sweep()
    assert fleet.checks() == []
    closed = {each.id: each.first_seen_at for each in fleet.findings("repo-1", is_open=False)}
    assert closed == first_seen
    assert git(project.clone, "rev-parse", "main").strip() == project.tip
    assert git(project.clone, "status", "--porcelain") == ""
    fleet.assert_agreed()
    fleet.assert_settled()


@pytest.mark.parametrize("name", ["dirty", "detached", "other-branch", "rebase"])
def test_a_row_is_written_back_past_a_clone_that_is_in_use(fleet: Fleet, name: str) -> None:
    hamper, mend, _ = CASES[name]
    project = fleet.add("repo-1")
    fleet.sweep()
    hamper(project.clone)
    before = standing(project.clone)
    fleet.set("FLEET-WP-0001/T01", "done")
    fleet.sweep()
    after = {key: value for key, value in standing(project.clone).items() if "state-hub" not in key}
    assert after == before
    assert len(project.bot_commits()) == 1
    assert b"id: T01\nstatus: done" in project.read("workplans/repo-1.md")
    fleet.assert_settled()
    mend(project.clone)
    fleet.sweep()
    assert fleet.checks() == []
    fleet.assert_agreed()


def test_a_clone_with_local_work_and_nothing_new_at_its_remote_is_no_finding(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    _dirty(project.clone)
    before = snapshot(project.clone)
    fleet.sweep()
    assert snapshot(project.clone) == before
    assert fleet.checks() == []


def _break(project: Project, fleet: Fleet) -> None:
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001").replace("status: todo", "status: tdoo")})


def _break_front(project: Project, fleet: Fleet) -> None:
    project.publish({"workplans/repo-1.md": "---\nid: [\n---\n"})


def _conflict_markers(project: Project, fleet: Fleet) -> None:
    text = plan("FLEET-WP-0001") + "\n<<<<<<< ours\na\n=======\nb\n>>>>>>> theirs\n"
    project.publish({"workplans/repo-1.md": text})


def _no_more_a_workplan(project: Project, fleet: Fleet) -> None:
    project.publish({"workplans/repo-1.md": "# Nothing to see here\n"})


@pytest.mark.parametrize(
    ("spoil", "check"),
    [(_break, "C-03"), (_break_front, "C-02"), (_conflict_markers, "C-02"), (_no_more_a_workplan, "C-02")],
)
def test_a_broken_file_keeps_its_rows_and_harms_no_other(
    fleet: Fleet, spoil: Callable[[Project, Fleet], None], check: str
) -> None:
    project = fleet.add("repo-1")
    project.publish({"workplans/fine.md": plan("FLEET-WP-0011")})
    fleet.sweep()
    rows = fleet.task("FLEET-WP-0001", "T01")
    spoil(project, fleet)
    project.publish({"workplans/fine.md": plan("FLEET-WP-0011", {"T01": "done"})})
    fleet.sweep()
    found = fleet.findings()
    assert [(each.check, each.path) for each in found] == [(check, "workplans/repo-1.md")]
    after = fleet.task("FLEET-WP-0001", "T01")
    assert (after.status, after.removed_at) == (rows.status, None)
    assert fleet.task("FLEET-WP-0011", "T01").status == "done"
    fleet.assert_settled()
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "cancelled"})})
    fleet.sweep()
    assert fleet.checks() == []
    assert fleet.findings(is_open=False)[0].first_seen_at == found[0].first_seen_at
    assert fleet.task("FLEET-WP-0001", "T01").status == "cancelled"
    fleet.assert_agreed()


def test_a_pending_change_to_a_broken_file_waits_until_it_is_mended(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T02", "done")
    _break_front(project, fleet)
    fleet.sweep()
    fleet.assert_settled()
    assert fleet.task("FLEET-WP-0001", "T02").status == "done"
    assert project.bot_commits() == []
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001")})
    fleet.sweep()
    assert b"id: T02\nstatus: done" in project.read("workplans/repo-1.md")
    assert fleet.checks() == []
    fleet.assert_agreed()


def test_a_missing_clone_is_a_finding_and_taken_up_again_when_it_is_back(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fleet.add("repo-2")
    fleet.sweep()
    kept = project.clone.with_name("elsewhere")
    project.clone.rename(kept)
    report = fleet.sweep()
    assert {visit.slug: visit.outcome for visit in report.visits} == {
        "repo-1": Outcome.BLOCKED,
        "repo-2": Outcome.UNCHANGED,
    }
    assert fleet.checks() == ["C-01"]
    fleet.assert_settled()
    assert not project.clone.exists()
    kept.rename(project.clone)
    fleet.sweep()
    assert fleet.checks() == []
    fleet.assert_settled()


def test_a_clone_that_the_hub_made_is_made_again(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1", is_managed=True)
    any_fleet.sweep()
    shutil.rmtree(project.clone)
    any_fleet.set("FLEET-WP-0001/T01", "done")
    any_fleet.sweep()
    any_fleet.assert_agreed()
    assert git(project.clone, "rev-parse", "HEAD").strip() == project.tip
    assert any_fleet.checks() == []
    any_fleet.assert_settled()


def test_a_clone_of_another_remote_is_left_alone(fleet: Fleet) -> None:
    project, other = fleet.add("repo-1"), fleet.add("repo-2")
    fleet.sweep()
    git(project.clone, "remote", "set-url", "origin", other.url)
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done"})})
    before = snapshot(project.clone)
    fleet.sweep()
    assert snapshot(project.clone) == before
    assert fleet.checks() == ["C-01"]
    assert fleet.task("FLEET-WP-0001", "T01").status == "todo"
    git(project.clone, "remote", "set-url", "origin", project.url)
    fleet.sweep()
    assert fleet.checks() == []
    assert fleet.task("FLEET-WP-0001", "T01").status == "done"


def test_a_branch_that_is_gone_at_the_remote_is_a_finding(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1")
    any_fleet.sweep()
    git(project.remote, "branch", "-m", "main", "trunk")
    any_fleet.sweep()
    assert any_fleet.checks() == ["C-01"]
    any_fleet.assert_settled()
    git(project.remote, "branch", "-m", "trunk", "main")
    any_fleet.sweep()
    assert any_fleet.checks() == []


@pytest.mark.parametrize("fault", [500, 403, 404, "drop"])
def test_a_remote_that_does_not_answer_is_a_finding_until_it_does(fleet: Fleet, fault: int | str) -> None:
    project = fleet.add("repo-1", is_http=True)
    fleet.add("repo-2")
    fleet.sweep()
    fleet.set("FLEET-WP-0001/T01", "done")
    before = snapshot(project.clone)
    fleet.http.hook = lambda _request: fault
    report = fleet.sweep()
    assert [(visit.slug, visit.outcome) for visit in report.visits if visit.outcome is not Outcome.UNCHANGED] == [
        ("repo-1", Outcome.BLOCKED)
    ]
    assert fleet.checks() == ["C-16"]
    assert snapshot(project.clone) == before
    fleet.assert_settled()
    fleet.http.hook = lambda _request: None
    fleet.sweep()
    assert fleet.checks() == []
    fleet.assert_agreed()


def test_a_corrupt_clone_harms_only_itself(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    fine = fleet.add("repo-2")
    fleet.sweep()
    for path in (project.clone / ".git" / "objects").rglob("*"):
        if path.is_file():  # hard links of the remote's, which is to stay whole
            path.unlink()
            path.write_bytes(b"rubbish")
    project.publish({"a": "b"})
    fine.publish({"workplans/repo-2.md": plan("FLEET-WP-0002", {"T01": "done"})})
    fleet.sweep()
    assert fleet.checks("repo-1") != []
    assert fleet.checks("repo-2") == []
    assert fleet.task("FLEET-WP-0002", "T01").status == "done"
    assert fleet.task("FLEET-WP-0001", "T01").removed_at is None
    rows = fleet.dump()
    fleet.sweep()  # which tries to fetch again, to no avail
    assert fleet.dump() == rows


def test_dependencies_that_lead_nowhere_or_in_a_circle_are_found_over_the_whole_fleet(fleet: Fleet) -> None:
    first = fleet.add("repo-1", {"workplans/a.md": plan("FLEET-WP-0001", more="depends_on: FLEET-WP-0002\n")})
    second = fleet.add("repo-2", {"workplans/a.md": plan("FLEET-WP-0002", more="depends_on: FLEET-WP-0001\n")})
    third = fleet.add("repo-3", {"workplans/a.md": plan("FLEET-WP-0003", more="depends_on: FLEET-WP-0009\n")})
    fleet.sweep()
    assert [(each.check, each.repo) for each in fleet.findings()] == [("C-12", "repo-1"), ("C-12", "repo-3")]
    fleet.assert_settled()
    first.publish({"workplans/a.md": plan("FLEET-WP-0001")})
    second.publish({"workplans/b.md": plan("FLEET-WP-0009")})
    fleet.sweep()
    assert fleet.checks() == []
    third.publish({"workplans/a.md": plan("FLEET-WP-0003", {"T01": "todo"}, status="finished")})
    fleet.sweep()
    assert [(each.check, each.subject) for each in fleet.findings()] == [("C-11", "FLEET-WP-0003/T01")]
    fleet.assert_settled()
