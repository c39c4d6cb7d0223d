"""When: each trigger's slots as instants. The only place where zone arithmetic happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, assert_never

from activity_core.definition.model import CalendarSchedule, CronSchedule, EventSubscription, IntervalSchedule

if TYPE_CHECKING:
    from activity_core.definition.model import Schedule
    from activity_plumbing.clock import Instant


class Trigger(Protocol):
    """The slots of one schedule. Every method is pure; slots are strictly increasing instants in UTC."""

    def after(self, instant: Instant) -> Instant | None:
        """The first slot later than `instant`; None when there is none in the next 50 years."""

    def last_before(self, instant: Instant, floor: Instant) -> Instant | None:
        """The last slot earlier than `instant` and later than `floor`."""

    def count(self, after: Instant, before: Instant) -> int:
        """How many slots lie strictly between `after` and `before`."""


def trigger_of(schedule: Schedule) -> Trigger | None:
    """The trigger that fires a schedule; None for one that no clock fires."""
    match schedule:
        case CronSchedule():
            from activity_core.trigger.cron import CronTrigger

            return CronTrigger(schedule)
        case IntervalSchedule():
            from activity_core.trigger.interval import IntervalTrigger

            return IntervalTrigger(schedule)
        case CalendarSchedule() | EventSubscription():
            return None
        case _:
            assert_never(schedule)
