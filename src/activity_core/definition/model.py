"""A definition as frozen values (DESIGN 3). Durations are whole microseconds; times are instants in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from activity_plumbing.clock import Instant

DefinitionId = NewType("DefinitionId", str)
"""The dotted name that is unique over everything ingested, such as ``the-custodian.sweep``."""

VersionHash = NewType("VersionHash", str)
"""SHA-256 of a definition file's bytes, in hex."""


class MisfirePolicy(StrEnum):
    """What becomes of slots that cannot start on time."""

    SKIP = "skip"
    RUN_ONCE = "run_once"
    RUN_ALL = "run_all"


class OverlapPolicy(StrEnum):
    """What becomes of a slot whose definition still has a run in progress."""

    SKIP = "skip"
    QUEUE_ONE = "queue_one"
    QUEUE_ALL = "queue_all"
    REPLACE = "replace"
    ALLOW = "allow"


class OnInterrupt(StrEnum):
    """What to do with a run whose engine or machine died under it."""

    FAIL = "fail"
    RETRY = "retry"


class OnFailure(StrEnum):
    """What a failed run means to the people around it."""

    NOTIFY = "notify"
    LOG_AND_CONTINUE = "log_and_continue"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class CronSchedule:
    """Five fields in Debian cron's meaning, read in an IANA zone."""

    expression: str
    timezone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarSchedule:
    """An expression in systemd.time(7)'s calendar grammar."""

    expression: str
    timezone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalSchedule:
    """Slots at ``anchor + n * every``, counted in UTC."""

    every_us: int
    anchor: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Debounce:
    """Only the last event of a burst runs; a burst ends `for_us` after its last event, per `key`."""

    for_us: int
    key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSubscription:
    """Matching CloudEvents start runs; `filters` are globs over the event's data."""

    event_type: str
    filters: Mapping[str, str]
    when: str | None
    debounce: Debounce | None


Schedule = CronSchedule | CalendarSchedule | IntervalSchedule | EventSubscription


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How slots that cannot start on time are treated (DESIGN 3, misfire and overlap)."""

    misfire: MisfirePolicy
    overlap: OverlapPolicy
    grace_us: int
    window_us: int
    jitter_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextQuery:
    """A question asked before a run; its answer is known to the rule as `bind`.

    `kind` is ``http_get`` or the name of a source; `arguments` are what the author wrote beside it.
    """

    kind: str
    bind: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForEach:
    """One run per item of the CEL expression `items`."""

    items: str
    name: str
    key: str
    max_parallel: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """A named set of permits: `limit` runs at once over all definitions that share the key.

    Exactly one of `key` (literal) and `key_expr` (CEL) is set.
    """

    key: str | None
    key_expr: str | None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """`max_attempts` counts the first one; delays grow by `backoff` up to `max_delay_us`."""

    max_attempts: int
    delay_us: int
    backoff: float
    max_delay_us: int

    def delay_before_us(self, attempt: int) -> int:
        """The pause before attempt number `attempt` (the second is 2).

        >>> Retry(max_attempts=4, delay_us=10, backoff=2, max_delay_us=25).delay_before_us(4)
        25
        """
        return min(self.max_delay_us, round(self.delay_us * self.backoff ** min(attempt - 2, 64)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits of a command's whole tree; None leaves the resource alone."""

    memory_bytes: int | None
    processes: int | None
    cpu_us: int | None
    file_size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """A shell command and everything that surrounds it. `kind` is always ``shell``."""

    cmd: str
    cwd: str | None
    env: Mapping[str, str]
    secrets: tuple[str, ...]
    timeout_us: int | None
    kill_grace_us: int
    limits: Limits | None
    concurrency: Concurrency | None
    exit_codes: Mapping[int, str]
    retry: Retry
    on_interrupt: OnInterrupt
    on_failure: OnFailure
    runs_on: tuple[str, ...]
    run_as: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One activity: when, whether, what, and what a failure means."""

    id: DefinitionId
    description: str
    enabled: bool
    schedule: Schedule
    policy: Policy
    context: tuple[ContextQuery, ...]
    when: tuple[str, ...]
    for_each: ForEach | None
    instruction: Instruction

    @property
    def is_scheduled(self) -> bool:
        """True for triggers that time fires, False for those that events fire."""
        return not isinstance(self.schedule, EventSubscription)


def missing_features(definition: Definition) -> tuple[str, ...]:
    """The keys of a valid definition that this version can read but not yet run; empty means it runs.

    Each is named as the author wrote it, so that a refusal points at the line to change.
    """
    schedule, instruction = definition.schedule, definition.instruction
    missing = []
    if isinstance(schedule, EventSubscription):
        missing.append("trigger_type: event")
    if isinstance(schedule, CalendarSchedule):
        missing.append("trigger_type: calendar")
    if definition.policy.overlap is OverlapPolicy.REPLACE:
        missing.append("overlap_policy: replace")
    if instruction.limits is not None:
        missing.append("limits")
    if instruction.runs_on:
        missing.append("runs_on")
    if instruction.run_as is not None:
        missing.append("run_as")
    return tuple(missing)
