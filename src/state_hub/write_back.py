"""C-15: statuses changed in the database, written to their files, committed, pushed, and agreed on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from state_hub.errors import GitError
from state_hub.git import writeback
from state_hub.git.clone import Clone
from state_hub.git.remote import set_ref
from state_hub.pull import pass_gate
from state_hub.store import plans, repos
from state_hub.workplan import MAX_BYTES, EditRefused, StatusEdit, edit_workplan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from state_hub.case import Case
    from state_hub.reconcile import Writeback


def may_write(case: Case, commit: str, tip: str | None) -> bool:
    """Only onto the fetched tip, and not past commits that somebody has yet to push."""
    return case.options.is_remote and tip is not None and commit == tip and case.options.fix


def write_back(case: Case, clone: Clone, commit: str, wanted: list[Writeback]) -> writeback.Pushed | None:
    """C-15: edits, one commit, its push, and the rows that now agree. None: there was nothing it could write."""
    files: dict[str, writeback.NewFile] = {}
    written: list[Writeback] = []
    for path in sorted({each.path for each in wanted}):
        of_path = [each for each in wanted if each.path == path]
        entry = clone.entry(commit, path)
        edits = [StatusEdit(task_id=each.task_id, old=each.old, new=each.new) for each in of_path]
        try:
            if entry is None or not entry.is_plain:
                raise EditRefused(f"{path} is not a plain file any more")
            data = edit_workplan(clone.blob(entry.blob, most=MAX_BYTES), edits, path)
        except EditRefused as refused:
            case.find("C-15", path, str(refused))
            continue
        files[path] = writeback.NewFile(mode=entry.mode, data=data)
        written += of_path
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
            _settle(case, made, is_pushed=False)
        case.find("C-15", "push", f"cannot be pushed: {failure}")
        return None
    if pushed is writeback.Pushed.REJECTED:
        _settle(case, made, is_pushed=False)
        return pushed
    with Clone(case.path) as after:
        blobs = {path: found.blob for path in files if (found := after.entry(made, path)) is not None}
    _settle(case, made, is_pushed=True, blobs=blobs)
    case.did(f"wrote back {len(written)} status(es) in {made[:10]}")
    case.result.did += [f"C-15 {each}" for each in written]
    _follow(case, made)
    return pushed


def _settle(case: Case, made: str, *, is_pushed: bool, blobs: Mapping[str, str] | None = None) -> None:
    with case.store.writing() as connection:
        case.hold(connection)
        plans.settle_writebacks(
            connection, case.repo.id, made, is_pushed=is_pushed, blobs=blobs or {}, at=case.tools.clock.now()
        )
        if is_pushed:
            repos.set_base(connection, case.repo.id, made, read=made)
    if is_pushed:
        case.repo = replace(case.repo, base_commit=made, read_commit=made)


def settle_left_over(case: Case, tip: str | None) -> None:
    """What a killed visit had begun to push: whether it arrived is plain from the remote's history."""
    if tip is None:
        return
    with case.store.reading() as connection:
        left = plans.unsettled_commits(connection, case.repo.id)
    if not left:
        return
    with case.open() as clone:
        arrived = {made: clone.contains(tip, made) for made, _ in left}
    for made, is_pushed in arrived.items():
        with case.store.writing() as connection:
            case.hold(connection)
            plans.settle_writebacks(
                connection, case.repo.id, made, is_pushed=is_pushed, blobs={}, at=case.tools.clock.now()
            )
        if not is_pushed:
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
