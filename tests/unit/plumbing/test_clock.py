"""Instants survive every way there and back, and the machine's clocks keep their promises."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_plumbing.clock import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    SECOND_US,
    Instant,
    SystemClock,
    format_instant,
    from_datetime,
    parse_instant,
    to_datetime,
)

INSTANTS = st.integers(from_datetime(datetime.min.replace(tzinfo=UTC)), from_datetime(datetime.max.replace(tzinfo=UTC)))
ZONES = st.sampled_from(("UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu"))
MODERN = st.integers(0, parse_instant("2037-12-31"))


def test_the_units_are_microseconds() -> None:
    assert timedelta(microseconds=SECOND_US) == timedelta(seconds=1)
    assert timedelta(microseconds=MINUTE_US) == timedelta(minutes=1)
    assert timedelta(microseconds=HOUR_US) == timedelta(hours=1)
    assert timedelta(microseconds=DAY_US) == timedelta(days=1)


@settings(deadline=None, max_examples=300)
@given(INSTANTS)
def test_an_instant_survives_as_datetime_and_as_text(number: int) -> None:
    instant = Instant(number)
    assert to_datetime(instant).utcoffset() == timedelta(0)
    assert from_datetime(to_datetime(instant)) == instant
    assert parse_instant(format_instant(instant)) == instant


@settings(deadline=None, max_examples=300)
@given(MODERN, ZONES)
def test_an_instant_survives_the_wall_clock_of_any_zone(number: int, zone: str) -> None:
    shown = to_datetime(Instant(number)).astimezone(ZoneInfo(zone))
    assert from_datetime(shown) == number
    assert parse_instant(shown.isoformat()) == number


@settings(deadline=None, max_examples=200)
@given(st.lists(INSTANTS, min_size=2, max_size=2))
def test_later_instants_have_later_datetimes(pair: list[int]) -> None:
    first, second = (Instant(number) for number in pair)
    assert (first < second) == (to_datetime(first) < to_datetime(second))
    assert to_datetime(second) - to_datetime(first) == timedelta(microseconds=second - first)


def test_the_two_readings_of_a_repeated_hour_are_an_hour_apart() -> None:
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    second = first.replace(fold=1)
    assert first == second  # why instants are whole numbers
    assert from_datetime(second) - from_datetime(first) == HOUR_US


def test_instants_before_1970_are_below_nought_and_exact() -> None:
    assert parse_instant("1969-12-31T23:59:59.999999Z") == -1
    assert format_instant(Instant(-1)) == "1969-12-31T23:59:59.999999Z"


def test_a_moment_without_a_time_zone_is_refused() -> None:
    naive = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    with pytest.raises(ValueError, match="ambiguous"):
        from_datetime(naive)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-29", "2026-03-29T00:00:00Z"),
        ("2026-03-29T01:02", "2026-03-29T01:02:00Z"),
        ("2026-03-29 01:02:03", "2026-03-29T01:02:03Z"),
        ("2026-03-29T01:02:03Z", "2026-03-29T01:02:03Z"),
        ("2026-03-29T01:02:03.5+05:45", "2026-03-28T19:17:03.500000Z"),
        ("2026-03-29T01:02:03.000001-09:30", "2026-03-29T10:32:03.000001Z"),
        ("20260329T010203Z", "2026-03-29T01:02:03Z"),
    ],
)
def test_iso_8601_is_read_in_utc_unless_it_names_an_offset(text: str, expected: str) -> None:
    assert format_instant(parse_instant(text)) == expected


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2026-02-30", "2026-03-29T25:00", "1774746123", "2026-03-29T01:02 CET"]
)
def test_a_text_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_instant(text)


def test_a_zone_of_odd_minutes_is_read_exactly() -> None:
    moment = datetime(2026, 1, 1, 12, 0, tzinfo=timezone(timedelta(hours=5, minutes=45, seconds=30)))
    assert format_instant(from_datetime(moment)) == "2026-01-01T06:14:30Z"


def test_the_wall_clock_is_the_machines() -> None:
    before = time.time_ns() // 1000
    now = SystemClock().now()
    after = time.time_ns() // 1000
    assert before <= now <= after


def test_monotonic_and_boot_time_never_go_back() -> None:
    clock = SystemClock()
    monotonic = [clock.monotonic_us() for _ in range(1000)]
    boottime = [clock.boottime_us() for _ in range(1000)]
    assert monotonic == sorted(monotonic)
    assert boottime == sorted(boottime)


def test_boot_time_includes_suspends_and_so_is_never_behind_the_time_awake() -> None:
    clock = SystemClock()
    awake = clock.monotonic_us()
    assert clock.boottime_us() >= awake
