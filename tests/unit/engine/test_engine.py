"""The engine's loop on a clock the test owns: downtime, suspend, clock steps, overlap, retries, recovery."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from activity_core.engine import Engine
from activity_core.ledger.store import Ledger
from activity_core.run import ACTIVE, Kind, Reason, State
from activity_core.serve import manual_row
from activity_core.settings import Settings
from activity_plumbing.clock import DAY_US, HOUR_US, MINUTE_US, SECOND_US, Instant, SystemClock, parse_instant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from activity_core.ledger.records import RunRecord

START = parse_instant("2026-11-23T12:00:00.5Z")
SLOT = parse_instant("2026-11-23T12:00Z")


class OwnedClock:
    """A wall clock, a boot clock and an awake clock that move only when told to."""

    def __init__(self, wall: Instant = START) -> None:
        self.wall: int = wall
        self.boot = SystemClock().boottime_us()
        self.awake = SystemClock().monotonic_us()

    def now(self) -> Instant:
        return Instant(self.wall)

    def boottime_us(self) -> int:
        return self.boot

    def monotonic_us(self) -> int:
        return self.awake

    def pass_time(self, duration_us: int) -> None:
        self.wall += duration_us
        self.boot += duration_us
        self.awake += duration_us

    def sleep_machine(self, duration_us: int) -> None:
        self.wall += duration_us
        self.boot += duration_us

    def set_wall(self, by_us: int) -> None:
        self.wall += by_us


class Bench:
    """A state folder, a definitions folder and a clock; engines come and go."""

    def __init__(self, folder: Path) -> None:
        self.definitions = folder / "definitions"
        self.definitions.mkdir()
        self.settings = Settings(state_dir=folder / "state", definitions=(self.definitions,))
        self.clock = OwnedClock()
        self.running: Engine | None = None
        self.ledger = Ledger.open(self.settings.state_dir)

    def define(self, name: str, trigger: str = "every: 15m", **parts: str) -> None:
        kind = "cron" if "cron_expression" in trigger else "interval"
        instruction = parts.pop("instruction", "cmd: 'true'")
        extra = "\n".join(f"{key}: {value}" for key, value in parts.items())
        (self.definitions / f"{name}.yaml").write_text(
            f"id: {name}\ntrigger: {{trigger_type: {kind}, {trigger}}}\n"
            f"instruction: {{kind: shell, {instruction}}}\n{extra}\n"
        )

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        engine = Engine(self.settings, self.ledger, self.clock)
        await engine.start()
        await engine.tick()
        self.running = engine
        try:
            yield engine
        finally:
            self.running = None
            await engine.stop(grace_us=2 * SECOND_US)

    def rows(self, name: str = "t.a") -> list[RunRecord]:
        return list(reversed(self.ledger.history(definition_id=name, limit=100_000)))

    async def settled(self) -> None:
        """Returns when no run is in progress."""
        await until(lambda: self.running is None or self.running.in_hand == 0)

    def assert_covered(self, name: str, period_us: int, first: int, last: int) -> None:
        """Every slot from first to last, inclusive, stands in exactly one row."""
        seen: Counter[int] = Counter()
        for row in self.rows(name):
            if row.kind is Kind.SCHEDULE:
                slots = range(row.slot, row.last_slot + 1, period_us)
                assert len(slots) == row.slot_count
                seen.update(slots)
        assert seen == Counter(range(first, last + 1, period_us))


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Waits for something another task or process brings about. Fails loudly when it does not come."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_new_definition_invents_no_past_and_runs_from_its_next_slot_on(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a")
        async with bench.engine() as engine:
            assert bench.rows() == []
            bench.clock.pass_time(15 * MINUTE_US)
            await engine.tick()
            await bench.settled()
        assert [(row.slot, row.state) for row in bench.rows()] == [(SLOT + 15 * MINUTE_US, State.SUCCEEDED)]

    asyncio.run(main())


def test_thirty_days_down_leave_one_row_and_the_schedule_goes_on(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1m")
        async with bench.engine():
            pass
        bench.clock.pass_time(30 * DAY_US)
        async with bench.engine() as engine:
            await bench.settled()
            bench.clock.pass_time(MINUTE_US)
            await engine.tick()
            await bench.settled()
        rows = bench.rows()
        assert [(row.state, row.reason) for row in rows[:1]] == [(State.MISSED, Reason.ENGINE_DOWN)]
        assert rows[0].slot_count == 30 * 24 * 60 - 1
        assert [row.state for row in rows[1:]] == [State.SUCCEEDED] * 2
        bench.assert_covered("t.a", MINUTE_US, SLOT + MINUTE_US, SLOT + 30 * DAY_US + MINUTE_US)

    asyncio.run(main())


def test_run_all_catches_up_its_window_after_thirty_days_and_records_the_rest(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1h, misfire_policy: run_all, catchup_window: 12h")
        async with bench.engine():
            pass
        bench.clock.pass_time(30 * DAY_US)
        async with bench.engine():
            await bench.settled()
        states = Counter(row.state for row in bench.rows())
        assert states == {State.MISSED: 1, State.SUCCEEDED: 12}
        assert bench.rows()[0].reason is Reason.CATCHUP_WINDOW
        bench.assert_covered("t.a", HOUR_US, SLOT + HOUR_US, SLOT + 30 * DAY_US)
        started = [row.started_at for row in bench.rows() if row.started_at]
        assert started == sorted(started)

    asyncio.run(main())


def test_a_suspended_machine_misses_its_slots_and_says_so(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1h")
        async with bench.engine() as engine:
            bench.clock.sleep_machine(8 * HOUR_US + 30 * MINUTE_US)
            await engine.tick()
            await bench.settled()
        assert {(row.state, row.reason) for row in bench.rows()} == {(State.MISSED, Reason.SUSPENDED)}
        bench.assert_covered("t.a", HOUR_US, SLOT + HOUR_US, SLOT + 8 * HOUR_US)

    asyncio.run(main())


def test_a_clock_set_a_day_forward_catches_nothing_up(bench: Bench) -> None:
    async def main() -> None:
        for policy in ("skip", "run_once", "run_all"):
            bench.define(f"t.{policy}", f"every: 1h, misfire_policy: {policy}")
        async with bench.engine() as engine:
            bench.clock.set_wall(DAY_US + 30 * MINUTE_US)
            await engine.tick()
            await bench.settled()
            for policy in ("skip", "run_once", "run_all"):
                rows = bench.rows(f"t.{policy}")
                assert {(row.state, row.reason) for row in rows} == {(State.MISSED, Reason.CLOCK_STEP)}
                bench.assert_covered(f"t.{policy}", HOUR_US, SLOT + HOUR_US, SLOT + DAY_US)

    asyncio.run(main())


def test_a_clock_set_forward_and_back_again_runs_every_slot_once_when_it_comes(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1h")
        async with bench.engine() as engine:
            bench.clock.set_wall(DAY_US)
            await engine.tick()
            await bench.settled()
            bench.clock.set_wall(-DAY_US)
            await engine.tick()
            for _ in range(26):
                bench.clock.pass_time(HOUR_US)
                await engine.tick()
                await bench.settled()
        rows = bench.rows()
        bench.assert_covered("t.a", HOUR_US, SLOT + HOUR_US, SLOT + 26 * HOUR_US)
        assert Counter(row.state for row in rows) == {State.SUCCEEDED: 26}

    asyncio.run(main())


def test_a_clock_set_back_a_day_runs_nothing_twice(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1h")
        async with bench.engine() as engine:
            for _ in range(5):
                bench.clock.pass_time(HOUR_US)
                await engine.tick()
                await bench.settled()
            bench.clock.set_wall(-4 * HOUR_US)
            await engine.tick()
            for _ in range(6):
                bench.clock.pass_time(HOUR_US)
                await engine.tick()
                await bench.settled()
        assert [row.state for row in bench.rows()] == [State.SUCCEEDED] * 7
        bench.assert_covered("t.a", HOUR_US, SLOT + HOUR_US, SLOT + 7 * HOUR_US)

    asyncio.run(main())


def test_a_clock_set_back_while_the_engine_was_down_runs_nothing_twice(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1h")
        async with bench.engine() as engine:
            for _ in range(5):
                bench.clock.pass_time(HOUR_US)
                await engine.tick()
                await bench.settled()
        bench.clock.pass_time(10 * SECOND_US)
        bench.clock.set_wall(-3 * HOUR_US)
        async with bench.engine() as engine:
            for _ in range(4):
                bench.clock.pass_time(HOUR_US)
                await engine.tick()
                await bench.settled()
        assert [row.state for row in bench.rows()] == [State.SUCCEEDED] * 6
        bench.assert_covered("t.a", HOUR_US, SLOT + HOUR_US, SLOT + 6 * HOUR_US)

    asyncio.run(main())


def test_a_changed_schedule_counts_from_its_load_on_and_a_changed_command_keeps_its_place(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1h")
        async with bench.engine() as engine:
            bench.clock.pass_time(2 * HOUR_US)
            bench.define("t.a", "every: 10m")
            engine.files_changed()
            await until(lambda: len(engine.catalog.in_force) == 1 and engine.next_due() == SLOT + 130 * MINUTE_US)
            assert bench.rows() == []
            bench.define("t.a", "every: 10m", instruction="cmd: echo new")
            before = engine.catalog.in_force["t.a"].version_hash
            engine.files_changed()
            await until(lambda: engine._scheduled["t.a"].entry.version_hash != before)  # the catalog knows it earlier
            bench.clock.pass_time(10 * MINUTE_US)
            await engine.tick()
            await bench.settled()
        (row,) = bench.rows()
        assert bench.ledger.read_output(row.id)[0][4] == b"new\n"

    asyncio.run(main())


def test_a_slow_run_makes_the_next_slot_skip_and_names_itself(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1m", instruction="cmd: 'sleep 30', kill_grace: 1s")
        async with bench.engine() as engine:
            bench.clock.pass_time(MINUTE_US)
            await engine.tick()
            await until(lambda: engine.running == 1)
            bench.clock.pass_time(MINUTE_US)
            await engine.tick()
            first, second = bench.rows()
            assert (second.state, second.reason, second.blocked_by) == (State.SKIPPED, Reason.OVERLAP, first.id)
            bench.ledger.ask_cancel(first.id, bench.clock.now(), "test")
            engine.doorbell()
            await bench.settled()
        assert bench.rows()[0].state is State.CANCELLED

    asyncio.run(main())


def test_queue_all_runs_one_after_the_other_in_slot_order(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1m, overlap_policy: queue_all, misfire_grace: 1h", instruction="cmd: 'sleep 0.05'")
        async with bench.engine() as engine:
            bench.clock.pass_time(5 * MINUTE_US)
            await engine.tick()
            assert Counter(row.granted_at is None for row in bench.rows())[True] == 4
            await bench.settled()
        rows = bench.rows()
        assert [row.state for row in rows] == [State.SUCCEEDED] * 5

    asyncio.run(main())


def test_queue_one_keeps_one_waiting_and_skips_the_rest(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1m, overlap_policy: queue_one, misfire_grace: 1h", instruction="cmd: 'sleep 0.2'")
        async with bench.engine() as engine:
            bench.clock.pass_time(4 * MINUTE_US)
            await engine.tick()
            await bench.settled()
        assert [row.state for row in bench.rows()] == [State.SUCCEEDED] * 2 + [State.SKIPPED] * 2

    asyncio.run(main())


def test_a_shared_key_lets_only_its_limit_run_at_once(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = f"cmd: 'echo in >> {log}; sleep 0.05; echo out >> {log}', concurrency: {{key: disk, limit: 2}}"

    async def main() -> None:
        for n in range(6):
            bench.define(f"t.{n}", "every: 1m", instruction=command)
        async with bench.engine() as engine:
            bench.clock.pass_time(MINUTE_US)
            await engine.tick()
            await bench.settled()

    asyncio.run(main())
    inside = most = 0
    for word in log.read_text().split():
        inside += 1 if word == "in" else -1
        most = max(most, inside)
    assert most == 2


def test_a_failing_command_is_tried_again_with_a_higher_fence_and_keeps_its_attempts(
    bench: Bench, tmp_path: Path
) -> None:
    fences = tmp_path / "fences"
    command = (
        f"cmd: 'echo $ACTIVITY_FENCE >> {fences}; test $(wc -l < {fences}) -ge 3',"
        " retry: {max_attempts: 5, delay: 10ms, backoff: 1}"
    )

    async def main() -> None:
        bench.define("t.a", "every: 1m", instruction=command)
        async with bench.engine() as engine:
            bench.clock.pass_time(MINUTE_US)
            await engine.tick()
            await bench.settled()

    asyncio.run(main())
    (row,) = bench.rows()
    assert (row.state, row.attempt) == (State.SUCCEEDED, 3)
    assert [each.outcome for each in bench.ledger.attempts(row.id)] == ["failed", "failed"]
    numbers = [int(line) for line in fences.read_text().split()]
    assert numbers == sorted(set(numbers))


def test_context_and_rule_decide_and_are_kept(bench: Bench) -> None:
    async def main() -> None:
        context = "[{kind: host.status, bind: host}]"
        bench.define("t.yes", "every: 1m", context=context, rule="{when: ['host.cpus >= 1']}")
        bench.define("t.no", "every: 1m", context=context, rule="{when: ['host.cpus >= 1', 'host.cpus > 4096']}")
        bench.define("t.error", "every: 1m", context=context, rule="{when: ['host.no_such_key']}")
        bench.define("t.text", "every: 1m", context=context, rule="{when: ['\"yes\"']}")
        bench.define("t.gone", "every: 1m", context="[{kind: http_get, bind: x, url: 'http://127.0.0.1:8000/'}]")
        async with bench.engine() as engine:
            bench.clock.pass_time(MINUTE_US)
            await engine.tick()
            await bench.settled()

    asyncio.run(main())
    outcomes = {name: bench.rows(f"t.{name}")[0] for name in ("yes", "no", "error", "text", "gone")}
    assert {name: (row.state, row.reason, row.stage) for name, row in outcomes.items()} == {
        "yes": (State.SUCCEEDED, None, "shell"),
        "no": (State.SKIPPED, Reason.RULE_FALSE, "rule"),
        "error": (State.FAILED, Reason.RULE_FAILED, "rule"),
        "text": (State.FAILED, Reason.RULE_FAILED, "rule"),
        "gone": (State.FAILED, Reason.CONTEXT_FAILED, "context"),
    }
    assert '"cpus"' in (outcomes["no"].context_json or "")
    assert '"value": false' in (outcomes["no"].rule_json or "")
    assert all(row.started_at is None for name, row in outcomes.items() if name != "yes")


def test_exit_codes_say_what_a_status_means(bench: Bench) -> None:
    async def main() -> None:
        codes = "exit_codes: {75: skipped, 3: succeeded, 4: skipped}"
        for status in (0, 3, 4, 5, 75):
            bench.define(f"t.{status}", "every: 1m", instruction=f"cmd: exit {status}, {codes}")
        async with bench.engine() as engine:
            bench.clock.pass_time(MINUTE_US)
            await engine.tick()
            await bench.settled()

    asyncio.run(main())
    rows = {status: bench.rows(f"t.{status}")[0] for status in (0, 3, 4, 5, 75)}
    assert {status: (row.state, row.reason) for status, row in rows.items()} == {
        0: (State.SUCCEEDED, None),
        3: (State.SUCCEEDED, Reason.EXIT_STATUS),
        4: (State.SKIPPED, Reason.EXIT_STATUS),
        5: (State.FAILED, Reason.EXIT_STATUS),
        75: (State.SKIPPED, Reason.LOCKED),
    }


def test_a_failure_notifies_pauses_or_is_only_logged_as_the_author_wrote(bench: Bench) -> None:
    async def main() -> None:
        for what in ("notify", "log_and_continue", "pause"):
            bench.define(f"t.{what}", "every: 1m", instruction=f"cmd: exit 1, on_failure: {what}")
        async with bench.engine() as engine:
            for _ in range(2):
                bench.clock.pass_time(MINUTE_US)
                await engine.tick()
                await bench.settled()

    asyncio.run(main())
    told = Counter(str(each["definition_id"]) for each in bench.ledger.notifications())
    assert told == {"t.notify": 2, "t.pause": 1}
    assert [row.state for row in bench.rows("t.log_and_continue")] == [State.FAILED] * 2
    assert [(row.state, row.reason) for row in bench.rows("t.pause")] == [
        (State.FAILED, Reason.EXIT_STATUS),
        (State.SKIPPED, Reason.PAUSED),
    ]


def test_a_pause_skips_slots_until_it_is_over_and_none_is_caught_up(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1m, misfire_policy: run_all")
        async with bench.engine() as engine:
            bench.ledger.pause("t.a", bench.clock.now(), None, "test")
            engine.doorbell()
            await until(lambda: engine._is_paused("t.a"))
            for _ in range(3):
                bench.clock.pass_time(MINUTE_US)
                await engine.tick()
            bench.ledger.resume("t.a", bench.clock.now())
            engine.doorbell()
            await until(lambda: not engine._is_paused("t.a"))
            bench.clock.pass_time(MINUTE_US)
            await engine.tick()
            await bench.settled()

    asyncio.run(main())
    assert [row.state for row in bench.rows()] == [State.SKIPPED] * 3 + [State.SUCCEEDED]
    bench.assert_covered("t.a", MINUTE_US, SLOT + MINUTE_US, SLOT + 4 * MINUTE_US)


def test_a_feature_of_a_later_version_is_refused_by_name_when_its_turn_comes(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1m", instruction="cmd: 'true', limits: {memory: 1G}, runs_on: [big]")
        async with bench.engine() as engine:
            bench.clock.pass_time(MINUTE_US)
            await engine.tick()
            await bench.settled()

    asyncio.run(main())
    (row,) = bench.rows()
    assert (row.state, row.reason) == (State.FAILED, Reason.UNSUPPORTED)
    assert "limits, runs_on" in (row.detail or "")


def test_a_stopped_engine_lets_commands_finish_within_its_grace(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1m", instruction="cmd: 'sleep 0.3; echo done'")
        async with bench.engine() as engine:
            bench.clock.pass_time(MINUTE_US)
            await engine.tick()
            await until(lambda: engine.running == 1)

    asyncio.run(main())
    (row,) = bench.rows()
    assert row.state is State.SUCCEEDED


@pytest.mark.parametrize(("on_interrupt", "expected"), [("fail", State.INTERRUPTED), ("retry", State.SUCCEEDED)])
def test_what_outlasts_the_grace_is_interrupted_and_follows_on_interrupt(
    bench: Bench, tmp_path: Path, on_interrupt: str, expected: State
) -> None:
    mark = tmp_path / "second"
    command = f"cmd: 'test -e {mark} || {{ touch {mark}; sleep 60; }}', kill_grace: 1s, on_interrupt: {on_interrupt}"

    async def main() -> None:
        bench.define("t.a", "every: 1h", instruction=command)
        engine = Engine(bench.settings, bench.ledger, bench.clock)
        await engine.start()
        bench.clock.pass_time(HOUR_US)
        await engine.tick()
        await until(mark.exists)
        await engine.stop(grace_us=0)
        bench.clock.pass_time(MINUTE_US)
        async with bench.engine():
            await bench.settled()

    asyncio.run(main())
    (row,) = bench.rows()
    assert row.state is expected
    if expected is State.SUCCEEDED:
        assert row.attempt == 2
        assert row.interruptions == 1


def test_a_request_by_hand_runs_beside_the_schedule_and_says_who_asked(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1h")
        async with bench.engine() as engine:
            row = manual_row(bench.ledger, "t.a", request_id="r1", asked_by="me")
            run_id = bench.ledger.add_request(row)
            engine.doorbell()
            await until(lambda: (found := bench.ledger.run(run_id)) is not None and found.state not in ACTIVE)

    asyncio.run(main())
    (found,) = bench.rows()
    assert (found.kind, found.state, found.asked_by) == (Kind.MANUAL, State.SUCCEEDED, "me")


def test_a_run_recorded_but_not_started_by_a_dead_engine_is_judged_again(bench: Bench) -> None:
    """As if the engine had been killed between the commit of its decision and the start."""

    async def main() -> None:
        bench.define("t.skip", "every: 1h")
        bench.define("t.all", "every: 1h, misfire_policy: run_all")
        async with bench.engine():
            pass
        for name in ("t.skip", "t.all"):
            record = bench.ledger.definition(name)
            assert record is not None
            version = bench.ledger.version(record.version_hash)
            assert version is not None
            from activity_core.catalog.load import restore
            from activity_core.slot_rows import new_row

            definition = restore(version.plain_json)
            assert definition is not None
            slot = Instant(SLOT + HOUR_US)
            row = new_row(definition, record.version_hash, slot, slot, slot, waits=False)
            bench.ledger.add_request(row)
            with bench.ledger.engine.connect().execution_options(writes=True) as connection, connection.begin():
                connection.exec_driver_sql("UPDATE cursors SET slot = ? WHERE definition_id = ?", (slot, name))
        bench.clock.pass_time(HOUR_US + 10 * MINUTE_US)
        async with bench.engine():
            await bench.settled()

    asyncio.run(main())
    assert [(row.state, row.reason) for row in bench.rows("t.skip")] == [(State.MISSED, Reason.ENGINE_DOWN)]
    assert [row.state for row in bench.rows("t.all")] == [State.SUCCEEDED]


def test_the_number_of_slots_in_memory_stays_bounded_while_catching_up(bench: Bench) -> None:
    async def main() -> None:
        trigger = "every: 1m, misfire_policy: run_all, catchup_window: 2d, overlap_policy: queue_all"
        bench.define("t.a", trigger, instruction="cmd: 'true', concurrency: {key: k, limit: 1}")
        async with bench.engine():
            pass
        bench.ledger.pause("t.a", Instant(bench.clock.wall - 1), None, "test")
        bench.clock.pass_time(30 * DAY_US)
        async with bench.engine():
            pass
        rows = bench.rows()
        assert len(rows) <= 3
        bench.assert_covered("t.a", MINUTE_US, SLOT + MINUTE_US, SLOT + 30 * DAY_US)

    asyncio.run(main())


def _sabotage(bench: Bench, trigger: str) -> None:
    with bench.ledger.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.exec_driver_sql(trigger)


def test_a_definition_whose_slots_the_database_refuses_harms_only_itself(bench: Bench) -> None:
    _sabotage(
        bench,
        "CREATE TRIGGER refuse BEFORE INSERT ON runs WHEN NEW.definition_id = 't.bad'"
        " BEGIN SELECT RAISE(ABORT, 'poison'); END",
    )

    async def main() -> None:
        bench.define("t.a", "every: 1h")
        bench.define("t.bad", "every: 1h")
        async with bench.engine() as engine:
            bench.clock.pass_time(HOUR_US)
            await engine.tick()
            await bench.settled()
            _sabotage(bench, "DROP TRIGGER refuse")
            bench.clock.pass_time(9 * SECOND_US)
            await engine.tick()
            assert bench.rows("t.bad") == []
            bench.clock.pass_time(SECOND_US)
            await engine.tick()
            await bench.settled()

    asyncio.run(main())
    assert [row.state for row in bench.rows("t.a")] == [State.SUCCEEDED]
    assert [(row.state, row.reason) for row in bench.rows("t.bad")] == [(State.SUCCEEDED, None)]


def test_an_end_that_the_database_refuses_is_recorded_without_its_details(bench: Bench) -> None:
    _sabotage(
        bench,
        "CREATE TRIGGER refuse BEFORE UPDATE ON runs WHEN NEW.detail = 'poison'"
        " BEGIN SELECT RAISE(ABORT, 'poison'); END",
    )

    async def main() -> None:
        bench.define("t.a", "every: 1h", instruction="cmd: 'echo poison; exit 1'")
        async with bench.engine() as engine:
            bench.clock.pass_time(HOUR_US)
            await engine.tick()
            await bench.settled()

    asyncio.run(main())
    (row,) = bench.rows()
    assert row.state is State.FAILED
    assert "could not be recorded" in (row.detail or "")


def test_several_requests_at_once_all_run_whatever_lets_the_others_through(bench: Bench) -> None:
    async def main() -> None:
        bench.define(
            "t.key", "every: 1h, overlap_policy: allow", instruction="cmd: 'true', concurrency: {key: k, limit: 2}"
        )
        bench.define("t.free", "every: 1h, overlap_policy: allow")
        async with bench.engine() as engine:
            for number in range(6):
                for name in ("t.key", "t.free"):
                    bench.ledger.add_request(manual_row(bench.ledger, name, request_id=f"{number}", asked_by="me"))
            engine.doorbell()
            await until(lambda: len(bench.ledger.history(states=[State.SUCCEEDED])) == 12)
            await bench.settled()

    asyncio.run(main())


def test_a_retry_keeps_what_decided_the_run(bench: Bench, tmp_path: Path) -> None:
    mark = tmp_path / "second"
    command = f"cmd: 'test -e {mark} || {{ touch {mark}; exit 1; }}', retry: {{max_attempts: 2, delay: 10ms}}"

    async def main() -> None:
        context = "[{kind: host.status, bind: host}]"
        bench.define("t.a", "every: 1h", context=context, rule="{when: ['host.cpus > 0']}", instruction=command)
        async with bench.engine() as engine:
            bench.clock.pass_time(HOUR_US)
            await engine.tick()
            await bench.settled()

    asyncio.run(main())
    (row,) = bench.rows()
    assert (row.state, row.attempt) == (State.SUCCEEDED, 2)
    assert '"cpus"' in (row.context_json or "")
    assert '"value": true' in (row.rule_json or "")


def test_a_run_between_two_attempts_is_in_the_way_but_does_not_fill_the_queue(bench: Bench) -> None:
    async def main() -> None:
        bench.define(
            "t.a",
            "every: 1h, overlap_policy: queue_one",
            instruction="cmd: exit 1, retry: {max_attempts: 2, delay: 1h, max_delay: 1h}",
        )
        async with bench.engine() as engine:
            bench.clock.pass_time(HOUR_US)
            await engine.tick()
            await until(lambda: bench.rows()[0].state is State.RETRY_WAIT)
            bench.clock.pass_time(HOUR_US)
            await engine.tick()
            assert [row.state for row in bench.rows()] == [State.RETRY_WAIT, State.PENDING]
            bench.ledger.ask_cancel(bench.rows()[0].id, bench.clock.now(), "test")
            engine.doorbell()
            await until(lambda: bench.rows()[1].state is State.RETRY_WAIT)

    asyncio.run(main())
    assert [row.state for row in bench.rows()] == [State.CANCELLED, State.RETRY_WAIT]


def test_a_run_that_was_cancelled_in_its_kill_grace_is_not_tried_again(bench: Bench) -> None:
    command = "cmd: \"trap '' TERM; sleep 30\", timeout: 100ms, kill_grace: 1s, retry: {max_attempts: 3, delay: 0s}"

    async def main() -> None:
        bench.define("t.a", "every: 1h", instruction=command)
        async with bench.engine() as engine:
            bench.clock.pass_time(HOUR_US)
            await engine.tick()
            await until(lambda: engine.running == 1)
            await until(lambda: any(each.command._ending for each in engine._executor._in_progress.values()))
            bench.ledger.ask_cancel(bench.rows()[0].id, bench.clock.now(), "test")
            engine.doorbell()
            await bench.settled()

    asyncio.run(main())
    (row,) = bench.rows()
    assert (row.state, row.attempt) == (State.CANCELLED, 1)


def test_a_command_that_was_about_to_start_at_the_stop_is_ended_too(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1h", instruction="cmd: 'sleep 60', kill_grace: 1s")
        engine = Engine(bench.settings, bench.ledger, bench.clock)
        await engine.start()
        bench.clock.pass_time(HOUR_US)
        await engine.tick()
        await engine.stop(grace_us=0)

    asyncio.run(main())
    assert bench.rows()[0].state in (State.PENDING, State.INTERRUPTED)


def test_a_permit_key_that_is_no_text_fails_the_run_with_all_that_follows(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1h", instruction="cmd: 'true', concurrency: {key_expr: '1 + 1'}")
        async with bench.engine() as engine:
            bench.ledger.add_request(manual_row(bench.ledger, "t.a", request_id="r", asked_by="me"))
            engine.doorbell()
            await until(lambda: len(bench.ledger.notifications()) == 1)
            bench.clock.pass_time(HOUR_US)
            await engine.tick()
            await bench.settled()

    asyncio.run(main())
    assert [(row.state, row.reason) for row in bench.rows()] == [(State.FAILED, Reason.RULE_FAILED)] * 2
    assert len(bench.ledger.notifications()) == 2


def test_a_retry_after_a_restart_is_given_the_whole_context_again(bench: Bench, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    command = f"cmd: 'wc -c < $ACTIVITY_INPUT >> {seen}; exit 1', retry: {{max_attempts: 2, delay: 1h, max_delay: 1h}}"

    async def main() -> None:
        bench.settings = replace(bench.settings, context_cap=64)
        bench.define("t.a", "every: 1h", context="[{kind: host.status, bind: host}]", instruction=command)
        async with bench.engine() as engine:
            bench.clock.pass_time(HOUR_US)
            await engine.tick()
            await until(lambda: bench.rows()[0].state is State.RETRY_WAIT)
        bench.clock.pass_time(2 * HOUR_US)
        async with bench.engine():
            await until(lambda: bench.rows()[0].state is State.FAILED)

    asyncio.run(main())
    first, second = (int(line) for line in seen.read_text().split())
    assert abs(first - second) < 50
    assert '"cut"' in (bench.rows()[0].context_json or "")


def test_a_run_whose_cancel_was_asked_is_not_started_again_after_a_kill(bench: Bench) -> None:
    async def main() -> None:
        bench.define("t.a", "every: 1h", instruction="cmd: 'sleep 0', on_interrupt: retry")
        async with bench.engine():
            run_id = bench.ledger.add_request(manual_row(bench.ledger, "t.a", request_id="r", asked_by="me"))
            with bench.ledger.engine.connect().execution_options(writes=True) as connection, connection.begin():
                connection.exec_driver_sql(
                    "UPDATE runs SET state = 'running', attempt = 1, fence = 1, started_at = slot,"
                    " cancel_asked_at = slot"
                )
        async with bench.engine():
            await bench.settled()
        found = bench.ledger.run(run_id)
        assert found is not None
        assert (found.state, found.reason) == (State.CANCELLED, Reason.ASKED)

    asyncio.run(main())
