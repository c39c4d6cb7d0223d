"""The decision core: every slot is covered once, and the policies mean what the design says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_core.decide import (
    RANGE_OVER,
    STARTS_AT_ONCE,
    Decision,
    Gap,
    GiveUp,
    Pause,
    Situation,
    Standing,
    StartRun,
    decide,
    decide_request,
)
from activity_core.definition.model import (
    CronSchedule,
    DefinitionId,
    IntervalSchedule,
    MisfirePolicy,
    OverlapPolicy,
    Policy,
)
from activity_core.run import ActiveRun, Reason, RunId, State
from activity_core.trigger import Trigger, trigger_of
from activity_plumbing.clock import DAY_US, HOUR_US, MINUTE_US, SECOND_US, Instant, parse_instant

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = DefinitionId("test.activity")
NOON = parse_instant("2026-11-23T12:00Z")


def every(period_us: int) -> Trigger:
    trigger = trigger_of(IntervalSchedule(every_us=period_us, anchor=Instant(0)))
    assert trigger is not None
    return trigger


def policy(
    misfire: MisfirePolicy = MisfirePolicy.SKIP,
    overlap: OverlapPolicy | None = None,
    *,
    grace_us: int = MINUTE_US,
    window_us: int = DAY_US,
    jitter_us: int = 0,
) -> Policy:
    by_default = {
        MisfirePolicy.SKIP: OverlapPolicy.SKIP,
        MisfirePolicy.RUN_ONCE: OverlapPolicy.QUEUE_ONE,
        MisfirePolicy.RUN_ALL: OverlapPolicy.QUEUE_ALL,
    }
    return Policy(
        misfire=misfire,
        overlap=overlap or by_default[misfire],
        grace_us=grace_us,
        window_us=window_us,
        jitter_us=jitter_us,
    )


def situation(
    trigger: Trigger,
    rules: Policy,
    *,
    cursor: int,
    now: int,
    active: Sequence[ActiveRun] = (),
    standing: Sequence[Standing] = (),
    pauses: Sequence[Pause] = (),
    gaps: Sequence[Gap] = (),
) -> Situation:
    return Situation(
        definition_id=NAME,
        trigger=trigger,
        policy=rules,
        now=Instant(now),
        cursor=Instant(cursor),
        active=active,
        standing=standing,
        pauses=pauses,
        gaps=gaps,
    )


def down(since: int, until: int, reason: Reason = Reason.ENGINE_DOWN) -> Gap:
    return Gap(since=Instant(since), until=Instant(until), reason=reason)


def started(decision: Decision) -> list[int]:
    return [action.slot for action in decision.actions if isinstance(action, StartRun)]


def given_up(decision: Decision) -> list[GiveUp]:
    return [action for action in decision.actions if isinstance(action, GiveUp)]


def test_a_slot_that_is_due_starts() -> None:
    decision = decide(situation(every(HOUR_US), policy(), cursor=NOON - HOUR_US, now=NOON + 1000))
    assert started(decision) == [NOON]
    assert decision.cursor == NOON
    assert decision.next_due_at == NOON + HOUR_US


def test_nothing_is_decided_before_its_time() -> None:
    decision = decide(situation(every(HOUR_US), policy(), cursor=NOON, now=NOON + HOUR_US - 1))
    assert decision.actions == ()
    assert decision.next_due_at == NOON + HOUR_US


def test_a_slot_within_its_grace_counts_as_on_time() -> None:
    decision = decide(situation(every(HOUR_US), policy(), cursor=NOON - 1, now=NOON + MINUTE_US))
    assert started(decision) == [NOON]


def test_a_slot_past_its_grace_is_missed_under_skip() -> None:
    decision = decide(situation(every(HOUR_US), policy(), cursor=NOON - 1, now=NOON + MINUTE_US + 1))
    assert started(decision) == []
    assert [(each.state, each.reason) for each in given_up(decision)] == [(State.MISSED, Reason.LATE)]


def test_a_missed_slot_names_the_gap_that_swallowed_it() -> None:
    for reason in (Reason.ENGINE_DOWN, Reason.SUSPENDED, Reason.CLOCK_STEP):
        gaps = [down(NOON - 10, NOON + 2 * MINUTE_US, reason)]
        decision = decide(situation(every(HOUR_US), policy(), cursor=NOON - 1, now=NOON + 2 * MINUTE_US, gaps=gaps))
        assert [each.reason for each in given_up(decision)] == [reason]


def test_thirty_days_down_become_one_range_row_under_skip() -> None:
    trigger = trigger_of(CronSchedule(expression="* * * * *", timezone="Europe/Berlin"))
    assert trigger is not None
    now = NOON + 30 * DAY_US + 5 * SECOND_US
    gap = down(NOON, now)
    decision = decide(situation(trigger, policy(), cursor=NOON, now=now, gaps=[gap]))
    (range_row,) = given_up(decision)
    assert range_row.count == 30 * 24 * 60 - 1
    assert (range_row.first, range_row.last) == (NOON + MINUTE_US, now - 5 * SECOND_US - MINUTE_US)
    assert started(decision) == [now - 5 * SECOND_US]


def test_a_hundred_given_up_slots_have_a_row_each_and_one_more_makes_them_a_range() -> None:
    for count in (RANGE_OVER, RANGE_OVER + 1):
        now = NOON + (count + 2) * HOUR_US + HOUR_US // 2
        decision = decide(situation(every(HOUR_US), policy(), cursor=NOON + 2 * HOUR_US, now=now))
        rows = given_up(decision)
        assert sum(row.count for row in rows) == count
        assert len(rows) == (count if count <= RANGE_OVER else 1)


def test_run_once_runs_the_newest_missed_slot_and_the_older_are_superseded() -> None:
    now = NOON + 5 * HOUR_US + HOUR_US // 2
    decision = decide(situation(every(HOUR_US), policy(MisfirePolicy.RUN_ONCE), cursor=NOON, now=now))
    assert started(decision) == [NOON + 5 * HOUR_US]
    assert {each.reason for each in given_up(decision)} == {Reason.SUPERSEDED}
    assert sum(each.count for each in given_up(decision)) == 4


def test_run_once_leaves_missed_slots_alone_where_one_is_on_time_anyway() -> None:
    now = NOON + 5 * HOUR_US + SECOND_US
    decision = decide(situation(every(HOUR_US), policy(MisfirePolicy.RUN_ONCE), cursor=NOON, now=now))
    assert started(decision) == [NOON + 5 * HOUR_US]
    assert {each.reason for each in given_up(decision)} == {Reason.SUPERSEDED}


def test_run_once_does_not_reach_back_past_the_catchup_window() -> None:
    now = NOON + 3 * DAY_US + 18 * HOUR_US
    rules = policy(MisfirePolicy.RUN_ONCE, window_us=HOUR_US)
    decision = decide(situation(every(DAY_US), rules, cursor=NOON, now=now))
    assert started(decision) == []
    assert {each.reason for each in given_up(decision)} == {Reason.CATCHUP_WINDOW}


def test_run_all_runs_every_missed_slot_of_the_window_and_records_the_older() -> None:
    now = NOON + 40 * HOUR_US + HOUR_US // 2
    decision = decide(situation(every(HOUR_US), policy(MisfirePolicy.RUN_ALL), cursor=NOON, now=now))
    assert started(decision) == [NOON + hour * HOUR_US for hour in range(17, 41)]
    assert sum(each.count for each in given_up(decision)) == 16
    assert {each.reason for each in given_up(decision)} == {Reason.CATCHUP_WINDOW}


def test_run_all_starts_a_bounded_number_at_once_and_asks_to_be_called_again() -> None:
    now = NOON + DAY_US
    rules = policy(MisfirePolicy.RUN_ALL, window_us=30 * DAY_US)
    decision = decide(situation(every(MINUTE_US), rules, cursor=NOON, now=now))
    assert len(started(decision)) == STARTS_AT_ONCE
    assert decision.next_due_at == now
    assert decision.cursor < started(decision)[-1] + MINUTE_US


def test_overlap_skip_names_the_run_in_the_way() -> None:
    busy = [ActiveRun(run_id=RunId(7), is_waiting=False)]
    decision = decide(situation(every(HOUR_US), policy(), cursor=NOON - 1, now=NOON, active=busy))
    assert [(each.state, each.reason, each.blocked_by) for each in given_up(decision)] == [
        (State.SKIPPED, Reason.OVERLAP, 7)
    ]


def test_overlap_queue_one_lets_one_wait_and_skips_the_next() -> None:
    rules = policy(overlap=OverlapPolicy.QUEUE_ONE)
    busy = [ActiveRun(run_id=RunId(7), is_waiting=False)]
    first = decide(situation(every(HOUR_US), rules, cursor=NOON - 1, now=NOON, active=busy))
    assert [action.waits for action in first.actions if isinstance(action, StartRun)] == [True]
    busy.append(ActiveRun(run_id=RunId(8), is_waiting=True))
    second = decide(situation(every(HOUR_US), rules, cursor=NOON, now=NOON + HOUR_US, active=busy))
    assert [each.reason for each in given_up(second)] == [Reason.OVERLAP]


def test_overlap_queue_all_lets_every_slot_wait() -> None:
    rules = policy(overlap=OverlapPolicy.QUEUE_ALL, grace_us=3 * HOUR_US)
    busy = [ActiveRun(run_id=RunId(7), is_waiting=False)]
    decision = decide(situation(every(HOUR_US), rules, cursor=NOON - 1, now=NOON + 2 * HOUR_US, active=busy))
    assert [action.waits for action in decision.actions if isinstance(action, StartRun)] == [True] * 3


def test_overlap_allow_starts_beside_a_run_in_progress() -> None:
    busy = [ActiveRun(run_id=RunId(7), is_waiting=False)]
    rules = policy(overlap=OverlapPolicy.ALLOW)
    decision = decide(situation(every(HOUR_US), rules, cursor=NOON - 1, now=NOON, active=busy))
    assert [action.waits for action in decision.actions if isinstance(action, StartRun)] == [False]


def test_slots_in_a_pause_are_skipped_and_never_caught_up() -> None:
    pause = Pause(since=Instant(NOON - 1), until=Instant(NOON + 3 * HOUR_US))
    now = NOON + 4 * HOUR_US + HOUR_US // 2
    for misfire in MisfirePolicy:
        decision = decide(situation(every(HOUR_US), policy(misfire), cursor=NOON - 1, now=now, pauses=[pause]))
        paused = [each for each in given_up(decision) if each.reason is Reason.PAUSED]
        assert sum(each.count for each in paused) == 4
        assert all(slot > NOON + 3 * HOUR_US for slot in started(decision))


def test_a_paused_definition_catches_nothing_up_while_paused() -> None:
    pause = Pause(since=Instant(NOON + 2 * HOUR_US + 1), until=None)
    now = NOON + 3 * HOUR_US + 1
    for misfire in MisfirePolicy:
        decision = decide(situation(every(HOUR_US), policy(misfire), cursor=NOON, now=now, pauses=[pause]))
        assert started(decision) == []


def test_slots_the_clock_jumped_over_are_never_caught_up() -> None:
    gap = down(NOON, NOON + DAY_US, Reason.CLOCK_STEP)
    for misfire in MisfirePolicy:
        decision = decide(
            situation(every(HOUR_US), policy(misfire), cursor=NOON, now=NOON + DAY_US + HOUR_US // 2, gaps=[gap])
        )
        assert started(decision) == []
        assert sum(each.count for each in given_up(decision)) == 24
        assert {each.reason for each in given_up(decision)} == {Reason.CLOCK_STEP}


def test_a_standing_slot_still_in_its_grace_is_run() -> None:
    standing = [Standing(run_id=RunId(3), slot=Instant(NOON))]
    decision = decide(situation(every(HOUR_US), policy(), cursor=NOON, now=NOON + SECOND_US, standing=standing))
    assert decision.actions == (StartRun(slot=Instant(NOON), due_at=Instant(NOON), waits=False, run_id=RunId(3)),)


def test_a_standing_slot_past_its_grace_follows_the_misfire_policy() -> None:
    standing = [Standing(run_id=RunId(3), slot=Instant(NOON))]
    gaps = [down(NOON - 1, NOON + HOUR_US // 2)]
    outcomes = {}
    for misfire in MisfirePolicy:
        decision = decide(
            situation(
                every(HOUR_US), policy(misfire), cursor=NOON, now=NOON + HOUR_US // 2, standing=standing, gaps=gaps
            )
        )
        (action,) = decision.actions
        outcomes[misfire] = action.reason if isinstance(action, GiveUp) else "run"
        assert action.run_id == 3
    assert outcomes == {
        MisfirePolicy.SKIP: Reason.ENGINE_DOWN,
        MisfirePolicy.RUN_ONCE: "run",
        MisfirePolicy.RUN_ALL: "run",
    }


def test_jitter_delays_a_slot_and_keeps_its_nominal_time() -> None:
    rules = policy(jitter_us=10 * MINUTE_US)
    early = decide(situation(every(HOUR_US), rules, cursor=NOON - 1, now=NOON))
    assert early.next_due_at is not None
    assert NOON <= early.next_due_at <= NOON + 10 * MINUTE_US
    later = decide(situation(every(HOUR_US), rules, cursor=early.cursor, now=early.next_due_at))
    assert [(action.slot, action.due_at) for action in later.actions if isinstance(action, StartRun)] == [
        (NOON, early.next_due_at)
    ]


@pytest.mark.parametrize("overlap", list(OverlapPolicy))
def test_a_request_by_hand_starts_when_nothing_is_active(overlap: OverlapPolicy) -> None:
    action = decide_request(policy(overlap=overlap), NOON, [])
    assert isinstance(action, StartRun)
    assert not action.waits


def test_a_request_by_hand_obeys_overlap() -> None:
    busy = [ActiveRun(run_id=RunId(7), is_waiting=False)]
    assert isinstance(decide_request(policy(overlap=OverlapPolicy.SKIP), NOON, busy), GiveUp)
    queued = decide_request(policy(overlap=OverlapPolicy.QUEUE_ONE), NOON, busy)
    assert isinstance(queued, StartRun)
    assert queued.waits


# -- properties --

periods = st.sampled_from([SECOND_US * 7, MINUTE_US, 17 * MINUTE_US, HOUR_US, DAY_US])
spans = st.integers(min_value=0, max_value=3 * DAY_US)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    period = draw(periods)
    now = NOON + draw(st.integers(0, DAY_US))
    cursor = now - draw(spans)
    stretches = []
    for _ in range(draw(st.integers(0, 3))):
        since = cursor + draw(st.integers(-HOUR_US, 3 * DAY_US))
        stretches.append((since, since + draw(st.integers(1, DAY_US))))
    gaps = [
        down(since, until, draw(st.sampled_from([Reason.ENGINE_DOWN, Reason.SUSPENDED, Reason.CLOCK_STEP])))
        for since, until in stretches
    ]
    pauses = []
    if draw(st.booleans()):
        since = cursor + draw(st.integers(-HOUR_US, 2 * DAY_US))
        until = draw(st.one_of(st.none(), st.integers(1, DAY_US)))
        pauses = [Pause(since=Instant(since), until=None if until is None else Instant(since + until))]
    active = [ActiveRun(run_id=RunId(1), is_waiting=False)] if draw(st.booleans()) else []
    rules = policy(
        draw(st.sampled_from(list(MisfirePolicy))),
        draw(
            st.sampled_from([OverlapPolicy.SKIP, OverlapPolicy.QUEUE_ONE, OverlapPolicy.QUEUE_ALL, OverlapPolicy.ALLOW])
        ),
        grace_us=draw(st.sampled_from([0, MINUTE_US, 2 * HOUR_US])),
        window_us=draw(st.sampled_from([0, HOUR_US, DAY_US, 30 * DAY_US])),
        jitter_us=draw(st.sampled_from([0, 0, MINUTE_US])),
    )
    return situation(every(period), rules, cursor=cursor, now=now, active=active, pauses=pauses, gaps=gaps)


def to_the_end(first: Situation) -> tuple[list[StartRun | GiveUp], Decision]:
    """All actions until nothing more is due now, as the engine's loop does it."""
    from dataclasses import replace

    actions: list[StartRun | GiveUp] = []
    current = first
    while True:
        decision = decide(current)
        actions += decision.actions
        if decision.next_due_at is None or decision.next_due_at > first.now:
            return actions, decision
        assert decision.cursor > current.cursor, "a decision that asks again must have moved on"
        active = [*current.active, *(ActiveRun(run_id=RunId(9), is_waiting=True) for _ in started(decision)[:2])]
        current = replace(current, cursor=decision.cursor, active=active)


def covered(actions: Sequence[StartRun | GiveUp], trigger: Trigger) -> list[int]:
    slots: list[int] = []
    for action in actions:
        if isinstance(action, StartRun):
            slots.append(action.slot)
            continue
        inside: Instant | None = action.first
        count = 0
        while inside is not None and inside <= action.last:
            slots.append(inside)
            count += 1
            inside = trigger.after(inside)
        assert count == action.count
    return slots


@settings(deadline=None, max_examples=400)
@given(situations())
def test_every_slot_up_to_the_cursor_is_covered_by_exactly_one_action_in_order(given_situation: Situation) -> None:
    actions, last = to_the_end(given_situation)
    expected = []
    slot = given_situation.trigger.after(given_situation.cursor)
    while slot is not None and slot <= last.cursor:
        expected.append(slot)
        slot = given_situation.trigger.after(slot)
    assert covered(actions, given_situation.trigger) == expected
    # and nothing that is due is left undecided
    following = given_situation.trigger.after(last.cursor)
    assert following is None or following + given_situation.policy.jitter_us >= given_situation.now


@settings(deadline=None, max_examples=300)
@given(situations())
def test_nothing_starts_that_lies_in_a_pause_or_was_jumped_over_past_its_grace(given_situation: Situation) -> None:
    actions, _ = to_the_end(given_situation)
    for action in actions:
        if not isinstance(action, StartRun):
            continue
        for pause in given_situation.pauses:
            assert not (pause.since < action.slot and (pause.until is None or action.slot <= pause.until))
        is_late = action.due_at + given_situation.policy.grace_us < given_situation.now
        if is_late:
            assert given_situation.policy.misfire is not MisfirePolicy.SKIP
            assert action.slot >= given_situation.now - given_situation.policy.window_us
            jumped = [gap for gap in given_situation.gaps if gap.reason is Reason.CLOCK_STEP]
            assert not any(gap.since < action.slot <= gap.until for gap in jumped)


@settings(deadline=None, max_examples=300)
@given(situations())
def test_run_once_starts_at_most_one_late_slot(given_situation: Situation) -> None:
    actions, _ = to_the_end(given_situation)
    late = [
        action
        for action in actions
        if isinstance(action, StartRun) and action.due_at + given_situation.policy.grace_us < given_situation.now
    ]
    if given_situation.policy.misfire is MisfirePolicy.RUN_ONCE:
        assert len(late) <= 1


@settings(deadline=None, max_examples=200)
@given(situations())
def test_one_decision_stays_small_whatever_was_missed(given_situation: Situation) -> None:
    decision = decide(given_situation)
    on_time = given_situation.policy.grace_us // (7 * SECOND_US) + 2
    pieces = 2 * (len(given_situation.gaps) + len(given_situation.pauses)) + 3
    assert len(decision.actions) <= on_time + STARTS_AT_ONCE + pieces * (RANGE_OVER + 1)
