"""YAML text to plain values, with the place of each; stricter than YAML where YAML surprises.

One pass over the parser's events, so depth, aliases and duplicates are judged before anything is built.
Scalars follow the YAML 1.2 core schema; a plain scalar that YAML 1.1 programs read differently (``on``,
``12:30``, ``010``) is an error that asks for quotes, because whoever wrote it meant one of the two.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML built without libyaml: the same events, slower
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_ALIASES = 50
MAX_NODES = 20_000
MAX_GROWTH = 4
"""How many times its own size a text may become by its aliases."""
SMALL_CHARACTERS = 1 << 14
EMPTY = "the document is empty"

Path = tuple[str | int, ...]
Place = tuple[int, int]
"""Line and column, both from 1."""

_LINE_END = re.compile(r"\r\n?|\n")
_OLD_LINE_END = re.compile("[\x85\u2028\u2029]")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?\Z")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?\Z")
_OLD_BOOLEAN = re.compile(r"(yes|no|on|off|y|n)\Z", re.IGNORECASE)
_OLD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|0o[0-7]+|0x[0-9a-fA-F_]+|0b[01_]+|[0-9]+_[0-9_]*|[0-9]+_[0-9_.]+)\Z")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a file, and what would be right.

    `line` and `column` count from 1; 0 means the file as a whole.
    """

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return f"{place}: {self.message}"


class DocumentError(Exception):
    """For the author of a file: everything found wrong in it, in the order of its lines."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(
            sorted(problems, key=lambda p: (p.path, p.line, p.column, p.message))
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(slots=True)
class Document:
    """A file's values (dicts, lists, scalars) and where each key and value stands in it."""

    path: str
    value: object = None
    first_line: int = 1
    """The number of the text's first line, where it is a part of a larger file."""
    values_at: dict[Path, Place] = field(default_factory=dict)
    keys_at: dict[Path, Place] = field(default_factory=dict)
    spans: dict[Path, tuple[int, int]] | None = None
    """Where asked for: start and end of each scalar in the text, in characters; anchors and tags included."""

    def problem(self, path: Path, message: str, *, at_key: bool = False) -> Problem:
        """A problem at the place of `path`, or of its nearest ancestor that has one."""
        places = (self.keys_at, self.values_at) if at_key else (self.values_at, self.keys_at)
        while True:
            for known in places:
                if path in known:
                    line, column = known[path]
                    return Problem(path=self.path, line=line, column=column, message=message)
            if not path:
                return Problem(path=self.path, line=self.first_line, column=1, message=message)
            path = path[:-1]


class _Mark(Protocol):
    """A place as libyaml and PyYAML give it, both from 0."""

    line: int
    column: int
    index: int


class _Refused(Exception):
    def __init__(self, mark: _Mark | None, message: str) -> None:
        self.mark = mark
        self.message = message


def read_document(text: bytes, path: str, *, first_line: int = 1, with_spans: bool = False) -> Document:
    """The values of one YAML document. Raises DocumentError naming line and column.

    `first_line` is the number of the text's first line in the file that contains it.

    Refused: more than 1 MiB, text that is not UTF-8, tags, depth over 32, over 50 aliases or 20,000 nodes
    once they are expanded, duplicate keys, keys that are not text, a second document.
    """
    if len(text) > MAX_BYTES:
        raise DocumentError(
            [
                Problem(
                    path=path,
                    line=0,
                    column=0,
                    message=f"the file has {len(text):,} bytes; at most {MAX_BYTES:,} are read",
                )
            ]
        )
    try:
        decoded = text.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as failure:
        before = _LINE_END.split(text[: failure.start].decode("utf-8", "replace"))
        line, column = len(before) - 1 + first_line, len(before[-1]) + 1
        raise DocumentError(
            [
                Problem(
                    path=path,
                    line=line,
                    column=column,
                    message=f"byte 0x{text[failure.start]:02x} is not UTF-8; save the file as UTF-8",
                )
            ]
        ) from failure
    document = Document(path, first_line=first_line, spans={} if with_spans else None)
    loader = _Loader(decoded)
    try:
        _Builder(loader, document, decoded).build()
    except _Refused as refusal:
        raise DocumentError([_at(path, refusal.mark, refusal.message, first_line, decoded)]) from None
    except yaml.YAMLError as failure:
        raise DocumentError([_syntax_problem(path, decoded, failure, first_line)]) from failure
    finally:
        loader.dispose()
    return document


def _syntax_problem(path: str, text: str, failure: yaml.YAMLError, first_line: int) -> Problem:
    mark = getattr(failure, "problem_mark", None)
    said = str(getattr(failure, "problem", None) or getattr(failure, "reason", None) or failure)
    position = getattr(failure, "position", None)
    if mark is None and isinstance(position, int):  # a character that YAML does not allow at all
        if hasattr(yaml, "CSafeLoader"):  # libyaml counts bytes
            position = len(text.encode()[:position].decode("utf-8", "ignore"))
        before = _LINE_END.split(text[:position])
        line, column = len(before) - 1 + first_line, len(before[-1]) + 1
        return Problem(path=path, line=line, column=column, message=f"not valid YAML: {said}")
    problem = _at(path, mark, f"not valid YAML: {said}", first_line, text)
    lines = text.splitlines()
    last = problem.line - first_line + 1
    near = lines[max(0, last - 2) : last]
    if any("\t" in line[: len(line) - len(line.lstrip())] for line in near):
        message = f"{problem.message}; YAML indents with spaces, never with tabs"
        return Problem(path=path, line=problem.line, column=problem.column, message=message)
    return problem


def _at(path: str, mark: _Mark | None, message: str, first_line: int, text: str) -> Problem:
    if mark is None:
        return Problem(path=path, line=first_line, column=1, message=message)
    line, column = _place_of(mark, text)
    return Problem(path=path, line=line + first_line, column=column + 1, message=message)


def _place_of(mark: _Mark, text: str) -> Place:
    """Line and column, both from 0. YAML 1.1 ends lines where editors and git do not; those are counted as text."""
    if text.isascii() or not _OLD_LINE_END.search(text):
        return mark.line, mark.column
    before = _LINE_END.split(text[: mark.index])
    return len(before) - 1, len(before[-1])


class _Builder:
    """Turns events into values with an explicit stack, so that depth costs no recursion."""

    def __init__(self, loader: _Loader, document: Document, text: str) -> None:
        self._loader = loader
        self._document = document
        self._text = text
        self._characters = 0
        self._most_characters = max(SMALL_CHARACTERS, MAX_GROWTH * len(text))
        self._anchors: dict[str, tuple[object, int, int]] = {}
        self._aliases = 0
        self._nodes = 0

    def build(self) -> None:
        documents = 0
        while True:
            event: Any = self._loader.get_event()
            if isinstance(event, yaml.StreamEndEvent):
                break
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _Refused(event.start_mark, "a second document starts here; one document per file")
            elif isinstance(event, yaml.NodeEvent):
                self._document.value = self._node(event)
        if not documents:
            raise _Refused(None, EMPTY)

    def _node(self, first: Any) -> object:
        """Builds the node that starts with `first`, to its end."""
        # each open collection: container, its path, pending key, nodes counted when it began, anchor
        stack: list[tuple[dict[str, object] | list[object], Path, tuple[int, int], str | None]] = []
        keys: list[tuple[str, Path] | None] = []
        event: Any = first  # the stubs leave out what events carry
        while True:
            if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                container, path, before, anchor = stack.pop()
                keys.pop()
                if anchor:
                    self._anchors[anchor] = (container, self._nodes - before[0], self._characters - before[1])
                if not stack:
                    return container
                event = self._loader.get_event()
                continue
            if stack and isinstance(stack[-1][0], dict) and keys[-1] is None:
                keys[-1] = self._key(event, stack[-1][0], stack[-1][1])
                event = self._loader.get_event()
                continue
            path = self._path_of_next(stack, keys)
            self._document.values_at.setdefault(path, self._place(event.start_mark))
            if self._document.spans is not None and isinstance(event, yaml.ScalarEvent):
                start, end = event.start_mark, event.end_mark
                assert start is not None and end is not None  # both loaders always give them
                self._document.spans.setdefault(path, (start.index, end.index))
            self._count(event.start_mark)
            value, opened = self._start(event)
            if stack:
                self._put(stack, keys, value)
            if opened:
                if len(stack) >= MAX_DEPTH:
                    raise _Refused(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
                assert isinstance(value, (dict, list))
                stack.append((value, path, (self._nodes, self._characters), event.anchor))
                keys.append(None)
            elif not stack:
                return value
            event = self._loader.get_event()

    def _start(self, event: Any) -> tuple[object, bool]:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event), False
        if event.tag is not None and event.tag != "!":
            raise _Refused(event.start_mark, f"the tag {event.tag!r} is not allowed; write the plain value")
        if isinstance(event, yaml.MappingStartEvent):
            return {}, True
        if isinstance(event, yaml.SequenceStartEvent):
            return [], True
        assert isinstance(event, yaml.ScalarEvent)
        value = _scalar(event) if event.implicit[0] and not event.style else event.value
        self._characters += len(event.value)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1, len(event.value))
        return value, False

    def _alias(self, event: Any) -> object:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise _Refused(event.start_mark, f"more than {MAX_ALIASES} aliases; write the values out")
        if event.anchor not in self._anchors:
            raise _Refused(event.start_mark, f"the alias *{event.anchor} has no anchor before it")
        value, size, characters = self._anchors[event.anchor]
        self._count(event.start_mark, size)
        self._characters += characters
        if self._characters > self._most_characters:
            raise _Refused(event.start_mark, "aliases make the text many times larger; write the values out")
        return value

    def _count(self, mark: _Mark, nodes: int = 1) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _Refused(mark, f"more than {MAX_NODES:,} values in one file, aliases expanded")

    def _key(self, event: Any, mapping: dict[str, object], path: Path) -> tuple[str, Path]:
        mark = event.start_mark
        if not isinstance(event, yaml.ScalarEvent):
            raise _Refused(mark, "a key must be plain text")
        if event.tag is not None and event.tag != "!":
            raise _Refused(mark, f"the tag {event.tag!r} is not allowed on a key")
        key = event.value
        if not event.style and _OLD_BOOLEAN.match(key):
            raise _Refused(mark, f'the key {key!r} is a boolean to YAML 1.1 programs; quote it: "{key}"')
        if not event.style and (_SEXAGESIMAL.match(key) or _OLD_NUMBER.match(key)):
            raise _Refused(mark, f'the key {key} is read as different numbers by YAML versions; quote it: "{key}"')
        if key in mapping:
            first = self._document.keys_at[(*path, key)]
            raise _Refused(mark, f"the key {key!r} stands twice; the first is on line {first[0]}")
        self._document.keys_at.setdefault((*path, key), self._place(mark))
        self._count(mark)
        return key, (*path, key)

    def _place(self, mark: _Mark) -> Place:
        line, column = _place_of(mark, self._text)
        return line + self._document.first_line, column + 1

    @staticmethod
    def _path_of_next(
        stack: list[tuple[dict[str, object] | list[object], Path, tuple[int, int], str | None]],
        keys: list[tuple[str, Path] | None],
    ) -> Path:
        if not stack:
            return ()
        container, path, _, _ = stack[-1]
        pending = keys[-1]
        if isinstance(container, dict):
            assert pending is not None
            return pending[1]
        return (*path, len(container))

    @staticmethod
    def _put(
        stack: list[tuple[dict[str, object] | list[object], Path, tuple[int, int], str | None]],
        keys: list[tuple[str, Path] | None],
        value: object,
    ) -> None:
        container = stack[-1][0]
        if isinstance(container, dict):
            pending = keys[-1]
            assert pending is not None
            container[pending[0]] = value
            keys[-1] = None
        else:
            container.append(value)


def _scalar(event: Any) -> object:
    text: str = event.value
    if text in _NULLS:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INTEGER.match(text):
        if len(text) > 18:
            raise _Refused(event.start_mark, f"the number {text[:20]}… is too large; quote it if it is text")
        return int(text)
    if _FLOAT.match(text):
        number = float(text)
        if math.isinf(number):
            raise _Refused(event.start_mark, f"the number {text[:20]} is too large; quote it if it is text")
        return number
    if _SEXAGESIMAL.match(text):
        raise _Refused(event.start_mark, f'{text} is a base-60 number to YAML 1.1 programs; quote it: "{text}"')
    if _OLD_BOOLEAN.match(text):
        raise _Refused(
            event.start_mark,
            f'{text} is a boolean to YAML 1.1 programs; write true or false, or quote it: "{text}"',
        )
    if _OLD_NUMBER.match(text):
        raise _Refused(
            event.start_mark,
            f'{text} is read as different numbers by different YAML versions; quote it: "{text}"',
        )
    return text
