"""A definition file's text to a checked, frozen definition, or to a list of problems with their places."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from activity_core.definition.build import Plain, build
from activity_core.errors import DefinitionError
from activity_plumbing.nearest import nearest
from activity_plumbing.yaml_document import Document, DocumentError, Problem, read_document

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from activity_core.definition.model import Definition
    from activity_plumbing.yaml_document import Path

_LABELS = frozenset({"cron", "calendar", "interval", "event", "http_get", "named", "[key]"})
_MISSING_HINTS: dict[tuple[str, ...], str] = {
    ("id",): "add for example: id: my-team.my-activity",
    ("trigger",): 'add for example: trigger: {trigger_type: cron, cron_expression: "@daily"}',
    ("instruction",): "add for example: instruction: {kind: shell, cmd: make clean}",
}


def parse(text: bytes, path: str) -> tuple[Definition, Plain, Document]:
    """The definition of a file's bytes, its plain values, and where each stands.

    `path` is only for messages. Raises DefinitionError with every problem found.
    """
    try:
        document = read_document(text, path)
    except DocumentError as failure:
        raise DefinitionError(failure.problems) from failure
    plain = _checked(document)
    return build(plain), plain, document


def _checked(document: Document) -> Plain:
    from pydantic import ValidationError

    from activity_core.definition.schema import ActivityDefinition

    if not isinstance(document.value, dict):
        raise DefinitionError([document.problem((), "a definition is a mapping that starts with id: …")])
    try:
        checked = ActivityDefinition.model_validate(document.value)
    except ValidationError as failure:
        errors = _without_guesses(failure.errors(include_url=False))
        problems = dict.fromkeys(_problem(document, error) for error in errors)
        raise DefinitionError(tuple(problems)) from None
    plain: Plain = checked.model_dump(by_alias=True, mode="json")
    return plain


def _without_guesses(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without what is missing only because a query that names no kind was held against http_get."""
    kindless = {error["loc"][:-1] for error in errors if error["type"] == "missing" and error["loc"][-1] == "kind"}
    return [
        error
        for error in errors
        if not (error["type"] == "missing" and error["loc"][:-1] in kindless and error["loc"][-1] != "kind")
    ]


def _problem(document: Document, error: ErrorDetails) -> Problem:
    path, is_key = _place(document, error["loc"])
    kind, context = error["type"], error.get("ctx", {})
    message = error["msg"]
    said_of = path
    if kind == "extra_forbidden":
        is_key, said_of = True, path[:-1]
        message = f"unknown key {str(path[-1])!r}{nearest(str(path[-1]), _known_keys(document, path[:-1]))}"
    elif kind == "missing":
        hint = _MISSING_HINTS.get(tuple(str(part) for part in path), "")
        message = f"the key {str(path[-1])!r} is missing" + (f"; {hint}" if hint else "")
        message += _perhaps(document, path[:-1], str(path[-1]))
        path, is_key = path[:-1], True
        said_of = path
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        path, message, is_key = _union(document, path, context)
        said_of = path
    elif kind in ("literal_error", "enum"):
        found = _value(document, path)
        options = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        message = f"found {found!r}{nearest(str(found), options)}"
        if "valid here" not in message:
            message += f" (valid: {', '.join(options)})"
    elif kind == "value_error":
        message = str(context.get("error", message))
    elif kind == "string_pattern_mismatch":
        found = path[-1] if is_key else _value(document, path)
        message = f"{found!r} does not look right here; it must match {context.get('pattern')}"
    elif kind.endswith("_type"):
        message = f"{_lower(message).removeprefix('input should be ')}, found {_kind_of(_value(document, path))}"
        message = f"must be {message.removeprefix('a valid ')}"
    else:
        message = _lower(message)
    return document.problem(path, f"{_dotted(said_of)}{message}", at_key=is_key)


def _union(document: Document, path: Path, context: dict[str, Any]) -> tuple[Path, str, bool]:
    tag = "trigger_type"
    found = _value(document, (*path, tag))
    options = re.findall(r"'([^']*)'", str(context.get("expected_tags", ""))) or [
        "cron",
        "calendar",
        "interval",
        "event",
    ]
    if found is None:
        message = f"the key {tag!r} is missing; one of {', '.join(options)}{_perhaps(document, path, tag)}"
        return path, message, True
    return (*path, tag), f"found {found!r}{nearest(str(found), options)} (valid: {', '.join(options)})", False


def _perhaps(document: Document, path: Path, missing: str) -> str:
    """A hint at the key that may have been meant, where one of the mapping's keys is close to the missing one."""
    mapping = _value(document, path)
    close = get_close_matches(missing, list(mapping) if isinstance(mapping, dict) else [], n=1, cutoff=0.7)
    return f"; is it meant by {close[0]!r}?" if close else ""


def _place(document: Document, location: tuple[int | str, ...]) -> tuple[Path, bool]:
    """Pydantic's location without the labels of union members, as a path of the document."""
    path: list[str | int] = []
    at_key = False
    value = document.value
    for part in location:
        if part == "[key]":
            at_key = True
            continue
        if isinstance(value, dict) and part not in value and part in _LABELS:
            continue
        if isinstance(value, dict) and str(part) in value:
            part = str(part)
        path.append(part)
        value = _step(value, part)
    return tuple(path), at_key


def _step(value: object, part: str | int) -> object:
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def _value(document: Document, path: Path) -> object:
    value = document.value
    for part in path:
        value = _step(value, part)
    return value


def _known_keys(document: Document, path: Path) -> list[str]:
    """The keys that the schema knows at `path`, so that a misspelt one finds its neighbour."""
    from activity_core.definition import schema

    at: dict[tuple[str, ...], type] = {
        (): schema.ActivityDefinition,
        ("rule",): schema.Rule,
        ("for_each",): schema.ForEachModel,
        ("instruction",): schema.Shell,
        ("instruction", "concurrency"): schema.ConcurrencyModel,
        ("instruction", "retry"): schema.RetryModel,
        ("instruction", "limits"): schema.LimitsModel,
        ("trigger", "debounce"): schema.DebounceModel,
    }
    names = tuple(str(part) for part in path)
    if names == ("trigger",):
        triggers = {
            "cron": schema.Cron,
            "calendar": schema.Calendar,
            "interval": schema.Interval,
            "event": schema.Event,
        }
        model: Any = triggers.get(str(_value(document, ("trigger", "trigger_type"))), schema.Cron)
    elif names[:1] == ("context",):
        model = schema.HttpGet
    else:
        model = at.get(names)
    if model is None:
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}; quote it if it is text"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return f"the text {value!r}"


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return f"{text}: " if text else ""


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
