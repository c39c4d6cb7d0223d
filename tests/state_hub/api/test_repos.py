"""The registry over HTTP."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.state_hub.api.clients import BEARER
from tests.state_hub.api.fleet import NOW_TEXT, add_findings, add_repo, add_sweep, add_workstream

from state_hub.checks import Found
from state_hub.git.command import plain_environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.state_hub.api.clients import Client

    from state_hub.store.store import Store


def git(*arguments: str, folder: Path) -> None:
    """Runs git as an account without settings of its own."""
    environment = {**plain_environment(), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    name = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *name, *arguments], cwd=folder, env=environment, check=True, capture_output=True)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A bare repo with one commit on ``main``, below ``roots``."""
    made = tmp_path / "roots" / "forge" / "app.git"
    made.mkdir(parents=True)
    git("init", "--bare", folder=made)
    seed = tmp_path / "seed"
    seed.mkdir()
    git("init", folder=seed)
    git("commit", "--allow-empty", "-m", "first", folder=seed)
    git("push", str(made), "main", folder=seed)
    return made


@pytest.fixture
def clone(tmp_path: Path, remote: Path) -> Path:
    """A clone of it, below ``roots`` too."""
    git("clone", str(remote), str(tmp_path / "roots" / "app"), folder=tmp_path)
    return tmp_path / "roots" / "app"


def test_the_list_of_active_repos_is_a_plain_list_with_how_each_stands(api: Client, store: Store) -> None:
    app, web = add_repo(store, "app"), add_repo(store, "web")
    add_workstream(store, app, "WP-0001")
    add_findings(
        store, app, Found(check="C-12", subject="a", message="m"), Found(check="C-16", subject="", message="m")
    )
    add_findings(store, app, Found(check="C-12", subject="a", message="m"))
    add_sweep(store, web)
    answer = api.get("/repos/?status=active")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.value == [
        {
            "slug": "app",
            "remote_url": "git@forge.example:org/app.git",
            "branch": "main",
            "path": "/srv/app",
            "workplans": "workplans/**/*.md",
            "status": "active",
            "is_managed": False,
            "added_at": NOW_TEXT,
            "archived_at": None,
            "base_commit": None,
            "last_checked_at": None,
            "last_outcome": None,
            "last_detail": None,
            "workstreams": 1,
            "open_findings": 1,
        },
        {
            "slug": "web",
            "remote_url": "git@forge.example:org/web.git",
            "branch": "main",
            "path": "/srv/web",
            "workplans": "workplans/**/*.md",
            "status": "active",
            "is_managed": False,
            "added_at": NOW_TEXT,
            "archived_at": None,
            "base_commit": None,
            "last_checked_at": NOW_TEXT,
            "last_outcome": "changed",
            "last_detail": "",
            "workstreams": 0,
            "open_findings": 0,
        },
    ]


def test_archived_repos_are_listed_only_when_asked_for(api: Client, store: Store) -> None:
    add_repo(store, "app")
    add_repo(store, "old")
    archived = api.give("POST", "/repos/old/archive")
    assert (archived.status, archived.value["status"], archived.value["archived_at"]) == (200, "archived", NOW_TEXT)

    def slugs(query: str) -> list[str]:
        return [repo["slug"] for repo in api.get(f"/repos/{query}").value]

    assert slugs("") == ["app"]
    assert slugs("?status=archived") == ["old"]
    assert slugs("?status=all") == ["app", "old"]
    assert api.get("/repos/?status=gone").status == 422


def test_archiving_and_restoring_may_be_repeated(api: Client, store: Store) -> None:
    add_repo(store, "app")
    for _ in range(2):
        assert api.give("POST", "/repos/app/archive").value["status"] == "archived"
    for _ in range(2):
        restored = api.give("POST", "/repos/app/restore").value
        assert (restored["status"], restored["archived_at"]) == ("active", None)


def test_one_repo_is_shown_and_an_unknown_one_is_not_found_with_the_nearest(api: Client, store: Store) -> None:
    add_repo(store, "state-hub")
    assert api.get("/repos/state-hub").value["slug"] == "state-hub"
    for answer in (
        api.get("/repos/state-hup"),
        api.give("POST", "/repos/state-hup/archive"),
        api.give("POST", "/repos/state-hup/restore"),
    ):
        assert answer.status == 404
        assert "did you mean 'state-hub'" in answer.detail


def test_a_clone_below_the_roots_is_registered_and_again_without_harm(api: Client, clone: Path, remote: Path) -> None:
    for _ in range(2):
        answer = api.give("POST", "/repos/", {"path": str(clone)})
        assert answer.status == 201
        assert answer.value["slug"] == "app"
        assert answer.value["remote_url"] == str(remote)
        assert answer.value["branch"] == "main"
        assert answer.value["is_managed"] is False
    assert len(api.get("/repos/").value) == 1


def test_registering_takes_an_archived_repo_back(api: Client, clone: Path) -> None:
    api.give("POST", "/repos/", {"path": str(clone)})
    api.give("POST", "/repos/app/archive")
    assert api.give("POST", "/repos/", {"path": str(clone)}).value["status"] == "active"


def test_a_url_is_cloned_and_registered(api: Client, remote: Path, tmp_path: Path) -> None:
    answer = api.give("POST", "/repos/", {"remote_url": str(remote), "slug": "mine", "workplans": "plans/*.md"})
    assert answer.status == 201
    assert answer.value["is_managed"] is True
    assert answer.value["workplans"] == "plans/*.md"
    assert (tmp_path / "state" / "clones" / "mine" / ".git").is_dir()


def test_one_clone_has_one_slug_and_one_slug_one_clone(api: Client, clone: Path, store: Store) -> None:
    add_repo(store, "taken")
    api.give("POST", "/repos/", {"path": str(clone)})
    assert api.give("POST", "/repos/", {"path": str(clone), "slug": "other"}).status == 409
    assert api.give("POST", "/repos/", {"path": str(clone), "slug": "taken"}).status == 409


def test_a_remote_without_the_branch_is_gits_word_and_no_repo(api: Client, remote: Path) -> None:
    answer = api.give("POST", "/repos/", {"remote_url": str(remote), "branch": "nowhere"})
    assert answer.status == 502
    assert "nowhere" in answer.detail
    assert api.get("/repos/").value == []


def test_what_may_not_be_registered_is_refused_and_says_why(api: Client, clone: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "roots" / "link").symlink_to(outside)
    (tmp_path / "roots" / "loop").symlink_to(tmp_path / "roots" / "loop")
    refused = [
        {"path": str(outside)},
        {"path": str(tmp_path / "roots" / "link")},
        {"path": str(tmp_path / "roots" / "app" / ".." / ".." / "outside")},
        {"path": str(tmp_path / "roots" / "loop")},
        {"path": str(tmp_path / "roots" / "empty")},
        {"path": str(clone), "branch": "--upload-pack=x"},
        {"path": str(clone), "branch": "none"},
        {"path": str(clone), "workplans": "../*.md"},
        {"path": str(clone), "remote_url": str(clone)},
        {},
        {"remote_url": str(outside)},
        {"remote_url": f"file://{outside}"},
        {"remote_url": f"FILE://{outside}"},
        {"remote_url": "ext::sh -c true"},
        {"remote_url": "-oProxyCommand=true"},
        {"remote_url": "https://ann:secret@forge.example/app.git"},
        {"remote_url": "https://forge.example/app.git"},
        {"remote_url": "git@forge.example:app.git"},
    ]
    for value in refused:
        answer = api.give("POST", "/repos/", value)
        assert answer.status == 409, (value, answer.body)
        assert answer.detail
        assert "secret" not in answer.detail
    assert api.get("/repos/").value == []


def test_a_registration_of_another_shape_is_refused(api: Client) -> None:
    values: tuple[object, ...] = (
        {"path": "relative"},
        {"path": "~/app"},
        {"path": "/a\0b"},
        {"path": "/a\nb"},
        {"path": "/" + "a" * 1000},
        {"path": 7},
        {"slug": ".."},
        {"slug": "A"},
        {"remote_url": "/a\0"},
        {"branch": ""},
        {"is_managed": True},
        [],
        "text",
        None,
    )
    for value in values:
        assert api.give("POST", "/repos/", value).status == 422, value
    assert api.get("/repos/").value == []


def test_the_form_without_a_final_slash_leads_to_the_list(api: Client) -> None:
    answer = api.send("GET", "/repos?status=all", headers=BEARER)
    assert answer.status == 307
    assert answer.headers["location"] == f"http://{api.host}/repos/?status=all"
