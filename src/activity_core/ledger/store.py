"""Opening the ledger, reading it, and the rare writes that come from the command line or the catalog.

Blocking and thread-safe. The engine's own writes, one per step of a run, go through ``writer``.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import sqlalchemy as sa

from activity_core.ledger import schema, statements
from activity_core.ledger.records import (
    AttemptRecord,
    CatalogEvent,
    DefinitionRecord,
    EngineRecord,
    GapRecord,
    PauseRecord,
    RunRecord,
    VersionRecord,
    run_record,
)
from activity_core.ledger.schema import (
    attempts,
    catalog_log,
    cursors,
    definitions,
    engines,
    facts,
    gaps,
    notifications,
    output,
    pauses,
    runs,
    versions,
)
from activity_core.run import FINAL, Kind, Reason, RunId, State
from activity_plumbing.clock import Instant
from activity_plumbing.database import open_sqlite, upgrade

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from activity_core.definition.model import DefinitionId
    from activity_core.ports import OutputChunk, RolledOut, SlotRow

LEDGER_FILE = "ledger.db"
OUTPUT_FILE = "output.db"
PRUNE_BATCH = 500
VACUUM_PAGES = 2_000
_FINAL_STATES = tuple(sorted(state.value for state in FINAL))
_PARENTS_TO_PRUNE = (
    sa.select(runs.c.parent_run).distinct().where(runs.c.parent_run.is_not(None), runs.c.pruned_at.is_(None))
)


class Ledger:
    """One ledger: the database of decisions and the one of output."""

    def __init__(self, engine: sa.Engine, output_engine: sa.Engine) -> None:
        self.engine = engine
        self._output_engine = output_engine

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """The ledger of a state folder, created or migrated as needed. Raises DatabaseError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = open_sqlite(folder / LEDGER_FILE)
        output_engine = open_sqlite(folder / OUTPUT_FILE, synchronous="NORMAL", incremental_vacuum=True)
        upgrade(engine, "activity_core.ledger:migrations", schema.LEDGER_HEAD, schema.metadata)
        scripts = "activity_core.ledger:output_migrations"
        upgrade(output_engine, scripts, schema.OUTPUT_HEAD, schema.output_metadata)
        return cls(engine, output_engine)

    @staticmethod
    def exists(folder: Path) -> bool:
        """True when the folder holds a ledger already; opening one that does not would create it."""
        return (folder / LEDGER_FILE).exists()

    def close(self) -> None:
        """Lets go of every connection."""
        self.engine.dispose()
        self._output_engine.dispose()

    def _writing(self) -> sa.Connection:
        return self.engine.connect().execution_options(writes=True)

    # -- the ledger itself, and the engines that served it --

    def identity(self) -> str:
        """This ledger's own id, made at first use; marks the environment of every command run for it."""
        with self._writing() as connection, connection.begin():
            connection.execute(
                statements.insert_or_ignore(connection, facts),
                {"name": "ledger_id", "value": uuid.uuid4().hex},
            )
            return str(connection.execute(sa.select(facts.c.value).where(facts.c.name == "ledger_id")).scalar_one())

    def last_engine(self) -> EngineRecord | None:
        """The engine that started last."""
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(engines).order_by(engines.c.id.desc()).limit(1)).one_or_none()
        return None if row is None else EngineRecord(**row._mapping)

    def boot_of(self, engine_id: int | None) -> str | None:
        """The boot id that an engine ran under."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(engines.c.boot_id).where(engines.c.id == engine_id)).scalar()

    def add_engine(self, *, host: str, pid: int, pid_started: int, boot_id: str, at: Instant, boottime_us: int) -> int:
        """Records an engine's start; its number."""
        with self._writing() as connection, connection.begin():
            values = {
                "host": host,
                "pid": pid,
                "pid_started": pid_started,
                "boot_id": boot_id,
                "started_at": at,
                "seen_at": at,
                "seen_boottime_us": boottime_us,
            }
            inserted = connection.execute(sa.insert(engines), values).inserted_primary_key
            assert inserted is not None
            return int(inserted[0])

    def note_alive(self, engine_id: int, at: Instant, boottime_us: int, *, stopped: bool = False) -> None:
        """Records that an engine was alive at `at`, or has stopped in good order."""
        values: dict[str, object] = {"seen_at": at, "seen_boottime_us": boottime_us}
        if stopped:
            values["stopped_at"] = at
        with self._writing() as connection, connection.begin():
            connection.execute(sa.update(engines).where(engines.c.id == engine_id).values(values))

    def add_gap(self, since: Instant, until: Instant, reason: Reason, noticed_at: Instant) -> None:
        """Records a time in which nothing could start."""
        with self._writing() as connection, connection.begin():
            connection.execute(
                sa.insert(gaps),
                {"since": since, "until": until, "reason": reason.value, "noticed_at": noticed_at},
            )

    def gaps_after(self, instant: Instant) -> list[GapRecord]:
        """Gaps that reach past `instant`, oldest first."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(gaps.c.since, gaps.c.until, gaps.c.reason, gaps.c.noticed_at)
                .where(gaps.c.until > instant)
                .order_by(gaps.c.since)
            ).all()
        return [
            GapRecord(since=row.since, until=row.until, reason=Reason(row.reason), noticed_at=row.noticed_at)
            for row in rows
        ]

    # -- definitions --

    def definitions(self) -> list[DefinitionRecord]:
        """Every id that was ever in force, with its holder."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(definitions).order_by(definitions.c.id)).all()
        return [DefinitionRecord(**row._mapping) for row in rows]

    def definition(self, definition_id: str) -> DefinitionRecord | None:
        """One holder, by exact id."""
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(definitions).where(definitions.c.id == definition_id)).one_or_none()
        return None if row is None else DefinitionRecord(**row._mapping)

    def versions_in_force(self, loader: str) -> dict[str, tuple[str, str]]:
        """By hash: (plain JSON, definition id) of the versions in force that this loader has checked."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(versions.c.hash, versions.c.plain_json, versions.c.definition_id)
                .join(definitions, definitions.c.version_hash == versions.c.hash)
                .where(versions.c.loader == loader)
            ).all()
        return {row.hash: (row.plain_json, row.definition_id) for row in rows}

    def versions_without_commit(self) -> list[VersionRecord]:
        """Versions in force of which no commit is known that holds them."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(versions)
                .join(definitions, definitions.c.version_hash == versions.c.hash)
                .where(versions.c.git_commit.is_(None), definitions.c.removed_at.is_(None))
            ).all()
        return [VersionRecord(**row._mapping) for row in rows]

    def note_origins(self, origins: Sequence[tuple[str, str, str]]) -> None:
        """Records (version hash, commit, blob) of versions that have been committed since they were loaded."""
        with self._writing() as connection, connection.begin():
            for version_hash, commit, blob in origins:
                connection.execute(
                    sa.update(versions).where(versions.c.hash == version_hash).values(git_commit=commit, git_blob=blob)
                )

    def version(self, version_hash: str) -> VersionRecord | None:
        """One version by its content hash."""
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(versions).where(versions.c.hash == version_hash)).one_or_none()
        return None if row is None else VersionRecord(**row._mapping)

    def record_catalog(
        self,
        *,
        new_versions: Sequence[VersionRecord],
        holders: Sequence[DefinitionRecord],
        events: Sequence[CatalogEvent],
        new_cursors: Sequence[tuple[DefinitionId, str, Instant]],
    ) -> None:
        """What the catalog found, in one transaction. `new_cursors`: (definition, trigger hash, start)."""
        with self._writing() as connection, connection.begin():
            if new_versions:
                rows = [
                    {name: getattr(version, name) for name in VersionRecord.__dataclass_fields__}
                    for version in new_versions
                ]
                connection.execute(statements.insert_or_ignore(connection, versions), rows)
                connection.execute(
                    sa.update(versions)
                    .where(versions.c.hash == sa.bindparam("of"))
                    .values(plain_json=sa.bindparam("plain"), loader=sa.bindparam("by")),
                    [{"of": each.hash, "plain": each.plain_json, "by": each.loader} for each in new_versions],
                )
            if holders:
                names = [each.id for each in holders]
                for start in range(0, len(names), 500):
                    connection.execute(sa.delete(definitions).where(definitions.c.id.in_(names[start : start + 500])))
                connection.execute(
                    sa.insert(definitions),
                    [{name: getattr(each, name) for name in DefinitionRecord.__dataclass_fields__} for each in holders],
                )
            if events:
                connection.execute(
                    sa.insert(catalog_log),
                    [{name: getattr(each, name) for name in CatalogEvent.__dataclass_fields__} for each in events],
                )
            if new_cursors:
                connection.execute(
                    sa.delete(cursors).where(
                        cursors.c.definition_id == sa.bindparam("of"),
                        cursors.c.trigger_hash == sa.bindparam("by"),
                    ),
                    [{"of": definition_id, "by": trigger_hash} for definition_id, trigger_hash, _ in new_cursors],
                )
                connection.execute(
                    sa.insert(cursors),
                    [
                        {"definition_id": definition_id, "trigger_hash": trigger_hash, "slot": slot}
                        for definition_id, trigger_hash, slot in new_cursors
                    ],
                )

    def catalog_events(self, definition_id: str, *, limit: int = 20) -> list[CatalogEvent]:
        """What happened to a definition's file, newest first."""
        columns = [catalog_log.c[name] for name in CatalogEvent.__dataclass_fields__]
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(*columns)
                .where(catalog_log.c.definition_id == definition_id)
                .order_by(catalog_log.c.id.desc())
                .limit(limit)
            ).all()
        return [CatalogEvent(**row._mapping) for row in rows]

    def cursors(self) -> dict[tuple[str, str], Instant]:
        """(definition, trigger hash) to the last slot considered."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(cursors)).all()
        return {(row.definition_id, row.trigger_hash): Instant(row.slot) for row in rows}

    def given_up_after(self, instant: Instant) -> list[RunRecord]:
        """Missed slots, and given-up ranges, that reach past `instant`: after a step back they have not come yet."""
        reaches = runs.c.last_slot > instant
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(runs).where(
                    reaches,
                    runs.c.kind == Kind.SCHEDULE.value,
                    runs.c.parent_run.is_(None),
                    (runs.c.state == State.MISSED.value)
                    | ((runs.c.state == State.SKIPPED.value) & (runs.c.slot_count > 1)),
                )
            ).all()
        return [run_record(row) for row in rows]

    def step_back(self, to: Instant, gone: Sequence[RunId], shortened: Sequence[tuple[RunId, Instant, int]]) -> None:
        """After the wall clock went back to `to`: nothing later has been considered, in one transaction.

        Takes back given-up slots that lie in the future again: whole rows, or the later part of a range, given
        as (run, last slot, number of slots).
        """
        with self._writing() as connection, connection.begin():
            connection.execute(sa.update(cursors).where(cursors.c.slot > to).values(slot=to))
            for run_id in gone:
                connection.execute(sa.delete(runs).where(runs.c.id == run_id))
            for run_id, last_slot, count in shortened:
                connection.execute(
                    sa.update(runs).where(runs.c.id == run_id).values(last_slot=last_slot, slot_count=count)
                )

    # -- pauses --

    def pauses(self, definition_id: str | None = None, *, after: Instant | None = None) -> list[PauseRecord]:
        """Pauses, oldest first: of one definition or of all; `after` leaves out those that ended before it."""
        columns = [pauses.c[name] for name in PauseRecord.__dataclass_fields__]
        query = sa.select(*columns).order_by(pauses.c.since)
        if definition_id is not None:
            query = query.where(pauses.c.definition_id == definition_id)
        if after is not None:
            query = query.where(pauses.c.until.is_(None) | (pauses.c.until > after))
        with self.engine.connect() as connection:
            return [PauseRecord(**row._mapping) for row in connection.execute(query)]

    def pause(self, definition_id: str, at: Instant, reason: str | None, by: str) -> bool:
        """Pauses a definition; False when it was paused already."""
        with self._writing() as connection, connection.begin():
            return statements.add_pause(connection, definition_id, at, reason, by)

    def resume(self, definition_id: str, at: Instant) -> bool:
        """Ends a pause; False when there was none."""
        with self._writing() as connection, connection.begin():
            ended = connection.execute(
                sa.update(pauses)
                .where(pauses.c.definition_id == definition_id, pauses.c.until.is_(None))
                .values(until=at)
            )
            return ended.rowcount > 0

    # -- runs --

    def run(self, run_id: int) -> RunRecord | None:
        """One run by its number."""
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(runs).where(runs.c.id == run_id)).one_or_none()
        return None if row is None else run_record(row)

    def active_runs(self) -> list[RunRecord]:
        """Every run in progress, oldest slot first."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(runs).where(schema.is_active(runs)).order_by(runs.c.slot, runs.c.id)
            ).all()
        return [run_record(row) for row in rows]

    def history(
        self,
        *,
        definition_id: str | None = None,
        states: Iterable[State] = (),
        since: Instant | None = None,
        until: Instant | None = None,
        before_id: int | None = None,
        limit: int = 20,
        items: bool = False,
    ) -> list[RunRecord]:
        """Runs, newest first. `since` and `until` bound the slot, inclusive; `before_id` pages on.

        With `items` those of parents stand among them.
        """
        query = sa.select(runs).where(runs.c.pruned_at.is_(None)).order_by(runs.c.id.desc()).limit(limit)
        if not items:
            query = query.where(runs.c.parent_run.is_(None))
        if definition_id is not None:
            query = query.where(runs.c.definition_id == definition_id)
        wanted = [state.value for state in states]
        if wanted:
            query = query.where(runs.c.state.in_(wanted))
        if since is not None:
            query = query.where(runs.c.last_slot >= since)
        if until is not None:
            query = query.where(runs.c.slot <= until)
        if before_id is not None:
            query = query.where(runs.c.id < before_id)
        with self.engine.connect() as connection:
            return [run_record(row) for row in connection.execute(query)]

    def items(self, run_id: int) -> list[RunRecord]:
        """The items of a run, in the order of its list."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(runs).where(runs.c.parent_run == run_id).order_by(runs.c.id))
            return [run_record(row) for row in rows]

    def item_counts(self, run_ids: Sequence[RunId]) -> dict[RunId, dict[State, int]]:
        """Of those runs that have items: how many stand in each state."""
        with self.engine.connect() as connection:
            return statements.item_counts(connection, run_ids)

    def run_covering(self, definition_id: str, instant: Instant) -> RunRecord | None:
        """The row of the newest slot not later than `instant`, range rows included."""
        with self.engine.connect() as connection:
            row = connection.execute(
                sa.select(runs)
                .where(runs.c.definition_id == definition_id, runs.c.slot <= instant, runs.c.parent_run.is_(None))
                .order_by(runs.c.slot.desc(), runs.c.id.desc())
                .limit(1)
            ).one_or_none()
        return None if row is None else run_record(row)

    def last_runs(self) -> dict[str, RunRecord]:
        """Per definition its newest row that was not pruned; items do not count."""
        newest = (
            sa.select(sa.func.max(runs.c.id))
            .where(runs.c.pruned_at.is_(None), runs.c.parent_run.is_(None))
            .group_by(runs.c.definition_id)
        )
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(runs).where(runs.c.id.in_(newest))).all()
        return {row.definition_id: run_record(row) for row in rows}

    def last_attempted(self, definition_id: str) -> RunRecord | None:
        """The newest run of a definition whose command, or whose items, were started and have ended."""
        with self.engine.connect() as connection:
            row = connection.execute(
                sa.select(runs)
                .where(
                    runs.c.definition_id == definition_id,
                    runs.c.parent_run.is_(None),
                    runs.c.started_at.is_not(None),
                    runs.c.ended_at.is_not(None),
                    runs.c.state.in_(_FINAL_STATES),
                )
                .order_by(runs.c.id.desc())
                .limit(1)
            ).one_or_none()
        return None if row is None else run_record(row)

    def attempts(self, run_id: int) -> list[AttemptRecord]:
        """The earlier attempts of a run."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(attempts).where(attempts.c.run_id == run_id).order_by(attempts.c.attempt)
            ).all()
        return [AttemptRecord(**row._mapping) for row in rows]

    def add_request(self, row: SlotRow) -> RunId:
        """Records a run asked for by hand, for the engine to judge."""
        with self._writing() as connection, connection.begin():
            return next(iter(statements.insert_slots(connection, [row]).values()))

    def ungrant_pending(self) -> None:
        """At an engine's start: what an earlier engine let through but did not start waits anew."""
        with self._writing() as connection, connection.begin():
            connection.execute(sa.update(runs).where(runs.c.state == "pending").values(granted_at=None))

    def ask_cancel(self, run_id: int, at: Instant, by: str) -> State | None:
        """Cancels a run that has not started; asks the engine to end one that has. Its state after that.

        A run with items is cancelled with all of them; it ends when the last one that runs is gone. None when there
        is no such run. A final state comes back unchanged.
        """
        with self._writing() as connection, connection.begin():
            row = connection.execute(
                sa.select(runs.c.state, runs.c.parent_run).where(runs.c.id == run_id)
            ).one_or_none()
            if row is None:
                return None
            state = State(row.state)
            if state in FINAL:
                return state
            connection.execute(
                sa.update(runs).where(runs.c.id == run_id).values(cancel_asked_at=at, cancel_asked_by=by)
            )
            if state is State.WAITING:
                statements.cancel_items(connection, RunId(run_id), at, by)
                return State.CANCELLED if statements.end_parents(connection, {RunId(run_id): at}) else state
            if state is State.RUNNING:
                return state
            connection.execute(
                statements.change_state(State.CANCELLED, "reason", "ended_at"),
                {"run": run_id, "new_reason": Reason.ASKED.value, "new_ended_at": at},
            )
            if row.parent_run is not None:
                statements.end_parents(connection, {row.parent_run: at})
            return State.CANCELLED

    # -- output --

    def save_output(self, chunks: Sequence[OutputChunk], rolled_out: Sequence[RolledOut]) -> None:
        """Stores pieces of output and deletes what rolled out of the tails; repeating does no harm."""
        with self._output_engine.connect().execution_options(writes=True) as connection, connection.begin():
            statements.write_output(connection, chunks, rolled_out)

    def read_output(
        self, run_id: int, attempt: int | None = None, *, after: tuple[int, int] = (0, -1)
    ) -> list[tuple[int, int, int, int, bytes]]:
        """(attempt, seq, stream, offset, data) in the order it was read, past chunk `after` (attempt, seq)."""
        query = (
            sa.select(output.c.attempt, output.c.seq, output.c.stream, output.c.offset, output.c.data)
            .where(
                output.c.run_id == run_id,
                (output.c.attempt > after[0]) | ((output.c.attempt == after[0]) & (output.c.seq > after[1])),
            )
            .order_by(output.c.attempt, output.c.seq)
        )
        if attempt is not None:
            query = query.where(output.c.attempt == attempt)
        with self._output_engine.connect() as connection:
            return [(row[0], row[1], row[2], row[3], bytes(row[4])) for row in connection.execute(query)]

    # -- notifications --

    def notifications(self, *, limit: int = 50) -> list[dict[str, object]]:
        """Notifications, newest first, as plain values."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(notifications).order_by(notifications.c.id.desc()).limit(limit))
            return [dict(row._mapping) for row in rows]

    # -- retention --

    def prunable(self, *, ended_before: Instant | None, keep_per_definition: int | None) -> list[RunId]:
        """Runs that retention gives up: older than the age, or beyond the newest N of their definition.

        Items go with their parent, whatever their own age, and count as nothing of their own.
        """
        final = runs.c.state.in_(_FINAL_STATES) & runs.c.pruned_at.is_(None) & runs.c.parent_run.is_(None)
        found: set[int] = set()
        with self.engine.connect() as connection:
            if ended_before is not None:
                age = sa.func.coalesce(runs.c.ended_at, runs.c.created_at)
                found.update(connection.execute(sa.select(runs.c.id).where(final, age < ended_before)).scalars())
            if keep_per_definition is not None:
                rank = sa.func.row_number().over(partition_by=runs.c.definition_id, order_by=runs.c.id.desc())
                ranked = sa.select(runs.c.id, rank.label("rank")).where(final).subquery()
                found.update(
                    connection.execute(sa.select(ranked.c.id).where(ranked.c.rank > keep_per_definition)).scalars()
                )
            has_items = set(connection.execute(_PARENTS_TO_PRUNE).scalars()) if found else set()
            for parent in has_items & found:
                found.update(connection.execute(sa.select(runs.c.id).where(runs.c.parent_run == parent)).scalars())
        return [RunId(run_id) for run_id in sorted(found)]

    def prune(self, run_ids: Sequence[RunId], at: Instant) -> None:
        """Empties these runs of their history and output; their identity stays, so no slot runs again."""
        emptied = dict.fromkeys(
            ("detail", "context_json", "rule_json", "item_json", "stage", "asked_by", "cancel_asked_by")
        )
        for start in range(0, len(run_ids), PRUNE_BATCH):
            batch = run_ids[start : start + PRUNE_BATCH]
            with (
                self._output_engine.connect().execution_options(writes=True) as connection,
                connection.begin(),
            ):
                connection.execute(sa.delete(output).where(output.c.run_id.in_(batch)))
            with self._writing() as connection, connection.begin():
                connection.execute(sa.delete(attempts).where(attempts.c.run_id.in_(batch)))
                connection.execute(
                    sa.delete(notifications).where(
                        notifications.c.run_id.in_(batch), notifications.c.sent_at.is_not(None)
                    )
                )
                connection.execute(
                    sa.update(runs)
                    .where(runs.c.id.in_(batch), runs.c.state.in_(_FINAL_STATES))
                    .values(pruned_at=at, **emptied)
                )
        if run_ids and self._output_engine.dialect.name == "sqlite":
            with self._output_engine.connect().execution_options(writes=True) as connection, connection.begin():
                driver = connection.connection.cursor()
                driver.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
                driver.fetchall()  # each step frees a page, so all must be fetched
                driver.close()
