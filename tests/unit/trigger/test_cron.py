"""Cron slots: named days of five zones, and an oracle that walks UTC minute by minute without cronsim."""

from __future__ import annotations

from calendar import monthrange
from datetime import date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_core.definition.cron_aliases import CRON_ALIASES
from activity_core.definition.model import CronSchedule
from activity_core.trigger.cron import CronTrigger
from activity_plumbing.clock import DAY_US, HOUR_US, MINUTE_US, Instant, format_instant, parse_instant, to_datetime

BERLIN, NEW_YORK, SYDNEY = "Europe/Berlin", "America/New_York", "Australia/Sydney"
LORD_HOWE, HAVANA, NUUK = "Australia/Lord_Howe", "America/Havana", "America/Nuuk"


def cron(expression: str, zone: str = "UTC") -> CronTrigger:
    return CronTrigger(CronSchedule(expression=expression, timezone=zone))


def steps(trigger: CronTrigger, after: Instant, before: Instant) -> list[Instant]:
    """The slots strictly between two instants, by asking for the next one again and again."""
    found: list[Instant] = []
    slot = trigger.after(after)
    while slot is not None and slot < before:
        assert slot > (found[-1] if found else after)
        found.append(slot)
        slot = trigger.after(slot)
    return found


def between(expression: str, zone: str, after: str, before: str) -> list[str]:
    """The slots strictly between two UTC times; all three methods of the trigger must tell the same."""
    trigger, first, last = cron(expression, zone), parse_instant(after), parse_instant(before)
    slots = steps(trigger, first, last)
    assert trigger.count(first, last) == len(slots)
    assert trigger.last_before(last, first) == (slots[-1] if slots else None)
    return [format_instant(slot).removesuffix(":00Z") for slot in slots]


def days(expression: str, after: str, before: str) -> list[str]:
    return [text[:10] for text in between(expression, "UTC", after, before)]


# --- Europe/Berlin 2026: 02:00 becomes 03:00 at 03-29T01:00Z, 03:00 becomes 02:00 at 10-25T01:00Z


def test_a_fixed_time_in_berlins_spring_gap_runs_once_right_after_it() -> None:
    assert between("30 2 * * *", BERLIN, "2026-03-28", "2026-03-31") == [
        "2026-03-28T01:30",
        "2026-03-29T01:00",
        "2026-03-30T00:30",
    ]


def test_several_fixed_times_in_berlins_spring_gap_share_one_run() -> None:
    assert between("5,30,55 2 * * *", BERLIN, "2026-03-29", "2026-03-30") == ["2026-03-29T01:00"]


def test_a_fixed_time_in_the_gap_and_one_at_its_end_share_one_run() -> None:
    assert between("0 2,3 * * *", BERLIN, "2026-03-29", "2026-03-30") == ["2026-03-29T01:00"]


def test_a_run_moved_out_of_the_gap_leaves_the_next_hours_run_where_it_is() -> None:
    assert between("30 2,3 * * *", BERLIN, "2026-03-29", "2026-03-30") == ["2026-03-29T01:00", "2026-03-29T01:30"]


def test_the_minutes_beside_berlins_spring_gap_stay_where_they_are() -> None:
    assert between("59 1 * * *", BERLIN, "2026-03-29", "2026-03-29T12:00") == ["2026-03-29T00:59"]
    assert between("0 3 * * *", BERLIN, "2026-03-29", "2026-03-29T12:00") == ["2026-03-29T01:00"]


def test_a_job_of_one_weekday_in_the_gap_runs_on_that_weekday_only() -> None:
    assert between("30 2 * * SUN", BERLIN, "2026-03-22T12:00", "2026-04-06") == ["2026-03-29T01:00", "2026-04-05T00:30"]
    assert between("30 2 * * SAT", BERLIN, "2026-03-28T12:00", "2026-04-05") == ["2026-04-04T00:30"]


def test_a_fixed_time_in_berlins_autumn_fold_runs_at_the_first_reading_only() -> None:
    assert between("30 2 * * *", BERLIN, "2026-10-24", "2026-10-27") == [
        "2026-10-24T00:30",
        "2026-10-25T00:30",
        "2026-10-26T01:30",
    ]


def test_the_second_reading_of_the_fold_still_waits_for_the_next_days_run() -> None:
    for asked in (
        "2026-10-25T00:30",
        "2026-10-25T00:59:59",
        "2026-10-25T01:00",
        "2026-10-25T01:10",
        "2026-10-25T01:30",
    ):
        assert cron("30 2 * * *", BERLIN).after(parse_instant(asked)) == parse_instant("2026-10-26T01:30")


def test_a_range_of_minutes_in_fixed_hours_is_a_fixed_time_too() -> None:
    assert between("0-59/30 2 * * *", BERLIN, "2026-10-24T12:00", "2026-10-25T12:00") == [
        "2026-10-25T00:00",
        "2026-10-25T00:30",
    ]


def test_star_minutes_keep_their_distance_in_elapsed_time_over_berlins_gap() -> None:
    assert between("*/30 * * * *", BERLIN, "2026-03-28T23:59", "2026-03-29T02:01") == [
        "2026-03-29T00:00",
        "2026-03-29T00:30",
        "2026-03-29T01:00",
        "2026-03-29T01:30",
        "2026-03-29T02:00",
    ]


def test_star_minutes_keep_their_distance_in_elapsed_time_over_berlins_fold() -> None:
    assert between("*/30 * * * *", BERLIN, "2026-10-24T23:59", "2026-10-25T02:01") == [
        "2026-10-25T00:00",
        "2026-10-25T00:30",
        "2026-10-25T01:00",
        "2026-10-25T01:30",
        "2026-10-25T02:00",
    ]


def test_star_hours_run_at_both_readings_of_berlins_fold() -> None:
    assert between("30 * * * *", BERLIN, "2026-10-25", "2026-10-25T03:00") == [
        "2026-10-25T00:30",
        "2026-10-25T01:30",
        "2026-10-25T02:30",
    ]
    assert between("0 */2 * * *", BERLIN, "2026-10-24T22:00", "2026-10-25T05:00") == [
        "2026-10-25T00:00",
        "2026-10-25T01:00",
        "2026-10-25T03:00",
    ]


def test_star_hours_have_nothing_to_catch_up_after_berlins_gap() -> None:
    assert between("0 */2 * * *", BERLIN, "2026-03-28T22:00", "2026-03-29T05:00") == [
        "2026-03-28T23:00",
        "2026-03-29T02:00",
        "2026-03-29T04:00",
    ]


def test_star_minutes_of_a_missing_hour_do_not_run_that_day() -> None:
    assert between("*/20 2 * * *", BERLIN, "2026-03-28T12:00", "2026-03-30T12:00") == [
        "2026-03-30T00:00",
        "2026-03-30T00:20",
        "2026-03-30T00:40",
    ]


def test_star_minutes_of_a_repeated_hour_run_in_both_readings() -> None:
    assert between("*/20 2 * * *", BERLIN, "2026-10-24T12:00", "2026-10-25T12:00") == [
        "2026-10-25T00:00",
        "2026-10-25T00:20",
        "2026-10-25T00:40",
        "2026-10-25T01:00",
        "2026-10-25T01:20",
        "2026-10-25T01:40",
    ]


# --- America/New_York 2026: the gap starts at 03-08T07:00Z (02:00), the fold at 11-01T06:00Z (back to 01:00)


def test_a_fixed_time_in_new_yorks_spring_gap_runs_once_right_after_it() -> None:
    assert between("30 2 * * *", NEW_YORK, "2026-03-07", "2026-03-10") == [
        "2026-03-07T07:30",
        "2026-03-08T07:00",
        "2026-03-09T06:30",
    ]


def test_a_fixed_time_in_new_yorks_autumn_fold_runs_at_the_first_reading_only() -> None:
    assert between("30 1 * * *", NEW_YORK, "2026-10-31", "2026-11-03") == [
        "2026-10-31T05:30",
        "2026-11-01T05:30",
        "2026-11-02T06:30",
    ]


def test_an_hourly_job_runs_every_hour_over_both_of_new_yorks_changes() -> None:
    assert between("15 * * * *", NEW_YORK, "2026-03-08T05:30", "2026-03-08T08:30") == [
        "2026-03-08T06:15",
        "2026-03-08T07:15",
        "2026-03-08T08:15",
    ]
    assert between("15 * * * *", NEW_YORK, "2026-11-01T04:30", "2026-11-01T07:30") == [
        "2026-11-01T05:15",
        "2026-11-01T06:15",
        "2026-11-01T07:15",
    ]


# --- Australia/Lord_Howe 2026: 02:00 becomes 01:30 at 04-04T15:00Z, 02:00 becomes 02:30 at 10-03T15:30Z


def test_a_fixed_time_in_lord_howes_half_hour_gap_runs_once_right_after_it() -> None:
    assert between("15 2 * * *", LORD_HOWE, "2026-10-02", "2026-10-05") == [
        "2026-10-02T15:45",
        "2026-10-03T15:30",
        "2026-10-04T15:15",
    ]


def test_the_half_of_the_hour_that_lord_howe_keeps_runs_at_its_own_time() -> None:
    assert between("45 2 * * *", LORD_HOWE, "2026-10-03", "2026-10-04") == ["2026-10-03T15:45"]
    assert between("15,45 2 * * *", LORD_HOWE, "2026-10-03", "2026-10-04") == ["2026-10-03T15:30", "2026-10-03T15:45"]


def test_a_fixed_time_in_lord_howes_half_hour_fold_runs_at_the_first_reading_only() -> None:
    assert between("45 1 * * *", LORD_HOWE, "2026-04-03", "2026-04-06") == [
        "2026-04-03T14:45",
        "2026-04-04T14:45",
        "2026-04-05T15:15",
    ]


def test_the_half_of_the_hour_that_lord_howe_does_not_repeat_runs_once() -> None:
    assert between("15 1 * * *", LORD_HOWE, "2026-04-04", "2026-04-05") == ["2026-04-04T14:15"]


def test_star_minutes_keep_their_distance_over_both_half_hour_changes() -> None:
    assert between("*/15 * * * *", LORD_HOWE, "2026-04-04T14:40", "2026-04-04T15:40") == [
        "2026-04-04T14:45",
        "2026-04-04T15:00",
        "2026-04-04T15:15",
        "2026-04-04T15:30",
    ]
    assert between("*/15 * * * *", LORD_HOWE, "2026-10-03T15:10", "2026-10-03T15:50") == [
        "2026-10-03T15:15",
        "2026-10-03T15:30",
        "2026-10-03T15:45",
    ]


# --- America/Havana 2026: 00:00 becomes 01:00 at 03-08T05:00Z, 01:00 becomes 00:00 at 11-01T05:00Z; both are Sundays


def test_a_daily_job_runs_at_one_when_havana_skips_midnight() -> None:
    assert between("@daily", HAVANA, "2026-03-07", "2026-03-10") == [
        "2026-03-07T05:00",
        "2026-03-08T05:00",
        "2026-03-09T04:00",
    ]


def test_a_fixed_time_in_havanas_midnight_gap_runs_once_right_after_it() -> None:
    assert between("30 0 * * *", HAVANA, "2026-03-07", "2026-03-10") == [
        "2026-03-07T05:30",
        "2026-03-08T05:00",
        "2026-03-09T04:30",
    ]


def test_a_weekly_job_whose_midnight_is_missing_runs_on_its_own_day() -> None:
    assert between("@weekly", HAVANA, "2026-02-28", "2026-03-16") == [
        "2026-03-01T05:00",
        "2026-03-08T05:00",
        "2026-03-15T04:00",
    ]


def test_a_daily_job_runs_at_the_first_of_havanas_two_midnights() -> None:
    assert between("@daily", HAVANA, "2026-10-31", "2026-11-03") == [
        "2026-10-31T04:00",
        "2026-11-01T04:00",
        "2026-11-02T05:00",
    ]


def test_star_minutes_after_midnight_run_twice_in_havanas_fold_and_never_in_its_gap() -> None:
    assert between("*/30 0 * * *", HAVANA, "2026-10-31T12:00", "2026-11-01T12:00") == [
        "2026-11-01T04:00",
        "2026-11-01T04:30",
        "2026-11-01T05:00",
        "2026-11-01T05:30",
    ]
    assert between("*/30 0 * * *", HAVANA, "2026-03-07T12:00", "2026-03-08T12:00") == []


def test_an_hourly_job_runs_every_hour_over_both_of_havanas_changes() -> None:
    for day in ("2026-03-08", "2026-11-01"):
        assert between("@hourly", HAVANA, f"{day}T03:30", f"{day}T06:30") == [f"{day}T0{hour}:00" for hour in (4, 5, 6)]


# --- America/Nuuk 2026: Saturday's 23:00 becomes Sunday's 00:00 at 03-29T01:00Z


def test_a_fixed_time_in_nuuks_last_hour_of_saturday_runs_as_sunday_begins() -> None:
    trigger = cron("30 23 * * *", NUUK)
    first, last = parse_instant("2026-03-28"), parse_instant("2026-03-31")
    assert [format_instant(slot) for slot in steps(trigger, first, last)] == [
        "2026-03-28T01:30:00Z",
        "2026-03-29T01:00:00Z",
        "2026-03-30T00:30:00Z",
    ]
    assert trigger.last_before(parse_instant("2026-03-29T12:00"), first) == parse_instant("2026-03-29T01:00")


# --- Australia/Sydney 2026: 03:00 becomes 02:00 at 04-04T16:00Z, 02:00 becomes 03:00 at 10-03T16:00Z


def test_a_fixed_time_in_sydneys_october_gap_runs_once_right_after_it() -> None:
    assert between("30 2 * * *", SYDNEY, "2026-10-02", "2026-10-05") == [
        "2026-10-02T16:30",
        "2026-10-03T16:00",
        "2026-10-04T15:30",
    ]


def test_a_fixed_time_in_sydneys_april_fold_runs_at_the_first_reading_only() -> None:
    assert between("30 2 * * *", SYDNEY, "2026-04-03", "2026-04-06") == [
        "2026-04-03T15:30",
        "2026-04-04T15:30",
        "2026-04-05T16:30",
    ]


def test_utc_knows_neither_gap_nor_fold() -> None:
    for day in ("2026-03-29", "2026-10-25"):
        assert between("30 2 * * *", "UTC", day, f"{day}T23:00") == [f"{day}T02:30"]


# --- what the fields mean


NEXT_AFTER_10_FEBRUARY = {
    "@yearly": "2027-01-01T00:00",
    "@annually": "2027-01-01T00:00",
    "@monthly": "2026-03-01T00:00",
    "@weekly": "2026-02-15T00:00",
    "@daily": "2026-02-11T00:00",
    "@midnight": "2026-02-11T00:00",
    "@hourly": "2026-02-10T11:00",
}


def test_every_alias_is_tested() -> None:
    assert NEXT_AFTER_10_FEBRUARY.keys() == CRON_ALIASES.keys()


@pytest.mark.parametrize(("alias", "expected"), NEXT_AFTER_10_FEBRUARY.items())
def test_every_alias_names_the_start_of_its_period(alias: str, expected: str) -> None:
    for spelling in (alias, alias.upper(), f" {alias} "):
        assert cron(spelling).after(parse_instant("2026-02-10T10:20")) == parse_instant(expected)


def test_names_of_months_and_weekdays_are_read_in_any_case() -> None:
    mondays = ["2026-01-05", "2026-01-12", "2026-01-19", "2026-01-26"]
    for expression in ("0 9 * JAN MON", "0 9 * jan mon", "0 9 * 1 1"):
        slots = steps(cron(expression), parse_instant("2025-12-31"), parse_instant("2026-02-20"))
        assert [format_instant(slot)[:10] for slot in slots] == mondays


def test_a_range_of_names_includes_both_ends() -> None:
    assert days("0 9 * * MON-FRI", "2026-01-01", "2026-01-08") == [f"2026-01-0{day}" for day in (1, 2, 5, 6, 7)]


def test_sunday_is_both_nought_and_seven() -> None:
    for name in ("0", "7", "SUN"):
        assert days(f"0 0 * * {name}", "2026-01-01", "2026-01-12") == ["2026-01-04", "2026-01-11"]


def test_L_is_the_last_day_of_every_month() -> None:
    assert days("0 12 L * *", "2026-01-01", "2026-05-01") == ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]
    assert days("0 12 L * *", "2028-02-01", "2028-03-01") == ["2028-02-29"]


def test_LW_is_the_last_weekday_of_every_month() -> None:
    assert days("0 12 LW * *", "2026-01-01", "2026-06-01") == [
        "2026-01-30",  # the 31st is a Saturday
        "2026-02-27",  # the 28th is a Saturday
        "2026-03-31",
        "2026-04-30",
        "2026-05-29",  # the 31st is a Sunday
    ]


def test_MON_hash_1_is_the_first_monday_of_every_month() -> None:
    assert days("0 12 * * MON#1", "2026-01-01", "2026-05-01") == [
        "2026-01-05",
        "2026-02-02",
        "2026-03-02",
        "2026-04-06",
    ]


def test_SUN_hash_5_skips_the_months_with_four_sundays() -> None:
    assert days("0 12 * * SUN#5", "2026-01-01", "2026-12-31") == [
        "2026-03-29",
        "2026-05-31",
        "2026-08-30",
        "2026-11-29",
    ]


def test_5L_is_the_last_friday_of_every_month() -> None:
    assert days("0 12 * * 5L", "2026-01-01", "2026-05-01") == ["2026-01-30", "2026-02-27", "2026-03-27", "2026-04-24"]


def test_a_job_on_leap_day_waits_for_leap_years() -> None:
    trigger = cron("0 0 29 2 *")
    assert trigger.after(parse_instant("2026-01-01")) == parse_instant("2028-02-29")
    assert trigger.after(parse_instant("2028-02-29")) == parse_instant("2032-02-29")
    assert trigger.after(parse_instant("2096-02-29")) == parse_instant("2104-02-29")  # 2100 is no leap year
    assert trigger.last_before(parse_instant("2032-02-29"), parse_instant("2026-01-01")) == parse_instant("2028-02-29")


def test_a_day_of_month_or_a_day_of_week_is_enough_when_neither_starts_with_a_star() -> None:
    assert days("0 9 13 * FRI", "2026-01-01", "2026-02-01") == [
        f"2026-01-{day}" for day in ("02", "09", "13", "16", "23", "30")
    ]


def test_both_days_must_match_when_the_day_of_month_starts_with_a_star() -> None:
    assert days("0 9 */2 * MON", "2026-01-01", "2026-02-01") == ["2026-01-05", "2026-01-19"]


def test_both_days_must_match_when_the_day_of_week_starts_with_a_star() -> None:
    assert days("0 9 1-7 * */7", "2026-01-01", "2026-04-01") == ["2026-01-04", "2026-02-01", "2026-03-01"]


def test_a_day_that_never_comes_has_no_slot() -> None:
    trigger, first, last = cron("0 0 */30 2 TUE#5"), parse_instant("2026-01-01"), parse_instant("2026-03-02")
    assert trigger.after(first) is None
    assert trigger.count(first, last) == 0
    assert trigger.last_before(last, first) is None


# --- the ends of a window


def test_a_slot_is_neither_after_nor_before_itself() -> None:
    trigger, slot = cron("0 12 * * *"), parse_instant("2026-05-05T12:00")
    assert trigger.after(Instant(slot - 1)) == slot
    assert trigger.after(slot) == slot + DAY_US
    assert trigger.after(Instant(slot + 1)) == slot + DAY_US
    assert trigger.last_before(Instant(slot + 1), Instant(slot - 1)) == slot
    assert trigger.last_before(slot, Instant(slot - DAY_US - 1)) == slot - DAY_US
    assert trigger.last_before(slot, Instant(slot - DAY_US)) is None
    assert trigger.count(Instant(slot - 1), Instant(slot + 1)) == 1
    assert trigger.count(slot, Instant(slot + DAY_US)) == 0


def test_an_empty_or_backward_window_has_no_slots() -> None:
    trigger, noon = cron("* * * * *"), parse_instant("2026-05-05T12:00")
    for length in (0, -1, -DAY_US, -9 * DAY_US):
        assert trigger.count(noon, Instant(noon + length)) == 0
        assert trigger.last_before(Instant(noon + length), noon) is None


def test_thirty_days_of_minutes_are_counted_without_their_ends() -> None:
    start = parse_instant("2026-03-15T00:00")
    for zone in ("UTC", BERLIN):
        assert cron("* * * * *", zone).count(start, Instant(start + 30 * DAY_US)) == 30 * 24 * 60 - 1


def test_a_year_in_berlin_has_8760_hours_and_365_half_past_twos() -> None:
    start, end = parse_instant("2025-12-31T23:00"), parse_instant("2026-12-31T23:00")
    assert cron("0 * * * *", BERLIN).count(Instant(start - 1), end) == 8760
    assert cron("30 2 * * *", BERLIN).count(Instant(start - 1), end) == 365


def test_the_last_slot_is_found_far_back_and_never_at_the_floor() -> None:
    trigger, now = cron("30 2 L * *", BERLIN), parse_instant("2026-04-29")
    slot = parse_instant("2026-03-31T00:30")
    assert trigger.last_before(now, Instant(slot - 1)) == slot
    assert trigger.last_before(now, slot) is None


# --- the same rule, decided anew for every minute of UTC

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
ONE_MINUTE = timedelta(minutes=1)


def number(text: str, names: tuple[str, ...], first: int) -> int:
    return names.index(text) + first if text in names else int(text)


def values(field: str, low: int, high: int, names: tuple[str, ...] = (), first: int = 0) -> frozenset[int]:
    found: set[int] = set()
    for term in field.split(","):
        span, _, step = term.partition("/")
        if span == "*":
            start, end = low, high
        elif "-" in span:
            start, end = (number(text, names, first) for text in span.split("-"))
        else:
            start = number(span, names, first)
            end = high if step else start
        found.update(range(start, end + 1, int(step or 1)))
    return frozenset(found)


def is_day_of_month(term: str, day: date) -> bool:
    last = monthrange(day.year, day.month)[1]
    if term == "L":
        return day.day == last
    if term == "LW":
        weekdays = [number for number in range(1, last + 1) if day.replace(day=number).isoweekday() <= 5]
        return day.day == weekdays[-1]
    return day.day in values(term, 1, 31)


def is_day_of_week(term: str, day: date) -> bool:
    weekday = day.isoweekday() % 7
    if term.endswith("L"):
        return weekday == int(term[:-1]) % 7 and (day + timedelta(days=7)).month != day.month
    if "#" in term:
        name, nth = term.split("#")
        return weekday == number(name, WEEKDAYS, 0) % 7 and (day.day - 1) // 7 + 1 == int(nth)
    return weekday in {value % 7 for value in values(term, 0, 7, WEEKDAYS)}


class Oracle:
    """The five fields of an expression, and Debian's rule for the days on which clocks change."""

    def __init__(self, expression: str) -> None:
        minute, hour, self.day_of_month, month, self.day_of_week = expression.split()
        self.minutes, self.hours = values(minute, 0, 59), values(hour, 0, 23)
        self.months = values(month, 1, 12, MONTHS, 1)
        self.follows_elapsed_time = minute.startswith("*") or hour.startswith("*")
        self.is_day = cache(self._is_day)

    def _is_day(self, day: date) -> bool:
        by_month = any(is_day_of_month(term, day) for term in self.day_of_month.split(","))
        by_week = any(is_day_of_week(term, day) for term in self.day_of_week.split(","))
        both = self.day_of_month.startswith("*") or self.day_of_week.startswith("*")
        return day.month in self.months and ((by_month and by_week) if both else (by_month or by_week))

    def matches(self, wall: datetime) -> bool:
        return wall.minute in self.minutes and wall.hour in self.hours and self.is_day(wall.date())

    def slots(self, zone: str, after: Instant, before: Instant) -> list[Instant]:
        found = []
        time_zone = ZoneInfo(zone)
        minute = after // MINUTE_US * MINUTE_US
        previous = to_datetime(Instant(minute - MINUTE_US)).astimezone(time_zone).replace(tzinfo=None)
        while minute < before:
            shown = to_datetime(Instant(minute)).astimezone(time_zone)
            wall = shown.replace(tzinfo=None)
            if self.follows_elapsed_time:
                is_slot = self.matches(wall)
            else:
                is_slot = (shown.fold == 0 and self.matches(wall)) or self._was_skipped(previous, wall)
            if is_slot and minute > after:
                found.append(Instant(minute))
            previous = wall
            minute += MINUTE_US
        return found

    def _was_skipped(self, previous: datetime, wall: datetime) -> bool:
        """True when a matching minute lies in the gap that ends now."""
        skipped = previous + ONE_MINUTE
        while skipped < wall:
            if self.matches(skipped):
                return True
            skipped += ONE_MINUTE
        return False


@cache
def changes(zone: str) -> tuple[Instant, ...]:
    """The instants of 2019 to 2031 at which a zone's offset changes."""
    time_zone, day, found = ZoneInfo(zone), parse_instant("2019-01-01"), []

    def offset(instant: int) -> timedelta | None:
        return to_datetime(Instant(instant)).astimezone(time_zone).utcoffset()

    for low in range(day, parse_instant("2032-01-01"), DAY_US):
        if offset(low) != offset(low + DAY_US):
            before, after = low, low + DAY_US
            while after - before > MINUTE_US:
                middle = (before + after) // 2 // MINUTE_US * MINUTE_US
                before, after = (middle, after) if offset(middle) == offset(low) else (before, middle)
            found.append(Instant(after))
    return tuple(found)


def test_the_oracle_knows_when_the_zones_change() -> None:
    assert {"2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z"} <= {format_instant(change) for change in changes(BERLIN)}
    assert {"2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z"} <= {format_instant(change) for change in changes(LORD_HOWE)}
    assert {"2026-03-08T05:00:00Z", "2026-11-01T05:00:00Z"} <= {format_instant(change) for change in changes(HAVANA)}
    assert changes("UTC") == ()


def test_a_job_of_january_has_no_slots_to_count_in_february() -> None:
    assert between("0 9 * JAN *", "UTC", "2026-02-01", "2026-02-05") == []


def test_the_run_moved_out_of_nuuks_saturday_is_counted_on_sunday() -> None:
    assert len(between("30 23 * * *", NUUK, "2026-03-27", "2026-04-01")) == 5


def test_star_hours_of_a_sunday_without_midnight_start_at_six() -> None:
    assert between("0 */6 * * SUN", HAVANA, "2026-03-06", "2026-03-08T12:00") == ["2026-03-08T10:00"]


def test_the_hour_after_havanas_missing_midnight_runs_in_full() -> None:
    assert between("*/30 1 8 3 *", HAVANA, "2026-03-07", "2026-03-10") == ["2026-03-08T05:00", "2026-03-08T05:30"]


def test_an_hourly_job_runs_in_lord_howes_second_half_hour_too() -> None:
    assert between("46 * * * *", LORD_HOWE, "2026-04-04T14:00", "2026-04-04T17:00") == [
        "2026-04-04T14:46",
        "2026-04-04T15:16",
        "2026-04-04T16:16",
    ]


def test_an_hourly_job_runs_where_lord_howes_gap_ends() -> None:
    assert between("30 * * * *", LORD_HOWE, "2026-10-03T14:00", "2026-10-03T17:00") == [
        "2026-10-03T15:00",
        "2026-10-03T15:30",
        "2026-10-03T16:30",
    ]


def test_star_hours_after_lord_howes_gap_keep_their_reading() -> None:
    assert between("0 */4 * * *", LORD_HOWE, "2026-10-03T12:00", "2026-10-03T22:00") == [
        "2026-10-03T13:30",
        "2026-10-03T17:00",
        "2026-10-03T21:00",
    ]


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    """A field without a star: a value, a list, a range, a range with a step."""
    value = st.integers(low, high)
    spans = st.tuples(value, value).filter(lambda ends: ends[0] < ends[1]).map(lambda ends: f"{ends[0]}-{ends[1]}")
    return st.one_of(
        value.map(str),
        st.lists(value, min_size=2, max_size=4).map(lambda found: ",".join(map(str, found))),
        spans,
        st.builds("{}/{}".format, spans, st.integers(1, 7)),
    )


STARS = st.one_of(st.just("*"), st.sampled_from((2, 3, 4, 5, 7, 15, 20)).map("*/{}".format))
NIGHT = st.sampled_from(("0", "1", "2", "3", "23", "0,2", "1-3", "23,0", "0-3/2"))
EVERY_DAY = st.just("* * *")
SOME_MONTHS = st.sampled_from(("*", "*", "MAR-APR", "SEP,OCT,NOV", "3", "*/2", "10,11"))
MONTH_DAYS = st.one_of(
    st.sampled_from(("*", "*", "*", "L", "LW", "L,3", "*/2", "1-7", "1,15")), st.integers(1, 28).map(str)
)
WEEK_DAYS = st.sampled_from(
    ("*", "*", "*", "MON", "SUN", "0", "7", "5-7", "FRI,MON", "*/2", "SUN#1", "MON#1", "SUN#2", "SUN#5", "5L", "0L")
)

FIXED_TIMES = st.builds("{} {}".format, fields(0, 59), st.one_of(NIGHT, fields(0, 23)))
STAR_TIMES = st.one_of(
    st.builds("{} {}".format, STARS, st.one_of(NIGHT, fields(0, 23), STARS)),
    st.builds("{} {}".format, fields(0, 59), STARS),
)
STAR_MINUTES = STARS.map("{} *".format)


def some_days(months: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(EVERY_DAY, st.builds("{} {} {}".format, MONTH_DAYS, months, WEEK_DAYS))


def schedules(months: st.SearchStrategy[str] = SOME_MONTHS) -> st.SearchStrategy[tuple[str, str]]:
    """Expression and zone."""
    whole_hours = (BERLIN, NEW_YORK, SYDNEY, "Antarctica/Troll", "Africa/Casablanca", "UTC")
    others = (LORD_HOWE, HAVANA, NUUK, "Africa/Cairo", "America/Santiago")
    zones = st.sampled_from((*whole_hours, *others))
    return st.tuples(st.builds("{} {}".format, st.one_of(FIXED_TIMES, STAR_TIMES), some_days(months)), zones)


@st.composite
def windows(draw: st.DrawFn, zone: str, longest_us: int) -> tuple[Instant, Instant]:
    """Two instants near a change of the zone, or anywhere; on a minute, beside it, or between two."""
    nearby = st.sampled_from(changes(zone)) if changes(zone) else st.nothing()
    anywhere = st.integers(parse_instant("2019-01-01") // MINUTE_US, parse_instant("2031-12-31") // MINUTE_US)
    middle = draw(st.one_of(nearby, nearby, anywhere.map(lambda minute: minute * MINUTE_US)))
    beside = st.sampled_from((0, 0, -1, 1, 30_000_000))
    before_us = draw(st.one_of(st.integers(0, 4 * 60), st.integers(0, longest_us // MINUTE_US))) * MINUTE_US
    length_us = draw(st.integers(1, longest_us // MINUTE_US)) * MINUTE_US
    after = middle - min(before_us, longest_us) + draw(beside)
    return Instant(after), Instant(after + length_us + draw(beside))


@settings(deadline=None, max_examples=500)
@given(schedules(), st.data())
def test_the_next_slot_is_the_one_that_a_walk_through_every_minute_finds(
    schedule: tuple[str, str], data: st.DataObject
) -> None:
    expression, zone = schedule
    after, before = data.draw(windows(zone, 3 * DAY_US))
    expected = Oracle(expression).slots(zone, after, before)[:200]
    trigger, slot = cron(expression, zone), after
    for wanted in expected:
        found = trigger.after(slot)
        assert found is not None and slot < found == wanted, (format_instant(slot), format_instant(wanted))
        slot = found
    if len(expected) < 200:
        following = trigger.after(slot)
        assert following is None or following >= before


@settings(deadline=None, max_examples=400)
@given(schedules(), st.data())
def test_the_last_slot_is_the_one_that_a_walk_through_every_minute_finds(
    schedule: tuple[str, str], data: st.DataObject
) -> None:
    expression, zone = schedule
    after, before = data.draw(windows(zone, 3 * DAY_US))
    expected = Oracle(expression).slots(zone, after, before)
    assert cron(expression, zone).last_before(before, after) == (expected[-1] if expected else None)


@settings(deadline=None, max_examples=400)
@given(schedules(), st.data())
def test_the_last_slot_is_where_the_forward_steps_end(schedule: tuple[str, str], data: st.DataObject) -> None:
    expression, zone = schedule
    after, before = data.draw(windows(zone, some_steps_us(expression)))
    trigger = cron(expression, zone)
    slots = steps(trigger, after, before)
    assert trigger.last_before(before, after) == (slots[-1] if slots else None)


@settings(deadline=None, max_examples=500)
@given(schedules(), st.data())
def test_the_count_is_the_number_of_forward_steps(schedule: tuple[str, str], data: st.DataObject) -> None:
    expression, zone = schedule
    after, before = data.draw(windows(zone, some_steps_us(expression)))
    trigger = cron(expression, zone)
    assert trigger.count(after, before) == len(steps(trigger, after, before))


def some_steps_us(expression: str) -> int:
    """A length of at most 40 days that holds few enough slots to step through."""
    oracle = Oracle(expression)
    return min(40 * DAY_US, max(6 * HOUR_US, 300 * DAY_US // (len(oracle.minutes) * len(oracle.hours))))
