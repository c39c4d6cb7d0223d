"""One file to a definition that is known to run: schema, expressions and context sources all checked."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from activity_core import __version__
from activity_core.context.sources import source_class, source_names
from activity_core.definition.build import build
from activity_core.definition.model import CronSchedule, Definition, EventSubscription, Schedule, VersionHash
from activity_core.definition.parse import parse
from activity_core.errors import ConfigurationError, DefinitionError, ExpressionError
from activity_core.rule import compile_expression
from activity_plumbing.nearest import nearest
from activity_plumbing.yaml_document import MAX_BYTES, Document, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from activity_plumbing.yaml_document import Path as Place

LOADER = f"{__version__}/1"
"""Names what checked a version. Counted up when checking changes, so that stored versions are checked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A checked definition and its plain values as JSON."""

    definition: Definition
    plain_json: str


def read_file(path: Path) -> bytes:
    """A definition file's bytes. Raises DefinitionError for links, devices, unreadable and oversized files."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as failure:
        said = "a symbolic link; definitions are read from plain files only" if path.is_symlink() else failure.strerror
        raise DefinitionError(
            [Problem(path=str(path), line=0, column=0, message=f"cannot be read: {said}")]
        ) from failure
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise DefinitionError([Problem(path=str(path), line=0, column=0, message="not a plain file")])
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > MAX_BYTES:
            message = f"the file has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read"
            raise DefinitionError([Problem(path=str(path), line=0, column=0, message=message)])
        return file.read(MAX_BYTES + 1)


def load(text: bytes, path: str) -> Loaded:
    """The definition of a file's bytes, everything checked. Raises DefinitionError with every problem found."""
    definition, plain, document = parse(text, path)
    problems = [*_expression_problems(definition, document, text), *_source_problems(definition, document)]
    if problems:
        raise DefinitionError(problems)
    return Loaded(definition=definition, plain_json=json.dumps(plain, separators=(",", ":"), ensure_ascii=False))


def restore(plain_json: str) -> Definition | None:
    """The definition of plain values that this loader stored; None if it needs a source that is not installed."""
    definition = build(json.loads(plain_json))
    known = source_names()
    if any(query.kind != "http_get" and query.kind not in known for query in definition.context):
        return None
    return definition


def trigger_hash_of(schedule: Schedule) -> str:
    """What names a trigger: equal for schedules with equal slots as written."""
    return hashlib.blake2b(repr(schedule).encode(), digest_size=8).hexdigest()


def content_hash(text: bytes) -> VersionHash:
    """What names a version: SHA-256 of the bytes."""
    return VersionHash(hashlib.sha256(text).hexdigest())


def rule_names(definition: Definition) -> tuple[str, ...]:
    """The names that a definition's rule may use."""
    names = [query.bind for query in definition.context]
    if isinstance(definition.schedule, EventSubscription):
        names.append("event")
    return (*names, "slot")


def _expressions(definition: Definition) -> Iterator[tuple[Place, str, tuple[str, ...]]]:
    """Every CEL expression: its place in the document, its text, the names it may use."""
    names = rule_names(definition)
    for index, text in enumerate(definition.when):
        yield ("rule", "when", index), text, names
    before_context = tuple(name for name in names if name in ("event", "slot"))
    each = definition.for_each
    if each is not None:
        yield ("for_each", "items"), each.items, names
        yield ("for_each", "key"), each.key, (*names, each.name)
    concurrency = definition.instruction.concurrency
    if concurrency is not None and concurrency.key_expr is not None:
        known = (*before_context, each.name) if each is not None else before_context
        yield ("instruction", "concurrency", "key_expr"), concurrency.key_expr, known
    schedule = definition.schedule
    if isinstance(schedule, EventSubscription):
        if schedule.when is not None:
            yield ("trigger", "when"), schedule.when, ("event",)
        if schedule.debounce is not None and schedule.debounce.key is not None:
            yield ("trigger", "debounce", "key"), schedule.debounce.key, ("event",)


def _expression_problems(definition: Definition, document: Document, text: bytes) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, query in enumerate(definition.context):
        if query.bind in seen:
            yield document.problem(
                ("context", index, "bind"),
                f"the bind {query.bind!r} is taken by query {seen[query.bind] + 1}",
            )
        seen.setdefault(query.bind, index)
    if definition.for_each is not None and definition.for_each.name in seen:
        yield document.problem(("for_each", "as"), f"the name {definition.for_each.name!r} is a bind already")
    for place, expression, names in _expressions(definition):
        try:
            compile_expression(expression, names)
        except ExpressionError as failure:
            yield _within(document.problem(place, f"{expression!r}: {failure.message}"), expression, failure, text)


def _within(problem: Problem, expression: str, failure: ExpressionError, text: bytes) -> Problem:
    """Points into the expression where its text stands in the file as it is, else at its start."""
    lines = text.decode("utf-8-sig").splitlines()
    if not failure.line or failure.line > 1 or problem.line > len(lines):
        return problem
    line = lines[problem.line - 1]
    for quote in (0, 1):
        start = problem.column - 1 + quote
        if line.startswith(expression, start):
            return Problem(path=problem.path, line=problem.line, column=start + failure.column, message=problem.message)
    return problem


def _source_problems(definition: Definition, document: Document) -> Iterator[Problem]:
    for index, query in enumerate(definition.context):
        if query.kind == "http_get":
            continue
        place: Place = ("context", index)
        try:
            source = source_class(query.kind)
        except ConfigurationError as failure:
            yield document.problem((*place, "kind"), str(failure))
            continue
        if source is None:
            names = ["http_get", *source_names()]
            yield document.problem(
                (*place, "kind"),
                f"no context source {query.kind!r} is installed{nearest(query.kind, names)}"
                f" (installed: {', '.join(names)})",
            )
            continue
        for name, value in query.arguments.items():
            wanted = source.parameters.get(name)
            if wanted is None:
                message = f"{query.kind} has no key {name!r}{nearest(name, ['kind', 'bind', *source.parameters])}"
                yield document.problem((*place, name), message, at_key=True)
            elif not isinstance(value, wanted):
                yield document.problem((*place, name), f"{name} must be of type {wanted.__name__}, found {value!r}")


def describe_schedule(schedule: Schedule) -> str:
    """The schedule in a few words, as `list` shows it."""
    from activity_core.definition.model import CalendarSchedule, IntervalSchedule
    from activity_plumbing.units import format_duration

    match schedule:
        case CronSchedule() | CalendarSchedule():
            return f"{schedule.expression} {schedule.timezone}"
        case IntervalSchedule():
            return f"every {format_duration(schedule.every_us)}"
        case EventSubscription():
            return f"event {schedule.event_type}"
