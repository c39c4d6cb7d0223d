"""The ledger's writes as SQLAlchemy Core, for SQLite and Postgres alike.

Every change of a run's state goes through `change_state`: an UPDATE that names the states it may leave,
taken from the transition table, whose row count is the answer.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from activity_core.conclude import conclude, consequences
from activity_core.definition.model import OnFailure
from activity_core.ledger.permits import grant
from activity_core.ledger.schema import attempts, cursors, is_active, notifications, output, pauses, runs, versions
from activity_core.ports import EndRow
from activity_core.run import FINAL, Reason, RunId, Stage, State, leaving
from activity_plumbing.database import GroupRefused, execute_rendered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from activity_core.ports import (
        OutputChunk,
        ProcessRow,
        RecordDecisions,
        RolledOut,
        SlotRow,
        SpawnItems,
        StartRow,
    )
    from activity_plumbing.clock import Instant

Identity = tuple[str, str, int, str, str]


def insert_or_ignore(connection: sa.Connection, table: sa.Table) -> Any:
    """``INSERT … ON CONFLICT DO NOTHING`` in the connection's dialect."""
    return _insert_or_ignore(connection.dialect.name, table)


@lru_cache(maxsize=32)
def _insert_or_ignore(dialect: str, table: sa.Table) -> Any:
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table).on_conflict_do_nothing()


@lru_cache(maxsize=32)
def change_state(target: State, *columns: str) -> sa.Update:
    """An UPDATE of one run (parameter ``run``) into `target`, setting `columns` (parameters ``new_<column>``)."""
    return (
        sa.update(runs)
        # not in_(): an expanding parameter cannot be used for many rows at once
        .where(runs.c.id == sa.bindparam("run"), sa.or_(*(runs.c.state == state.value for state in leaving(target))))
        .values(state=target.value, **{column: sa.bindparam(f"new_{column}") for column in columns})
    )


def insert_slots(connection: sa.Connection, rows: Sequence[SlotRow]) -> dict[Identity, RunId]:
    """Inserts rows whose identity is free; the numbers of those that were new and are to be run."""
    if not rows:
        return {}
    statement = _insert_returning(connection.dialect.name)
    found = connection.execute(statement, [_slot_values(row) for row in rows])
    return {
        (row.definition_id, row.kind, row.slot, row.item_key, row.request_id): RunId(row.id)
        for row in found
        if row.state == "pending"
    }


@lru_cache(maxsize=4)
def _insert_returning(dialect: str) -> Any:
    return _insert_or_ignore(dialect, runs).returning(
        runs.c.id,
        runs.c.definition_id,
        runs.c.kind,
        runs.c.slot,
        runs.c.item_key,
        runs.c.request_id,
        runs.c.state,
    )


def _slot_values(row: SlotRow) -> dict[str, object]:
    return {
        "definition_id": row.definition_id,
        "kind": row.kind.value,
        "slot": row.slot,
        "item_key": row.item_key,
        "request_id": row.request_id,
        "last_slot": row.slot if row.last_slot is None else row.last_slot,
        "slot_count": row.slot_count,
        "version_hash": row.version_hash,
        "state": row.state.value,
        "reason": row.reason and row.reason.value,
        "detail": row.detail,
        "blocked_by": row.blocked_by,
        "created_at": row.created_at,
        "due_at": row.due_at,
        "granted_at": row.created_at if row.is_granted else None,
        "is_serial": row.is_serial,
        "permit_key": row.permit_key,
        "permit_limit": row.permit_limit,
        "asked_by": row.asked_by,
    }


_MOVE_CURSOR = (
    sa.update(cursors)
    .where(cursors.c.definition_id == sa.bindparam("of"), cursors.c.trigger_hash == sa.bindparam("by"))
    .values(slot=sa.bindparam("to"))
)


def record_decisions(
    connection: sa.Connection, write: RecordDecisions
) -> tuple[dict[Identity, RunId], list[RunId], list[EndRow]]:
    """Rows, cursors and second thoughts of one tick; new numbers, the runs that may start at once, ended parents."""
    recorded = insert_slots(connection, write.rows)
    if write.cursors:
        moves = [{"of": move.definition_id, "by": move.trigger_hash, "to": move.slot} for move in write.cursors]
        execute_rendered(connection, _MOVE_CURSOR, moves)
    for each in write.given_up:
        connection.execute(
            _GIVE_UP[each.state],
            {
                "run": each.run_id,
                "new_reason": each.reason.value,
                "new_ended_at": each.at,
                "new_blocked_by": each.blocked_by,
            },
        )
    cancelled = [each.run_id for each in write.given_up if each.state is State.CANCELLED]
    ended = end_parents(connection, dict.fromkeys(_parents_of(connection, cancelled), write.at)) if cancelled else []
    granted = []
    wanting: set[str] = {end.definition_id for end in ended}
    keys: set[str] = set()
    parents: set[RunId] = set()
    for row in write.rows:
        run_id = recorded.get((row.definition_id, row.kind, row.slot, row.item_key, row.request_id))
        if run_id is None:
            continue
        if row.is_granted:
            granted.append(run_id)
        else:
            wanting.add(row.definition_id)
            if row.permit_key is not None:
                keys.add(row.permit_key)
    for run_id in write.regrant:
        waiting = connection.execute(
            sa.select(runs.c.definition_id, runs.c.permit_key, runs.c.parent_run).where(runs.c.id == run_id)
        ).one_or_none()
        if waiting is not None:
            if waiting.parent_run is None:
                wanting.add(waiting.definition_id)
            else:
                parents.add(waiting.parent_run)
            if waiting.permit_key is not None:
                keys.add(waiting.permit_key)
    if wanting or keys or parents:
        granted += grant(connection, wanting, keys, write.at, parents)
    return recorded, granted, ended


_GIVE_UP = {
    state: change_state(state, "reason", "ended_at", "blocked_by").where(runs.c.state != "running")
    for state in (State.SKIPPED, State.MISSED, State.CANCELLED)
}


# -- items and their parents --

_SPAWN = change_state(State.WAITING, "started_at", "stage", "context_json", "rule_json")


def spawn_items(connection: sa.Connection, write: SpawnItems) -> tuple[dict[Identity, RunId], list[RunId]] | None:
    """Makes a pending run the parent of new items; their numbers and which may start. None: it was not pending."""
    values = {
        "run": write.run_id,
        "new_started_at": write.at,
        "new_stage": Stage.ITEMS.value,
        "new_context_json": write.context_json,
        "new_rule_json": write.rule_json,
    }
    if connection.execute(_SPAWN, values).rowcount != 1:
        return None
    if not write.items:
        return {}, []
    parent = connection.execute(
        sa.select(
            runs.c.definition_id,
            runs.c.kind,
            runs.c.slot,
            runs.c.request_id,
            runs.c.version_hash,
            runs.c.due_at,
            runs.c.asked_by,
        ).where(runs.c.id == write.run_id)
    ).one()
    shared = {
        **parent._mapping,
        "last_slot": parent.slot,
        "slot_count": 1,
        "state": State.PENDING.value,
        "created_at": write.at,
        "is_serial": False,
        "parent_run": write.run_id,
        "max_parallel": write.max_parallel,
    }
    rows = [
        {
            **shared,
            "item_key": item.key,
            "item_json": item.item_json,
            "permit_key": item.permit_key,
            "permit_limit": None if item.permit_key is None else write.permit_limit,
        }
        for item in write.items
    ]
    found = connection.execute(sa.insert(runs).returning(runs.c.id, runs.c.item_key), rows)
    identity = (parent.definition_id, parent.kind, parent.slot)
    recorded = {(*identity, row.item_key, parent.request_id): RunId(row.id) for row in found}
    return recorded, grant(connection, (), (), write.at, [write.run_id])


_ANY_ITEM_LEFT = sa.select(runs.c.id).where(runs.c.parent_run == sa.bindparam("parent"), is_active(runs)).limit(1)


def end_parents(connection: sa.Connection, parents: Mapping[RunId, Instant]) -> list[EndRow]:
    """Ends those of these waiting runs that have no item left in progress, with all that follows from it.

    `parents` gives the instant at which an item of each has just ended, or it was found to have none.
    Called in every transaction that ends an item, so a waiting run always has an item in progress.
    """
    ended = []
    for parent, at in sorted(parents.items()):
        if connection.execute(_ANY_ITEM_LEFT, {"parent": parent}).first() is not None:
            continue
        row = connection.execute(
            sa.select(runs.c.definition_id, runs.c.started_at, runs.c.cancel_asked_at, versions.c.plain_json)
            .join_from(runs, versions, versions.c.hash == runs.c.version_hash, isouter=True)
            .where(runs.c.id == parent, runs.c.state == State.WAITING.value)
        ).one_or_none()
        if row is None:
            continue
        counts = item_counts(connection, [parent]).get(parent, {})
        conclusion = conclude(counts, is_cancelled=row.cancel_asked_at is not None)
        notify, pause = consequences(
            row.definition_id,
            parent,
            _on_failure(row.plain_json),
            conclusion.state,
            conclusion.reason,
            conclusion.detail,
        )
        end = EndRow(
            run_id=parent,
            definition_id=row.definition_id,
            state=conclusion.state,
            at=at,
            reason=conclusion.reason,
            detail=conclusion.detail,
            duration_us=max(0, at - row.started_at),  # over restarts only the wall clock can tell
            notify=notify,
            pause=pause,
        )
        columns, values = end_run_values(end)
        if connection.execute(change_state(end.state, *columns), values).rowcount == 1:
            tell(connection, end)
            ended.append(end)
    return ended


def _on_failure(plain_json: str | None) -> OnFailure:
    plain = {} if plain_json is None else json.loads(plain_json)
    return OnFailure(plain.get("instruction", {}).get("on_failure", OnFailure.NOTIFY))


def _parents_of(connection: sa.Connection, run_ids: Sequence[RunId]) -> set[RunId]:
    rows = connection.execute(
        sa.select(runs.c.parent_run).distinct().where(runs.c.id.in_(run_ids), runs.c.parent_run.is_not(None))
    )
    return set(rows.scalars())


def item_counts(connection: sa.Connection, parents: Sequence[RunId]) -> dict[RunId, dict[State, int]]:
    """Per parent, how many of its items stand in each state."""
    rows = connection.execute(
        sa.select(runs.c.parent_run, runs.c.state, sa.func.count())
        .where(runs.c.parent_run.in_(parents))
        .group_by(runs.c.parent_run, runs.c.state)
    )
    counts: dict[RunId, dict[State, int]] = {}
    for parent, state, number in rows:
        counts.setdefault(RunId(parent), {})[State(state)] = number
    return counts


def cancel_items(connection: sa.Connection, parent: RunId, at: Instant, by: str) -> None:
    """Cancels the items of a run that have not started, and asks for the end of those that have."""
    mine = runs.c.parent_run == parent
    asked = {"cancel_asked_at": at, "cancel_asked_by": by}
    connection.execute(sa.update(runs).where(mine, runs.c.state == State.RUNNING.value).values(asked))
    waiting = (State.PENDING.value, State.RETRY_WAIT.value)
    connection.execute(
        sa.update(runs)
        .where(mine, runs.c.state.in_(waiting))
        .values(state=State.CANCELLED.value, reason=Reason.ASKED.value, ended_at=at, **asked)
    )


_START_COLUMNS = (
    "started_at",
    "attempt",
    "fence",
    "engine_id",
    "stage",
    "pid",
    "pid_started",
)
_DECIDED_COLUMNS = ("context_json", "rule_json")


def start_runs(connection: sa.Connection, starts: Sequence[StartRow]) -> list[bool]:
    """Marks runs as running; per run whether it still was pending. A further attempt keeps what decided the first."""
    done: dict[int, bool] = {}
    for columns in ((*_START_COLUMNS, *_DECIDED_COLUMNS), _START_COLUMNS):
        decides = len(columns) > len(_START_COLUMNS)
        chosen = [(index, start) for index, start in enumerate(starts) if (start.attempt == 1) == decides]
        if chosen:
            parameters = [_start_values(start, decides=decides) for _, start in chosen]
            results = update_each(connection, change_state(State.RUNNING, *columns), parameters)
            done.update(zip((index for index, _ in chosen), results, strict=True))
    return [done[index] for index in range(len(starts))]


def _start_values(start: StartRow, *, decides: bool) -> dict[str, object]:
    values: dict[str, object] = {
        "run": start.run_id,
        "new_started_at": start.at,
        "new_attempt": start.attempt,
        "new_fence": start.fence,
        "new_engine_id": start.engine_id,
        "new_stage": "shell",
        "new_pid": None,
        "new_pid_started": None,
    }
    if decides:
        values |= {"new_context_json": start.context_json, "new_rule_json": start.rule_json}
    return values


def update_each(connection: sa.Connection, statement: sa.Update, parameters: list[dict[str, object]]) -> list[bool]:
    """Runs an UPDATE of single rows for each set of parameters; per set whether its row was changed.

    All at once as long as every one succeeds. When the count falls short, raises GroupRefused: the transaction
    is rolled back and each op of the group tried in one of its own, where the count tells who was refused.
    """
    done = execute_rendered(connection, statement, parameters).rowcount
    if len(parameters) == 1:
        return [done == 1]
    if done != len(parameters):
        raise GroupRefused
    return [True] * len(parameters)


_END_COLUMNS = (
    "reason",
    "detail",
    "ended_at",
    "duration_us",
    "exit_status",
    "signal",
    "cpu_us",
    "max_rss_bytes",
    "stdout_bytes",
    "stderr_bytes",
)


def end_run_values(write: EndRow) -> tuple[tuple[str, ...], dict[str, object]]:
    """The columns that an end sets, and their parameters; equal columns can be written together."""
    columns = list(_END_COLUMNS)
    values: dict[str, object] = {
        "run": write.run_id,
        "new_reason": write.reason and write.reason.value,
        "new_detail": write.detail,
        "new_ended_at": write.at if write.state in FINAL else None,
        "new_duration_us": write.duration_us,
        "new_exit_status": write.exit_status,
        "new_signal": write.signal,
        "new_cpu_us": write.cpu_us,
        "new_max_rss_bytes": write.max_rss_bytes,
        "new_stdout_bytes": write.stdout_bytes,
        "new_stderr_bytes": write.stderr_bytes,
    }
    for column, value in (
        ("stage", write.stage and write.stage.value),
        ("context_json", write.context_json),
        ("rule_json", write.rule_json),
        ("due_at", write.due_at),
    ):
        if value is not None:
            columns.append(column)
            values[f"new_{column}"] = value
    return tuple(columns), values


def keep_attempt(connection: sa.Connection, write: EndRow) -> None:
    """Copies the attempt that is ending out of the run's row, as another will take its place."""
    facts = sa.select(
        runs.c.id,
        runs.c.attempt,
        runs.c.fence,
        runs.c.started_at,
        *(sa.literal(value) for value in (write.at, _outcome(write))),
        sa.literal(write.reason and write.reason.value, sa.Text),
        sa.literal(write.detail, sa.Text),
        sa.literal(write.exit_status, sa.Integer),
        sa.literal(write.signal, sa.Integer),
    ).where(runs.c.id == write.run_id, runs.c.state == "running")
    connection.execute(sa.insert(attempts).from_select([column.name for column in attempts.columns], facts))
    if write.state is State.PENDING:
        count = {"interruptions": runs.c.interruptions + 1}
        connection.execute(
            sa.update(runs).where(runs.c.id == write.run_id, runs.c.state == "running").values(**count, granted_at=None)
        )


def _outcome(write: EndRow) -> str:
    if write.state is State.PENDING:
        return State.INTERRUPTED.value
    return State.TIMED_OUT.value if write.reason == "timeout" else State.FAILED.value


def tell(connection: sa.Connection, end: EndRow) -> None:
    """Stores what an end means to others: a notification, a pause, or neither."""
    if end.notify is not None:
        add_notification(connection, end)
    if end.pause is not None:
        add_pause(connection, end.definition_id, end.at, end.pause, "on_failure")


_REQUEUE = change_state(State.PENDING, "granted_at").where(runs.c.state == "retry_wait")


def requeue(connection: sa.Connection, run_id: RunId) -> sa.Row[Any, Any, Any] | None:
    """A run whose delay is over becomes pending again; definition, key and parent, or None if it was not waiting."""
    if connection.execute(_REQUEUE, {"run": run_id, "new_granted_at": None}).rowcount != 1:
        return None
    return connection.execute(
        sa.select(runs.c.definition_id, runs.c.permit_key, runs.c.parent_run).where(runs.c.id == run_id)
    ).one()


def add_notification(connection: sa.Connection, write: EndRow) -> None:
    """Stores that people are to be told about this end."""
    connection.execute(
        sa.insert(notifications),
        {
            "run_id": write.run_id,
            "definition_id": write.definition_id,
            "state": write.state.value,
            "summary": write.notify,
            "created_at": write.at,
        },
    )


def add_pause(connection: sa.Connection, definition_id: str, at: Instant, reason: str | None, by: str) -> bool:
    """Pauses a definition; False when it was paused already."""
    lasting = sa.select(pauses.c.id).where(pauses.c.definition_id == definition_id, pauses.c.until.is_(None))
    if connection.execute(lasting).first() is not None:
        return False
    connection.execute(
        sa.insert(pauses), {"definition_id": definition_id, "since": at, "reason": reason, "paused_by": by}
    )
    return True


def write_output(connection: sa.Connection, chunks: Sequence[OutputChunk], rolled_out: Sequence[RolledOut]) -> None:
    """Stores chunks (again without harm) and deletes those that have rolled out of their stream's tail."""
    if chunks:
        connection.execute(
            insert_or_ignore(connection, output),
            [
                {
                    "run_id": chunk.run_id,
                    "attempt": chunk.attempt,
                    "seq": chunk.seq,
                    "stream": chunk.stream,
                    "offset": chunk.offset,
                    "data": chunk.data,
                }
                for chunk in chunks
            ],
        )
    for gone in rolled_out:
        connection.execute(
            sa.delete(output).where(
                output.c.run_id == gone.run_id,
                output.c.attempt == gone.attempt,
                output.c.stream == gone.stream,
                output.c.seq.between(gone.first_seq, gone.last_seq),
            )
        )


_NOTE_PROCESS = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("run"), runs.c.state == "running")
    .values(pid=sa.bindparam("new_pid"), pid_started=sa.bindparam("new_pid_started"))
)


def note_process(connection: sa.Connection, write: ProcessRow) -> bool:
    """Records which process a running run is."""
    values = {"run": write.run_id, "new_pid": write.pid, "new_pid_started": write.pid_started}
    return connection.execute(_NOTE_PROCESS, values).rowcount == 1


def permit_keys(connection: sa.Connection, run_ids: Sequence[RunId]) -> set[str]:
    """The permit keys that these runs need or needed."""
    rows = connection.execute(
        sa.select(runs.c.permit_key).distinct().where(runs.c.id.in_(run_ids), runs.c.permit_key.is_not(None))
    )
    return set(rows.scalars())
