"""The sources that come with the package, against a real hub, a real ledger and this machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from activity_core.context.sources import SourceTools, make_source
from activity_core.definition.model import DefinitionId, VersionHash
from activity_core.errors import ContextError
from activity_core.ledger.store import Ledger
from activity_core.ledger.writer import GroupedWriter
from activity_core.ports import EndRow, SlotRow, StartRow
from activity_core.run import Kind, Reason, RunId, State
from activity_core.settings import Settings
from activity_plumbing.clock import Instant, parse_instant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HEALTH = {"status": "ok", "db": "ok", "version": "1"}
REPOS = [{"slug": "a", "status": "active"}, {"slug": "b", "status": "active"}]
TOKEN = "a-token-of-the-hub"


@dataclass
class Hub:
    """A small state hub in a thread. With a token, it wants it on every path but its health."""

    port: int = 0
    token: str = ""
    is_ill: bool = False
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def settings(self, **others: Any) -> Settings:
        return Settings(state_hub_url=f"http://127.0.0.1:{self.port}", **others)

    def answer(self, path: str, authorization: str | None) -> tuple[int, object]:
        self.requests.append((path, authorization))
        if self.is_ill:
            return 503, {"status": "degraded"}
        if path == "/state/health":
            return 200, HEALTH
        if self.token and authorization != f"Bearer {self.token}":
            return 401, {"error": "a token is needed"}
        if path.startswith("/repos/?status="):
            return 200, REPOS if path.endswith("=active") else []
        return 404, {}


@pytest.fixture
def hub() -> Iterator[Hub]:
    each = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, value = each.answer(self.path, self.headers["Authorization"])
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    each.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield each
    server.shutdown()
    thread.join()
    server.server_close()


def ask(
    name: str, settings: Settings, arguments: Mapping[str, object] | None = None, ledger: Ledger | None = None
) -> Any:
    async def go() -> object:
        tools = SourceTools(settings, ledger)
        try:
            source = make_source(name, tools)
            assert source is not None
            async with asyncio.timeout(20):
                return await source.ask(arguments or {})
        finally:
            await tools.close()

    return asyncio.run(go())


# -- the state hub --


def test_the_hubs_health_is_what_it_says_and_needs_no_token(hub: Hub) -> None:
    hub.token = TOKEN

    assert ask("state-hub.health", hub.settings()) == HEALTH
    assert hub.requests == [("/state/health", None)]


def test_the_hubs_repos_are_the_active_ones_unless_others_are_asked_for(hub: Hub) -> None:
    assert ask("state-hub.repos", hub.settings()) == REPOS
    assert ask("state-hub.repos", hub.settings(), {"status": "archived"}) == []
    assert [path for path, _ in hub.requests] == ["/repos/?status=active", "/repos/?status=archived"]


def test_the_token_of_the_settings_is_sent_and_opens_a_hub_that_wants_one(hub: Hub) -> None:
    hub.token = TOKEN

    assert ask("state-hub.repos", hub.settings(state_hub_token=TOKEN)) == REPOS
    assert hub.requests == [("/repos/?status=active", f"Bearer {TOKEN}")]


@pytest.mark.parametrize("token", ["", "another"])
def test_without_the_right_token_the_query_fails_and_does_not_show_the_token_it_sent(token: str, hub: Hub) -> None:
    hub.token = TOKEN

    with pytest.raises(ContextError, match=r"/repos/\?status=active answered with status 401") as refused:
        ask("state-hub.repos", hub.settings(state_hub_token=token))
    assert "Bearer" not in str(refused.value)


def test_a_status_of_an_author_cannot_change_the_path_or_add_a_parameter(hub: Hub) -> None:
    assert ask("state-hub.repos", hub.settings(), {"status": "a&b=c/../#d e\u00e9"}) == []
    assert hub.requests[0][0] == "/repos/?status=a%26b%3Dc%2F..%2F%23d%20e%C3%A9"


def test_a_slash_at_the_end_of_the_hubs_url_is_not_doubled(hub: Hub) -> None:
    assert ask("state-hub.health", Settings(state_hub_url=f"http://127.0.0.1:{hub.port}/")) == HEALTH
    assert hub.requests[0][0] == "/state/health"


@pytest.mark.parametrize("name", ["state-hub.health", "state-hub.repos"])
def test_a_hub_that_answers_with_an_error_is_a_failed_query(name: str, hub: Hub) -> None:
    hub.is_ill = True

    with pytest.raises(ContextError, match="answered with status 503"):
        ask(name, hub.settings())


def test_a_hub_that_is_not_there_is_a_failed_query_that_names_its_url() -> None:
    with pytest.raises(ContextError, match=r"http://127\.0\.0\.1:1/state/health"):
        ask("state-hub.health", Settings(state_hub_url="http://127.0.0.1:1"))


# -- this machine --


def test_the_hosts_status_has_plausible_figures_of_this_machine(tmp_path: Path) -> None:
    status = ask("host.status", Settings(state_dir=tmp_path))

    assert set(status) == {
        "cpus", "load_1m", "load_5m", "load_15m", "memory_total", "memory_available", "disk_total", "disk_free",
        "on_battery",
    }  # fmt: skip
    assert status["cpus"] == os.cpu_count()
    assert all(status[name] >= 0 for name in ("load_1m", "load_5m", "load_15m"))
    assert status["memory_total"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < status["memory_available"] <= status["memory_total"]
    assert status["disk_total"] == shutil.disk_usage(tmp_path).total
    assert 0 <= status["disk_free"] <= status["disk_total"]
    assert isinstance(status["on_battery"], bool)


def test_another_path_is_another_file_system() -> None:
    status = ask("host.status", Settings(state_dir=Path("/")), {"path": "/proc"})

    assert status["disk_total"] == shutil.disk_usage("/proc").total


def test_a_path_that_does_not_exist_is_a_failed_query_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ContextError, match=r"missing: No such file or directory"):
        ask("host.status", Settings(state_dir=tmp_path), {"path": str(tmp_path / "missing")})


# -- another activity's last run --

OTHER = DefinitionId("org.backup")
STARTED = parse_instant("2026-03-01T02:00:01Z")
ENDED = parse_instant("2026-03-01T02:00:03.5Z")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    each = Ledger.open(tmp_path / "state")
    yield each
    each.close()


def add_run(ledger: Ledger, slot: Instant, definition_id: DefinitionId = OTHER) -> RunId:
    return ledger.add_request(
        SlotRow(
            definition_id=definition_id,
            kind=Kind.SCHEDULE,
            slot=slot,
            version_hash=VersionHash("0" * 64),
            state=State.PENDING,
            due_at=slot,
            created_at=slot,
        )
    )


def write(ledger: Ledger, *writes: StartRow | EndRow) -> None:
    async def go() -> None:
        writer = GroupedWriter(ledger)
        for each in writes:
            assert (await writer.write(each)).done
        assert writer.close()

    asyncio.run(go())


def started(run_id: RunId) -> StartRow:
    return StartRow(
        run_id=run_id, attempt=1, fence=1, engine_id=None, at=STARTED, context_json=None, rule_json=None
    )  # fmt: skip


def last_run(ledger: Ledger, definition_id: str = OTHER) -> dict[str, object]:
    answer = ask("activity-core.last_run", Settings(), {"definition": definition_id}, ledger)
    return cast("dict[str, object]", answer)


def test_a_definition_that_never_ran_has_no_last_run(ledger: Ledger) -> None:
    assert last_run(ledger) == {"found": False}


def test_the_last_run_is_told_with_its_outcome_and_its_times(ledger: Ledger) -> None:
    run_id = add_run(ledger, parse_instant("2026-03-01T02:00Z"))
    write(
        ledger,
        started(run_id),
        EndRow(
            run_id=run_id,
            definition_id=OTHER,
            state=State.FAILED,
            reason=Reason.EXIT_STATUS,
            at=ENDED,
            duration_us=2_500_000,
            exit_status=3,
        ),
    )

    assert last_run(ledger) == {
        "found": True,
        "id": run_id,
        "state": "failed",
        "reason": "exit_status",
        "slot": "2026-03-01T02:00:00Z",
        "started_at": "2026-03-01T02:00:01Z",
        "ended_at": "2026-03-01T02:00:03.500000Z",
        "duration_s": 2.5,
        "exit_status": 3,
    }
    assert last_run(ledger, "org.other") == {"found": False}


def test_runs_in_progress_waiting_or_skipped_are_not_the_last_run(ledger: Ledger) -> None:
    ended, skipped, running = (add_run(ledger, Instant(number)) for number in (1, 2, 3))
    add_run(ledger, Instant(4))
    write(
        ledger,
        started(ended),
        EndRow(run_id=ended, definition_id=OTHER, state=State.SUCCEEDED, at=ENDED, exit_status=0),
        EndRow(run_id=skipped, definition_id=OTHER, state=State.SKIPPED, reason=Reason.RULE_FALSE, at=ENDED),
        started(running),
    )

    found = last_run(ledger)

    assert (found["id"], found["state"], found["reason"], found["exit_status"]) == (ended, "succeeded", None, 0)


@pytest.mark.parametrize("arguments", [{}, {"definition": 3}])
def test_a_question_without_a_definition_says_which_key_is_needed(arguments: dict[str, object], ledger: Ledger) -> None:
    with pytest.raises(ContextError, match=r"needs the key definition: <id>"):
        ask("activity-core.last_run", Settings(), arguments, ledger)


def test_without_a_ledger_the_question_fails() -> None:
    with pytest.raises(ContextError, match="no ledger"):
        ask("activity-core.last_run", Settings(), {"definition": OTHER})
