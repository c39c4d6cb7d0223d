"""``kill -9`` at any instant: no slot lost, none run twice, nothing left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.homes import CLEAN, FORKER, Home, wait_for

from activity_core.run import Kind, State
from activity_core.shell.tree import all_pids, environment_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PERIOD_US = 100_000
KILLS_PER_TEST = 50
SEEDS = (1, 2, 3, 4)
NAMES = ("skip", "run_all", "retry")


@pytest.fixture
def forker() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=CLEAN
    ) as process:
        yield process


def start(forker: subprocess.Popen[str], home: Home) -> int:
    assert forker.stdin is not None
    assert forker.stdout is not None
    forker.stdin.write(f"{home.log} {' '.join(home.options)} serve\n")
    forker.stdin.flush()
    return int(forker.stdout.readline())


def wait_until_ready(home: Home, size: int) -> None:
    wait_for(lambda: b"ready after" in home.log.read_bytes()[size:], "ready")


def end(forker: subprocess.Popen[str], pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)
    assert forker.stdout is not None
    assert forker.stdout.readline() == "gone\n"


@pytest.mark.parametrize("seed", SEEDS)
def test_fifty_kills_lose_no_slot_and_run_none_twice(home: Home, forker: subprocess.Popen[str], seed: int) -> None:
    chance = random.Random(seed)
    effects = home.folder / "effects"
    command = f'echo "$ACTIVITY_ID $ACTIVITY_SLOT $ACTIVITY_FENCE" >> {effects}; sleep 0.0$(( $$ % 4 ))'
    trigger = "trigger: {trigger_type: interval, every: 100ms, misfire_policy: %s, misfire_grace: 1s}\n"
    context = "context: [{kind: host.status, bind: host}]\nrule: {when: ['host.cpus > 0']}\n"
    for policy in ("skip", "run_all"):
        text = trigger % policy + context + f"instruction: {{kind: shell, cmd: '{command}'}}\n"
        home.define(f"t.{policy}", text)
    retry = f"instruction: {{kind: shell, on_interrupt: retry, cmd: '{command}'}}\n"
    home.define("t.retry", trigger % "run_all" + retry)

    with home.serving():
        pass
    for _ in range(KILLS_PER_TEST):
        size = home.log.stat().st_size
        pid = start(forker, home)
        if chance.random() < 0.8:
            wait_until_ready(home, size)
        time.sleep(chance.uniform(0.0, 0.3))  # the instant of the kill is what is being varied
        end(forker, pid, signal.SIGKILL)
    size = home.log.stat().st_size
    pid = start(forker, home)
    wait_until_ready(home, size)
    ledger = home.ledger()

    def caught_up() -> bool:
        now = time.time_ns() // 1000
        newest = [ledger.history(definition_id=f"t.{each}", states=[State.SUCCEEDED], limit=1) for each in NAMES]
        return all(found and now - found[0].slot < 3_000_000 for found in newest)

    wait_for(caught_up, "the last engine to catch up", 60)
    end(forker, pid, signal.SIGTERM)

    lines = Counter(tuple(line.split()) for line in effects.read_text().splitlines())
    assert max(lines.values()) == 1, "one attempt, with one fence, ran twice"
    done = Counter((name, slot) for name, slot, _fence in lines)
    interrupted = 0
    for policy in NAMES:
        name = f"t.{policy}"
        rows = [row for row in ledger.history(definition_id=name, limit=1_000_000) if row.kind is Kind.SCHEDULE]
        covered: Counter[int] = Counter()
        for row in rows:
            slots = range(row.slot, row.last_slot + 1, PERIOD_US)
            assert len(slots) == row.slot_count
            covered.update(slots)
        assert covered == Counter(range(min(covered), max(covered) + 1, PERIOD_US)), "a slot is lost or stands twice"
        states = Counter(row.state for row in rows)
        interrupted += states[State.INTERRUPTED] + sum(row.interruptions for row in rows)
        if policy != "skip":
            assert not states.keys() & {State.MISSED, State.SKIPPED}, "run_all gave a slot up"
        for row in rows:
            ran = done[(name, _iso(row.slot))]
            if row.state is State.SUCCEEDED:
                assert ran == 1 + (row.interruptions if policy == "retry" else 0) or (
                    policy == "retry" and 1 <= ran <= 1 + row.interruptions
                )
            elif row.state in (State.MISSED, State.SKIPPED):
                assert ran == 0
            else:
                assert ran <= max(1, row.attempt)
    assert interrupted > KILLS_PER_TEST // 5, "the kills did not hit runs in progress"
    marked = f"ACTIVITY_LEDGER={ledger.identity()}".encode()
    assert not [pid for pid in all_pids() if marked in environment_of(pid)], "a command outlived its engine's successor"


def _iso(instant: int) -> str:
    from activity_plumbing.clock import Instant, format_instant

    return format_instant(Instant(instant))


def test_survivors_of_a_killed_engine_are_ended_by_the_next_one(home: Home) -> None:
    daemon = "setsid sh -c 'sleep 300' > /dev/null 2>&1 < /dev/null &"
    home.define(
        "t.long",
        "trigger: {trigger_type: cron, cron_expression: '@yearly'}\n"
        f'instruction: {{kind: shell, kill_grace: 1s, cmd: "{daemon} sleep 300"}}\n',
    )
    with home.serving() as process:
        home.run("run", "t.long", "--detach", check=True)
        ledger = home.ledger()
        marked = f"ACTIVITY_LEDGER={ledger.identity()}".encode()

        def alive() -> list[int]:
            return [pid for pid in all_pids() if marked in environment_of(pid)]

        wait_for(lambda: len(alive()) >= 3, "the command and its daemon")
        process.kill()
        process.wait()
        assert len(alive()) >= 3
    with home.serving():
        assert alive() == []
        (row,) = ledger.history()
        assert (row.state, row.reason) == (State.INTERRUPTED, "engine_killed")
        assert [each["definition_id"] for each in ledger.notifications()] == ["t.long"]
