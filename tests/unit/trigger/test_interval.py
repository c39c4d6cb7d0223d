"""Interval slots: anchor + n * every for every whole n, on both sides of the anchor."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_core.definition.model import CalendarSchedule, CronSchedule, EventSubscription, IntervalSchedule
from activity_core.trigger import trigger_of
from activity_core.trigger.cron import CronTrigger
from activity_core.trigger.interval import IntervalTrigger
from activity_plumbing.clock import DAY_US, HOUR_US, MINUTE_US, SECOND_US, Instant, parse_instant

NOON = parse_instant("2026-03-29T12:00")


def every(every_us: int, anchor: int = 0) -> IntervalTrigger:
    return IntervalTrigger(IntervalSchedule(every_us=every_us, anchor=Instant(anchor)))


def test_slots_are_counted_from_the_epoch_when_that_is_the_anchor() -> None:
    trigger = every(15 * MINUTE_US)
    assert trigger.after(parse_instant("2026-05-05T10:01")) == parse_instant("2026-05-05T10:15")
    assert trigger.last_before(parse_instant("2026-05-05T10:01"), Instant(0)) == parse_instant("2026-05-05T10:00")


def test_an_anchor_shifts_every_slot() -> None:
    trigger = every(HOUR_US, parse_instant("2026-01-01T00:07:30"))
    assert trigger.after(parse_instant("2026-05-05T10:07:30")) == parse_instant("2026-05-05T11:07:30")
    assert trigger.after(parse_instant("2026-05-05T10:07:29.999999")) == parse_instant("2026-05-05T10:07:30")


def test_slots_before_the_anchor_keep_the_same_distance() -> None:
    trigger = every(7 * DAY_US, parse_instant("2027-01-04T06:00"))
    assert trigger.after(parse_instant("2026-12-20")) == parse_instant("2026-12-21T06:00")
    assert trigger.last_before(parse_instant("2026-12-21T06:00"), NOON) == parse_instant("2026-12-14T06:00")
    assert trigger.after(Instant(parse_instant("2027-01-04T06:00") - 1)) == parse_instant("2027-01-04T06:00")


def test_slots_before_1970_are_instants_below_nought() -> None:
    trigger = every(10, anchor=3)
    assert trigger.after(Instant(-8)) == -7
    assert trigger.after(Instant(-7)) == 3
    assert trigger.last_before(Instant(-7), Instant(-100)) == -17
    assert trigger.count(Instant(-28), Instant(4)) == 4


def test_the_distance_is_elapsed_time_whatever_the_clocks_of_berlin_do() -> None:
    trigger = every(DAY_US, parse_instant("2026-03-28T02:30+01:00"))
    assert trigger.after(parse_instant("2026-03-28T12:00Z")) == parse_instant("2026-03-29T03:30+02:00")


def test_a_slot_is_neither_after_nor_before_itself() -> None:
    trigger = every(HOUR_US)
    assert trigger.after(NOON) == NOON + HOUR_US
    assert trigger.after(Instant(NOON - 1)) == NOON
    assert trigger.last_before(NOON, Instant(0)) == NOON - HOUR_US
    assert trigger.last_before(Instant(NOON + 1), Instant(0)) == NOON
    assert trigger.count(NOON, Instant(NOON + HOUR_US)) == 0
    assert trigger.count(Instant(NOON - 1), Instant(NOON + HOUR_US)) == 1
    assert trigger.count(Instant(NOON - 1), Instant(NOON + HOUR_US + 1)) == 2


def test_the_last_slot_is_never_at_the_floor() -> None:
    assert every(HOUR_US).last_before(Instant(NOON + 1), NOON) is None
    assert every(HOUR_US).last_before(Instant(NOON + 1), Instant(NOON - 1)) == NOON


@pytest.mark.parametrize("length", [0, -1, -HOUR_US, -DAY_US])
def test_an_empty_or_backward_window_has_no_slots(length: int) -> None:
    for start in (NOON, NOON + 1, NOON - 1):
        assert every(HOUR_US).count(Instant(start), Instant(start + length)) == 0
        assert every(HOUR_US).last_before(Instant(start + length), Instant(start)) is None


def test_a_second_over_thirty_years_is_counted_at_once() -> None:
    start = parse_instant("2000-01-01")
    assert every(SECOND_US).count(start, Instant(start + 11_000 * DAY_US)) == 11_000 * 86_400 - 1


def test_each_kind_of_schedule_finds_its_trigger() -> None:
    assert isinstance(trigger_of(IntervalSchedule(every_us=1, anchor=Instant(0))), IntervalTrigger)
    assert isinstance(trigger_of(CronSchedule(expression="@daily", timezone="UTC")), CronTrigger)


def test_a_schedule_that_no_clock_fires_has_no_trigger() -> None:
    assert trigger_of(EventSubscription(event_type="a.b", filters={}, when=None, debounce=None)) is None
    assert trigger_of(CalendarSchedule(expression="daily", timezone="UTC")) is None


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, Instant, Instant]:
    """Distance, anchor, and a window of up to 60 distances on either side of the anchor, or far from it."""
    distance = draw(st.one_of(st.integers(1, 20), st.integers(1, 40 * DAY_US)))
    anchor = draw(st.one_of(st.integers(-50, 50), st.integers(-(10**15), 4 * 10**15)))
    nearby = st.integers(-60, 60).map(lambda n: anchor + n * distance)
    after = draw(st.one_of(nearby, st.integers(-(10**15), 4 * 10**15))) + draw(st.integers(-1, 1))
    length = draw(st.one_of(st.integers(0, 60).map(lambda n: n * distance), st.integers(0, 60 * distance)))
    return distance, anchor, Instant(after), Instant(after + length + draw(st.integers(-1, 1)))


def brute(distance: int, anchor: int, after: Instant, before: Instant) -> list[Instant]:
    """Walks by whole distances from the anchor, having first moved it near the window."""
    slot = anchor + (after - anchor) // distance * distance - 2 * distance
    found = []
    while slot < before:
        if slot > after:
            found.append(Instant(slot))
        slot += distance
    return found


@settings(deadline=None, max_examples=500)
@given(cases())
def test_all_three_answers_agree_with_a_walk_from_the_anchor(case: tuple[int, int, Instant, Instant]) -> None:
    distance, anchor, after, before = case
    expected = brute(distance, anchor, after, before)
    trigger = every(distance, anchor)
    found: list[Instant] = []
    slot = trigger.after(after)
    while slot is not None and slot < before:
        assert slot > (found[-1] if found else after)
        assert (slot - anchor) % distance == 0
        found.append(slot)
        slot = trigger.after(slot)
    assert found == expected
    assert trigger.count(after, before) == len(expected)
    assert trigger.last_before(before, after) == (expected[-1] if expected else None)
