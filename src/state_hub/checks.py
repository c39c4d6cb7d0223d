"""The catalogue of checks C-01 … C-16 (DESIGN 7): what each looks at, and what a finding means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Severity(StrEnum):
    """How much a finding matters: an error keeps something from being synced, a warning wants a look."""

    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. `fix` says what the hub does by itself; None where a person must act."""

    id: str
    name: str
    severity: Severity
    explanation: str
    fix: str | None
    advice: str
    is_in_files: bool = False
    """Judged from the content of files: for files that did not change its findings stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One thing a check found. `subject` tells it from others of the same check and repo, over time.

    `line` and `column` count from 1; 0 means the whole of `path`, or no file at all.
    """

    check: str
    subject: str
    message: str
    path: str = ""
    line: int = 0
    column: int = 0
    severity: Severity | None = None

    @property
    def weight(self) -> Severity:
        """Its severity: the check's own unless it says otherwise."""
        return self.severity or CATALOGUE[self.check].severity

    @property
    def is_event(self) -> bool:
        """True for what tells of something that happened: nothing later finds it again."""
        return is_event(self.check, self.weight)

    @property
    def place(self) -> str:
        """``path:line:column`` as far as known."""
        return f"{self.path}:{self.line}:{self.column}" if self.line else self.path


_ALL = (
    Check(
        id="C-01",
        name="registered",
        severity=Severity.ERROR,
        explanation="The clone exists, belongs to the registered remote and has the registered branch checked out.",
        fix="A clone that the hub made itself is made again when it is gone.",
        advice="Mend the clone, or register the repo again with `state-hub repos add`.",
    ),
    Check(
        id="C-02",
        name="readable",
        severity=Severity.ERROR,
        explanation="Front matter and task blocks are valid YAML, without conflict markers.",
        fix=None,
        advice="Mend the file at the place named; until then its row stays as it was.",
        is_in_files=True,
    ),
    Check(
        id="C-03",
        name="well-formed",
        severity=Severity.ERROR,
        explanation="Required keys are there, ids match their pattern, statuses are known.",
        fix=None,
        advice="Mend the file at the place named; `state-hub workplan lint FILE` checks it before a commit.",
        is_in_files=True,
    ),
    Check(
        id="C-04",
        name="unique",
        severity=Severity.ERROR,
        explanation="No id is used twice over the fleet. A copied id stays with its first holder.",
        fix=None,
        advice="Give the copy an id of its own.",
        is_in_files=True,
    ),
    Check(
        id="C-05",
        name="moved",
        severity=Severity.NOTICE,
        explanation="A file that was moved or renamed is followed by its id.",
        fix="The row gets the new path.",
        advice="Nothing to do.",
    ),
    Check(
        id="C-06",
        name="new-file",
        severity=Severity.NOTICE,
        explanation="A workplan or task without a row.",
        fix="A row is made.",
        advice="Nothing to do.",
    ),
    Check(
        id="C-07",
        name="file-gone",
        severity=Severity.WARNING,
        explanation="A row whose file or task block is gone.",
        fix="Where history shows the deletion, the row becomes a tombstone and a task `cancelled`.",
        advice="Restore the file, or run `state-hub rebuild SLUG` if it is meant to be gone.",
    ),
    Check(
        id="C-08",
        name="workstream-changed",
        severity=Severity.NOTICE,
        explanation="The front matter changed in the file only.",
        fix="The row follows the file.",
        advice="Nothing to do.",
    ),
    Check(
        id="C-09",
        name="task-changed",
        severity=Severity.NOTICE,
        explanation="A task block changed in the file only.",
        fix="The row follows the file.",
        advice="Nothing to do.",
    ),
    Check(
        id="C-10",
        name="conflict",
        severity=Severity.WARNING,
        explanation="A status changed in the file and in the database, differently.",
        fix="Done and cancelled beat open ones, otherwise the file wins; the loser is kept in the finding.",
        advice="Look whether the winner is right; the finding closes when the status changes again, or after 30 days.",
    ),
    Check(
        id="C-11",
        name="stale-task",
        severity=Severity.WARNING,
        explanation="A task is still open in a finished or archived workstream.",
        fix="scripts/cleanup_stale_tasks.py cancels it.",
        advice="Close the task, or open the workstream again.",
    ),
    Check(
        id="C-12",
        name="dependencies",
        severity=Severity.WARNING,
        explanation="Every depends_on names something that exists, and nothing waits for itself.",
        fix=None,
        advice="Mend depends_on.",
    ),
    Check(
        id="C-13",
        name="base",
        severity=Severity.ERROR,
        explanation="The commit that was last synced is part of the history of the one that is read now.",
        fix=None,
        advice="If history was rewritten on purpose, run `state-hub rebuild SLUG`; until then nothing is synced.",
    ),
    Check(
        id="C-14",
        name="overdue",
        severity=Severity.WARNING,
        explanation="No writeback, outbox row or unpushed commit of the hub waits for longer than it should.",
        fix=None,
        advice="See why it cannot be pushed or sent: `state-hub status`, `state-hub findings`.",
    ),
    Check(
        id="C-15",
        name="writeback",
        severity=Severity.ERROR,
        explanation="A status changed in the database is written to its file, committed and pushed.",
        fix="One commit per repo and sweep, by the hub's own identity.",
        advice="Give the hub's account leave to push, or set the status in the file.",
    ),
    Check(
        id="C-16",
        name="pull-gate",
        severity=Severity.WARNING,
        explanation="The clone can be fast-forwarded to its remote.",
        fix="A clean clone that is behind is fast-forwarded; any other is left untouched.",
        advice="Commit, stash, push or switch back, as the message says; the next sweep pulls.",
    ),
)


def is_event(check: str, severity: Severity) -> bool:
    """True for conflicts and taken-back writebacks, which happen once and are shown for a while."""
    return check == "C-10" or (check == "C-15" and severity is Severity.NOTICE)


CATALOGUE: Mapping[str, Check] = {check.id: check for check in _ALL}

IN_FILES = frozenset(check.id for check in _ALL if check.is_in_files)
