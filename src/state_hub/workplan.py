"""Workplan files: which bytes say what, and edits that leave every other byte alone (docs/workplans.md).

A workplan is Markdown with YAML front matter and one fenced ``task`` block of YAML per task. Nothing is ever
dumped back: an edit replaces the bytes of one scalar, found by task id and held against what it is to replace.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from activity_plumbing.nearest import nearest
from activity_plumbing.yaml_document import EMPTY, Document, DocumentError, Problem, read_document
from state_hub.registry import TASK_ID, WORKPLAN_ID, TaskStatus, WorkstreamStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from enum import StrEnum

    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MAX_BYTES = 1 << 20
MAX_TITLE = 500
MOST_TASKS = 2_000
MOST_LINES = 20_000

Span = tuple[int, int]
"""First byte and the one after the last, counted from the start of the file."""

_FENCE_LINE = re.compile(r"---[ \t]*\Z")
_FENCE_END = re.compile(r"(?:---|\.\.\.)[ \t]*\Z")
_LINE_END = re.compile(r"\r\n?|\n")
_SIMPLE_SCALAR = re.compile(r"([\"']?)([a-z_]+)\1")
_OURS = re.compile(r"<{7}(?: |\Z)")
_THEIRS = re.compile(r">{7}(?: |\Z)")
_BETWEEN = re.compile(r"={7}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task block. `status_at` is the place of its status; None where it cannot be edited."""

    id: str
    title: str
    status: TaskStatus
    depends_on: tuple[str, ...]
    fields: Mapping[str, object]
    """The keys that the hub only carries."""
    line: int
    status_at: Span | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplan:
    """A file's values. `is_complete`: every task block could be read, so what is not in `tasks` is not there."""

    id: str
    title: str
    status: WorkstreamStatus
    depends_on: tuple[str, ...]
    fields: Mapping[str, object]
    tasks: tuple[Task, ...]
    is_complete: bool
    line: int
    status_at: Span | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something wrong with a file. `check` is C-02, C-03 or C-04; `block` the task it is about, as far as known."""

    check: str
    problem: Problem
    block: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a file turned out to be: a workplan, or none; and what is wrong with it.

    Neither workplan nor faults: a file of another kind, such as a README.
    """

    workplan: Workplan | None
    faults: tuple[Fault, ...]


class EditRefused(Exception):
    """The bytes are not what the edit expects: the file must be read and merged again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusEdit:
    """Set the status of a task, or of the workplan itself (`task_id` None), from `old` to `new`."""

    task_id: str | None
    old: str
    new: str


@dataclass(slots=True)
class _Source:
    """A file as text, with the way back from characters to bytes."""

    path: str
    text: str
    skipped: int
    """Bytes before the text: a byte order mark."""
    line_starts: list[int] = field(init=False)
    _byte_starts: list[int] | None = None

    def __post_init__(self) -> None:
        self.line_starts = [0, *(found.end() for found in _LINE_END.finditer(self.text))]

    def span(self, start: int, end: int) -> Span:
        """The bytes of these characters."""
        return self._byte(start), self._byte(end)

    def _byte(self, position: int) -> int:
        if self.text.isascii():
            return self.skipped + position
        if self._byte_starts is None:
            self._byte_starts = [self.skipped]
            for low, high in pairwise([*self.line_starts, len(self.text)]):
                self._byte_starts.append(self._byte_starts[-1] + len(self.text[low:high].encode()))
        line = bisect_right(self.line_starts, position) - 1
        return self._byte_starts[line] + len(self.text[self.line_starts[line] : position].encode())


def read_workplan(data: bytes, path: str) -> Reading:
    """The values of a file's bytes; never raises for what is in them. `path` is only for messages."""
    if len(data) > MAX_BYTES:
        message = f"the file has {len(data):,} bytes; at most {MAX_BYTES:,} are read"
        return Reading(workplan=None, faults=(_fault("C-02", path, 0, 0, message),))
    skipped = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    try:
        text = data[skipped:].decode()
    except UnicodeDecodeError as failure:
        if not data[skipped:].startswith(b"---"):
            return Reading(workplan=None, faults=())
        before = _LINE_END.split(data[skipped : skipped + failure.start].decode())
        message = f"byte 0x{failure.object[failure.start]:02x} is not UTF-8; save the file as UTF-8"
        return Reading(workplan=None, faults=(_fault("C-02", path, len(before), len(before[-1]) + 1, message),))
    return _Reader(_Source(path, text, skipped)).read()


def edit_workplan(data: bytes, edits: Sequence[StatusEdit], path: str) -> bytes:
    """The bytes with these statuses changed and nothing else. Raises EditRefused when they are not as expected.

    >>> plan = b"---\\nid: X-WP-0001\\ntype: workplan\\ntitle: T\\nstatus: active # soon\\n---\\n"
    >>> edit_workplan(plan, [StatusEdit(task_id=None, old="active", new="finished")], "x.md").splitlines()[4]
    b'status: finished # soon'
    """
    before = read_workplan(data, path).workplan
    if before is None:
        raise EditRefused(f"{path} cannot be read as a workplan any more")
    tasks = {task.id: task for task in before.tasks}
    spans: list[tuple[Span, bytes]] = []
    for edit in edits:
        holder: Workplan | Task | None = before if edit.task_id is None else tasks.get(edit.task_id)
        if holder is None:
            raise EditRefused(f"{path} holds no task {edit.task_id} any more")
        if holder.status != edit.old:
            raise EditRefused(f"{path}: {edit.task_id or before.id} is {holder.status}, not {edit.old}, by now")
        if holder.status_at is None:
            raise EditRefused(
                f"{path}: the status of {edit.task_id or before.id} is written in a form not to be edited"
            )
        start, end = holder.status_at
        found = _SIMPLE_SCALAR.fullmatch(data[start:end].decode())
        if found is None or found[2] != edit.old:
            raise EditRefused(f"{path}: other bytes than {edit.old!r} where the status of {edit.task_id} should be")
        spans.append((holder.status_at, f"{found[1]}{edit.new}{found[1]}".encode()))
    result = data
    for (start, end), replacement in sorted(spans, reverse=True):
        result = result[:start] + replacement + result[end:]
    after = read_workplan(result, path).workplan
    if after is None or _statuses(after) != _statuses(before) | {edit.task_id: edit.new for edit in edits}:
        raise EditRefused(f"{path}: the edit would change more than it should")
    return result


def _statuses(workplan: Workplan) -> dict[str | None, str]:
    return {None: workplan.status.value} | {task.id: task.status.value for task in workplan.tasks}


def _fault(check: str, path: str, line: int, column: int, message: str, block: str = "") -> Fault:
    return Fault(check=check, problem=Problem(path=path, line=line, column=column, message=message), block=block)


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    """CommonMark, blocks only: inline text is never looked at."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


class _Reader:
    """Reads one file."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._path = source.path
        self._faults: list[Fault] = []
        self._line_starts = source.line_starts

    def read(self) -> Reading:
        text = self._source.text
        if len(self._line_starts) > MOST_LINES:
            message = f"the file has {len(self._line_starts):,} lines; at most {MOST_LINES:,} are read"
            return Reading(workplan=None, faults=(_fault("C-02", self._path, 0, 0, message),))
        body_line = self._front_matter_end()
        if body_line is None:
            if _FENCE_LINE.match(self._line(0)):
                self._note("C-02", 1, 1, "the front matter that starts here has no closing --- line")
            elif self._has_task_block(0):
                self._note("C-02", 1, 1, "there are task blocks and no front matter; start the file with --- and id:")
            return Reading(workplan=None, faults=tuple(self._faults))
        start, end = self._line_starts[1], self._line_starts[body_line - 1]
        try:
            front = read_document(text[start:end].encode(), self._path, first_line=2, with_spans=True)
        except DocumentError as failure:
            if failure.problems[0].message == EMPTY:
                return Reading(workplan=None, faults=())
            if self._has_conflict(self._quoted_lines(self._blocks(body_line), body_line)):
                return Reading(workplan=None, faults=tuple(self._faults))
            self._faults += [Fault(check="C-02", problem=problem) for problem in failure.problems]
            return Reading(workplan=None, faults=tuple(self._faults))
        if not self._is_workplan(front):
            return Reading(workplan=None, faults=tuple(self._faults))
        tokens = self._blocks(body_line)
        if self._has_conflict(self._quoted_lines(tokens, body_line)):
            return Reading(workplan=None, faults=tuple(self._faults))
        tasks, is_complete = self._tasks(tokens, body_line)
        return Reading(
            workplan=self._workplan(front, start, tasks, is_complete=is_complete), faults=tuple(self._faults)
        )

    def _blocks(self, line: int) -> list[Token]:
        """The Markdown from a line on, as blocks."""
        starts = self._line_starts
        return _markdown().parse(self._source.text[starts[line] :] if line < len(starts) else "")

    # -- the front matter --

    def _line(self, number: int) -> str:
        """The text of a line, counted from 0, without its end."""
        if number >= len(self._line_starts):
            return ""
        end = self._line_starts[number + 1] if number + 1 < len(self._line_starts) else len(self._source.text)
        return self._source.text[self._line_starts[number] : end].rstrip("\r\n")

    def _front_matter_end(self) -> int | None:
        """The line after the closing ``---``, counted from 0."""
        if not _FENCE_LINE.match(self._line(0)):
            return None
        for number in range(1, len(self._line_starts)):
            if _FENCE_END.match(self._line(number)):
                return number + 1
        return None

    def _is_workplan(self, front: Document) -> bool:
        values = front.value
        if not isinstance(values, dict):
            return False
        kind = values.get("type")
        if kind == "workplan":
            return True
        if kind is None and isinstance(values.get("id"), str) and WORKPLAN_ID.fullmatch(values["id"]):
            self._note("C-03", 1, 1, "the key 'type' is missing; add type: workplan")
        elif isinstance(kind, str) and "did you mean" in nearest(kind, ["workplan"]):
            self._add("C-03", front.problem(("type",), f"found type {kind!r}; did you mean 'workplan'?"))
        return False

    def _workplan(self, front: Document, start: int, tasks: tuple[Task, ...], *, is_complete: bool) -> Workplan | None:
        values = front.value
        assert isinstance(values, dict)
        before = len(self._faults)
        name = self._text_of(front, "id", "C-03", "add for example id: CUST-WP-0040")
        if name is not None and not WORKPLAN_ID.fullmatch(name):
            message = f"{name!r} is not a workplan id; write for example CUST-WP-0040"
            self._add("C-03", front.problem(("id",), message))
        title = self._text_of(front, "title", "C-03", "say in a few words what the plan is about")
        status = self._status_of(front, WorkstreamStatus, "")
        depends_on = self._depends_of(front, "", WORKPLAN_ID, "CUST-WP-0039")
        if len(self._faults) > before:
            return None
        assert name is not None and title is not None and status is not None
        return Workplan(
            id=name,
            title=title,
            status=WorkstreamStatus(status),
            depends_on=depends_on,
            fields={key: value for key, value in values.items() if key not in _WORKPLAN_KEYS},
            tasks=tasks,
            is_complete=is_complete,
            line=front.keys_at[("id",)][0],
            status_at=self._status_span(front, start, status, ""),
        )

    # -- the task blocks --

    def _has_task_block(self, line: int) -> bool:
        return any(_is_task(token) for token in self._blocks(line))

    def _quoted_lines(self, tokens: Sequence[Token], shift: int) -> frozenset[int]:
        """Lines inside fences that are no task blocks: samples, where markers mean nothing."""
        return frozenset(
            line + shift
            for token in tokens
            if token.type == "fence" and token.map is not None and not _is_task(token)
            for line in range(*token.map)
        )

    def _has_conflict(self, quoted: frozenset[int]) -> bool:
        """Whether a merge was committed with its markers; where it was is noted."""
        opened = middle = None
        for number in range(len(self._line_starts)):
            line = self._line(number)
            if line[:7] not in ("<<<<<<<", "=======", ">>>>>>>") or number in quoted:
                continue
            if _OURS.match(line):
                opened, middle = number, None
            elif opened is not None and _BETWEEN.match(line):
                middle = number
            elif opened is not None and middle is not None and _THEIRS.match(line):
                message = f"conflict markers from here to line {number + 1}; resolve the merge and commit the result"
                self._note("C-02", opened + 1, 1, message)
                return True
        return False

    def _tasks(self, tokens: Sequence[Token], shift: int) -> tuple[tuple[Task, ...], bool]:
        """The tasks of the blocks at the left margin, and whether every block could be read."""
        heading = ""
        tasks: list[Task] = []
        places: dict[str, int] = {}
        twice: set[str] = set()
        is_complete = True
        for index, token in enumerate(tokens):
            if token.type == "heading_open" and token.level == 0:
                heading = tokens[index + 1].content.strip()
            if not _is_task(token) or token.map is None:
                continue
            line = token.map[0] + shift
            task = self._task(token, line, token.map[1] + shift, heading)
            heading = ""  # it is the title of one task, not of all that follow
            if task is None:
                is_complete = False
                continue
            if task.id in places:
                twice.add(task.id)
                message = f"{task.id} stands twice; the first is on line {places[task.id]}; give this one a new id"
                self._note("C-04", task.line, 1, message, task.id)
            places.setdefault(task.id, task.line)
            tasks.append(task)
            if len(tasks) > MOST_TASKS:
                self._note("C-02", line + 1, 1, f"more than {MOST_TASKS:,} tasks in one file; split the plan")
                return (), False
        return tuple(task for task in tasks if task.id not in twice), is_complete and not twice

    def _task(self, token: Token, line: int, end_line: int, heading: str) -> Task | None:
        if token.level > 0:
            self._note("C-02", line + 1, 1, "this task block is inside a list or quote; move it to the left margin")
            return None
        closing = self._line(end_line - 1).strip()
        if end_line - 1 == line or set(closing) != {token.markup[0]} or len(closing) < len(token.markup):
            self._note("C-02", line + 1, 1, f"the task block that starts here is never closed; add {token.markup}")
            return None
        start = self._line_starts[line + 1]
        content = self._source.text[start : self._line_starts[end_line - 1]]
        if content.startswith("\ufeff"):
            self._note("C-02", line + 2, 1, "a byte order mark stands inside the task block; remove it")
            return None
        try:
            document = read_document(content.encode(), self._path, first_line=line + 2, with_spans=True)
        except DocumentError as failure:
            self._faults += [
                Fault(check="C-02", problem=problem, block=f"line {line + 1}") for problem in failure.problems
            ]
            return None
        values = document.value
        if not isinstance(values, dict):
            self._note("C-02", line + 1, 1, "a task block holds keys, such as id: T04 and status: todo")
            return None
        before = len(self._faults)
        name = self._text_of(document, "id", "C-03", "add for example id: T04")
        if name is not None and not TASK_ID.fullmatch(name):
            self._add("C-03", document.problem(("id",), f"{name!r} is not a task id; write for example T04"), name[:20])
        block = name or f"line {line + 1}"
        status = self._status_of(document, TaskStatus, block)
        title: str | None = heading[:MAX_TITLE]
        if "title" in values:
            title = self._text_of(document, "title", "C-03", "", block)
        depends_on = self._depends_of(document, block, _TASK_REFERENCE, "T03 or CUST-WP-0039/T03")
        if len(self._faults) > before:
            return None
        assert name is not None and status is not None and title is not None
        return Task(
            id=name,
            title=title,
            status=TaskStatus(status),
            depends_on=depends_on,
            fields={key: value for key, value in values.items() if key not in _TASK_KEYS},
            line=line + 1,
            status_at=self._status_span(document, start, status, block),
        )

    # -- single keys --

    def _text_of(self, document: Document, key: str, check: str, hint: str, block: str = "") -> str | None:
        values = document.value
        assert isinstance(values, dict)
        value = values.get(key)
        if isinstance(value, str) and value.strip() and len(value) <= MAX_TITLE and "\0" not in value:
            return value
        if key not in values:
            message = f"the key {key!r} is missing; {hint}"
        elif isinstance(value, str) and len(value) > MAX_TITLE:
            message = f"{key} has {len(value):,} characters; at most {MAX_TITLE} are kept"
        else:
            message = f"{key} must be text, found {value!r}"[:200] + (f"; {hint}" if hint else "")
        self._add(check, document.problem((key,), message), block)
        return None

    def _status_of(self, document: Document, statuses: type[StrEnum], block: str) -> str | None:
        values = document.value
        assert isinstance(values, dict)
        known = [status.value for status in statuses]
        value = values.get("status")
        if isinstance(value, str) and value in known:
            return value
        if "status" not in values:
            message = f"the key 'status' is missing; one of {', '.join(known)}"
        else:
            message = f"unknown status {str(value)[:50]!r}; one of {', '.join(known)}"
        self._add("C-03", document.problem(("status",), message), block)
        return None

    def _depends_of(self, document: Document, block: str, pattern: re.Pattern[str], example: str) -> tuple[str, ...]:
        values = document.value
        assert isinstance(values, dict)
        value = values.get("depends_on")
        if value is None:
            return ()
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list) and all(isinstance(name, str) and pattern.fullmatch(name) for name in names):
            return tuple(dict.fromkeys(names))
        message = f"depends_on must be a list of ids such as {example}, found {str(value)[:80]!r}"
        self._add("C-03", document.problem(("depends_on",), message), block)
        return ()

    def _status_span(self, document: Document, start: int, status: str, block: str) -> Span | None:
        assert document.spans is not None
        span = document.spans.get(("status",))
        if span is not None:
            low, high = start + span[0], start + span[1]
            found = _SIMPLE_SCALAR.fullmatch(self._source.text[low:high])
            if found is not None and found[2] == status:
                return self._source.span(low, high)
        message = (
            "the status is an alias, an anchor or a block of text, so changes cannot be written back; write it out"
        )
        self._add("C-03", document.problem(("status",), message), block)
        return None

    def _note(self, check: str, line: int, column: int, message: str, block: str = "") -> None:
        self._faults.append(_fault(check, self._path, line, column, message, block))

    def _add(self, check: str, problem: Problem, block: str = "") -> None:
        self._faults.append(Fault(check=check, problem=problem, block=block))


_WORKPLAN_KEYS = frozenset({"id", "type", "title", "status", "depends_on"})
_TASK_KEYS = frozenset({"id", "title", "status", "depends_on"})
_TASK_REFERENCE = re.compile(rf"(?:{WORKPLAN_ID.pattern}/)?{TASK_ID.pattern}|{WORKPLAN_ID.pattern}")


def _is_task(token: Token) -> bool:
    return token.type == "fence" and token.info.split()[:1] == ["task"]


def new_workplan(workplan_id: str, title: str) -> str:
    """The text of a fresh workplan with one task."""
    quoted = '"' + title.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"""---
id: {workplan_id}
type: workplan
title: {quoted}
status: proposed
---

# {title}

What is to be reached, and how one will see that it was.

## The first step

```task
id: T01
status: todo
```
"""


def json_schema() -> dict[str, object]:
    """The JSON Schema of the front matter, and in ``$defs.task`` that of a task block."""

    def text(description: str, **more: object) -> dict[str, object]:
        return {"type": "string", "description": description, **more}

    def anchored(pattern: re.Pattern[str]) -> str:
        return f"^(?:{pattern.pattern})$"

    def references(pattern: re.Pattern[str], description: str) -> dict[str, object]:
        name = {"type": "string", "pattern": anchored(pattern)}
        return {"description": description, "anyOf": [name, {"type": "array", "items": name}, {"type": "null"}]}

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Workplan front matter",
        "type": "object",
        "required": ["id", "type", "title", "status"],
        "additionalProperties": True,
        "properties": {
            "id": text("unique over the whole fleet", pattern=anchored(WORKPLAN_ID)),
            "type": {"const": "workplan"},
            "title": text("what the plan is about", minLength=1, maxLength=MAX_TITLE),
            "status": {"enum": [status.value for status in WorkstreamStatus]},
            "depends_on": references(WORKPLAN_ID, "workplans that must be finished first"),
        },
        "$defs": {
            "task": {
                "title": "Task block",
                "type": "object",
                "required": ["id", "status"],
                "additionalProperties": True,
                "properties": {
                    "id": text("unique within the workplan", pattern=anchored(TASK_ID)),
                    "title": text("instead of the heading above the block", minLength=1, maxLength=MAX_TITLE),
                    "status": {"enum": [status.value for status in TaskStatus]},
                    "depends_on": references(_TASK_REFERENCE, "tasks or workplans that must be done first"),
                },
            }
        },
    }


def lines_of(faults: Sequence[Fault]) -> Iterator[str]:
    """The faults as lines ``path:line:column: C-03: message``, in the order of the file."""
    for fault in sorted(faults, key=lambda each: (each.problem.line, each.problem.column)):
        problem = fault.problem
        place = f"{problem.path}:{problem.line}:{problem.column}" if problem.line else problem.path
        yield f"{place}: {fault.check}: {problem.message}"
