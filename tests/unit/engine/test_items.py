"""Runs with items: how they are listed, bounded, ended, cancelled, and taken over."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from tests.unit.engine.test_engine import Bench, until

from activity_core.run import ACTIVE, Reason, RunId, Stage, State
from activity_core.serve import manual_row
from activity_plumbing.clock import MINUTE_US, SECOND_US

if TYPE_CHECKING:
    from pathlib import Path

    from activity_core.engine import Engine
    from activity_core.ledger.records import RunRecord

HOST = "context: [{kind: host.status, bind: host}]\n"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def define(
    bench: Bench,
    items: str = "['a', 'b', 'c']",
    *,
    key: str = "string(one)",
    name: str = "t.a",
    trigger: str = "every: 1m",
    max_parallel: int | None = None,
    instruction: str = "cmd: 'true'",
    more: str = "",
) -> None:
    bound = "" if max_parallel is None else f", max_parallel: {max_parallel}"
    (bench.definitions / f"{name}.yaml").write_text(
        f"id: {name}\ntrigger: {{trigger_type: interval, {trigger}}}\n"
        f'for_each: {{items: "{items}", as: one, key: "{key}"{bound}}}\n'
        f"instruction: {{kind: shell, {instruction}}}\n{more}\n"
    )


async def pass_slot(bench: Bench, engine: Engine) -> None:
    bench.clock.pass_time(MINUTE_US)
    await engine.tick()


async def one_slot(bench: Bench) -> tuple[RunRecord, list[RunRecord]]:
    """One slot of the definition, settled: its run and the run's items."""
    async with bench.engine() as engine:
        await pass_slot(bench, engine)
        await bench.settled()
    (parent,) = bench.rows()
    return parent, bench.ledger.items(parent.id)


def item_states(bench: Bench, run_id: RunId) -> dict[str, State]:
    return {item.item_key: item.state for item in bench.ledger.items(run_id)}


def test_each_item_is_a_run_of_its_own_and_the_last_one_ends_the_parent(bench: Bench) -> None:
    define(bench, instruction="cmd: echo $ACTIVITY_ITEM", more=HOST)
    parent, items = asyncio.run(one_slot(bench))
    assert (parent.state, parent.reason, parent.detail, parent.stage) == (State.SUCCEEDED, None, None, Stage.ITEMS)
    assert parent.context_json is not None
    assert parent.duration_us is not None
    assert parent.ended_at == max(item.ended_at or 0 for item in items)
    assert [(item.item_key, item.state, item.slot, item.attempt) for item in items] == [
        (key, State.SUCCEEDED, parent.slot, 1) for key in "abc"
    ]
    assert [bench.ledger.read_output(item.id)[0][4] for item in items] == [b"a\n", b"b\n", b"c\n"]


def test_a_command_finds_its_item_in_its_environment_and_its_input(bench: Bench, tmp_path: Path) -> None:
    define(
        bench,
        "[{'slug': 'x y', 'git': {'depth': 3}, 'on': true, 'tags': ['no']}]",
        key="one.slug",
        instruction=f"cmd: 'env | grep ^ACTIVITY_ITEM | sort; cp $ACTIVITY_INPUT {tmp_path}/input'",
        more=HOST,
    )
    parent, (item,) = asyncio.run(one_slot(bench))
    printed = bench.ledger.read_output(item.id)[0][4].decode()
    assert printed == "ACTIVITY_ITEM_GIT_DEPTH=3\nACTIVITY_ITEM_ON=true\nACTIVITY_ITEM_SLUG=x y\n"
    given = json.loads((tmp_path / "input").read_text())
    assert given["item"] == {"slug": "x y", "git": {"depth": 3}, "on": True, "tags": ["no"]}
    assert (given["item_key"], given["parent_run"], given["run"]["id"]) == ("x y", parent.id, item.id)
    assert given["context"]["host"]["cpus"] > 0


def test_no_more_items_run_at_once_than_the_author_allows(bench: Bench, tmp_path: Path) -> None:
    command = f"cmd: 'echo + >> {tmp_path}/log; sleep 0.05; echo - >> {tmp_path}/log'"
    define(bench, "[1, 2, 3, 4, 5, 6, 7, 8]", max_parallel=3, instruction=command)
    parent, items = asyncio.run(one_slot(bench))
    assert parent.state is State.SUCCEEDED
    assert len(items) == 8
    at_once = most = 0
    for sign in (tmp_path / "log").read_text().split():
        at_once += 1 if sign == "+" else -1
        most = max(most, at_once)
    assert most == 3


def test_items_with_one_permit_key_take_turns_and_other_keys_go_beside_them(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "held"
    folder.mkdir()
    command = f"cmd: 'mkdir {folder}/$ACTIVITY_ITEM_REPO && sleep 0.05 && rmdir {folder}/$ACTIVITY_ITEM_REPO'"
    define(
        bench,
        "[{'repo': 'x', 'n': 1}, {'repo': 'x', 'n': 2}, {'repo': 'y', 'n': 3}, {'repo': 'x', 'n': 4}]",
        key="one.n",
        instruction=command + ", concurrency: {key_expr: one.repo}",
    )
    parent, items = asyncio.run(one_slot(bench))
    assert parent.permit_key is None
    assert (parent.state, [item.permit_key for item in items]) == (State.SUCCEEDED, ["x", "x", "y", "x"])


def test_some_items_that_failed_make_the_parent_fail_and_only_the_parent_tells(bench: Bench) -> None:
    command = "cmd: exit $ACTIVITY_ITEM, exit_codes: {75: skipped}, on_failure: pause"
    define(bench, "[0, 1, 75]", instruction=command)
    parent, items = asyncio.run(one_slot(bench))
    assert [item.state for item in items] == [State.SUCCEEDED, State.FAILED, State.SKIPPED]
    assert (parent.state, parent.reason) == (State.FAILED, Reason.ITEM_FAILED)
    assert parent.detail == "1 of 3 items failed, 1 skipped"
    assert [(each["run_id"], each["summary"]) for each in bench.ledger.notifications()] == [
        (parent.id, "t.a failed (item_failed): 1 of 3 items failed, 1 skipped")
    ]
    assert [pause.reason for pause in bench.ledger.pauses("t.a")] == [f"run {parent.id} failed"]


def test_a_list_of_no_items_succeeds_at_once(bench: Bench) -> None:
    define(bench, "[]")
    parent, items = asyncio.run(one_slot(bench))
    assert items == []
    assert (parent.state, parent.detail) == (State.SUCCEEDED, "no items")


@pytest.mark.parametrize(
    ("items", "key", "said"),
    [
        ("{'a': 1}", "string(one)", 'for_each: items came to {"a": 1}, not to a list'),
        ("['a', 'b', 'a']", "one", "for_each: items 1 and 3 have one key, 'a'"),
        ("[1, '1']", "one", "for_each: items 1 and 2 have one key, '1'"),
        ("[true]", "one", "for_each: the key of item 1 came to true, not to text or a whole number"),
        ("['a', null]", "one", "for_each: the key of item 2 came to null, not to text or a whole number"),
        ("['']", "one", "for_each: the key of item 1, '', must be 1 to 200 printable characters"),
        ("[1]", "'a\\nb'", "for_each: the key of item 1, 'a\\nb', must be 1 to 200 printable characters"),
        ("['a\\x00b']", "string(1)", "for_each: the value of 'for_each.items' holds a NUL character"),
        ("[{'slug': 'a'}]", "one.name", "for_each: the key of item 1: "),
        ("host.repos", "one", "for_each: "),
    ],
)
def test_a_list_that_cannot_be_used_fails_the_run_and_says_what_is_wrong(
    bench: Bench, items: str, key: str, said: str
) -> None:
    define(bench, items.replace("\\", "\\\\"), key=key.replace("\\", "\\\\"), more=HOST)
    parent, found = asyncio.run(one_slot(bench))
    assert found == []
    assert (parent.state, parent.reason, parent.stage) == (State.FAILED, Reason.BAD_ITEMS, Stage.ITEMS)
    assert parent.detail is not None
    assert parent.detail.startswith(said)
    assert parent.context_json is not None
    assert [each["run_id"] for each in bench.ledger.notifications()] == [parent.id]


def test_a_false_rule_skips_the_parent_and_lists_nothing(bench: Bench) -> None:
    define(bench, more=HOST + "rule: {when: ['host.cpus < 0']}")
    parent, items = asyncio.run(one_slot(bench))
    assert items == []
    assert (parent.state, parent.reason) == (State.SKIPPED, Reason.RULE_FALSE)


def test_each_item_has_its_own_retries_and_the_parent_waits_for_them(bench: Bench, tmp_path: Path) -> None:
    command = f"cmd: 'mkdir {tmp_path}/$ACTIVITY_ITEM && [ $ACTIVITY_ITEM = a ]', retry: {{max_attempts: 2, delay: 0s}}"
    define(bench, max_parallel=1, instruction=command)
    parent, items = asyncio.run(one_slot(bench))
    assert [(item.state, item.attempt) for item in items] == [
        (State.SUCCEEDED, 1),
        (State.FAILED, 2),
        (State.FAILED, 2),
    ]
    assert [each.outcome for item in items for each in bench.ledger.attempts(item.id)] == ["failed", "failed"]
    assert (parent.state, parent.detail) == (State.FAILED, "2 of 3 items failed")


def test_the_next_slot_waits_for_the_last_item_and_goes_in_its_transaction(bench: Bench) -> None:
    define(bench, trigger="every: 1m, overlap_policy: queue_all", instruction="cmd: sleep 0.1", max_parallel=2)

    async def main() -> None:
        async with bench.engine() as engine:
            await pass_slot(bench, engine)
            await until(lambda: engine.running == 2)
            await pass_slot(bench, engine)
            first, second = bench.rows()
            assert (first.state, second.state, second.granted_at) == (State.WAITING, State.PENDING, None)
            await bench.settled()

    asyncio.run(main())
    first, second = bench.rows()
    assert [first.state, second.state] == [State.SUCCEEDED] * 2
    assert second.granted_at == first.ended_at


def test_a_slot_that_comes_while_items_run_is_an_overlap(bench: Bench) -> None:
    define(bench, instruction="cmd: sleep 0.3")

    async def main() -> None:
        async with bench.engine() as engine:
            await pass_slot(bench, engine)
            await until(lambda: engine.running == 3)
            await pass_slot(bench, engine)
            await bench.settled()

    asyncio.run(main())
    first, second = bench.rows()
    assert (second.state, second.reason, second.blocked_by) == (State.SKIPPED, Reason.OVERLAP, first.id)


def test_cancelling_the_parent_cancels_every_item(bench: Bench) -> None:
    define(bench, max_parallel=1, instruction="cmd: sleep 30, kill_grace: 1s")

    async def main() -> None:
        async with bench.engine() as engine:
            await pass_slot(bench, engine)
            await until(lambda: engine.running == 1)
            (parent,) = bench.rows()
            assert bench.ledger.ask_cancel(parent.id, bench.clock.now(), "somebody") is State.WAITING
            assert Counter(item_states(bench, parent.id).values()) == {State.RUNNING: 1, State.CANCELLED: 2}
            engine.doorbell()
            await bench.settled()

    asyncio.run(main())
    (parent,) = bench.rows()
    assert (parent.state, parent.reason, parent.detail) == (State.CANCELLED, Reason.ASKED, "3 of 3 items cancelled")
    assert set(item_states(bench, parent.id).values()) == {State.CANCELLED}
    assert bench.ledger.notifications() == []


def test_cancelling_a_parent_of_which_nothing_runs_ends_it_at_once(bench: Bench) -> None:
    command = "cmd: sleep 30, kill_grace: 1s, concurrency: {key: disk}"
    bench.define("t.first", "every: 1m", instruction=command)
    define(bench, trigger="every: 1m, jitter: 0s", instruction=command)

    async def main() -> None:
        async with bench.engine() as engine:
            await pass_slot(bench, engine)
            await until(lambda: engine.running == 1 and bool(bench.rows()) and bench.rows()[0].state is State.WAITING)
            (parent,) = bench.rows()
            held = bench.rows("t.first")[0]
            if held.state is not State.RUNNING:
                pytest.fail("the first definition was to hold the key")
            assert bench.ledger.ask_cancel(parent.id, bench.clock.now(), "somebody") is State.CANCELLED
            engine.doorbell()
            await until(lambda: engine.in_hand == 1)
            bench.ledger.ask_cancel(held.id, bench.clock.now(), "somebody")
            engine.doorbell()
            await bench.settled()

    asyncio.run(main())
    assert bench.rows()[0].state is State.CANCELLED


def test_cancelling_one_item_lets_the_others_go_on(bench: Bench) -> None:
    define(bench, max_parallel=1, instruction="cmd: sleep 0.2")

    async def main() -> None:
        async with bench.engine() as engine:
            await pass_slot(bench, engine)
            await until(lambda: engine.running == 1)
            (parent,) = bench.rows()
            last = bench.ledger.items(parent.id)[-1]
            assert bench.ledger.ask_cancel(last.id, bench.clock.now(), "somebody") is State.CANCELLED
            engine.doorbell()
            await bench.settled()

    asyncio.run(main())
    (parent,) = bench.rows()
    assert list(item_states(bench, parent.id).values()) == [State.SUCCEEDED, State.SUCCEEDED, State.CANCELLED]
    assert (parent.state, parent.detail) == (State.FAILED, "1 of 3 items cancelled")


def test_a_stop_leaves_items_for_the_next_start_which_ends_the_parent_once(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = f"cmd: 'echo $ACTIVITY_ITEM $(grep -o cpus $ACTIVITY_INPUT) >> {log}; sleep 0.2'"
    define(bench, "['a', 'b', 'c', 'd', 'e']", max_parallel=1, instruction=command, more=HOST)

    async def main() -> None:
        async with bench.engine() as engine:
            await pass_slot(bench, engine)
            await until(lambda: engine.running == 1)
        (parent,) = bench.rows()
        states = Counter(item_states(bench, parent.id).values())
        assert parent.state is State.WAITING
        assert states == {State.SUCCEEDED: 1, State.PENDING: 4}
        async with bench.engine():
            await bench.settled()

    asyncio.run(main())
    (parent,) = bench.rows()
    assert parent.state is State.SUCCEEDED
    assert log.read_text().split("\n") == [f"{key} cpus" for key in "abcde"] + [""]


def test_items_of_a_paused_definition_go_on_as_their_parent_is_in_progress(bench: Bench) -> None:
    define(bench, max_parallel=1, instruction="cmd: sleep 0.1")

    async def main() -> None:
        async with bench.engine() as engine:
            await pass_slot(bench, engine)
            await until(lambda: engine.running == 1)
            bench.ledger.pause("t.a", bench.clock.now(), None, "test")
            engine.doorbell()
            await bench.settled()

    asyncio.run(main())
    assert bench.rows()[0].state is State.SUCCEEDED


def test_items_whose_version_cannot_be_had_any_more_are_cancelled_with_their_parent(bench: Bench) -> None:
    define(bench, max_parallel=1, instruction="cmd: sleep 0.2", more=HOST)

    async def main() -> None:
        async with bench.engine() as engine:
            await pass_slot(bench, engine)
            await until(lambda: engine.running == 1)
        (bench.definitions / "t.a.yaml").unlink()
        with bench.ledger.engine.connect().execution_options(writes=True) as connection, connection.begin():
            connection.exec_driver_sql("UPDATE versions SET plain_json = replace(plain_json, 'host.status', 'no.more')")
        bench.clock.pass_time(6 * SECOND_US)
        async with bench.engine():
            await bench.settled()

    asyncio.run(main())
    (parent,) = bench.rows()
    assert (parent.state, parent.reason) == (State.CANCELLED, Reason.ENGINE_DOWN)
    assert Counter(item_states(bench, parent.id).values()) == {State.SUCCEEDED: 1, State.CANCELLED: 2}


def test_a_run_with_items_by_hand_without_schedules_runs_them_whatever_waits_in_the_ledger(bench: Bench) -> None:
    command = "cmd: 'true', concurrency: {key: disk}"
    define(bench, instruction=command)
    bench.define("t.other", "every: 1m, misfire_policy: run_all", instruction=command)

    async def main() -> None:
        from activity_core.engine import Engine

        async with bench.engine():
            pass
        bench.ledger.add_request(manual_row(bench.ledger, "t.other", request_id="left", asked_by="test"))
        engine = Engine(bench.settings, bench.ledger, bench.clock)
        await engine.start(schedules=False)
        run_id = bench.ledger.add_request(manual_row(bench.ledger, "t.a", request_id="r", asked_by="test"))
        engine.serve_request(run_id)
        await until(lambda: (found := bench.ledger.run(run_id)) is not None and found.state not in ACTIVE)
        await engine.stop(grace_us=0)

    asyncio.run(main())
    (parent,) = bench.rows()
    assert parent.state is State.SUCCEEDED
    assert [row.state for row in bench.rows("t.other")] == [State.PENDING]


def test_two_scalars_that_make_one_variable_fail_their_item_by_name(bench: Bench) -> None:
    define(bench, "[{'a-b': 1, 'a_b': 2}]", key="'only'")
    parent, (item,) = asyncio.run(one_slot(bench))
    assert (item.state, item.reason) == (State.FAILED, Reason.NOT_STARTED)
    assert "both become ACTIVITY_ITEM_A_B" in (item.detail or "")
    assert parent.state is State.FAILED


def test_a_secret_is_neither_stored_with_an_item_nor_its_key(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN", "s3cret-value")
    define(
        bench,
        "['s3cret-value', 'plain']",
        key="'of ' + one",
        instruction="cmd: 'echo $ACTIVITY_ITEM', secrets: [HUB_TOKEN]",
    )
    _, items = asyncio.run(one_slot(bench))
    assert not [item for item in items if "s3cret" in f"{item.item_key} {item.item_json}"]
