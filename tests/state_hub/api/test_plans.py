"""Workstreams and tasks over HTTP: shown in pages, and of all they hold only the status changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.state_hub.api.fleet import NOW, NOW_TEXT, add_repo, add_task, add_workstream

from state_hub.registry import TaskStatus, WorkstreamStatus

if TYPE_CHECKING:
    from tests.state_hub.api.clients import Client

    from state_hub.store.store import Store


@pytest.fixture
def plans(store: Store) -> None:
    """Two repos with three workstreams, one of them removed, and tasks."""
    app, web = add_repo(store, "app"), add_repo(store, "web")
    first = add_workstream(store, app, "APP-WP-0001")
    add_workstream(store, web, "WEB-WP-0002", "finished")
    add_workstream(store, app, "APP-WP-0003", "proposed", removed_at=NOW)
    add_task(store, first, "T01")
    add_task(store, first, "T02", "done")
    add_task(store, first, "T03", "cancelled", removed_at=NOW)


def names(api: Client, target: str) -> list[str]:
    return [item["id"] for item in api.get(target).value["items"]]


@pytest.mark.usefixtures("plans")
class TestShown:
    def test_a_workstream_is_shown_with_all_there_is_to_it(self, api: Client) -> None:
        assert api.get("/workstreams/APP-WP-0001").value == {
            "id": "APP-WP-0001",
            "repo": "app",
            "path": "workplans/APP-WP-0001.md",
            "title": "Title of APP-WP-0001",
            "status": "active",
            "is_pending": False,
            "file_wins": False,
            "depends_on": [],
            "fields": {"owner": "ann"},
            "status_changed_at": NOW_TEXT,
            "status_changed_by": "file",
            "updated_at": NOW_TEXT,
            "removed_at": None,
        }

    def test_a_task_is_shown_with_all_there_is_to_it(self, api: Client) -> None:
        assert api.get("/workstreams/APP-WP-0001/tasks/T01").value == {
            "number": 1,
            "id": "T01",
            "workplan_id": "APP-WP-0001",
            "repo": "app",
            "title": "Title of T01",
            "status": "todo",
            "is_pending": False,
            "file_wins": False,
            "depends_on": ["T09"],
            "fields": {},
            "status_changed_at": NOW_TEXT,
            "status_changed_by": "file",
            "updated_at": NOW_TEXT,
            "removed_at": None,
        }

    def test_workstreams_are_chosen_by_repo_status_and_whether_they_are_removed(self, api: Client) -> None:
        assert names(api, "/workstreams/") == ["APP-WP-0001", "WEB-WP-0002"]
        assert names(api, "/workstreams/?repo=app") == ["APP-WP-0001"]
        assert names(api, "/workstreams/?repo=none") == []
        assert names(api, "/workstreams/?status=finished&status=proposed") == ["WEB-WP-0002"]
        assert names(api, "/workstreams/?status=proposed&removed=true") == ["APP-WP-0003"]

    def test_tasks_are_chosen_by_repo_workstream_status_and_whether_they_are_removed(self, api: Client) -> None:
        assert names(api, "/tasks/") == ["T01", "T02"]
        assert names(api, "/tasks/?repo=web") == []
        assert names(api, "/tasks/?workstream=APP-WP-0001&status=done&status=todo") == ["T01", "T02"]
        assert names(api, "/tasks/?status=done") == ["T02"]
        assert names(api, "/tasks/?removed=true") == ["T01", "T02", "T03"]

    def test_what_is_not_there_is_not_found(self, api: Client) -> None:
        for target in ("/workstreams/WP-9999", "/workstreams/WP-9999/tasks/T01", "/workstreams/APP-WP-0001/tasks/T99"):
            assert api.get(target).status == 404
            assert api.give("PATCH", target, {"status": "done" if "tasks" in target else "active"}).status == 404

    def test_what_is_no_name_number_or_status_is_refused(self, api: Client) -> None:
        for target in (
            "/workstreams/..",
            "/workstreams/%00",
            "/workstreams/WP-0001%00",
            "/workstreams/wp-1",
            "/workstreams/WP-0001/tasks/%2e%2e",
            "/workstreams/WP-0001/tasks/1",
            "/workstreams/?repo=%00",
            "/workstreams/?after=%00",
            "/workstreams/?after=a",
            "/workstreams/?status=done",
            "/workstreams/?limit=0",
            "/workstreams/?limit=1001",
            "/workstreams/?removed=perhaps",
            "/tasks/?workstream=%00",
            "/tasks/?repo=A%00",
            "/tasks/?after=-1",
            "/tasks/?after=9223372036854775808",
            "/tasks/?after=" + "9" * 5000,
            "/tasks/?limit=1e3",
            "/tasks/?status=",
        ):
            answer = api.get(target)
            assert answer.status == 422, target
            assert answer.detail

    def test_the_largest_number_is_a_number(self, api: Client) -> None:
        assert api.get("/tasks/?after=9223372036854775807").value == {"items": [], "next": None}


@pytest.mark.usefixtures("plans")
class TestChanged:
    def test_a_task_gets_every_status_and_waits_to_be_written_back(self, api: Client) -> None:
        for status in TaskStatus:
            answer = api.give("PATCH", "/workstreams/APP-WP-0001/tasks/T01", {"status": status.value})
            assert answer.status == 200
            assert answer.value["status"] == status.value
            assert answer.value["is_pending"] is (status is not TaskStatus.TODO)
            assert answer.value["status_changed_by"] == "api"
            assert api.get("/workstreams/APP-WP-0001/tasks/T01").value == answer.value

    def test_a_workstream_gets_every_status_and_waits_to_be_written_back(self, api: Client) -> None:
        for status in WorkstreamStatus:
            answer = api.give("PATCH", "/workstreams/WEB-WP-0002", {"status": status.value})
            assert answer.status == 200
            assert answer.value["status"] == status.value
            assert answer.value["is_pending"] is (status is not WorkstreamStatus.FINISHED)
            assert api.get("/workstreams/WEB-WP-0002").value == answer.value

    def test_setting_what_is_set_already_changes_nothing(self, api: Client) -> None:
        before = api.get("/workstreams/APP-WP-0001/tasks/T02").value
        assert api.give("PATCH", "/workstreams/APP-WP-0001/tasks/T02", {"status": "done"}).value == before
        assert before["status_changed_by"] == "file"

    def test_nothing_but_a_status_can_be_written(self, api: Client) -> None:
        values: tuple[object, ...] = (
            {},
            {"status": "open"},
            {"status": None},
            {"status": ["done"]},
            {"status": "done", "title": "x"},
            {"status": "done", "base_status": "done"},
            {"status": "done", "\ud800": 1},
            {"status": "\ud800"},
            {"title": "x"},
            [],
            "done",
            None,
        )
        for target in ("/workstreams/APP-WP-0001", "/workstreams/APP-WP-0001/tasks/T01"):
            before = api.get(target).value
            for value in values:
                assert api.give("PATCH", target, value).status == 422, value
            assert api.get(target).value == before

    def test_other_methods_change_nothing(self, api: Client) -> None:
        for target in ("/workstreams/APP-WP-0001", "/workstreams/APP-WP-0001/tasks/T01", "/tasks/", "/workstreams/"):
            for method in ("PUT", "DELETE", "POST"):
                answer = api.give(method, target, {"status": "active"})
                assert answer.status == 405
                assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize("part", ["removed", "in an archived repo", "taken back"])
def test_what_nothing_may_be_written_to_is_refused_and_says_why(api: Client, store: Store, part: str) -> None:
    columns: dict[str, object] = {}
    if part == "removed":
        columns["removed_at"] = NOW
    elif part == "taken back":
        columns["file_wins"] = True
    row = add_workstream(store, add_repo(store, "app"), "WP-0001", "active", **columns)
    add_task(store, row, "T01", "todo", **columns)
    if part == "in an archived repo":
        api.give("POST", "/repos/app/archive")
    for target, status in (("/workstreams/WP-0001", "finished"), ("/workstreams/WP-0001/tasks/T01", "done")):
        answer = api.give("PATCH", target, {"status": status})
        assert answer.status == 409
        assert "file" in answer.detail or "archived" in answer.detail
        assert api.get(target).value["status"] != status


def test_pages_of_workstreams_hold_each_once(api: Client, store: Store) -> None:
    repo = add_repo(store, "app")
    expected = [f"{prefix}WP-{number:04}" for prefix in ("", "A-", "A-B-") for number in range(5)]
    for name in expected:
        add_workstream(store, repo, name)
    found, after = [], ""
    while True:
        answer = api.get(f"/workstreams/?limit=4&after={after}").value
        found += [item["id"] for item in answer["items"]]
        assert len(answer["items"]) <= 4
        if answer["next"] is None:
            break
        after = answer["next"]
    assert sorted(found) == sorted(expected)
    assert len(found) == len(expected)


def test_pages_of_tasks_hold_each_once_and_the_last_says_so(api: Client, store: Store) -> None:
    row = add_workstream(store, add_repo(store, "app"), "WP-0001")
    expected = [f"T{number:02}" for number in range(6)]
    for name in expected:
        add_task(store, row, name)
    first = api.get("/tasks/?limit=3").value
    second = api.get(f"/tasks/?limit=3&after={first['next']}").value
    assert [task["id"] for task in first["items"] + second["items"]] == expected
    assert second["next"] is None
