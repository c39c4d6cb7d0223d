"""Runs with items through the installed commands: killed at any instant, followed, cancelled, shown."""

from __future__ import annotations

import http.server
import json
import random
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.homes import wait_for

from activity_core.run import ACTIVE, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.homes import Home

    from activity_core.ledger.records import RunRecord
    from activity_core.ledger.store import Ledger

YEARLY = "trigger: {trigger_type: cron, cron_expression: '@yearly'}\n"
KILLS = 12
REPOS = [{"slug": name, "branch": {"name": "main"}} for name in ("core", "docs", "hub", "site", "tools", "web")]


@contextmanager
def hub() -> Iterator[str]:
    """A server that answers every question with the repos; its URL."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(REPOS).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/repos"
        server.shutdown()


def waiting_in_vain(ledger: Ledger) -> list[RunRecord]:
    """Parents of which nothing is in progress: there must never be one."""
    waiting = ledger.history(states=[State.WAITING], limit=1000)
    return [run for run in waiting if all(item.state not in ACTIVE for item in ledger.items(run.id))]


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_in_mid_items_lose_none_run_none_twice_and_end_each_parent_once(home: Home, seed: int) -> None:
    chance = random.Random(seed)
    effects = home.folder / "effects"
    effects.touch()
    command = (
        f'echo "$ACTIVITY_ID $ACTIVITY_SLOT $ACTIVITY_ITEM_SLUG $ACTIVITY_FENCE" >> {effects}; sleep 0.0$(( $$ % 9 ))'
    )
    with hub() as url:
        config = home.folder / "settings.toml"
        config.write_text(f'http_allow = ["{url}"]\n')
        for name in ("fail", "retry"):
            home.define(
                f"t.{name}",
                "trigger: {trigger_type: interval, every: 100ms}\n"
                f"context: [{{kind: http_get, url: '{url}', bind: repos}}]\n"
                "for_each: {items: repos, as: repo, key: repo.slug, max_parallel: 2}\n"
                f"instruction: {{kind: shell, on_interrupt: {name}, cmd: '{command}'}}\n",
            )
        for _ in range(KILLS):
            with home.serving(config=config) as process:
                enough = effects.stat().st_size + chance.randint(0, 400)
                wait_for(lambda enough=enough: effects.stat().st_size > enough, "items to be at work")  # type: ignore[misc]
                process.kill()
                process.wait()
            ledger = home.ledger()
            assert waiting_in_vain(ledger) == []
            ledger.close()
        for path in home.definitions.iterdir():
            path.unlink()  # nothing new: what is left is to come to its end
        with home.serving(config=config):
            ledger = home.ledger()
            wait_for(lambda: not ledger.active_runs(), "everything to end")
    lines = Counter(tuple(line.split()) for line in effects.read_text().splitlines())
    assert max(lines.values()) == 1, "one attempt, with one fence, ran twice"
    ran = Counter((name, slot, slug) for name, slot, slug, _fence in lines)
    rows = ledger.history(limit=100_000, items=True)
    parents = [row for row in rows if row.parent_run is None and ledger.item_counts([row.id])]
    interrupted = 0
    told = Counter(each["run_id"] for each in ledger.notifications(limit=100_000))
    for parent in parents:
        items = ledger.items(parent.id)
        assert [item.item_key for item in items] == [repo["slug"] for repo in REPOS]
        states = Counter(item.state for item in items)
        is_well = states == {State.SUCCEEDED: len(REPOS)}
        assert parent.state is (State.SUCCEEDED if is_well else State.FAILED), parent.detail
        assert told[parent.id] == (0 if is_well else 1)
        assert parent.ended_at == max(item.ended_at or 0 for item in items)
        for item in items:
            interrupted += item.interruptions + (item.state is State.INTERRUPTED)
            times = ran[(item.definition_id, _iso(item.slot), item.item_key)]
            assert times <= item.attempt
            if item.state is State.SUCCEEDED:
                assert 1 <= times <= 1 + item.interruptions
            if item.definition_id == "t.retry":
                assert item.state is State.SUCCEEDED or item.interruptions == 2
    assert sum(told.values()) == sum(told[parent.id] for parent in parents), "an item told of its failure by itself"
    assert interrupted > KILLS // 2, "the kills did not hit items in progress"
    assert len([parent for parent in parents if parent.state is State.SUCCEEDED]) > 0


def _iso(instant: int) -> str:
    from activity_plumbing.clock import Instant, format_instant

    return format_instant(Instant(instant))


def test_a_run_with_items_is_followed_shown_and_counted_once(home: Home) -> None:
    home.define(
        "t.each",
        YEARLY + "for_each: {items: \"['core', 'docs']\", as: repo, key: repo, max_parallel: 1}\n"
        "instruction: {kind: shell, cmd: 'echo at $ACTIVITY_ITEM; [ $ACTIVITY_ITEM = core ]'}\n",
    )
    done = home.run("run", "t.each")
    assert (done.returncode, done.stdout) == (1, "at core\nat docs\n")
    assert "— docs (run 3) —" in done.stderr
    (entry,) = json.loads(home.run("history", "--json", check=True).stdout)
    assert (entry["detail"], entry["item_counts"]) == ("1 of 2 items failed", {"succeeded": 1, "failed": 1})
    assert len(json.loads(home.run("history", "--items", "--json", check=True).stdout)) == 3
    shown = json.loads(home.run("show", "1", "--json", check=True).stdout)
    assert [(item["item_key"], item["item"], item["state"]) for item in shown["items"]] == [
        ("core", "core", "succeeded"),
        ("docs", "docs", "failed"),
    ]
    assert "2, at most 1 at once: 1 succeeded, 1 failed" in home.run("show", "1", check=True).stdout
    assert "docs of run 1" in home.run("explain", "3", check=True).stdout
    assert home.run("logs", "1", check=True).stdout == "at core\nat docs\n"
    assert home.run("logs", "3", check=True).stdout == "at docs\n"
    assert "t.each[docs]" in home.run("history", "--items", check=True).stdout
    assert home.run("prune", "--keep", "0", "--yes", check=True).stdout.endswith("3 runs pruned\n")
    assert home.ledger().items(1)[0].item_json is None


def test_cancel_by_number_ends_a_run_with_all_its_items(home: Home) -> None:
    home.define(
        "t.each",
        YEARLY + 'for_each: {items: "[1, 2, 3]", as: one, key: one, max_parallel: 2}\n'
        "instruction: {kind: shell, cmd: sleep 100, kill_grace: 1s}\n",
    )
    with home.serving():
        home.run("run", "t.each", "--detach", check=True)
        ledger = home.ledger()
        wait_for(lambda: len(ledger.history(states=[State.RUNNING], items=True)) == 2, "two items to run")
        assert "is being ended" in home.run("cancel", "1", check=True).stdout
        wait_for(lambda: not ledger.active_runs(), "everything to end")
        assert {run.state for run in ledger.history(items=True)} == {State.CANCELLED}
