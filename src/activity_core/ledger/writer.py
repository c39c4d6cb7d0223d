"""The engine's writes, grouped: whatever waits when the writer is free becomes one transaction.

Output goes to its own file first, so that a run that has ended always has its output; the ledger's own
commit stays small and is the one that is synced to disk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from activity_core.ledger import statements
from activity_core.ledger.permits import grant
from activity_core.ledger.statements import change_state, update_each
from activity_core.ports import (
    EndRow,
    OutputChunk,
    ProcessRow,
    RecordDecisions,
    Requeue,
    RolledOut,
    SaveOutput,
    SpawnItems,
    StartRow,
    Write,
    Written,
)
from activity_core.run import FINAL, State
from activity_plumbing.database import GroupCommit

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    import sqlalchemy as sa

    from activity_core.ledger.store import Ledger
    from activity_core.run import RunId
    from activity_plumbing.clock import Instant

_ANOTHER_ATTEMPT = frozenset({State.RETRY_WAIT, State.PENDING})


class GroupedWriter:
    """A `LedgerWriter` on one writer thread. Needs a running event loop."""

    def __init__(self, ledger: Ledger, on_trouble: Callable[[str | None], None] = lambda _trouble: None) -> None:
        self._ledger = ledger
        self._commits: GroupCommit[Write, Written] = GroupCommit(
            ledger.engine, self._apply, name="ledger-writer", on_trouble=on_trouble
        )

    def write(self, write: Write) -> asyncio.Future[Written]:
        return self._commits.submit(write)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Writes what waits and stops; False if it could not in time."""
        return self._commits.close(timeout_s)

    def _apply(self, connection: sa.Connection, writes: Sequence[Write]) -> list[Written]:
        self._save_output(writes)
        answers: list[Written | None] = [None] * len(writes)
        starts = [(index, write) for index, write in enumerate(writes) if isinstance(write, StartRow)]
        ends = [(index, write) for index, write in enumerate(writes) if isinstance(write, EndRow)]
        # Ends come first: what a decision of the same group queued behind them is then let through at once.
        if ends:
            for index, written in _end(connection, ends):
                answers[index] = written
        if starts:
            done = statements.start_runs(connection, [start for _, start in starts])
            for (index, _), is_done in zip(starts, done, strict=True):
                answers[index] = Written(done=is_done)
        for index, write in enumerate(writes):
            match write:
                case RecordDecisions():
                    recorded, granted, ended = statements.record_decisions(connection, write)
                    answers[index] = Written(done=True, granted=granted, recorded=recorded, ended=ended)
                case SpawnItems():
                    answers[index] = _spawn(connection, write)
                case ProcessRow():
                    answers[index] = _note_process(connection, write)
                case Requeue():
                    answers[index] = _requeue(connection, write)
                case SaveOutput():
                    answers[index] = Written(done=True)
                case StartRow() | EndRow():
                    pass  # above
        return [answer for answer in answers if answer is not None]

    def _save_output(self, writes: Sequence[Write]) -> None:
        chunks: list[OutputChunk] = []
        rolled_out: list[RolledOut] = []
        for write in writes:
            if isinstance(write, SaveOutput):
                chunks += write.chunks
                rolled_out += write.rolled_out
            elif isinstance(write, EndRow):
                chunks += write.output
                rolled_out += write.rolled_out
        if chunks or rolled_out:
            self._ledger.save_output(chunks, rolled_out)


def _end(connection: sa.Connection, ends: Sequence[tuple[int, EndRow]]) -> list[tuple[int, Written]]:
    """Ends runs, equal shapes together, then lets through what waited for them."""
    shapes: dict[tuple[State, tuple[str, ...]], list[tuple[int, EndRow, dict[str, object]]]] = {}
    for index, write in ends:
        if write.state in _ANOTHER_ATTEMPT:
            statements.keep_attempt(connection, write)
        columns, values = statements.end_run_values(write)
        shapes.setdefault((write.state, columns), []).append((index, write, values))
    ended: list[tuple[int, EndRow]] = []
    answers: dict[int, Written] = {}
    for (state, columns), members in shapes.items():
        done = update_each(connection, change_state(state, *columns), [values for _, _, values in members])
        for (index, write, _), is_done in zip(members, done, strict=True):
            answers[index] = Written(done=is_done)
            if is_done:
                ended.append((index, write))
    for _, write in ended:
        statements.tell(connection, write)
    items = [(index, write) for index, write in ended if write.parent_run is not None]
    if items:
        last: dict[RunId, Instant] = {}
        for _, write in items:
            if write.parent_run is not None and write.state in FINAL:
                last[write.parent_run] = max(write.at, last.get(write.parent_run, write.at))
        answers[items[0][0]] = Written(done=True, ended=statements.end_parents(connection, last))
    freeing = [(index, write) for index, write in ended if write.frees]
    if freeing:
        first, at = freeing[0][0], freeing[0][1].at
        keys = statements.permit_keys(connection, [write.run_id for _, write in freeing])
        names = {write.definition_id for _, write in freeing}
        parents = {write.parent_run for _, write in freeing if write.parent_run is not None}
        answers[first] = replace(answers[first], granted=grant(connection, names, keys, at, parents))
    return sorted(answers.items())


def _spawn(connection: sa.Connection, write: SpawnItems) -> Written:
    spawned = statements.spawn_items(connection, write)
    if spawned is None:
        return Written(done=False)
    recorded, granted = spawned
    ended = [] if write.items else statements.end_parents(connection, {write.run_id: write.at})
    granted += grant(connection, {end.definition_id for end in ended}, (), write.at) if ended else []
    return Written(done=True, granted=granted, recorded=recorded, ended=ended)


def _note_process(connection: sa.Connection, write: ProcessRow) -> Written:
    return Written(done=statements.note_process(connection, write))


def _requeue(connection: sa.Connection, write: Requeue) -> Written:
    waiting = statements.requeue(connection, write.run_id)
    if waiting is None:
        return Written(done=False)
    keys = [] if waiting.permit_key is None else [waiting.permit_key]
    parents = [] if waiting.parent_run is None else [waiting.parent_run]
    return Written(done=True, granted=grant(connection, [waiting.definition_id], keys, write.at, parents))
