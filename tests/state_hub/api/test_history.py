"""Findings, checks, sweeps, writebacks and events over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.state_hub.api.fleet import NOW_TEXT, add_event, add_findings, add_repo, add_sweep, add_writeback

from activity_plumbing.outbox import list_events
from state_hub.checks import CATALOGUE, Found
from state_hub.store.schema import outbox

if TYPE_CHECKING:
    from tests.state_hub.api.clients import Client

    from state_hub.store.store import Store


@pytest.fixture
def found(store: Store) -> None:
    """A closed and two open findings of two repos."""
    app, web = add_repo(store, "app"), add_repo(store, "web")
    gate = Found(check="C-16", subject="gate", message="dirty")
    add_findings(store, app, Found(check="C-02", subject="a.md", message="bad", path="a.md", line=3, column=7), gate)
    add_findings(store, app, gate)
    add_findings(store, web, Found(check="C-12", subject="T01", message="no such task", path="b.md"))


@pytest.mark.usefixtures("found")
def test_findings_are_chosen_by_repo_check_and_state(api: Client) -> None:
    def checks(query: str) -> list[str]:
        return [item["check"] for item in api.get(f"/findings/{query}").value["items"]]

    assert checks("") == ["C-16", "C-12"]
    assert checks("?state=closed") == ["C-02"]
    assert checks("?state=all") == ["C-02", "C-16", "C-12"]
    assert checks("?repo=web") == ["C-12"]
    assert checks("?check=C-16") == ["C-16"]
    assert checks("?check=C-99") == []


@pytest.mark.usefixtures("found")
def test_a_finding_says_what_where_and_when(api: Client) -> None:
    (item,) = api.get("/findings/?state=closed").value["items"]
    assert item == {
        "id": 1,
        "repo": "app",
        "check": "C-02",
        "subject": "a.md",
        "severity": "error",
        "message": "bad",
        "path": "a.md",
        "line": 3,
        "column": 7,
        "first_seen_at": NOW_TEXT,
        "last_seen_at": NOW_TEXT,
        "closed_at": NOW_TEXT,
    }


@pytest.mark.usefixtures("found")
def test_findings_come_in_pages(api: Client) -> None:
    first = api.get("/findings/?state=all&limit=2").value
    second = api.get(f"/findings/?state=all&limit=2&after={first['next']}").value
    assert [item["check"] for item in first["items"] + second["items"]] == ["C-02", "C-16", "C-12"]
    assert second["next"] is None


def test_the_catalogue_of_checks_is_all_there(api: Client) -> None:
    answer = api.get("/checks/").value
    assert [check["id"] for check in answer["items"]] == list(CATALOGUE)
    assert all(check["explanation"] and check["advice"] for check in answer["items"])


def test_sweeps_are_listed_newest_first_in_pages_and_shown_with_what_came_of_them(api: Client, store: Store) -> None:
    repo = add_repo(store, "app")
    numbers = [add_sweep(store, repo) for _ in range(3)]
    first = api.get("/sweeps/?limit=2").value
    second = api.get(f"/sweeps/?limit=2&before={first['next']}").value
    assert [item["id"] for item in first["items"] + second["items"]] == numbers[::-1]
    assert second["next"] is None
    assert "result" not in first["items"][0]
    shown = api.get(f"/sweeps/{numbers[0]}").value
    assert shown["result"] == {"repos": {"app": {"outcome": "changed"}}}
    assert (shown["checked"], shown["outcome"], shown["ended_at"]) == (1, "done", NOW_TEXT)


def test_a_sweep_that_is_not_there_is_not_found(api: Client) -> None:
    assert api.get("/sweeps/1").status == 404
    assert api.get("/sweeps/9223372036854775807").status == 404
    for number in ("9223372036854775808", "-1", "..%00", "x", "9" * 5000):
        assert api.get(f"/sweeps/{number}").status == 422


def test_writebacks_are_listed_newest_first(api: Client, store: Store) -> None:
    app, web = add_repo(store, "app"), add_repo(store, "web")
    add_writeback(store, app, "WP-0001", "T01")
    add_writeback(store, web, "WP-0002", None)
    items = api.get("/writebacks/").value["items"]
    assert [item["repo"] for item in items] == ["web", "app"]
    assert items[1] == {
        "repo": "app",
        "workplan_id": "WP-0001",
        "task_id": "T01",
        "path": "workplans/a.md",
        "old": "todo",
        "new": "done",
        "commit": "c" * 40,
        "state": "pushing",
        "made_at": NOW_TEXT,
        "settled_at": None,
    }
    assert [item["repo"] for item in api.get("/writebacks/?repo=app").value["items"]] == ["app"]
    assert len(api.get("/writebacks/?limit=1").value["items"]) == 1


def test_events_are_listed_in_order_and_chosen_by_whether_they_were_sent(api: Client, store: Store) -> None:
    for name in ("a", "b", "c"):
        add_event(store, name)
    with store.writing() as connection:
        connection.execute(outbox.update().where(outbox.c.event_id == "b").values(sent_at=0))
        assert len(list_events(connection, outbox, is_sent=True, after=0, limit=9)) == 1

    def events(query: str) -> list[str]:
        return [item["event_id"] for item in api.get(f"/outbox/{query}").value["items"]]

    assert events("") == ["a", "b", "c"]
    assert events("?sent=true") == ["b"]
    assert events("?sent=false") == ["a", "c"]
    first = api.get("/outbox/?limit=2").value
    assert events(f"?after={first['next']}") == ["c"]
    assert first["items"][1]["sent_at"] == "1970-01-01T00:00:00Z"
    assert first["items"][0]["event"]["data"] == {"n": 1}


def test_what_cannot_be_asked_for_is_refused(api: Client) -> None:
    for target in (
        "/findings/?repo=%00",
        "/findings/?check=%00",
        "/findings/?check=C-1",
        "/findings/?state=none",
        "/findings/?after=99999999999999999999",
        "/sweeps/?before=99999999999999999999",
        "/sweeps/?limit=1001",
        "/writebacks/?repo=..",
        "/writebacks/?limit=0",
        "/outbox/?sent=perhaps",
        "/outbox/?after=-1",
    ):
        assert api.get(target).status == 422, target
