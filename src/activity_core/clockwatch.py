"""Telling a clock that was set from time that has passed, and a machine that slept from one that worked.

``CLOCK_BOOTTIME`` counts everything since boot and cannot be set; ``CLOCK_MONOTONIC`` leaves suspend out
(clock_gettime(2)). Wall time that moved without boottime agreeing is a step; boottime that moved without
monotonic agreeing is a suspend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from activity_core.decide import Gap
from activity_core.run import Reason
from activity_plumbing.clock import SECOND_US, Clock, Instant
from activity_plumbing.proc import boot_id

if TYPE_CHECKING:
    from activity_core.ledger.records import EngineRecord

STEP_US = 2 * SECOND_US
"""Smaller differences are leap seconds and the noise of reading two clocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """What happened to time since the last look: gaps in which nothing could start, or a step back."""

    now: Instant
    gaps: tuple[Gap, ...] = ()
    went_back: bool = False


class ClockWatch:
    """Compares the clocks at each look."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.boot_id = boot_id()
        self._read()

    def look(self) -> Jump | None:
        """What happened since the last look, or None when time just passed."""
        wall, boot, awake = self._wall, self._boot, self._awake
        self._read()
        elapsed = self._boot - boot
        slept = elapsed - (self._awake - awake)
        expected = Instant(wall + elapsed)
        if abs(self._wall - expected) < STEP_US and slept < STEP_US:
            return None
        gaps = []
        if slept >= STEP_US:
            gaps.append(Gap(since=wall, until=min(expected, self._wall), reason=Reason.SUSPENDED))
        if self._wall - expected >= STEP_US:
            gaps.append(Gap(since=expected, until=self._wall, reason=Reason.CLOCK_STEP))
        return Jump(
            now=self._wall,
            gaps=tuple(gap for gap in gaps if gap.until > gap.since),
            went_back=expected - self._wall >= STEP_US,
        )

    def since_engine(self, before: EngineRecord) -> Jump | None:
        """What happened between an earlier engine's last sign of life and now."""
        now = self._wall
        seen = Instant(before.seen_at if before.stopped_at is None else before.stopped_at)
        if before.boot_id != self.boot_id or self._boot < before.seen_boottime_us:
            expected = now if now > seen else seen
        else:
            expected = Instant(seen + self._boot - before.seen_boottime_us)
        gaps = []
        down_until = Instant(min(expected, now) if abs(now - expected) >= STEP_US else now)
        if down_until > seen:
            gaps.append(Gap(since=seen, until=down_until, reason=Reason.ENGINE_DOWN))
        if now - expected >= STEP_US:
            gaps.append(Gap(since=expected, until=now, reason=Reason.CLOCK_STEP))
        went_back = expected - now >= STEP_US
        return Jump(now=now, gaps=tuple(gaps), went_back=went_back) if gaps or went_back else None

    def _read(self) -> None:
        self._wall = self._clock.now()
        self._boot = self._clock.boottime_us()
        self._awake = self._clock.monotonic_us()
