"""The states of a run, and the one table of transitions between them (DESIGN 4).

Every change of state anywhere is a conditional update that names the states it may leave, taken from this
table; its row count is the answer. `docs/states.md` is generated from here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from activity_core.definition.model import DefinitionId
    from activity_plumbing.clock import Instant

RunId = NewType("RunId", int)
"""The number of a run in its ledger; later slots have higher numbers, and none is used again."""

FENCE_ATTEMPT_BITS = 16


class Kind(StrEnum):
    """What asked for a slot."""

    SCHEDULE = "schedule"
    EVENT = "event"
    MANUAL = "manual"
    BACKFILL = "backfill"
    REPLAY = "replay"


class State(StrEnum):
    """Where a slot stands."""

    PENDING = "pending"
    RUNNING = "running"
    RETRY_WAIT = "retry_wait"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    SKIPPED = "skipped"
    MISSED = "missed"


class Reason(StrEnum):
    """Why a slot did not run, or why a run ended as it did."""

    OVERLAP = "overlap"
    RULE_FALSE = "rule_false"
    PAUSED = "paused"
    LOCKED = "locked"
    SUPERSEDED = "superseded"
    SHADOW = "shadow"
    ENGINE_DOWN = "engine_down"
    SUSPENDED = "suspended"
    CLOCK_STEP = "clock_step"
    LATE = "late"
    CATCHUP_WINDOW = "catchup_window"
    UNSUPPORTED = "unsupported"
    CONTEXT_FAILED = "context_failed"
    RULE_FAILED = "rule_failed"
    BAD_ITEMS = "bad_items"
    ITEM_FAILED = "item_failed"
    NOT_STARTED = "not_started"
    EXIT_STATUS = "exit_status"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    ASKED = "asked"
    ENGINE_STOPPED = "engine_stopped"
    ENGINE_KILLED = "engine_killed"


class Stage(StrEnum):
    """How far a run came."""

    DECIDE = "decide"
    CONTEXT = "context"
    RULE = "rule"
    ITEMS = "items"
    SHELL = "shell"


FINAL = frozenset(
    {
        State.SUCCEEDED,
        State.FAILED,
        State.TIMED_OUT,
        State.CANCELLED,
        State.INTERRUPTED,
        State.SKIPPED,
        State.MISSED,
    }
)
ACTIVE = frozenset(set(State) - FINAL)
FAILURES = frozenset({State.FAILED, State.TIMED_OUT, State.INTERRUPTED})
"""The outcomes that `on_failure` speaks about."""

TRANSITIONS: dict[State, frozenset[State]] = {
    # context and rule are asked while pending, so a crash there has started nothing
    State.PENDING: frozenset(
        {
            State.RUNNING,
            State.WAITING,
            State.SKIPPED,
            State.MISSED,
            State.FAILED,
            State.CANCELLED,
        }
    ),
    # back to pending: the engine died under it and the author said on_interrupt: retry
    State.RUNNING: frozenset(
        {
            State.SUCCEEDED,
            State.FAILED,
            State.TIMED_OUT,
            State.CANCELLED,
            State.INTERRUPTED,
            State.SKIPPED,
            State.RETRY_WAIT,
            State.PENDING,
        }
    ),
    State.RETRY_WAIT: frozenset({State.PENDING, State.CANCELLED}),
    State.WAITING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    **{state: frozenset() for state in FINAL},
}


def leaving(target: State) -> tuple[State, ...]:
    """The states from which `target` may be entered, in the order of the enum.

    >>> [state.value for state in leaving(State.RUNNING)]
    ['pending']
    """
    return tuple(state for state in State if target in TRANSITIONS[state])


def fence_of(run_id: RunId, attempt: int) -> int:
    """A number that rises with every attempt of a slot, and from each slot to those recorded later.

    A resource that refuses a fence below the highest it has seen is safe from a frozen machine that wakes up.
    """
    return (run_id << FENCE_ATTEMPT_BITS) | min(attempt, (1 << FENCE_ATTEMPT_BITS) - 1)


def jitter_of(definition_id: DefinitionId, slot: Instant, jitter_us: int) -> int:
    """The slot's share of the jitter: a hash, so every machine and every restart agree.

    >>> jitter_of("a.b", 0, 0)
    0
    """
    if jitter_us == 0:
        return 0
    digest = hashlib.blake2b(f"{definition_id}\0{slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % (jitter_us + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRun:
    """A run in progress as `decide` sees it. `is_waiting`: not yet let through by its definition's overlap."""

    run_id: RunId
    is_waiting: bool


def mermaid() -> str:
    """The transition table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> pending", "    [*] --> skipped", "    [*] --> missed"]
    lines += [
        f"    {source.value} --> {target.value}"
        for source in State
        for target in State
        if target in TRANSITIONS[source]
    ]
    lines += [f"    {state.value} --> [*]" for state in State if state in FINAL]
    return "\n".join(lines)
