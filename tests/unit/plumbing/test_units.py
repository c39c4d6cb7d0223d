"""Durations and sizes as people write them, and durations as people read them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_plumbing.clock import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from activity_plumbing.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    format_duration,
    parse_duration_us,
    parse_size,
)

UNITS = {"us": 1, "ms": 1000, "s": SECOND_US, "m": MINUTE_US, "h": HOUR_US, "d": DAY_US, "w": 7 * DAY_US}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0s", 0),
        ("1us", 1),
        ("250ms", 250_000),
        ("90s", 90 * SECOND_US),
        ("5m", 5 * MINUTE_US),
        ("1h30m", 90 * MINUTE_US),
        ("1h 30m", 90 * MINUTE_US),
        (" 1h  30m ", 90 * MINUTE_US),
        ("30m1h", 90 * MINUTE_US),
        ("1.5h", 90 * MINUTE_US),
        ("0.25s", 250_000),
        ("2w", 14 * DAY_US),
        ("1d1d", 2 * DAY_US),
        ("1m1ms", MINUTE_US + 1000),
        ("3660d", 3660 * DAY_US),
    ],
)
def test_a_duration_is_the_sum_of_its_parts(text: str, expected: int) -> None:
    assert parse_duration_us(text) == expected
    assert re.match(DURATION_PATTERN, text)


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "s",
        "-5s",
        "+5s",
        "5 s",
        "1h30",
        "1h30x",
        "1,5h",
        ".5h",
        "1.h",
        "5S",
        "5min",
        "5sec",
        "1e3s",
        "PT5M",
        "x5s",
        "1h,5m",
    ],
)
def test_a_text_that_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; write for example 30s, 5m"):
        parse_duration_us(text)
    assert not re.match(DURATION_PATTERN, text)


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_an_empty_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write for example"):
        parse_duration_us(text)
    assert not re.match(DURATION_PATTERN, text)


@pytest.mark.parametrize("text", ["3661d", "3660d1s", "524w", "99999999999999999999w"])
def test_a_duration_beyond_ten_years_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="longer than ten years"):
        parse_duration_us(text)


PARTS = st.lists(st.tuples(st.integers(0, 500), st.sampled_from(sorted(UNITS))), min_size=1, max_size=6)


@settings(deadline=None, max_examples=300)
@given(PARTS, st.sampled_from(("", " ", "  ")))
def test_any_sequence_of_parts_is_read_as_their_sum(parts: list[tuple[int, str]], space: str) -> None:
    total = sum(count * UNITS[unit] for count, unit in parts)
    text = space.join(f"{count}{unit}" for count, unit in parts)
    if total <= 3660 * DAY_US:
        assert parse_duration_us(text) == total
    else:
        with pytest.raises(ValueError, match="ten years"):
            parse_duration_us(text)


@settings(deadline=None, max_examples=300)
@given(st.text("0123456789.smhdwu -", max_size=8))
def test_the_pattern_in_the_schema_accepts_just_what_is_read(text: str) -> None:
    try:
        parse_duration_us(text)
    except ValueError as refusal:
        assert not re.match(DURATION_PATTERN, text) or "ten years" in str(refusal)
    else:
        assert re.match(DURATION_PATTERN, text)


@pytest.mark.parametrize(
    ("duration_us", "expected"),
    [
        (0, "0s"),
        (1, "0.001ms"),
        (1500, "1.5ms"),
        (250_000, "250ms"),
        (SECOND_US, "1s"),
        (2_500_000, "2.5s"),
        (59 * SECOND_US, "59s"),
        (MINUTE_US, "1m"),
        (90 * SECOND_US, "1m30s"),
        (HOUR_US, "1h"),
        (HOUR_US + 5 * SECOND_US, "1h5s"),
        (25 * HOUR_US + MINUTE_US + SECOND_US, "1d1h"),
        (7 * DAY_US, "7d"),
        (HOUR_US - 1, "1h"),
        (DAY_US - 1, "1d"),
        (-90 * SECOND_US, "-1m30s"),
        (-1500, "-1.5ms"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(duration_us: int, expected: str) -> None:
    assert format_duration(duration_us) == expected


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(st.integers(1, 998).map(lambda ms: ms * 1000), st.integers(1, 3660 * 86_400).map(lambda s: s * SECOND_US))
)
def test_a_shown_duration_can_be_read_and_is_no_more_than_its_third_unit_off(duration_us: int) -> None:
    shown = format_duration(duration_us)
    read = parse_duration_us(shown)
    assert read <= duration_us
    assert duration_us - read < (HOUR_US if duration_us >= DAY_US else MINUTE_US)
    if duration_us < HOUR_US:
        assert read == duration_us
    assert format_duration(read) == shown
    assert format_duration(-duration_us) == "-" + shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1", 1),
        ("512", 512),
        ("1K", 1024),
        ("1.5K", 1536),
        ("512M", 512 * 1024**2),
        ("1G", 1024**3),
        ("0.5G", 512 * 1024**2),
        ("2T", 2 * 1024**4),
    ],
)
def test_a_size_counts_in_powers_of_1024(text: str, expected: int) -> None:
    assert parse_size(text) == expected
    assert re.match(SIZE_PATTERN, text)


@pytest.mark.parametrize("text", ["", " ", "M", "1k", "1KB", "1 M", "-1M", "1.M", ".5M", "1e3", "1,5G", "1P", "M1"])
def test_a_text_that_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write for example 512M or 1G"):
        parse_size(text)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 100_000), st.sampled_from((("", 0), ("K", 1), ("M", 2), ("G", 3), ("T", 4))))
def test_any_whole_size_is_exact(count: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{count}{unit[0]}") == count * 1024 ** unit[1]


@pytest.mark.parametrize(("us", "text"), [(999_999, "1s"), (999_500, "1s"), (59_999_999, "1m")])
def test_a_duration_just_below_the_next_unit_is_shown_in_it(us: int, text: str) -> None:
    assert format_duration(us) == text


@pytest.mark.parametrize("text", ["512\n", "1G\n"])
def test_a_size_with_a_line_break_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
