"""Cron slots in an IANA zone, as Debian's cron keeps them (cron(8), "Daylight Saving Time and other time changes").

cronsim does the parsing and the search. A job at a fixed time that falls into the spring gap runs once,
right after it; one in the autumn fold once, at the first reading; ``*``-type minutes or hours follow elapsed
time. What is added here: instants in and out, a backward search, and counting whole days at a time, because
thirty days of a minutely schedule are 43,200 steps and only 30 days.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim

from activity_core.definition.cron_aliases import plain_expression
from activity_plumbing.clock import DAY_US, HOUR_US, Instant, from_datetime, to_datetime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from activity_core.definition.model import CronSchedule

_ONE_DAY = timedelta(days=1)


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
            # the day before a matching one matters too: a gap at midnight moves its slots into the next day
            if pattern.match_day(day) or pattern.match_day(day - _ONE_DAY):
                latest = self._latest(Instant(max(floor, _local_midnight(day, zone) - 1)), instant)
                if latest is not None:
                    return latest
            day -= _ONE_DAY
        return None

    def _latest(self, after: Instant, before: Instant) -> Instant | None:
        latest = None
        for slot in self._slots(after):
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
            if end - start != DAY_US or not _is_even(day, zone):
                total += self._count_by_steps(Instant(start - 1), end)
            elif pattern.match_day(day):
                total += per_day
            day, start = following, end
        return total

    def _count_by_steps(self, after: Instant, before: Instant) -> int:
        total = 0
        for slot in self._slots(after):
            if slot >= before:
                break
            total += 1
        return total

    def _slots(self, after: Instant) -> Iterator[Instant]:
        for moment in CronSim(self._expression, _local(after, self._zone)):
            slot = from_datetime(moment)
            if slot > after:
                yield slot


@lru_cache(maxsize=4096)
def _after(expression: str, zone: str, instant: Instant) -> Instant | None:
    """Many definitions share an expression and ask at the same instant: midnight is popular."""
    for moment in CronSim(expression, _local(instant, zone)):
        slot = from_datetime(moment)
        if slot > instant:
            return slot
    return None


@lru_cache(maxsize=256)
def _pattern(expression: str) -> CronSim:
    return CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC))


@lru_cache(maxsize=128)
def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def _local(instant: Instant, zone: str) -> datetime:
    return to_datetime(instant).astimezone(_zone(zone))


def _local_midnight(day: date, zone: tzinfo) -> Instant:
    """The first instant of a local day; in a gap at midnight, the instant that the gap leads to."""
    midnight = datetime.combine(day, time(), tzinfo=zone)
    instant = from_datetime(midnight)
    shown = to_datetime(instant).astimezone(zone)
    if shown.date() < day:  # the fold=0 reading of a skipped midnight lands before the gap
        instant = from_datetime(midnight.replace(fold=1))
    return instant


def _is_even(day: date, zone: tzinfo) -> bool:
    """True when the zone keeps one offset over the whole local day and the half hour around it."""
    noon = datetime.combine(day, time(12), tzinfo=zone)
    around = (noon - timedelta(hours=13), noon + timedelta(hours=13))
    offsets = {moment.astimezone(UTC).astimezone(zone).utcoffset() for moment in around}
    return len(offsets) == 1
