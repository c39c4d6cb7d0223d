"""What must change so that files and rows agree: a three-way merge per field (DESIGN 7). Pure.

The base of a status is what both sides last agreed on. All other fields belong to the file, so there the row
is its own base. Nothing here knows git or a database: `visit` gathers the sides and applies the plan.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from state_hub.checks import Found, Severity
from state_hub.registry import CLOSED, OPEN_TASKS, OVER, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from state_hub.workplan import Fault, Reading, Task, Workplan

Values = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A task as the database has it. `base_status` None: the two sides never agreed yet."""

    pk: int
    id: str
    title: str
    status: str
    base_status: str | None
    file_wins: bool
    position: int
    depends_json: str
    fields_json: str
    is_removed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkstreamRow:
    """A workstream as the database has it, with its tasks. `blob` is the file's object name when last read."""

    pk: int
    id: str
    path: str
    blob: str
    title: str
    status: str
    base_status: str | None
    file_wins: bool
    depends_json: str
    fields_json: str
    is_removed: bool
    tasks: tuple[TaskRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A candidate file in the commit that is read. `reading` None: the same bytes as when its row was last read."""

    blob: str
    reading: Reading | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BotWrite:
    """What the hub last wrote into a status, in a commit that the one being read contains."""

    old: str
    new: str


Key = tuple[str, str | None]
"""(workplan id, task id); None for the workplan's own status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Everything a reconciliation depends on."""

    files: Mapping[str, FileEntry]
    """By path. Links and oversized files are among them, as readings with a fault."""
    rows: Sequence[WorkstreamRow]
    shown: frozenset[str] = frozenset()
    """Workplans whose last-read file is in the history of the commit being read: there a removal is a removal."""
    held_elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Workplan ids that another repo holds, with its slug."""
    bot_writes: Mapping[Key, BotWrite] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddWorkstream:
    """C-06: a file without a row, its tasks included."""

    path: str
    blob: str
    workplan: Workplan


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeWorkstream:
    """Set these columns. `check` says why; `says` says it to people."""

    check: str
    row: WorkstreamRow
    values: Values
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddTask:
    """C-06: a task block without a row."""

    row: WorkstreamRow
    task: Task
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeTask:
    """Set these columns of a task."""

    check: str
    workstream: WorkstreamRow
    row: TaskRow
    values: Values
    says: str


Change = AddWorkstream | ChangeWorkstream | AddTask | ChangeTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Writeback:
    """C-15: the file is to say `new` where it says `old`."""

    workplan_id: str
    task_id: str | None
    path: str
    old: str
    new: str

    def __str__(self) -> str:
        name = self.workplan_id if self.task_id is None else f"{self.workplan_id}/{self.task_id}"
        return f"{name}: {self.old} → {self.new}"


@dataclass(slots=True, kw_only=True)
class Plan:
    """The changes, in order; what to write to files; and what was found."""

    changes: list[Change] = field(default_factory=list)
    writebacks: list[Writeback] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)


def describe(change: Change) -> str:
    """A change in one line."""
    match change:
        case AddWorkstream():
            plan = change.workplan
            return f"C-06 {plan.id}: new from {change.path}, {plan.status}, {len(plan.tasks)} task(s)"
        case AddTask():
            return f"C-06 {change.row.id}/{change.task.id}: new, {change.task.status}"
        case ChangeWorkstream():
            return f"{change.check} {change.row.id}: {change.says}"
        case ChangeTask():
            return f"{change.check} {change.workstream.id}/{change.row.id}: {change.says}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merged:
    """The outcome of one status: what the row gets, what both agree on, what the file is to get."""

    status: str
    base: str | None
    file_wins: bool
    write: str | None = None
    lost: str | None = None
    is_taken_back: bool = False
    is_refused: bool = False


def merge_status(
    *, base: str | None, file: str, row: str, file_wins: bool = False, bot_write: BotWrite | None = None
) -> _Merged:
    """Merges one status of three sides.

    A status written back keeps its base until the push is through, so a crash in between changes nothing. Where the
    row wins a conflict, what the file says has been seen and becomes the base.

    >>> merge_status(base="todo", file="todo", row="done").write
    'done'
    """
    if file == row:
        return _Merged(status=row, base=file, file_wins=file_wins)
    if base is None:
        return _Merged(status=file, base=file, file_wins=False, lost=row)
    if file == base:
        if file_wins:
            return _Merged(status=file, base=file, file_wins=True, is_refused=True)
        return _Merged(status=row, base=base, file_wins=False, write=row)
    if row == base:
        taken_back = bot_write is not None and bot_write.old == file and bot_write.new == base
        return _Merged(status=file, base=file, file_wins=taken_back, is_taken_back=taken_back)
    if row in CLOSED and file not in CLOSED:
        return _Merged(status=row, base=file, file_wins=False, write=row, lost=file)
    return _Merged(status=file, base=file, file_wins=False, lost=row)


def plain_json(value: object) -> str:
    """JSON as stored in rows: the same values always give the same text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def reconcile(sides: Sides) -> Plan:
    """The plan that brings files and rows together. Applied, the same call gives an empty plan but for writebacks."""
    return _Reconciler(sides).plan()


class _Reconciler:
    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._plan = Plan()
        self._rows = {row.id: row for row in sides.rows}
        self._has_unreadable = False

    def plan(self) -> Plan:
        claims = self._claims()
        for row in self._sides.rows:
            paths = claims.pop(row.id, [])
            if not paths:
                self._without_file(row)
                continue
            held = row.path if row.path in paths else self._only(row.id, paths)
            if held is None:
                continue
            for path in paths:
                if path != held:
                    self._claimed_twice(row.id, path, held)
            self._with_file(row, held)
        for name, paths in claims.items():
            self._without_row(name, paths)
        return self._plan

    def _claims(self) -> dict[str, list[str]]:
        """Which files claim which workplan id; faults become findings."""
        claims: dict[str, list[str]] = {}
        live = [row for row in self._sides.rows if not row.is_removed]
        paths = {row.path for row in live}
        unread = {(row.path, row.blob): row.id for row in live}
        for path, entry in sorted(self._sides.files.items()):
            if entry.reading is None:
                claims.setdefault(unread[path, entry.blob], []).append(path)
                continue
            self._plan.found += faults_found(entry.reading.faults, path)
            if entry.reading.workplan is not None:
                claims.setdefault(entry.reading.workplan.id, []).append(path)
            elif entry.reading.faults:
                self._has_unreadable = True
            elif path in paths:
                message = "the file was a workplan and is none any more: its front matter or type is gone"
                self._find("C-02", path, message, path)
        return claims

    def _only(self, name: str, paths: list[str]) -> str | None:
        if len(paths) == 1:
            return paths[0]
        for path in paths:
            others = ", ".join(other for other in paths if other != path)
            self._find("C-04", path, f"{name} is also claimed by {others}; neither is followed", path)
        return None

    def _claimed_twice(self, name: str, path: str, holder: str) -> None:
        self._find("C-04", path, f"{name} belongs to {holder}; give this copy an id of its own", path)

    # -- files without rows --

    def _without_row(self, name: str, paths: list[str]) -> None:
        elsewhere = self._sides.held_elsewhere.get(name)
        if elsewhere is not None:
            for path in paths:
                self._claimed_twice(name, path, f"the repo {elsewhere}")
            return
        only = self._only(name, paths)
        if only is None:
            return
        entry = self._sides.files[only]
        assert entry.reading is not None and entry.reading.workplan is not None
        workplan = entry.reading.workplan
        self._plan.changes.append(AddWorkstream(path=only, blob=entry.blob, workplan=workplan))
        statuses = {task.id: task.status.value for task in workplan.tasks}
        self._stale(name, workplan.status.value, statuses, only)

    # -- rows without files --

    def _without_file(self, row: WorkstreamRow) -> None:
        if row.is_removed:
            return
        entry = self._sides.files.get(row.path)
        if entry is not None:  # the file is there: it cannot be read, or is another plan by now
            if entry.reading is not None and entry.reading.workplan is None:
                return
        elif self._has_unreadable:
            message = f"{row.path} is gone, and a file that cannot be read may be it; nothing is removed until it can"
            self._find("C-07", row.id, message, row.path)
            return
        if row.id not in self._sides.shown:
            message = f"{row.path} is not there, and history does not show that it was removed; the row stays"
            self._find("C-07", row.id, message, row.path)
            return
        says = f"{row.path} was removed"
        self._plan.changes.append(
            ChangeWorkstream(check="C-07", row=row, values={"is_removed": True, "base_status": None}, says=says)
        )
        for task in row.tasks:
            if not task.is_removed:
                self._remove_task(row, task)

    def _remove_task(self, row: WorkstreamRow, task: TaskRow) -> None:
        if task.base_status is not None and task.status != task.base_status:
            message = f"the file's block was removed and won; the database said {task.status}"
            self._find("C-10", f"{row.id}/{task.id}", message, row.path)
        values: Values = {"is_removed": True, "base_status": None}
        if task.status in OPEN_TASKS:
            values["status"] = TaskStatus.CANCELLED.value
        says = "removed from its file" + (f", {task.status} → cancelled" if "status" in values else "")
        self._plan.changes.append(ChangeTask(check="C-07", workstream=row, row=task, values=values, says=says))

    # -- both --

    def _with_file(self, row: WorkstreamRow, path: str) -> None:
        entry = self._sides.files[path]
        statuses: dict[str, str] = {}
        if entry.reading is None:
            status = self._unchanged(row, statuses)
        else:
            workplan = entry.reading.workplan
            assert workplan is not None
            status = self._workstream(row, path, entry.blob, workplan)
            self._tasks(row, path, workplan, statuses)
        self._stale(row.id, status, statuses, path)

    def _unchanged(self, row: WorkstreamRow, statuses: dict[str, str]) -> str:
        """The file is as it was: whatever differs from the base was changed in the database."""
        status = row.status
        if row.base_status is not None and row.status != row.base_status:
            status = self._status(row, None, row.base_status, row.path).status
        for task in row.tasks:
            if task.is_removed:
                continue
            statuses[task.id] = task.status
            if task.base_status is not None and task.status != task.base_status:
                statuses[task.id] = self._status(row, task, task.base_status, row.path).status
        return status

    def _status(self, row: WorkstreamRow, task: TaskRow | None, file: str, path: str) -> _Merged:
        """Merges a status; changes, writebacks and findings go into the plan."""
        held = row if task is None else task
        key = (row.id, None if task is None else task.id)
        name = row.id if task is None else f"{row.id}/{task.id}"
        is_revived = held.is_removed
        merged = merge_status(
            base=held.base_status,
            file=file,
            row=file if is_revived else held.status,
            file_wins=held.file_wins,
            bot_write=self._sides.bot_writes.get(key),
        )
        values: Values = {}
        if merged.status != held.status:
            values["status"] = merged.status
        if merged.base != held.base_status:
            values["base_status"] = merged.base
        if merged.file_wins != held.file_wins:
            values["file_wins"] = merged.file_wins
        if merged.write is not None:
            self._plan.writebacks.append(
                Writeback(workplan_id=row.id, task_id=key[1], path=path, old=file, new=merged.write)
            )
        if merged.lost is not None:
            winner = "the database" if merged.write is not None else "the file"
            loser = "the file" if merged.write is not None else "the database"
            message = f"{winner} says {merged.status} and won; {loser} said {merged.lost}"
            self._find("C-10", name, message, path)
        if merged.is_taken_back or merged.is_refused:
            by = "a person took back" if merged.is_taken_back else "since a person took it back"
            said = f"; the database said {held.status}" if held.status != file else ""
            message = f"{by} what the hub had written: the file's {file} stands{said}"
            self._find("C-15", name, message, path, Severity.NOTICE)
        if values:
            check = "C-10" if merged.lost is not None else "C-08" if task is None else "C-09"
            says = f"{held.status} → {merged.status}" if "status" in values else f"agreed on {merged.status}"
            if task is None:
                self._plan.changes.append(ChangeWorkstream(check=check, row=row, values=values, says=says))
            else:
                self._plan.changes.append(ChangeTask(check=check, workstream=row, row=task, values=values, says=says))
        return merged

    def _workstream(self, row: WorkstreamRow, path: str, blob: str, workplan: Workplan) -> str:
        if row.is_removed:
            says = f"is back, in {path}"
            values: Values = {"is_removed": False, "path": path}
            self._plan.changes.append(ChangeWorkstream(check="C-06", row=row, values=values, says=says))
        elif path != row.path:
            says = f"{row.path} → {path}"
            self._plan.changes.append(ChangeWorkstream(check="C-05", row=row, values={"path": path}, says=says))
        merged = self._status(row, None, workplan.status.value, path)
        changed = _differing(
            row,
            {
                "title": workplan.title,
                "depends_json": plain_json(workplan.depends_on),
                "fields_json": plain_json(workplan.fields),
            },
        )
        if changed:
            says = _named(changed)
            self._plan.changes.append(ChangeWorkstream(check="C-08", row=row, values=changed, says=says))
        if blob != row.blob:
            self._plan.changes.append(
                ChangeWorkstream(check="C-08", row=row, values={"blob": blob}, says=f"read again at {blob[:10]}")
            )
        return merged.status

    def _tasks(self, row: WorkstreamRow, path: str, workplan: Workplan, statuses: dict[str, str]) -> None:
        known = {task.id: task for task in row.tasks}
        for position, task in enumerate(workplan.tasks):
            held = known.pop(task.id, None)
            if held is None:
                self._plan.changes.append(AddTask(row=row, task=task, position=position))
                statuses[task.id] = task.status.value
                continue
            if held.is_removed:
                self._plan.changes.append(
                    ChangeTask(
                        check="C-06", workstream=row, row=held, values={"is_removed": False}, says="is back in its file"
                    )
                )
            statuses[task.id] = self._status(row, held, task.status.value, path).status
            changed = _differing(
                held,
                {
                    "title": task.title,
                    "depends_json": plain_json(task.depends_on),
                    "fields_json": plain_json(task.fields),
                    "position": position,
                },
            )
            if changed:
                self._plan.changes.append(
                    ChangeTask(check="C-09", workstream=row, row=held, values=changed, says=_named(changed))
                )
        for gone in known.values():
            if gone.is_removed:
                continue
            statuses[gone.id] = gone.status
            if not workplan.is_complete:
                continue  # it may be the block that cannot be read
            if row.id in self._sides.shown:
                del statuses[gone.id]
                self._remove_task(row, gone)
            else:
                message = f"the block of {gone.id} is not there, and history does not show that it was removed"
                self._find("C-07", f"{row.id}/{gone.id}", message, path)

    def _stale(self, name: str, status: str, statuses: Mapping[str, str], path: str) -> None:
        if status not in OVER:
            return
        for task_id, task_status in statuses.items():
            if task_status in OPEN_TASKS:
                message = f"{task_id} is still {task_status} although {name} is {status}"
                self._find("C-11", f"{name}/{task_id}", message, path)

    def _find(self, check: str, subject: str, message: str, path: str, severity: Severity | None = None) -> None:
        self._plan.found.append(Found(check=check, subject=subject, message=message, path=path, severity=severity))


def _differing(held: WorkstreamRow | TaskRow, wanted: Values) -> Values:
    return {name: value for name, value in wanted.items() if getattr(held, name) != value}


def _named(changed: Values) -> str:
    return ", ".join(sorted(name.removesuffix("_json") for name in changed)) + " changed in the file"


def faults_found(faults: Sequence[Fault], path: str) -> list[Found]:
    """The faults of a file as findings: one per check and block, at the first place."""
    grouped: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        grouped.setdefault((fault.check, fault.block), []).append(fault)
    found = []
    for (check, block), several in grouped.items():
        first = several[0].problem
        message = first.message if len(several) == 1 else f"{first.message} (and {len(several) - 1} more)"
        subject = f"{path}#{block}" if block else path
        found.append(
            Found(check=check, subject=subject, message=message, path=path, line=first.line, column=first.column)
        )
    return found
