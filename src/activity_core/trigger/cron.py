"""Cron slots in an IANA zone, as Debian's cron keeps them (cron(8), "Daylight Saving Time and other time changes").

cronsim does the parsing, and the search for fixed times: one that falls into the spring gap runs once, right
after it; one in the autumn fold once, at the first reading. ``*``-type minutes or hours follow elapsed time.
Those are searched here, day by day, and on a day whose offset changes minute by minute: cronsim takes every
change for one of whole hours away from midnight, which Lord Howe (30 minutes) and Havana (midnight) are not.
Also added: a backward search, and counting whole days at a time, because thirty days of a minutely schedule
are 43,200 steps and only 30 days.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim

from activity_core.definition.cron_aliases import plain_expression
from activity_plumbing.clock import DAY_US, HOUR_US, MINUTE_US, Instant, from_datetime, to_datetime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from activity_core.definition.model import CronSchedule

_ONE_DAY = timedelta(days=1)
_SEARCHED_DAYS = 50 * 366


class CronTrigger:
    """The slots of one cron expression; keeps only two short texts, as there may be ten thousand of these."""

    __slots__ = ("_expression", "_zone")

    def __init__(self, schedule: CronSchedule) -> None:
        self._expression = plain_expression(schedule.expression)
        self._zone = schedule.timezone

    def after(self, instant: Instant) -> Instant | None:
        return _after(self._expression, self._zone, instant)

    def last_before(self, instant: Instant, floor: Instant) -> Instant | None:
        """Searches back day by day with the forward rule, so that both directions agree on every DST day."""
        near = self._latest(Instant(max(floor, instant - 2 * HOUR_US)), instant)
        if near is not None:
            return near
        zone = _zone(self._zone)
        day = to_datetime(instant).astimezone(zone).date()
        lowest = to_datetime(floor).astimezone(zone).date()
        pattern = _pattern(self._expression)
        while day >= lowest:
            if _matches(pattern, day):  # a slot moved past midnight is found too: the look goes on up to `instant`
                latest = self._latest(Instant(max(floor, _local_midnight(day, zone) - 1)), instant)
                if latest is not None:
                    return latest
            day -= _ONE_DAY
        return None

    def _latest(self, after: Instant, before: Instant) -> Instant | None:
        latest = None
        for slot in _slots(self._expression, self._zone, after):
            if slot >= before:
                break
            latest = slot
        return latest

    def count(self, after: Instant, before: Instant) -> int:
        if before - after <= 2 * DAY_US:
            return self._count_by_steps(after, before)
        zone = _zone(self._zone)
        first = to_datetime(after).astimezone(zone).date() + _ONE_DAY
        last = to_datetime(before).astimezone(zone).date()
        return (
            self._count_by_steps(after, _local_midnight(first, zone))
            + self._count_days(first, last, zone)
            + self._count_by_steps(Instant(_local_midnight(last, zone) - 1), before)
        )

    def _count_days(self, first: date, last: date, zone: tzinfo) -> int:
        """Slots from the midnight that starts `first` to the one that starts `last`."""
        pattern = _pattern(self._expression)
        per_day = len(pattern.minutes) * len(pattern.hours)
        total, day = 0, first
        start = _local_midnight(day, zone)
        while day < last:
            following = day + _ONE_DAY
            end = _local_midnight(following, zone)
            if not _is_even(start, end, zone):
                total += self._count_by_steps(Instant(start - 1), end)
            elif _matches(pattern, day):
                total += per_day
            day, start = following, end
        return total

    def _count_by_steps(self, after: Instant, before: Instant) -> int:
        total = 0
        for slot in _slots(self._expression, self._zone, after):
            if slot >= before:
                break
            total += 1
        return total


@lru_cache(maxsize=4096)
def _after(expression: str, zone: str, instant: Instant) -> Instant | None:
    """Many definitions share an expression and ask at the same instant: midnight is popular."""
    return next(_slots(expression, zone, instant), None)


def _slots(expression: str, zone_name: str, after: Instant) -> Iterator[Instant]:
    """The slots later than `after`, for ever or until 50 years have none."""
    zone = _zone(zone_name)
    if zone is UTC or not _is_star_type(expression):
        for moment in CronSim(expression, to_datetime(after).astimezone(zone)):
            slot = from_datetime(moment)
            if slot > after:
                yield slot
    else:
        yield from _elapsed_slots(expression, zone, after)


def _elapsed_slots(expression: str, zone: tzinfo, after: Instant) -> Iterator[Instant]:
    """The slots of a ``*``-type expression: every minute that passes and whose reading on the wall matches."""
    pattern = _pattern(expression)
    hours, minutes = sorted(pattern.hours), sorted(pattern.minutes)
    day = to_datetime(after).astimezone(zone).date()
    idle_days = 0
    while idle_days < _SEARCHED_DAYS:
        idle_days += 1
        if _matches(pattern, day):
            start, end = _local_midnight(day, zone), _local_midnight(day + _ONE_DAY, zone)
            if _is_even(start, end, zone):
                readings = (
                    Instant(start + hour * HOUR_US + minute * MINUTE_US) for hour in hours for minute in minutes
                )
            else:
                readings = (
                    Instant(instant)
                    for instant in range(start, end, MINUTE_US)
                    if (shown := to_datetime(Instant(instant)).astimezone(zone)).hour in pattern.hours
                    and shown.minute in pattern.minutes
                )
            for slot in readings:
                if slot > after:
                    idle_days = 0
                    yield slot
        day += _ONE_DAY


def _is_star_type(expression: str) -> bool:
    """As cron(8) tells them apart: a wildcard starts the minute or the hour field."""
    minute, hour = expression.split()[:2]
    return minute.startswith("*") or hour.startswith("*")


@lru_cache(maxsize=256)
def _pattern(expression: str) -> CronSim:
    return CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC))


def _matches(pattern: CronSim, day: date) -> bool:
    return day.month in pattern.months and pattern.match_day(day)


@lru_cache(maxsize=128)
def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


@lru_cache(maxsize=1024)
def _local_midnight(day: date, zone: tzinfo) -> Instant:
    """The first instant of a local day; where midnight is skipped, the instant that the gap leads to."""
    return from_datetime(datetime.combine(day, time(), tzinfo=zone))


def _is_even(start: Instant, end: Instant, zone: tzinfo) -> bool:
    """True when the zone keeps one offset from just before the local day starts to its end."""
    before = to_datetime(Instant(start - 1)).astimezone(zone)
    return before.utcoffset() == to_datetime(end).astimezone(zone).utcoffset()
