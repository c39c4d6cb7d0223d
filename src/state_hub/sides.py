"""The sides of a reconciliation, gathered from a clone and the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from activity_plumbing.yaml_document import Problem
from state_hub.checks import IN_FILES
from state_hub.errors import GitError
from state_hub.reconcile import FileEntry, Plan, Sides, WorkstreamRow, reconcile
from state_hub.store import findings, plans
from state_hub.workplan import MAX_BYTES, Fault, Reading, read_workplan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import sqlalchemy as sa

    from state_hub.git.clone import Clone, Entry
    from state_hub.git.command import Deadline
    from state_hub.registry import Repo

READ_SPARE_S = 15.0
"""How long after its deadline a visit may read on: a remote that stalls must not keep the clone from being read."""


def read_files(
    connection: sa.Connection, clone: Clone, repo: Repo, commit: str, deadline: Deadline
) -> dict[str, FileEntry]:
    """The candidate files of a commit; those that did not change since their row was read stay unread.

    Raises GitError when there are too many, or they take too long.
    """
    entries = clone.entries(commit, repo.workplans)
    known = {(row.path, row.blob) for row in plans.read_rows(connection, repo.id) if not row.is_removed}
    doubted = {each.path for each in findings.open_findings(connection, repo.id) if each.check in IN_FILES}
    files: dict[str, FileEntry] = {}
    for path, entry in entries.items():
        if deadline.remaining_s <= -READ_SPARE_S:
            raise GitError(f"no time left after {len(files)} of {len(entries)} files", is_passing=True)
        is_unchanged = (path, entry.blob) in known and entry.is_plain and path not in doubted
        files[path] = FileEntry(blob=entry.blob, reading=None if is_unchanged else _read(clone, path, entry))
    return files


def _read(clone: Clone, path: str, entry: Entry) -> Reading:
    """A file's values; links and what is too large are refused unread."""
    if entry.mode == 0:
        return _refused(path, "the file's name is not UTF-8; rename it")
    if not entry.is_plain:
        return _refused(path, "a symbolic link is not followed; put the file itself here")
    try:
        return read_workplan(clone.blob(entry.blob, most=MAX_BYTES), path)
    except GitError as failure:
        return _refused(path, str(failure))


def _refused(path: str, message: str) -> Reading:
    problem = Problem(path=path, line=0, column=0, message=message)
    return Reading(workplan=None, faults=(Fault(check="C-02", problem=problem),))


def make_plan(
    connection: sa.Connection, clone: Clone, repo: Repo, commit: str, files: Mapping[str, FileEntry], *, locks: bool
) -> Plan:
    """What must change, by the rows as they are now. `locks`: keep them so until the transaction ends."""
    rows = plans.read_rows(connection, repo.id, locks=locks)
    own = {row.id for row in rows}
    readings = [entry.reading.workplan for entry in files.values() if entry.reading is not None]
    claimed = [workplan.id for workplan in readings if workplan is not None and workplan.id not in own]
    written = plans.last_writes(connection, repo.id)
    return reconcile(
        Sides(
            files=files,
            rows=rows,
            shown=_shown(plans.seen_commits(connection, repo.id), clone, rows, files),
            held_elsewhere=plans.held_elsewhere(connection, repo.id, claimed),
            bot_writes={key: write for key, (write, made) in written.items() if clone.contains(commit, made)},
        )
    )


def _shown(
    seen: Mapping[str, str],
    clone: Clone,
    rows: Sequence[WorkstreamRow],
    files: Mapping[str, FileEntry],
) -> frozenset[str]:
    """Workplans whose file, as it was last read, is in history: the commit's own, or that of a commit dropped unpushed.

    What was pushed is in the commit's history: it contains the base, and with it everything pushed that was read.
    """
    shown = set()
    for row in rows:
        entry = files.get(row.path)
        if row.is_removed or (entry is not None and entry.reading is None):
            continue
        before = clone.entry(seen[row.id], row.path)
        if before is not None and before.blob == row.blob:
            shown.add(row.id)
    return frozenset(shown)
