"""C-15: statuses changed in the database, written to their files, committed, pushed, and agreed on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from activity_plumbing.clock import DAY_US, Instant
from state_hub.errors import GitError
from state_hub.git import writeback
from state_hub.git.remote import set_ref
from state_hub.pull import pass_gate
from state_hub.store import plans, repos
from state_hub.workplan import MAX_BYTES, EditRefused, StatusEdit, edit_workplan

if TYPE_CHECKING:
    from state_hub.case import Case
    from state_hub.git.clone import Clone
    from state_hub.reconcile import Writeback

LATE_ARRIVAL_US = 7 * DAY_US
"""How long a push that was given up for lost is still looked for."""


def may_write(case: Case, commit: str, tip: str | None) -> bool:
    """Only onto the fetched tip, and not while the clone has commits that somebody has yet to push."""
    if not case.options.is_remote or tip is None or commit != tip or not case.options.fix:
        return False
    with case.open() as clone:
        local = case.refs(clone).local
        return local is None or clone.contains(tip, local)


def write_back(case: Case, clone: Clone, commit: str, wanted: list[Writeback]) -> writeback.Pushed | None:
    """C-15: edits, one commit, its push, and the rows that now agree. None: there was nothing it could write."""
    files: dict[str, writeback.NewFile] = {}
    written: list[Writeback] = []
    for path in sorted({each.path for each in wanted}):
        of_path = [each for each in wanted if each.path == path]
        entry = clone.entry(commit, path)
        if entry is None or not entry.is_plain:
            case.find("C-15", path, f"{path} is not a plain file any more")
            continue
        data, done = _edited(case, clone.blob(entry.blob, most=MAX_BYTES), of_path)
        if done:
            files[path] = writeback.NewFile(mode=entry.mode, data=data)
            written += done
    if not files:
        return writeback.Pushed.DONE
    settings = case.tools.settings
    now = case.tools.clock.now()
    made = writeback.make_commit(
        case.path,
        parent=commit,
        files=files,
        message=_message(written),
        identity=writeback.Identity(name=settings.bot_name, email=settings.bot_email),
        at=now,
        deadline=case.deadline,
    )
    with case.store.writing() as connection:
        case.hold(connection)
        plans.note_writebacks(connection, case.repo.id, written, made, now)
    try:
        pushed = writeback.push(case.path, case.repo.remote_url, made, case.repo.branch, case.deadline)
    except GitError as failure:
        if not failure.is_passing:  # else it may have arrived: the next visit looks
            _drop(case, made)
        case.find("C-15", "push", f"cannot be pushed: {failure}")
        return None
    if pushed is writeback.Pushed.REJECTED:
        _drop(case, made)
        return pushed
    _settle(case, made)
    with case.store.writing() as connection:
        case.hold(connection)
        repos.set_base(connection, case.repo.id, made, read=made)
    case.repo = replace(case.repo, base_commit=made, read_commit=made)
    case.did(f"wrote back {len(written)} status(es) in {made[:10]}")
    case.result.did += [f"C-15 {each}" for each in written]
    _follow(case, made)
    return pushed


def _edited(case: Case, data: bytes, wanted: list[Writeback]) -> tuple[bytes, list[Writeback]]:
    """The file with what can be edited, and which that is; one status that cannot holds up no other."""
    path = wanted[0].path
    edits = {each: StatusEdit(task_id=each.task_id, old=each.old, new=each.new) for each in wanted}
    good = []
    for each, edit in edits.items():
        try:
            edit_workplan(data, [edit], path)
            good.append(each)
        except EditRefused as refused:
            case.find("C-15", f"{path}#{each.task_id or each.workplan_id}", str(refused))
    return edit_workplan(data, [edits[each] for each in good], path) if good else data, good


def _settle(case: Case, made: str) -> None:
    """The commit is on the remote: rows that still stand where it left them agree with their files now."""
    with case.open() as clone:
        parent = clone.parent(made)
        with case.store.writing() as connection:
            case.hold(connection)
            paths = plans.settle_writebacks(connection, case.repo.id, made, case.tools.clock.now())
            for path in paths:
                before, after = clone.entry(parent, path), clone.entry(made, path)
                if before is not None and after is not None:
                    plans.note_blob(connection, case.repo.id, path, before=before.blob, after=after.blob, commit=made)


def _drop(case: Case, made: str) -> None:
    """The remote refused the commit, so it is as if it had not been made."""
    with case.store.writing() as connection:
        case.hold(connection)
        plans.drop_writebacks(connection, case.repo.id, made)


def settle_left_over(case: Case, tip: str | None) -> None:
    """What a visit had begun to push and did not see the end of: history tells whether it arrived.

    One that was given up for lost may arrive later still. Without a remote's tip only arrivals are told.
    """
    now = case.tools.clock.now()
    with case.store.reading() as connection:
        left = plans.unsettled_commits(connection, case.repo.id)
        lost = plans.lost_commits(connection, case.repo.id, Instant(now - LATE_ARRIVAL_US))
    if not (left or lost):
        return
    with case.open() as clone:
        history = tip or case.refs(clone).local
        arrived = [made for made in (*left, *lost) if history is not None and clone.contains(history, made)]
    for made in arrived:
        _settle(case, made)
    for made in left if tip is not None else ():
        if made not in arrived:
            with case.store.writing() as connection:
                case.hold(connection)
                plans.abandon_writebacks(connection, case.repo.id, made, now)
            case.did(f"the push of {made[:10]} had not arrived; its changes are written anew")


def _follow(case: Case, made: str) -> None:
    """Brings the clone to the commit that was just pushed, if it may be pulled."""
    try:
        with case.open() as clone:
            set_ref(case.path, case.refs(clone).tracking_name, made, case.deadline)
        with case.open() as clone:
            case.found = [each for each in case.found if (each.check, each.subject) != ("C-16", "pull")]
            pass_gate(case, clone, made)
            case.result.tip = made
    except GitError as failure:
        case.find("C-16", "pull", f"cannot be fast-forwarded: {failure}")


def _message(written: list[Writeback]) -> str:
    """The bot's commit message: what changed, and a trailer that marks it."""
    names = [each.workplan_id if each.task_id is None else f"{each.workplan_id}/{each.task_id}" for each in written]
    subject = f"Set {names[0]} to {written[0].new}" if len(written) == 1 else f"Set {len(written)} statuses"
    lines = "\n".join(f"- {each}" for each in written)
    ids = ", ".join(sorted({each.workplan_id for each in written}))
    return f"{subject}\n\nChanged in the state hub:\n\n{lines}\n\n{writeback.TRAILER}: {ids}\n"
