"""Slots at even distances in elapsed time, whatever the wall clock of any zone does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from activity_plumbing.clock import Instant

if TYPE_CHECKING:
    from activity_core.definition.model import IntervalSchedule


class IntervalTrigger:
    """Slots = anchor + n * every, for every whole n (also before the anchor)."""

    __slots__ = ("_anchor", "_every_us")

    def __init__(self, schedule: IntervalSchedule) -> None:
        self._every_us = schedule.every_us
        self._anchor = schedule.anchor

    def after(self, instant: Instant) -> Instant | None:
        return Instant(self._anchor + ((instant - self._anchor) // self._every_us + 1) * self._every_us)

    def last_before(self, instant: Instant, floor: Instant) -> Instant | None:
        slot = Instant(self._anchor + -(-(instant - self._anchor) // self._every_us) * self._every_us - self._every_us)
        return slot if slot > floor else None

    def count(self, after: Instant, before: Instant) -> int:
        first = (after - self._anchor) // self._every_us + 1
        last = -(-(before - self._anchor) // self._every_us) - 1
        return max(0, last - first + 1)
