"""What every ledger must do, whatever database it stands on."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activity_core.definition.model import DefinitionId, VersionHash
from activity_core.ledger import permits, schema
from activity_core.ledger.writer import GroupedWriter
from activity_core.ports import (
    CursorMove,
    EndRow,
    GivenUp,
    NewItem,
    OutputChunk,
    RecordDecisions,
    Requeue,
    RolledOut,
    SaveOutput,
    SlotRow,
    SpawnItems,
    StartRow,
    Write,
    Written,
)
from activity_core.run import ACTIVE, FINAL, TRANSITIONS, Kind, Reason, RunId, State, fence_of
from activity_plumbing.clock import DAY_US, SECOND_US, Instant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from activity_core.ledger.store import Ledger

NOW = Instant(1_800_000_000_000_000)
NAME = DefinitionId("test.activity")


def slot_row(
    slot: int = NOW,
    name: str = NAME,
    *,
    granted: bool = True,
    serial: bool = True,
    key: str | None = None,
    limit: int = 1,
) -> SlotRow:
    return SlotRow(
        definition_id=DefinitionId(name),
        kind=Kind.SCHEDULE,
        slot=Instant(slot),
        version_hash=VersionHash("v1"),
        state=State.PENDING,
        due_at=Instant(slot),
        created_at=NOW,
        is_serial=serial,
        is_granted=granted and key is None,
        permit_key=key,
        permit_limit=None if key is None else limit,
    )


def start_row(run_id: RunId, attempt: int = 1) -> StartRow:
    return StartRow(
        run_id=run_id,
        attempt=attempt,
        fence=fence_of(run_id, attempt),
        engine_id=None,
        at=NOW,
        context_json=None,
        rule_json=None,
    )


def end_row(run_id: RunId, state: State = State.SUCCEEDED, name: str = NAME, *, parent: RunId | None = None) -> EndRow:
    return EndRow(run_id=run_id, definition_id=DefinitionId(name), state=state, at=NOW, parent_run=parent)


def spawn_row(
    run_id: RunId, keys: Sequence[str | None], *, max_parallel: int | None = None, limit: int = 1
) -> SpawnItems:
    """Items called 0, 1, … with these permit keys."""
    return SpawnItems(
        run_id=run_id,
        at=NOW,
        items=[NewItem(key=str(place), item_json="{}", permit_key=key) for place, key in enumerate(keys)],
        max_parallel=max_parallel,
        permit_limit=limit,
        context_json='{"a":1}',
        rule_json=None,
    )


def writing(ledger: Ledger, work: Callable[[GroupedWriter], Awaitable[None]]) -> None:
    """Runs `work` with a writer on the ledger, and closes it."""

    async def main() -> None:
        writer = GroupedWriter(ledger)
        try:
            await work(writer)
        finally:
            assert writer.close()

    asyncio.run(main())


async def record(writer: GroupedWriter, *rows: SlotRow) -> tuple[list[RunId], Sequence[RunId]]:
    written = await writer.write(RecordDecisions(at=NOW, rows=rows))
    return list(written.recorded.values()), written.granted


def test_a_slot_is_recorded_once_however_often_it_is_decided(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        first, granted = await record(writer, slot_row())
        assert len(first) == 1
        assert list(granted) == first
        again, granted_again = await record(writer, slot_row())
        assert again == []
        assert list(granted_again) == []

    writing(ledger, work)
    assert len(ledger.history()) == 1


def test_two_writers_racing_for_one_slot_leave_one_row(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        other = GroupedWriter(ledger)
        rows = [slot_row(NOW + n) for n in range(200)]
        both = await asyncio.gather(*(record(w, row) for row in rows for w in (writer, other)))
        assert sum(len(recorded) for recorded, _ in both) == 200
        assert other.close()

    writing(ledger, work)
    assert len(ledger.history(limit=1000)) == 200


def test_numbers_rise_and_are_never_used_again(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (first,), _ = await record(writer, replace(slot_row(), state=State.PENDING))
        await writer.write(
            RecordDecisions(at=NOW, given_up=[GivenUp(run_id=first, state=State.MISSED, reason=Reason.LATE, at=NOW)])
        )
        ledger.step_back(NOW, [first], [])
        (second,), _ = await record(writer, slot_row())
        assert second > first

    writing(ledger, work)


def test_cursors_move_with_the_rows_of_the_same_decision(ledger: Ledger) -> None:
    ledger.record_catalog(new_versions=[], holders=[], events=[], new_cursors=[(NAME, "t", NOW)])

    async def work(writer: GroupedWriter) -> None:
        move = CursorMove(definition_id=NAME, trigger_hash="t", slot=Instant(NOW + 5))
        await writer.write(RecordDecisions(at=NOW, rows=[slot_row(NOW + 5)], cursors=[move]))

    writing(ledger, work)
    assert ledger.cursors() == {(NAME, "t"): NOW + 5}


def test_a_run_starts_once(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (run_id,), _ = await record(writer, slot_row())
        results = await asyncio.gather(*(writer.write(start_row(run_id)) for _ in range(5)))
        assert sorted(result.done for result in results) == [False, False, False, False, True]

    writing(ledger, work)


def test_one_refused_write_does_not_harm_the_others_of_its_group(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        runs, _ = await record(writer, *(slot_row(NOW + n, f"d.{n}") for n in range(50)))
        await writer.write(start_row(runs[25]))
        results = await asyncio.gather(*(writer.write(start_row(run_id)) for run_id in runs))
        assert [index for index, result in enumerate(results) if not result.done] == [25]

    writing(ledger, work)
    assert len(ledger.history(states=[State.RUNNING], limit=100)) == 50


def _force(ledger: Ledger, run_id: RunId, state: State) -> None:
    with ledger.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.exec_driver_sql("UPDATE runs SET state = ? WHERE id = ?", (state.value, run_id))


@pytest.mark.parametrize("source", list(State))
@pytest.mark.parametrize("target", [*sorted(FINAL), State.RETRY_WAIT])
def test_only_the_transitions_of_the_table_are_possible(ledger: Ledger, source: State, target: State) -> None:
    async def work(writer: GroupedWriter) -> None:
        (run_id,), _ = await record(writer, slot_row())
        await writer.write(start_row(run_id))
        _force(ledger, run_id, source)
        written = await writer.write(end_row(run_id, target))
        assert written.done == (target in TRANSITIONS[source])
        found = ledger.run(run_id)
        assert found is not None
        assert found.state is (target if written.done else source)

    writing(ledger, work)


def test_what_waits_for_its_definition_goes_when_the_run_before_it_ends(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (first,), _ = await record(writer, slot_row(NOW))
        (second, third), granted = await record(
            writer, slot_row(NOW + 1, granted=False), slot_row(NOW + 2, granted=False)
        )
        assert list(granted) == []
        await writer.write(start_row(first))
        assert list((await writer.write(end_row(first))).granted) == [second]
        await writer.write(start_row(second))
        assert list((await writer.write(end_row(second))).granted) == [third]

    writing(ledger, work)


def test_what_is_queued_behind_a_run_that_has_just_ended_goes_at_once(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (first,), _ = await record(writer, slot_row(NOW))
        await writer.write(start_row(first))
        ended = writer.write(replace(end_row(first), frees=False))
        queued = writer.write(RecordDecisions(at=NOW, rows=[slot_row(NOW + 1, granted=False)]))
        await ended
        assert len((await queued).granted) == 1

    writing(ledger, work)


def test_a_key_has_as_many_permits_as_its_limit_and_hands_them_on_by_slot(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        rows = [slot_row(NOW + n, f"d.{n}", key="disk", limit=2) for n in (3, 1, 2, 0)]
        runs, granted = await record(writer, *rows)
        by_slot = {run_id: ledger.run(run_id) for run_id in runs}
        order = sorted(runs, key=lambda run_id: by_slot[run_id].slot)  # type: ignore[union-attr]
        assert list(granted) == order[:2]
        for index, run_id in enumerate(order[:2]):
            await writer.write(start_row(run_id))
            written = await writer.write(end_row(run_id, name=by_slot[run_id].definition_id))  # type: ignore[union-attr]
            assert list(written.granted) == [order[2 + index]]

    writing(ledger, work)


def test_a_long_queue_of_one_definition_does_not_starve_others_of_its_key(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (first,), _ = await record(writer, slot_row(NOW, "d.a", key="k", limit=2))
        await record(writer, *(slot_row(NOW + 1 + n, "d.a", granted=False, key="k", limit=2) for n in range(700)))
        (other,), granted = await record(writer, slot_row(NOW + 5000, "d.b", key="k", limit=2))
        assert list(granted) == [other]
        assert first != other

    writing(ledger, work)


def test_a_retry_keeps_its_place_before_its_definition_and_gives_its_permit_back(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (first,), _ = await record(writer, slot_row(NOW, "d.a", key="k"))
        (queued,), _ = await record(writer, slot_row(NOW + 1, "d.a", granted=False, key="k"))
        (other,), _ = await record(writer, slot_row(NOW + 2, "d.b", key="k"))
        await writer.write(start_row(first))
        waits = replace(end_row(first, State.RETRY_WAIT, "d.a"), reason=Reason.EXIT_STATUS, due_at=NOW)
        assert list((await writer.write(waits)).granted) == [other]
        again = await writer.write(Requeue(run_id=first, at=NOW))
        assert again.done
        assert list(again.granted) == []
        await writer.write(start_row(other))
        assert list((await writer.write(end_row(other, name="d.b"))).granted) == [first]
        assert (await writer.write(start_row(first, 2))).done
        assert list((await writer.write(end_row(first, name="d.a"))).granted) == [queued]

    writing(ledger, work)
    (attempt,) = ledger.attempts(1)
    assert (attempt.attempt, attempt.outcome, attempt.reason) == (1, "failed", "exit_status")


def test_fences_rise_with_each_attempt_and_each_later_run() -> None:
    fences = [fence_of(RunId(run), attempt) for run in (1, 2, 3) for attempt in (1, 2, 3)]
    assert fences == sorted(set(fences))


def test_an_interrupted_run_that_is_to_run_again_is_pending_and_counts_its_interruption(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (run_id,), _ = await record(writer, slot_row())
        await writer.write(start_row(run_id))
        again = replace(end_row(run_id, State.PENDING), reason=Reason.ENGINE_KILLED)
        assert (await writer.write(again)).done
        found = ledger.run(run_id)
        assert found is not None
        assert (found.state, found.interruptions, found.granted_at) == (State.PENDING, 1, found.granted_at)
        assert [each.outcome for each in ledger.attempts(run_id)] == ["interrupted"]

    writing(ledger, work)


def test_the_end_of_a_run_its_output_its_notification_and_its_pause_are_one(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (run_id,), _ = await record(writer, slot_row())
        await writer.write(start_row(run_id))
        chunk = OutputChunk(run_id=run_id, attempt=1, seq=0, stream=2, offset=0, data=b"\xff\x00broken")
        end = replace(
            end_row(run_id, State.FAILED), output=[chunk], notify="it failed", pause="it failed", exit_status=3
        )
        assert (await writer.write(end)).done
        assert ledger.read_output(run_id) == [(1, 0, 2, 0, b"\xff\x00broken")]
        assert [each["summary"] for each in ledger.notifications()] == ["it failed"]
        assert [each.until for each in ledger.pauses(NAME)] == [None]

    writing(ledger, work)


def test_output_that_rolled_out_of_the_tail_is_gone_and_the_head_stays(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        chunks = [OutputChunk(run_id=RunId(5), attempt=1, seq=n, stream=1, offset=n, data=b"x") for n in range(6)]
        await writer.write(SaveOutput(chunks=chunks))
        gone = RolledOut(run_id=RunId(5), attempt=1, stream=1, first_seq=2, last_seq=3)
        await writer.write(SaveOutput(chunks=chunks[:1], rolled_out=[gone]))
        assert [seq for _, seq, _, _, _ in ledger.read_output(5)] == [0, 1, 4, 5]
        assert [seq for _, seq, _, _, _ in ledger.read_output(5, after=(1, 1))] == [4, 5]

    writing(ledger, work)


def test_a_waiting_run_is_cancelled_at_once_and_a_running_one_is_asked_to_end(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (first, second), _ = await record(writer, slot_row(), slot_row(NOW + 1, granted=False))
        await writer.write(start_row(first))
        assert ledger.ask_cancel(second, NOW, "somebody") is State.CANCELLED
        assert ledger.ask_cancel(first, NOW, "somebody") is State.RUNNING
        found = ledger.run(first)
        assert found is not None
        assert found.cancel_asked_by == "somebody"
        assert ledger.ask_cancel(999, NOW, "somebody") is None
        assert not (await writer.write(start_row(second))).done

    writing(ledger, work)


def test_a_pause_lasts_until_it_is_ended_and_there_is_one_at_a_time(ledger: Ledger) -> None:
    assert ledger.pause(NAME, NOW, "why", "me")
    assert not ledger.pause(NAME, NOW, "again", "me")
    assert ledger.resume(NAME, Instant(NOW + 5))
    assert not ledger.resume(NAME, Instant(NOW + 6))
    assert [(each.since, each.until) for each in ledger.pauses(NAME)] == [(NOW, NOW + 5)]
    assert ledger.pauses(after=Instant(NOW + 10)) == []


def test_a_step_back_takes_back_what_was_missed_and_has_not_come_yet(ledger: Ledger) -> None:
    def missed(slot: int, last: int, count: int, state: State = State.MISSED) -> SlotRow:
        return replace(slot_row(slot), state=state, reason=Reason.CLOCK_STEP, last_slot=Instant(last), slot_count=count)

    async def work(writer: GroupedWriter) -> None:
        await record(
            writer,
            missed(NOW - 50, NOW - 50, 1),
            missed(NOW - 40, NOW + 40, 9),
            missed(NOW + 50, NOW + 50, 1),
            missed(NOW + 60, NOW + 60, 1, State.SKIPPED),
        )

    writing(ledger, work)
    reach = ledger.given_up_after(NOW)
    assert [(row.slot - NOW, row.slot_count) for row in reach] == [(-40, 9), (50, 1)]
    ledger.step_back(NOW, [reach[1].id], [(reach[0].id, NOW, 5)])
    assert [(row.slot - NOW, row.last_slot - NOW, row.slot_count) for row in ledger.history()] == [
        (60, 60, 1),
        (-40, 0, 5),
        (-50, -50, 1),
    ]


def test_pruning_keeps_the_identity_so_no_slot_runs_again(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        runs, _ = await record(writer, *(slot_row(NOW + n, serial=False) for n in range(10)))
        for run_id in runs:
            await writer.write(start_row(run_id))
            chunk = OutputChunk(run_id=run_id, attempt=1, seq=0, stream=1, offset=0, data=b"hello")
            await writer.write(replace(end_row(run_id), output=[chunk], detail="said hello"))
        old = ledger.prunable(ended_before=None, keep_per_definition=3)
        assert old == runs[:7]
        ledger.prune(old, NOW)
        assert [run.id for run in ledger.history()] == list(reversed(runs[7:]))
        assert ledger.read_output(runs[0]) == []
        assert ledger.read_output(runs[9]) != []
        again, _ = await record(writer, slot_row(NOW))
        assert again == []
        assert ledger.prunable(ended_before=Instant(NOW + DAY_US), keep_per_definition=None) == runs[7:]

    writing(ledger, work)


def test_runs_in_progress_are_never_pruned(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        await record(writer, slot_row())
        assert ledger.prunable(ended_before=Instant(NOW + DAY_US), keep_per_definition=0) == []

    writing(ledger, work)


def test_the_row_covering_a_time_is_that_of_the_newest_slot_not_after_it(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        await record(writer, *(slot_row(NOW + n * SECOND_US) for n in range(3)))

    writing(ledger, work)
    found = ledger.run_covering(NAME, Instant(NOW + SECOND_US + 5))
    assert found is not None
    assert found.slot == NOW + SECOND_US
    assert ledger.run_covering(NAME, Instant(NOW - 1)) is None


def test_the_ledger_names_itself_once(ledger: Ledger) -> None:
    assert ledger.identity() == ledger.identity() != ""


def test_a_run_becomes_the_waiting_parent_of_its_items_once(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (parent,), _ = await record(writer, replace(slot_row(), request_id="r"))
        spawned = await writer.write(spawn_row(parent, [None, None, None], max_parallel=2))
        assert [identity[3] for identity in spawned.recorded] == ["0", "1", "2"]
        assert list(spawned.granted) == list(spawned.recorded.values())[:2]
        assert not (await writer.write(spawn_row(parent, [None]))).done
        assert not (await writer.write(start_row(parent))).done

    writing(ledger, work)
    (parent,) = ledger.history()
    assert (parent.state, parent.context_json, parent.started_at) == (State.WAITING, '{"a":1}', NOW)
    items = ledger.items(parent.id)
    assert [(item.slot, item.kind, item.request_id, item.item_json) for item in items] == [
        (parent.slot, parent.kind, "r", "{}")
    ] * 3
    assert len(ledger.history(items=True)) == 4


def test_the_end_of_the_last_item_ends_the_parent_and_lets_the_next_run_go(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (parent,), _ = await record(writer, slot_row())
        (queued,), _ = await record(writer, slot_row(NOW + 1, granted=False))
        first, second = (await writer.write(spawn_row(parent, [None, None]))).granted
        for run_id in (first, second):
            await writer.write(start_row(run_id))
        one = await writer.write(end_row(first, State.FAILED, parent=parent))
        assert (list(one.granted), list(one.ended)) == ([], [])
        other = await writer.write(replace(end_row(second, parent=parent), at=Instant(NOW + 7)))
        assert list(other.granted) == [queued]
        (end,) = other.ended
        assert (end.run_id, end.state, end.detail, end.duration_us) == (parent, State.FAILED, "1 of 2 items failed", 7)
        assert (await writer.write(end_row(second, parent=parent))).ended == ()

    writing(ledger, work)
    assert [each["run_id"] for each in ledger.notifications()] == [1]


def test_two_last_items_that_end_at_once_end_their_parent_once(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (parent,), _ = await record(writer, slot_row())
        items = (await writer.write(spawn_row(parent, [None] * 20))).granted
        await asyncio.gather(*(writer.write(start_row(run_id)) for run_id in items))
        ends = await asyncio.gather(*(writer.write(end_row(run_id, parent=parent)) for run_id in items))
        assert [end.run_id for written in ends for end in written.ended] == [parent]

    writing(ledger, work)


def test_a_parent_of_no_items_ends_with_the_write_that_makes_it_one(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (parent,), _ = await record(writer, slot_row())
        (queued,), _ = await record(writer, slot_row(NOW + 1, granted=False))
        written = await writer.write(spawn_row(parent, []))
        assert [end.state for end in written.ended] == [State.SUCCEEDED]
        assert list(written.granted) == [queued]

    writing(ledger, work)


def test_cancelling_a_parent_cancels_what_waits_and_asks_what_runs_to_end(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        (parent,), _ = await record(writer, slot_row())
        (first,) = (await writer.write(spawn_row(parent, [None] * 3, max_parallel=1))).granted
        await writer.write(start_row(first))
        assert ledger.ask_cancel(parent, NOW, "somebody") is State.WAITING
        running, *others = ledger.items(parent)
        assert (running.state, running.cancel_asked_by) == (State.RUNNING, "somebody")
        assert {item.state for item in others} == {State.CANCELLED}
        (end,) = (await writer.write(end_row(first, State.CANCELLED, parent=parent))).ended
        assert (end.state, end.reason) == (State.CANCELLED, Reason.ASKED)

    writing(ledger, work)
    assert ledger.notifications() == []


def test_items_are_pruned_with_their_parent_and_count_as_nothing_of_their_own(ledger: Ledger) -> None:
    async def work(writer: GroupedWriter) -> None:
        for slot in range(3):
            (parent,), _ = await record(writer, slot_row(NOW + slot, serial=False))
            for run_id in (await writer.write(spawn_row(parent, [None] * 5))).granted:
                await writer.write(start_row(run_id))
                await writer.write(end_row(run_id, parent=parent))
        assert ledger.prunable(ended_before=None, keep_per_definition=2) == list(range(1, 7))
        (unfinished,), _ = await record(writer, slot_row(NOW + 9, serial=False))
        (first, *_) = (await writer.write(spawn_row(unfinished, [None] * 2))).granted
        await writer.write(start_row(first))
        await writer.write(end_row(first, parent=unfinished))
        assert first not in ledger.prunable(ended_before=Instant(NOW + DAY_US), keep_per_definition=None)

    writing(ledger, work)


operations = st.lists(
    st.tuples(st.sampled_from(["record", "start", "end", "fail", "retry", "requeue"]), st.integers(0, 5)),
    max_size=40,
)

_examples = itertools.count()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=operations, limit=st.integers(1, 3))
def test_permits_are_never_exceeded_whatever_happens_in_whatever_order(
    ledger: Ledger, steps: list[tuple[str, int]], limit: int
) -> None:
    seed = next(_examples)  # all examples share the ledger, so each has names of its own
    key = f"key-{seed}-{limit}"

    async def work(writer: GroupedWriter) -> None:
        runs: list[RunId] = []
        for number, (step, which) in enumerate(steps):
            name = f"p{seed}.{which % 3}"
            run_id = runs[which % len(runs)] if runs else None
            write: Write | None = None
            if step == "record":
                row = slot_row(NOW + number, name, granted=False, key=key, limit=limit)
                recorded, _ = await record(writer, row)
                runs += recorded
            elif run_id is not None:
                found = ledger.run(run_id)
                assert found is not None
                name = found.definition_id
                if step == "start" and found.granted_at is not None:
                    write = start_row(run_id, found.attempt + 1)
                elif step in ("end", "fail"):
                    write = end_row(run_id, State.SUCCEEDED if step == "end" else State.FAILED, name)
                    if found.state is not State.RUNNING:
                        write = None
                elif step == "retry" and found.state is State.RUNNING:
                    write = replace(end_row(run_id, State.RETRY_WAIT, name), due_at=NOW)
                elif step == "requeue":
                    write = Requeue(run_id=run_id, at=NOW)
            if write is not None:
                written: Written = await writer.write(write)
                assert isinstance(written.done, bool)
            rows = [row for row in ledger.active_runs() if row.permit_key == key]
            held = [
                row
                for row in rows
                if row.state is State.RUNNING or (row.state is State.PENDING and row.granted_at is not None)
            ]
            assert len(held) <= limit
            for definition in {row.definition_id for row in rows}:
                serial = [row for row in held if row.definition_id == definition]
                assert len(serial) <= 1
            ready = [row for row in rows if row.state is State.PENDING and row.granted_at is None]
            busy = {row.definition_id for row in rows if row not in ready}
            if len(held) < limit and step in ("record", "end", "fail", "retry", "requeue"):
                retrying = {row.definition_id for row in ready if row.attempt > 0}
                assert not [row for row in ready if row.definition_id not in busy and row.definition_id not in retrying]

    writing(ledger, work)


def test_the_ledger_and_the_transition_table_agree_on_what_is_in_progress() -> None:
    assert set(schema.ACTIVE_STATES) == {state.value for state in ACTIVE}


def test_what_is_in_progress_is_found_by_an_index_however_long_the_history(ledger: Ledger) -> None:
    if ledger.engine.dialect.name != "sqlite":
        pytest.skip("asks for SQLite's query plan")
    sorts = {"_KEYS": 1}  # by their first item
    asked = {
        name: query
        for name, query in vars(permits).items()
        if name.isupper() and isinstance(query, sa.ClauseElement) and name != "_GRANT"
    }
    assert len(asked) > 8
    with ledger.engine.connect() as connection:
        for name, query in asked.items():
            compiled = query.compile(dialect=connection.dialect)
            text = str(compiled)
            for place in [part.split("]")[0] for part in text.split("__[POSTCOMPILE_")[1:]]:
                text = text.replace(f"__[POSTCOMPILE_{place}]", "1")
            values = (1,) * text.count("?")  # a plan is the same whatever they are
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)]
            assert not [step for step in plan if step.startswith(("SCAN runs", "SCAN rival", "SCAN each"))], plan
            assert len([step for step in plan if "TEMP B-TREE" in step]) == sorts.get(name, 0), plan
            assert any("runs_" in step for step in plan)


def pending(
    slot: int,
    name: str = NAME,
    *,
    key: str | None = None,
    limit: int = 1,
    parent: int | None = None,
    most: int | None = None,
) -> dict[str, object]:
    """The row of a run that waits, an item if it has a parent."""
    return {
        "definition_id": name,
        "kind": "schedule",
        "slot": slot,
        "item_key": "" if parent is None else f"{parent}-{slot}",
        "last_slot": slot,
        "slot_count": 1,
        "version_hash": "v1",
        "state": "pending",
        "created_at": NOW,
        "due_at": slot,
        "is_serial": parent is None,
        "permit_key": key,
        "permit_limit": None if key is None else limit,
        "parent_run": parent,
        "max_parallel": most,
    }


def end_at_once(connection: sa.Connection, run_ids: Sequence[int]) -> None:
    connection.execute(sa.update(schema.runs).where(schema.runs.c.id.in_(run_ids)).values(state="succeeded"))


@pytest.mark.parametrize(("key", "statements"), [(None, 3), ("k", 5)])
def test_what_an_end_costs_does_not_grow_with_the_queue_behind_it(
    ledger: Ledger, key: str | None, statements: int
) -> None:
    if ledger.engine.dialect.name != "sqlite":
        pytest.skip("counts SQLite's steps")
    counted: Counter[str] = Counter()

    def count_statement(*_: object) -> None:
        counted["statements"] += 1

    def count_step() -> int:
        counted["steps"] += 1
        return 0

    def drain(name: str, length: int) -> set[tuple[int, int]]:
        """The statements and the steps, in hundreds, of each grant until nothing waits."""
        own_key = key and f"{key}.{name}"
        rows = [pending(NOW + number, name, key=own_key) for number in range(length)]
        order = sorted(connection.execute(sa.insert(schema.runs).returning(schema.runs.c.id), rows).scalars())
        costs = []
        for run_id in order:
            counted.clear()
            assert permits.grant(connection, [name], [own_key] if own_key else [], NOW) == [run_id]
            costs.append((counted["statements"], counted["steps"]))
            end_at_once(connection, [run_id])
        assert permits.grant(connection, [name], [own_key] if own_key else [], NOW) == []
        return set(costs)

    with ledger.engine.connect().execution_options(writes=True) as connection, connection.begin():
        sa.event.listen(connection, "before_cursor_execute", count_statement)
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(count_step, 100)
        try:
            short, long = drain("d.short", 100), drain("d.long", 5000)
        finally:
            driver.set_progress_handler(None, 0)
    assert {number for number, _ in short | long} == {statements}
    assert max(steps for _, steps in long) <= max(steps for _, steps in short) + 2


def test_nothing_that_waits_costs_one_statement_however_many_definitions_end(ledger: Ledger) -> None:
    counted: list[object] = []
    with ledger.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.execute(sa.insert(schema.runs), [pending(NOW, "d.15")])
        sa.event.listen(connection, "before_cursor_execute", lambda *_: counted.append(None))
        assert permits.grant(connection, [NAME], [], NOW) == []
        assert len(counted) == 1
        assert permits.grant(connection, [f"e.{number}" for number in range(16)], [], NOW) == []
        assert len(counted) == 2
        assert len(permits.grant(connection, [f"d.{number}" for number in range(20)], [], NOW)) == 1


def test_each_of_two_parents_with_many_keys_gets_its_items(ledger: Ledger) -> None:
    with ledger.engine.connect().execution_options(writes=True) as connection, connection.begin():
        for parent in (1001, 1002):
            rows = [pending(NOW + n, key=f"{parent}.{n}", parent=parent, most=3) for n in range(150)]
            connection.execute(sa.insert(schema.runs), rows)
        granted = permits.grant(connection, [], [], NOW, [1001, 1002])  # type: ignore[list-item]
        found = connection.execute(
            sa.select(schema.runs.c.parent_run, schema.runs.c.slot).where(schema.runs.c.id.in_(granted))
        )
        assert sorted(tuple(row) for row in found) == [(parent, NOW + n) for parent in (1001, 1002) for n in range(3)]


def test_each_run_keeps_to_its_own_limit_of_a_key(ledger: Ledger) -> None:
    with ledger.engine.connect().execution_options(writes=True) as connection, connection.begin():
        limits = [2, 1, 3, 1, 4, 2]
        rows = [pending(NOW + n, f"d.{n}", key="k", limit=limit) for n, limit in enumerate(limits)]
        ids = sorted(connection.execute(sa.insert(schema.runs).returning(schema.runs.c.id), rows).scalars())
        assert permits.grant(connection, [], ["k"], NOW) == [ids[0], ids[2], ids[4]]
        end_at_once(connection, [ids[0], ids[2]])
        assert permits.grant(connection, [], ["k"], NOW) == [ids[5]]
        end_at_once(connection, [ids[4]])
        assert permits.grant(connection, [], ["k"], NOW) == []
        end_at_once(connection, [ids[5]])
        assert permits.grant(connection, [], ["k"], NOW) == [ids[1]]


def test_a_further_attempt_goes_before_the_older_slots_of_its_definition(ledger: Ledger) -> None:
    with ledger.engine.connect().execution_options(writes=True) as connection, connection.begin():
        rows = [pending(NOW + n, "d.a", key="k", limit=2) for n in range(120)]
        rows += [pending(NOW + 60, "d.b", key="k", limit=2), pending(NOW + 200, "d.c", key="k", limit=2)]
        ids = sorted(connection.execute(sa.insert(schema.runs).returning(schema.runs.c.id), rows).scalars())
        connection.execute(sa.update(schema.runs).where(schema.runs.c.id == ids[110]).values(attempt=1))
        assert permits.grant(connection, [], ["k"], NOW) == [ids[120], ids[110]]


def test_a_full_parent_does_not_keep_a_key_from_others(ledger: Ledger) -> None:
    with ledger.engine.connect().execution_options(writes=True) as connection, connection.begin():
        rows = [pending(NOW + n, "d.a", key="k", limit=3, parent=1001, most=1) for n in range(120)]
        rows += [pending(NOW + 500, "d.b", key="k", limit=3)]
        ids = sorted(connection.execute(sa.insert(schema.runs).returning(schema.runs.c.id), rows).scalars())
        assert permits.grant(connection, [], ["k"], NOW) == [ids[0], ids[120]]


item_steps = st.lists(
    st.tuples(
        st.sampled_from(["spawn", "start", "start", "end", "end", "fail", "retry", "requeue", "cancel"]),
        st.integers(0, 30),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=item_steps, limit=st.integers(1, 2), most=st.sampled_from([None, 1, 2, 3]))
def test_items_keep_their_bounds_and_end_their_parents_whatever_happens_in_whatever_order(
    ledger: Ledger, steps: list[tuple[str, int]], limit: int, most: int | None
) -> None:
    example = next(_examples)
    parents: list[RunId] = []

    async def take(writer: GroupedWriter, step: str, which: int, number: int) -> None:
        name = f"i{example}.{which % 2}"
        if step == "spawn":
            (parent,), _ = await record(writer, slot_row(NOW + number, name, serial=False))
            keys = [None if (place + which) % 3 == 0 else f"i{example}-{place % 2}" for place in range(which % 5)]
            parents.append(parent)
            await writer.write(spawn_row(parent, keys, max_parallel=most, limit=limit))
            return
        items = [item for parent in parents for item in ledger.items(parent)]
        if not items:
            return
        item = items[which % len(items)]
        end = end_row(item.id, name=item.definition_id, parent=item.parent_run)
        if step == "start" and item.granted_at is not None:
            await writer.write(start_row(item.id, item.attempt + 1))
        elif step in ("end", "fail") and item.state is State.RUNNING:
            await writer.write(replace(end, state=State.SUCCEEDED if step == "end" else State.FAILED))
        elif step == "retry" and item.state is State.RUNNING:
            await writer.write(replace(end, state=State.RETRY_WAIT, due_at=NOW))
        elif step == "requeue":
            await writer.write(Requeue(run_id=item.id, at=NOW))
        elif step == "cancel":
            assert item.parent_run is not None
            ledger.ask_cancel(item.parent_run if which % 4 == 0 else item.id, NOW, "somebody")
            waiting = [each.id for each in items if each.state is State.PENDING]
            await writer.write(RecordDecisions(at=NOW, regrant=waiting))

    async def work(writer: GroupedWriter) -> None:
        for number, (step, which) in enumerate(steps):
            await take(writer, step, which, number)
            items = {parent: ledger.items(parent) for parent in parents}
            held = [
                item
                for each in items.values()
                for item in each
                if item.state is State.RUNNING or (item.state is State.PENDING and item.granted_at is not None)
            ]
            of_parent = Counter(item.parent_run for item in held)
            of_key = Counter(item.permit_key for item in held)
            for parent, mine in items.items():
                found = ledger.run(parent)
                assert found is not None
                is_open = any(item.state not in FINAL for item in mine)
                assert found.state is State.WAITING if is_open else found.state in FINAL
                assert most is None or of_parent[parent] <= most
                for item in mine:
                    assert item.permit_key is None or of_key[item.permit_key] <= limit
                    if item.state is State.PENDING and item.granted_at is None:
                        is_full = most is not None and of_parent[parent] >= most
                        assert is_full or (item.permit_key is not None and of_key[item.permit_key] >= limit)

    writing(ledger, work)
