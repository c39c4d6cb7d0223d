"""Rows as they are read back: frozen values with enums and instants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from activity_core.run import Kind, Reason, RunId, Stage, State

if TYPE_CHECKING:
    import sqlalchemy as sa

    from activity_core.definition.model import DefinitionId, VersionHash
    from activity_plumbing.clock import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One row of ``runs``; the columns' meaning stands in ``schema``."""

    id: RunId
    definition_id: DefinitionId
    kind: Kind
    slot: Instant
    item_key: str
    request_id: str
    last_slot: Instant
    slot_count: int
    origin_run: RunId | None
    parent_run: RunId | None
    item_json: str | None
    version_hash: VersionHash
    state: State
    reason: Reason | None
    stage: Stage | None
    detail: str | None
    blocked_by: RunId | None
    created_at: Instant
    due_at: Instant
    granted_at: Instant | None
    started_at: Instant | None
    ended_at: Instant | None
    duration_us: int | None
    is_serial: bool
    permit_key: str | None
    permit_limit: int | None
    max_parallel: int | None
    attempt: int
    interruptions: int
    fence: int | None
    engine_id: int | None
    pid: int | None
    pid_started: int | None
    cancel_asked_at: Instant | None
    cancel_asked_by: str | None
    asked_by: str | None
    context_json: str | None
    rule_json: str | None
    exit_status: int | None
    signal: int | None
    cpu_us: int | None
    max_rss_bytes: int | None
    stdout_bytes: int | None
    stderr_bytes: int | None
    pruned_at: Instant | None

    @property
    def lateness_us(self) -> int | None:
        """How long after its nominal slot the run started; None if it never did."""
        return None if self.started_at is None else self.started_at - self.slot


def run_record(row: sa.Row[Any]) -> RunRecord:
    """The record of a whole row of ``runs``."""
    values = dict(row._mapping)
    values["kind"] = Kind(values["kind"])
    values["state"] = State(values["state"])
    values["reason"] = values["reason"] and Reason(values["reason"])
    values["stage"] = values["stage"] and Stage(values["stage"])
    return RunRecord(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """An attempt that was followed by another one."""

    run_id: RunId
    attempt: int
    fence: int
    started_at: Instant
    ended_at: Instant
    outcome: str
    reason: str | None
    detail: str | None
    exit_status: int | None
    signal: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One content of a definition file."""

    hash: VersionHash
    definition_id: DefinitionId
    path: str
    text: bytes
    plain_json: str
    loader: str
    git_commit: str | None
    git_blob: str | None
    first_seen_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionRecord:
    """The holder of an id: which file, which version is in force, and what is wrong with the file now."""

    id: DefinitionId
    path: str
    version_hash: VersionHash
    trigger_hash: str
    in_force_since: Instant
    removed_at: Instant | None
    problem_json: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRecord:
    """A pause of a definition, lasting while `until` is None."""

    definition_id: DefinitionId
    since: Instant
    until: Instant | None
    reason: str | None
    paused_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEvent:
    """Something that happened to a definition's file."""

    at: Instant
    definition_id: DefinitionId | None
    path: str
    event: str
    version_hash: VersionHash | None
    detail: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """One start of an engine. `stopped_at` is None while it runs, or for ever when it was killed."""

    id: int
    host: str
    pid: int
    pid_started: int
    boot_id: str
    started_at: Instant
    seen_at: Instant
    seen_boottime_us: int
    stopped_at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GapRecord:
    """A time in which nothing could start."""

    since: Instant
    until: Instant
    reason: Reason
    noticed_at: Instant
