"""Stale tasks, cancelled together with the event that tells of it, or not at all."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from tests.state_hub.fleet import git, plan

from activity_plumbing import outbox as outbox_rows
from activity_plumbing.outbox import list_events
from state_hub import cleanup
from state_hub.cleanup import cancel_stale, find_stale
from state_hub.store.schema import outbox

if TYPE_CHECKING:
    from tests.state_hub.fleet import Fleet

TASKS = {"T01": "wait", "T02": "todo", "T03": "progress", "T04": "done", "T05": "cancelled"}


def _events(fleet: Fleet) -> list[dict[str, object]]:
    with fleet.store.reading() as connection:
        return [row.event for row in list_events(connection, outbox, is_sent=False, after=0, limit=1000)]


def _stale_fleet(fleet: Fleet) -> None:
    fleet.add("repo-1", {"workplans/a.md": plan("FLEET-WP-0001", TASKS, status="finished")})
    fleet.add("repo-2", {"workplans/a.md": plan("FLEET-WP-0002", TASKS, status="archived")})
    fleet.add("repo-3", {"workplans/a.md": plan("FLEET-WP-0003", TASKS, status="blocked")})
    fleet.sweep()


def test_open_tasks_of_what_is_over_are_cancelled_each_with_its_event(any_fleet: Fleet) -> None:
    _stale_fleet(any_fleet)
    assert any_fleet.checks() == ["C-11"] * 6
    before = any_fleet.dump()
    foretold, _ = find_stale(any_fleet.store)
    assert any_fleet.dump() == before
    cancelled, kept = cancel_stale(any_fleet.store, any_fleet.clock.now())
    assert (cancelled, kept) == (foretold, [])
    expected = [f"FLEET-WP-000{number}/{task}" for number in (1, 2) for task in ("T01", "T02", "T03")]
    assert sorted(each.name for each in cancelled) == expected
    events = _events(any_fleet)
    assert [event["subject"] for event in events] == expected
    assert len({event["id"] for event in events}) == 6
    first = events[0]
    required = {"specversion": "1.0", "type": "org.statehub.task.stale", "source": "/state-hub"}
    assert {name: first[name] for name in required} == required
    assert datetime.fromisoformat(str(first["time"])).tzinfo is not None
    data = first["data"]
    assert isinstance(data, dict)
    wanted = {"repo_slug": "repo-1", "task_id": "T01", "previous_status": "wait", "status": "cancelled"}
    assert {name: data[name] for name in wanted} == wanted
    after = any_fleet.dump()
    assert cancel_stale(any_fleet.store, any_fleet.clock.now()) == ([], [])
    assert any_fleet.dump() == after
    any_fleet.sweep()
    assert any_fleet.checks() == []
    assert any_fleet.projects["repo-1"].read("workplans/a.md").count(b"status: cancelled") == 4
    assert any_fleet.task("FLEET-WP-0003", "T01").status == "wait"
    any_fleet.assert_agreed()


def test_a_failure_in_between_leaves_neither_cancellation_nor_event(
    any_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stale_fleet(any_fleet)
    before = any_fleet.dump()

    def put_events(*arguments: object) -> None:
        outbox_rows.put_events(*arguments)  # type: ignore[arg-type]  # just what it was called with
        raise KeyboardInterrupt

    monkeypatch.setattr(cleanup, "put_events", put_events)
    with pytest.raises(KeyboardInterrupt):
        cancel_stale(any_fleet.store, any_fleet.clock.now())
    assert any_fleet.dump() == before
    monkeypatch.undo()
    assert len(cancel_stale(any_fleet.store, any_fleet.clock.now())[0]) == 6
    assert len(_events(any_fleet)) == 6


def test_several_at_once_tell_of_each_task_once(any_fleet: Fleet) -> None:
    _stale_fleet(any_fleet)
    failures: list[BaseException] = []

    def one() -> None:
        try:
            cancel_stale(any_fleet.store, any_fleet.clock.now())
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len({str(event["subject"]) for event in _events(any_fleet)}) == len(_events(any_fleet)) == 6


def test_what_a_person_took_back_is_kept_and_named(fleet: Fleet) -> None:
    project = fleet.add("repo-1", {"workplans/a.md": plan("FLEET-WP-0001", {"T01": "todo"}, status="finished")})
    fleet.sweep()
    assert [each.name for each in cancel_stale(fleet.store, fleet.clock.now())[0]] == ["FLEET-WP-0001/T01"]
    fleet.sweep()
    git(project.work, "pull", "-q", "origin", "main")
    git(project.work, "revert", "--no-edit", "HEAD")
    git(project.work, "push", "-q", "origin", "HEAD:main")
    fleet.sweep()
    cancelled, kept = cancel_stale(fleet.store, fleet.clock.now())
    assert (cancelled, [each.name for each in kept]) == ([], ["FLEET-WP-0001/T01"])
    assert len(_events(fleet)) == 1
    assert "C-11" in fleet.checks()
    project.publish({"workplans/a.md": plan("FLEET-WP-0001", {"T01": "cancelled"}, status="finished")})
    fleet.sweep()
    assert "C-11" not in fleet.checks()
