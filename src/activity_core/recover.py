"""After an engine died: its commands' surviving trees are ended, and their runs become interrupted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from activity_core.definition.model import OnFailure, OnInterrupt
from activity_core.execute import MOST_INTERRUPTIONS, run_marks
from activity_core.ports import EndRow, LedgerWriter
from activity_core.run import Reason, Stage, State
from activity_core.shell.tree import end_tree
from activity_plumbing.proc import read_stat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from activity_core.definition.model import Definition, VersionHash
    from activity_core.ledger.records import RunRecord
    from activity_core.ledger.store import Ledger
    from activity_plumbing.clock import Instant

LONGEST_GRACE_S = 5.0
"""A start does not wait longer than this for survivors to stop by themselves."""


async def end_survivors(
    running: Sequence[RunRecord],
    *,
    ledger_id: str,
    boot_id: str,
    ledger: Ledger,
    definition_of: Callable[[VersionHash, str], Definition | None],
    writer: LedgerWriter,
    now: Instant,
) -> None:
    """Ends what is left of these runs and records them as interrupted, or as pending where they are to run again.

    A process number counts only with the boot and start time it was recorded with; the marks in the
    environment find the rest.
    """

    async def end_one(row: RunRecord) -> None:
        definition = definition_of(row.version_hash, row.definition_id)
        grace_s = LONGEST_GRACE_S
        if definition is not None:
            grace_s = min(grace_s, definition.instruction.kill_grace_us / 1e6)
        root = _root_of(row) if ledger.boot_of(row.engine_id) == boot_id else 0
        killed = await end_tree(root, run_marks(ledger_id, row.id), grace_s)
        retry = (
            definition is not None
            and row.cancel_asked_at is None
            and definition.instruction.on_interrupt is OnInterrupt.RETRY
            and row.interruptions + 1 < MOST_INTERRUPTIONS
        )
        if row.cancel_asked_at is not None:  # somebody wanted its end, and has it now
            await writer.write(
                EndRow(
                    run_id=row.id,
                    definition_id=row.definition_id,
                    parent_run=row.parent_run,
                    state=State.CANCELLED,
                    at=now,
                    reason=Reason.ASKED,
                    stage=Stage.SHELL,
                    frees=False,
                )
            )
            return
        on_failure = OnFailure.NOTIFY if definition is None else definition.instruction.on_failure
        summary = f"{row.definition_id} interrupted: the engine was killed while run {row.id} was in progress"
        tells = not retry and row.parent_run is None and on_failure is not OnFailure.LOG_AND_CONTINUE
        await writer.write(
            EndRow(
                run_id=row.id,
                definition_id=row.definition_id,
                parent_run=row.parent_run,
                state=State.PENDING if retry else State.INTERRUPTED,
                at=now,
                reason=Reason.ENGINE_KILLED,
                stage=Stage.SHELL,
                detail=f"{killed} surviving process(es) were killed" if killed else None,
                notify=summary if tells else None,
                pause=f"run {row.id} interrupted" if tells and on_failure is OnFailure.PAUSE else None,
                frees=False,
            )
        )

    await asyncio.gather(*(end_one(row) for row in running))


def _root_of(row: RunRecord) -> int:
    """The recorded first process, if that number still is that process."""
    if row.pid is None:
        return 0
    stat = read_stat(row.pid)
    return row.pid if stat is not None and stat.started == row.pid_started else 0
