"""Pushes whose end the hub did not see, and what people do before it looks again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.state_hub.fleet import commit, git, plan

from state_hub.errors import GitError, RefusedError
from state_hub.git import writeback
from state_hub.rebuild import forget

if TYPE_CHECKING:
    from pathlib import Path

    from tests.state_hub.fleet import Fleet, Project

    from state_hub.git.command import Deadline

NAME = "FLEET-WP-0001"
TASK = f"{NAME}/T01"
PATH = "workplans/repo-1.md"


@pytest.fixture
def project(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A repo whose status was pushed, while the hub believes that the network broke."""
    project = fleet.add("repo-1")
    fleet.sweep()
    fleet.set(TASK, "done")
    pushed = writeback.push

    def breaks(folder: Path, url: str, made: str, branch: str, deadline: Deadline) -> writeback.Pushed:
        pushed(folder, url, made, branch, deadline)
        raise GitError("git push failed", said="connection reset", is_passing=True)

    monkeypatch.setattr(writeback, "push", breaks)
    fleet.sweep()
    monkeypatch.setattr(writeback, "push", pushed)
    assert len(project.bot_commits()) == 1
    assert fleet.task(NAME, "T01").is_pending, "the hub does not know that it arrived"
    return project


def revert(project: Project) -> None:
    git(project.clone, "pull", "--quiet", "--ff-only", "origin", "main")
    git(project.clone, "revert", "--no-edit", "HEAD")
    git(project.clone, "push", "--quiet", "origin", "main")


def test_what_arrived_unseen_is_settled_and_not_written_again(fleet: Fleet, project: Project) -> None:
    fleet.sweep()
    assert len(project.bot_commits()) == 1
    fleet.assert_agreed()


def test_a_revert_of_what_arrived_unseen_counts_as_one(fleet: Fleet, project: Project) -> None:
    revert(project)
    fleet.sweep()
    fleet.sweep()
    task = fleet.task(NAME, "T01")
    assert (task.status, task.file_wins) == ("todo", True)
    assert len(project.bot_commits()) == 1
    fleet.assert_agreed()


def test_a_commit_on_top_that_the_hook_reads_first_is_not_overwritten(fleet: Fleet, project: Project) -> None:
    git(project.clone, "pull", "--quiet", "--ff-only", "origin", "main")
    commit(project.clone, {PATH: plan(NAME, {"T01": "progress", "T02": "progress", "T03": "todo"})})
    fleet.sweep("repo-1", is_remote=False)
    git(project.clone, "push", "--quiet", "origin", "main")
    fleet.sweep()
    assert fleet.task(NAME, "T01").status == "progress"
    fleet.assert_agreed()


def test_a_rebuild_meanwhile_writes_nothing_back_into_the_file(fleet: Fleet, project: Project) -> None:
    with pytest.raises(RefusedError, match="not in its files yet"):
        forget(fleet.store, [fleet.repo("repo-1")], fleet.clock.now(), discard=False)
    forget(fleet.store, [fleet.repo("repo-1")], fleet.clock.now(), discard=True)
    fleet.sweep("repo-1", is_remote=False)
    fleet.sweep()
    assert len(project.bot_commits()) == 1
    assert fleet.task(NAME, "T01").status == "done"
    fleet.assert_agreed()


def test_a_remote_that_is_rewound_does_not_take_the_base_back(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    start = project.tip
    project.publish({"notes.txt": "one"})
    fleet.sweep()
    base = fleet.repo("repo-1").base_commit
    git(project.remote, "update-ref", "refs/heads/main", start)
    fleet.sweep()
    assert fleet.repo("repo-1").base_commit == base
    git(project.work, "reset", "--quiet", "--hard", start)
    project.publish({PATH: None}, "New history")
    fleet.sweep()
    assert "C-13" in fleet.checks()
    assert fleet.workstream(NAME).removed_at is None, "what is beside the base removes nothing"


def test_one_status_that_cannot_be_edited_holds_up_no_other(fleet: Fleet) -> None:
    project = fleet.add("repo-1")
    text = plan(NAME, {"T01": "todo", "T02": "todo"}).replace("id: T02\nstatus: todo", "id: T02\nstatus: &a todo")
    project.publish({PATH: text})
    fleet.sweep()
    fleet.set(f"{NAME}/T01", "done")
    fleet.set(f"{NAME}/T02", "done")
    fleet.sweep()
    assert b"id: T01\nstatus: done" in project.read(PATH)
    assert "C-15" in fleet.checks()
    assert fleet.task(NAME, "T02").is_pending


def test_an_archived_repo_is_left_alone_and_holds_no_ids(fleet: Fleet) -> None:
    from state_hub.store import repos

    fleet.add("repo-1")
    fleet.sweep()
    with fleet.store.writing() as connection:
        repos.archive_repo(connection, "repo-1", fleet.clock.now())
    with pytest.raises(RefusedError, match="archived"):
        fleet.sweep("repo-1")
    other = fleet.add("repo-2")
    other.publish({"workplans/moved.md": plan(NAME)})
    fleet.sweep()
    assert fleet.workstream(NAME).repo == "repo-2"
