"""The row that a slot enters the ledger with: what it must hold before it may start."""

from __future__ import annotations

from activity_core.definition.model import Definition, OverlapPolicy, VersionHash
from activity_core.errors import ExpressionError
from activity_core.ports import SlotRow
from activity_core.rule import permit_key_of
from activity_core.run import Kind, State
from activity_plumbing.clock import Instant, to_datetime


def new_row(
    definition: Definition,
    version_hash: VersionHash,
    slot: Instant,
    due_at: Instant,
    now: Instant,
    *,
    waits: bool,
    kind: Kind = Kind.SCHEDULE,
    request_id: str = "",
    asked_by: str | None = None,
) -> SlotRow:
    """A slot that is to be run, with what it must hold first. A `key_expr` that fails makes a failed row.

    The permits of a definition with `for_each` are for its items; their parent needs none.
    """
    concurrency = None if definition.for_each is not None else definition.instruction.concurrency
    key, problem = None, None
    if concurrency is not None:
        key = concurrency.key
        if concurrency.key_expr is not None:
            try:
                key = permit_key_of(concurrency.key_expr, {"slot": to_datetime(slot)})
            except ExpressionError as failure:
                problem = f"concurrency.key_expr: {failure.message}"
    return SlotRow(
        definition_id=definition.id,
        kind=kind,
        slot=slot,
        version_hash=version_hash,
        state=State.PENDING,
        detail=problem,  # fails the run when its turn comes, with all that follows from a failure
        due_at=due_at,
        created_at=now,
        is_serial=definition.policy.overlap is not OverlapPolicy.ALLOW,
        is_granted=not waits and key is None and kind is Kind.SCHEDULE,
        permit_key=key,
        permit_limit=None if concurrency is None else concurrency.limit,
        request_id=request_id,
        asked_by=asked_by,
    )
