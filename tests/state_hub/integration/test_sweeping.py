"""The sweep as such: its order, budget and caps, dry runs, and what one bad repo may not do to others."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from tests.state_hub.fleet import commit, git, plan

from state_hub import sweep as sweeping
from state_hub.case import Outcome, Visit
from state_hub.errors import NotFoundError
from state_hub.store import locks, sweeps
from state_hub.visit import visit as visit_repo

if TYPE_CHECKING:
    from tests.state_hub.fleet import Fleet

    from activity_plumbing.clock import Instant


def test_what_the_budget_leaves_comes_first_in_the_next_sweep(fleet: Fleet) -> None:
    for number in range(1, 7):
        fleet.add(f"repo-{number}")
    slow: list[str] = []

    def visit(repo, tools, options, deadline):  # type: ignore[no-untyped-def]  # just what the real one takes
        slow.append(repo.slug)
        if len(slow) == 2:
            time.sleep(0.6)
        return visit_repo(repo, tools, options, deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping, "visit", visit)
        report = fleet.sweep(budget_s=0.5, jobs=1)
    visited = [each.slug for each in report.visits]
    assert visited == slow == [f"repo-{number}" for number in range(1, len(visited) + 1)]
    assert 0 < len(visited) < 6
    assert report.left == [f"repo-{number}" for number in range(len(visited) + 1, 7)]
    with fleet.store.reading() as connection:
        assert sweeps.list_sweeps(connection)[0].outcome == "budget spent"
    again = fleet.sweep(jobs=1)
    assert [each.slug for each in again.visits] == [*report.left, *visited]
    assert again.left == []
    fleet.assert_agreed()


def test_a_sweep_that_is_broken_off_is_resumed_where_it_was(fleet: Fleet) -> None:
    for number in range(1, 5):
        fleet.add(f"repo-{number}")

    def visit(repo, tools, options, deadline):  # type: ignore[no-untyped-def]  # just what the real one takes
        if repo.slug == "repo-3":
            raise sa.exc.OperationalError("the server is gone", None, Exception(), connection_invalidated=True)
        return visit_repo(repo, tools, options, deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping, "visit", visit)
        with pytest.raises(sa.exc.OperationalError):
            fleet.sweep(jobs=1)
    with fleet.store.reading() as connection:
        assert sweeps.list_sweeps(connection)[0].outcome == "broken off"
    assert [each.slug for each in fleet.sweep(jobs=1).visits] == ["repo-3", "repo-4", "repo-1", "repo-2"]


def test_our_own_mistake_in_one_visit_does_not_keep_others_from_theirs(fleet: Fleet) -> None:
    for number in range(1, 4):
        fleet.add(f"repo-{number}")

    def visit(repo, tools, options, deadline):  # type: ignore[no-untyped-def]  # just what the real one takes
        if repo.slug == "repo-2":
            raise AssertionError("a bug")
        return visit_repo(repo, tools, options, deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping, "visit", visit)
        report = fleet.sweep()
    assert {each.slug: each.outcome for each in report.visits} == {
        "repo-1": Outcome.CHANGED,
        "repo-2": Outcome.FAILED,
        "repo-3": Outcome.CHANGED,
    }
    assert [each.slug for each in report.visits if each.is_hub_fault] == ["repo-2"]


def test_a_remote_that_stalls_costs_only_its_own_visit(fleet: Fleet) -> None:
    for number in range(1, 9):
        fleet.add(f"repo-{number}", is_http=number <= 2)
    fleet.sweep()
    for number in range(1, 9):
        fleet.projects[f"repo-{number}"].publish(
            {f"workplans/repo-{number}.md": plan(f"FLEET-WP-{number:04d}", {"T01": "done"})}
        )
    fleet.http.hook = lambda request: "stall" if "/repo-1.git/" in request else None
    done: dict[str, float] = {}
    began = time.monotonic()

    def visited(each: Visit) -> None:
        done[each.slug] = time.monotonic() - began

    report = fleet.sweep(jobs=2, repo_timeout=2_000_000, on_visit=visited)
    assert fleet.checks() == ["C-16"]
    assert {each.slug for each in report.visits if each.outcome is Outcome.CHANGED} == {
        f"repo-{number}" for number in range(2, 9)
    }
    assert max(done, key=lambda slug: done[slug]) == "repo-1"
    fleet.http.hook = lambda _request: None
    fleet.sweep()
    fleet.assert_agreed()
    assert fleet.checks() == []


def test_no_more_visits_than_the_cap_are_at_one_host_and_others_are_not_kept_waiting(fleet: Fleet) -> None:
    for number in range(1, 9):
        fleet.add(f"repo-{number}", is_http=number <= 6)
    fleet.sweep()
    at_once: list[int] = []
    lock = threading.Lock()
    together = threading.Barrier(2)
    elsewhere = threading.Event()
    counts = [0]

    def hook(_request: str) -> None:
        with lock:
            counts[0] += 1
            at_once.append(counts[0])
        together.wait(20)  # two at a time, in pairs: a third would break the barrier's pairs
        elsewhere.wait(20)
        with lock:
            counts[0] -= 1

    fleet.http.hook = hook

    def visited(each: Visit) -> None:
        if each.slug in ("repo-7", "repo-8"):
            elsewhere.set()  # the host is held up until another was visited meanwhile

    report = fleet.sweep(jobs=4, jobs_per_host=2, on_visit=visited)
    assert max(at_once) == 2
    assert [each.outcome for each in report.visits] == [Outcome.UNCHANGED] * 8
    assert report.visits[0].slug in ("repo-7", "repo-8")


def test_jobs_bounds_how_many_repos_are_visited_at_once(fleet: Fleet) -> None:
    for number in range(1, 6):
        fleet.add(f"repo-{number}", is_http=True)
    fleet.sweep(jobs=1)
    assert fleet.http.most_at_once == 1


def test_a_remote_without_news_is_asked_once(fleet: Fleet) -> None:
    fleet.add("repo-1", is_http=True)
    fleet.sweep()
    before = len(fleet.http.requests)
    fleet.sweep()
    assert fleet.http.requests[before:] == ["POST /repo-1.git/git-upload-pack"]


def _mixed(fleet: Fleet) -> None:
    """A fleet in which there is something of each kind to do."""
    fleet.add("repo-1")
    fleet.add("repo-2", is_http=True)
    fleet.add("repo-3", {"workplans/a.md": plan("FLEET-WP-0003"), "workplans/b.md": plan("FLEET-WP-0033")})
    fleet.add("repo-4")
    fleet.sweep()
    fleet.add("repo-5")
    first, second, third, fourth = (fleet.projects[f"repo-{number}"] for number in range(1, 5))
    first.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done", "T02": "wait"})})
    fleet.set("FLEET-WP-0001/T02", "done")  # a conflict
    fleet.set("FLEET-WP-0002/T01", "done")
    third.publish({"workplans/a.md": None, "workplans/c.md": plan("FLEET-WP-0003"), "workplans/b.md": None})
    commit(fourth.clone, {"mine": "mine"})
    fourth.publish({"workplans/repo-4.md": "---\nid: [\n---\n"})
    (second.clone / "notes.txt").write_text("untracked\n")


def test_a_dry_run_changes_nothing_and_says_what_the_real_run_then_does(any_fleet: Fleet) -> None:
    _mixed(any_fleet)
    before = any_fleet.everything()
    with any_fleet.store.reading() as connection:
        records = (sweeps.list_sweeps(connection), sweeps.last_visits(connection))
    dry = any_fleet.sweep(is_dry_run=True)
    # commits may be brought here to be read; no ref leads to them
    assert [name for name in any_fleet.written_since(before) if "/.git/objects" not in name] == []
    with any_fleet.store.reading() as connection:
        assert (sweeps.list_sweeps(connection), sweeps.last_visits(connection)) == records
    real = any_fleet.sweep()
    foretold = {(each.slug, _essence(line)) for each in dry.visits for line in each.did}
    came = {(each.slug, _essence(line)) for each in real.visits for line in each.did}
    assert {each for each in foretold if each[1][0] == "C"} == {each for each in came if each[1][0] == "C"}
    assert any(line.startswith("C-15") for _, line in came)
    assert any(line.startswith("C-05") for _, line in came)
    assert any(line.startswith("C-07") for _, line in came)
    found = {(visit.slug, each.check, each.message) for visit in dry.visits for each in visit.found}
    assert found == {(visit.slug, each.check, each.message) for visit in real.visits for each in visit.found}


def _essence(line: str) -> str:
    """A line of a dry run, or of a real one, as what it is about."""
    return line.removeprefix("would apply ").replace("would write back ", "C-15 ")


def test_no_fix_records_findings_and_changes_nothing_else(any_fleet: Fleet) -> None:
    _mixed(any_fleet)
    before = any_fleet.everything()
    any_fleet.sweep(fix=False)
    assert [name for name in any_fleet.written_since(before) if "/.git/objects" not in name] == ["findings"]
    assert {"C-02", "C-10", "C-16"} <= set(any_fleet.checks())
    assert any_fleet.task("FLEET-WP-0001", "T01").status == "todo"


def test_a_repo_that_another_works_on_is_passed_by_or_waited_for(any_fleet: Fleet) -> None:
    project = any_fleet.add("repo-1")
    fine = any_fleet.add("repo-2")
    any_fleet.sweep()
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done"})})
    fine.publish({"workplans/repo-2.md": plan("FLEET-WP-0002", {"T01": "done"})})
    number = any_fleet.repo("repo-1").id
    with any_fleet.store.writing() as connection:
        held = locks.take_lock(connection, number, "the test", any_fleet.clock.now(), 3_600_000_000)
    assert isinstance(held, locks.RepoLock)
    report = any_fleet.sweep()
    outcomes = {each.slug: (each.outcome, each.detail.split(",")[0]) for each in report.visits}
    assert outcomes == {"repo-1": (Outcome.LOCKED, "locked by the test"), "repo-2": (Outcome.CHANGED, "")}
    with any_fleet.store.writing() as connection:  # by itself a lease ends
        connection.execute(sa.text("UPDATE repo_locks SET expires_at = 1"))
    any_fleet.sweep()
    assert any_fleet.task("FLEET-WP-0001", "T01").status == "done"
    with any_fleet.store.writing() as connection:
        held = locks.take_lock(connection, number, "the test", any_fleet.clock.now(), 3_600_000_000)
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "todo"})})

    def release() -> None:
        assert isinstance(held, locks.RepoLock)
        with any_fleet.store.writing() as connection:
            locks.release_lock(connection, held)

    timer = threading.Timer(0.5, release)
    timer.start()
    any_fleet.sweep("repo-1", lock_wait_s=20)
    timer.join()
    assert any_fleet.task("FLEET-WP-0001", "T01").status == "todo"


def test_who_lost_the_lock_to_another_writes_nothing_more(fleet: Fleet) -> None:
    project = fleet.add("repo-1", is_http=True)
    fleet.sweep()
    project.publish({"workplans/repo-1.md": plan("FLEET-WP-0001", {"T01": "done"})})
    rows = fleet.dump()

    def steal(request: str) -> None:
        if "POST" in request:
            with fleet.store.writing() as connection:
                connection.execute(sa.text("UPDATE repo_locks SET token = 'another'"))

    fleet.http.hook = steal
    report = fleet.sweep()
    assert report.visits[0].outcome is Outcome.LOCKED
    after = fleet.dump()
    assert {name: after[name] for name in after if name != "repo_locks"} == {
        name: rows[name] for name in rows if name != "repo_locks"
    }
    with fleet.store.writing() as connection:
        connection.execute(sa.text("DELETE FROM repo_locks"))
    fleet.http.hook = lambda _request: None
    fleet.sweep()
    fleet.assert_agreed()


def test_many_sweeps_at_once_write_each_status_once(any_fleet: Fleet) -> None:
    for number in range(1, 4):
        any_fleet.add(f"repo-{number}")
    any_fleet.sweep()
    for number in range(1, 4):
        any_fleet.set(f"FLEET-WP-{number:04d}/T01", "done")
    failures: list[BaseException] = []

    def one() -> None:
        try:
            any_fleet.sweep(lock_wait_s=20)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    any_fleet.sweep()
    for project in any_fleet.projects.values():
        assert len(project.bot_commits()) == 1
    any_fleet.assert_agreed()
    any_fleet.assert_settled()


def test_an_unknown_repo_is_named_with_its_nearest_neighbour(fleet: Fleet) -> None:
    fleet.add("repo-1")
    with pytest.raises(NotFoundError, match="did you mean 'repo-1'"):
        fleet.sweep("rpo-1")


def test_a_repo_taken_out_is_not_swept(fleet: Fleet) -> None:
    fleet.add("repo-1")
    fleet.add("repo-2")
    with fleet.store.writing() as connection:
        connection.execute(sa.text("UPDATE repos SET status = 'archived' WHERE slug = 'repo-1'"))
    assert [each.slug for each in fleet.sweep().visits] == ["repo-2"]


def test_a_remote_that_is_no_longer_allowed_is_not_asked(fleet: Fleet) -> None:
    project = fleet.add("repo-1", is_http=True)
    fleet.sweep()
    before = len(fleet.http.requests)
    tip = git(project.clone, "rev-parse", "HEAD")
    fleet.sweep(allowed_remotes=("https://forge.example/*",))
    assert len(fleet.http.requests) == before
    assert fleet.checks() == ["C-01"]
    assert git(project.clone, "rev-parse", "HEAD") == tip
    fleet.sweep()
    assert fleet.checks() == []


def test_sweeps_are_recorded_with_what_they_did(fleet: Fleet) -> None:
    fleet.add("repo-1")
    fleet.sweep()
    fleet.sweep()
    with fleet.store.reading() as connection:
        last, first = sweeps.list_sweeps(connection)
        visits = sweeps.last_visits(connection)
    assert (first.planned, first.checked, first.failed, first.outcome) == (1, 1, 0, "done")
    assert isinstance(first.result["repos"], dict) and list(first.result["repos"]) == ["repo-1"]
    assert (last.checked, last.result["repos"]) == (1, {})
    ended: Instant | None = last.ended_at
    assert ended is not None and visits["repo-1"].at < ended
