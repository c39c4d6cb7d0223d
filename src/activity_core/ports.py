"""What the engine needs from the outside, as Protocols and the values that pass through them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from activity_core.definition.model import DefinitionId, VersionHash
    from activity_core.run import Kind, Reason, RunId, Stage, State
    from activity_plumbing.clock import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRow:
    """A slot as it enters the ledger: to be run (`state` pending), or given up with its reason.

    Identity is (definition_id, kind, slot, item_key, request_id). `is_granted`: may start without waiting
    for its definition or for a permit.
    """

    definition_id: DefinitionId
    kind: Kind
    slot: Instant
    version_hash: VersionHash
    state: State
    due_at: Instant
    created_at: Instant
    is_serial: bool = False
    is_granted: bool = False
    permit_key: str | None = None
    permit_limit: int | None = None
    item_key: str = ""
    request_id: str = ""
    last_slot: Instant | None = None
    slot_count: int = 1
    reason: Reason | None = None
    detail: str | None = None
    blocked_by: RunId | None = None
    asked_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorMove:
    """The last slot considered of a definition's trigger."""

    definition_id: DefinitionId
    trigger_hash: str
    slot: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """A row recorded earlier that is not run after all."""

    run_id: RunId
    state: State
    reason: Reason
    at: Instant
    blocked_by: RunId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDecisions:
    """Everything one tick decided, written as one. Slots whose identity is taken are left as they are."""

    at: Instant
    rows: Sequence[SlotRow] = ()
    cursors: Sequence[CursorMove] = ()
    given_up: Sequence[GivenUp] = ()
    regrant: Sequence[RunId] = ()
    """Rows recorded earlier that may now be let through, if nothing holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """One item of a run: its key, unique within the run, and its value as JSON text."""

    key: str
    item_json: str
    permit_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnItems:
    """A pending run becomes the waiting parent of these items, which take its slot, kind and version.

    At most `max_parallel` of them run at once (None: no bound but their permits). A parent of no items ends with this.
    """

    run_id: RunId
    at: Instant
    items: Sequence[NewItem]
    max_parallel: int | None
    permit_limit: int | None
    context_json: str | None
    rule_json: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRow:
    """A run's start: on disk before its command starts."""

    run_id: RunId
    attempt: int
    fence: int
    engine_id: int | None
    at: Instant
    context_json: str | None
    rule_json: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """The process of a run, so that a later engine can end what this one left behind."""

    run_id: RunId
    pid: int
    pid_started: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputChunk:
    """A piece of what a command printed. `stream` 1 is stdout, 2 stderr; `seq` orders chunks of both as read."""

    run_id: RunId
    attempt: int
    seq: int
    stream: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledOut:
    """Chunks of a stream's tail that later output has pushed past the cap; both ends inclusive."""

    run_id: RunId
    attempt: int
    stream: int
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveOutput:
    """Output of a run that goes on."""

    chunks: Sequence[OutputChunk]
    rolled_out: Sequence[RolledOut] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRow:
    """The end of a run or of one attempt, with everything that must be true at the same time.

    `state` may be final, ``retry_wait`` (another attempt follows at `due_at`) or ``pending`` (it was
    interrupted and is to run again); for those two the attempt is kept in a row of its own. `pause`: pause the
    definition for this reason. `notify`: a notification's summary. `frees`: others may wait for what it held.
    `parent_run`: the run it is an item of, which ends in the same transaction if this was the last one.
    """

    run_id: RunId
    definition_id: DefinitionId
    state: State
    at: Instant
    parent_run: RunId | None = None
    reason: Reason | None = None
    stage: Stage | None = None
    detail: str | None = None
    duration_us: int | None = None
    exit_status: int | None = None
    signal: int | None = None
    cpu_us: int | None = None
    max_rss_bytes: int | None = None
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    context_json: str | None = None
    rule_json: str | None = None
    output: Sequence[OutputChunk] = ()
    rolled_out: Sequence[RolledOut] = ()
    due_at: Instant | None = None
    notify: str | None = None
    pause: str | None = None
    frees: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeue:
    """A run whose retry delay is over: pending again, waiting for its permit."""

    run_id: RunId
    at: Instant


Write = RecordDecisions | SpawnItems | StartRow | ProcessRow | SaveOutput | EndRow | Requeue


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The answer to a write: whether it took effect, and which runs may start because of it."""

    done: bool
    granted: Sequence[RunId] = ()
    recorded: Mapping[tuple[str, str, int, str, str], RunId] = field(default_factory=dict)
    """Identity to number, for new rows that are to be run."""
    ended: Sequence[EndRow] = ()
    """Parents whose last item this was."""


class LedgerWriter(Protocol):
    """The engine's way to write. Answers come after the commit, and writes of one moment share it."""

    def write(self, write: Write) -> Awaitable[Written]:
        """Applies one write; `done` is False when the row was not in a state that allows it."""


class ContextSource(Protocol):
    """A named question that an adapter offers; found through the entry points ``activity_core.context_sources``."""

    name: str
    parameters: Mapping[str, type]
    """The keys an author may write beside kind and bind, with their types; all optional."""

    async def ask(self, arguments: Mapping[str, object]) -> object:
        """A JSON-like answer. Raises ContextError."""
