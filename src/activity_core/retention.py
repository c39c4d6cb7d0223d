"""Which history is given up, by age and number; that a slot was run stays known for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from activity_plumbing.clock import Instant

if TYPE_CHECKING:
    from activity_core.ledger.store import Ledger
    from activity_core.settings import Settings


def prune(ledger: Ledger, settings: Settings, now: Instant) -> int:
    """Applies the retention of the settings; how many runs it emptied."""
    age = settings.history_max_age
    found = ledger.prunable(
        ended_before=None if age is None else Instant(now - age),
        keep_per_definition=settings.history_max_runs,
    )
    ledger.prune(found, now)
    return len(found)
