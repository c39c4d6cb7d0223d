"""CEL expressions behind one door: compiled once, names declared, only a true BOOL is true.

The library (cel-cpp through cel-expr-python) reports run-time errors as *values* of type ERROR, which are
truthy in Python; and very deep data crashes it. Both stop here: everything in is capped, everything out
is checked by type. Source: the CEL specification (language definition, "Evaluation").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cel_expr_python import cel

from activity_core.errors import ExpressionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_VALUE_DEPTH = 100
MAX_VALUE_NODES = 200_000
MAX_TEXT_CHARS = 1 << 20
LONGEST_PERMIT_KEY = 256
_TIMESTAMPS = frozenset({"slot"})
_COMPILED_KEPT = 2_000

MAX_ADDITIONS = 16
_STRINGS = re.compile(r"""[rR]?[bB]?[rR]?(\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""", re.DOTALL)
_MACROS = re.compile(r"\b(map|filter|all|exists|exists_one|transformList|transformMap|transformMapEntry)\s*\(")
_POSITION = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']+)'")


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What one expression came to; `error` is set when it could not be evaluated."""

    expression: str
    value: object
    error: str | None = None

    @property
    def is_true(self) -> bool:
        """Only the boolean true."""
        return self.error is None and self.value is True


class Expression:
    """One compiled CEL expression."""

    __slots__ = ("_program", "text")

    def __init__(self, text: str, program: Any) -> None:
        self.text = text
        self._program = program

    def evaluate(self, names: Mapping[str, object]) -> object:
        """The plain value over `names` (JSON-like values; ``slot`` an aware datetime). Raises ExpressionError."""
        try:
            result = self._program.eval(data=dict(names))
            if result.type() == cel.Type.ERROR:
                raise ExpressionError(_without_status(str(result.value())))
            if result.type() == cel.Type.UNKNOWN:
                raise ExpressionError("the value depends on something unknown")
            return result.plain_value()
        except (RuntimeError, TypeError, ValueError, OverflowError) as failure:
            raise ExpressionError(_without_status(str(failure))) from failure


def compile_expression(text: str, names: Iterable[str]) -> Expression:
    """The compiled expression; every name outside `names` is an error that names the nearest. Raises ExpressionError.

    >>> compile_expression("hub.status == 'ok'", ["hub"]).evaluate({"hub": {"status": "ok"}})
    True
    """
    return _compiled(text, tuple(sorted(names)))


@lru_cache(maxsize=_COMPILED_KEPT)
def _compiled(text: str, names: tuple[str, ...]) -> Expression:
    _refuse_amplifiers(text)
    try:
        return Expression(text, _environment(names).compile(text))
    except RuntimeError as failure:
        raise _compile_error(text, str(failure), names) from None
    except (TypeError, ValueError) as failure:  # text that is no UTF-8
        raise ExpressionError(str(failure)) from failure


def _refuse_amplifiers(text: str) -> None:
    """Refuses what could make gigabytes of text: many concatenations, and any inside a loop.

    The library bounds iterations and recursion, not memory. Sixteen ``+`` outside of loops make at most
    seventeen times the largest input; ``list.map(x, a + a)`` doubles it as often as it is written.
    """
    bare = _STRINGS.sub(lambda found: "_" * len(found[0]), text)
    additions = [match.start() for match in re.finditer(r"\+", bare)]
    if len(additions) > MAX_ADDITIONS:
        raise ExpressionError(f"more than {MAX_ADDITIONS} additions in one expression", line=1, column=1)
    for macro in _MACROS.finditer(bare):
        end = _closing(bare, macro.end() - 1)
        if any(macro.end() <= at < end for at in additions):
            raise ExpressionError(
                f"an addition inside {macro[1]}() is not allowed, as it can use up the memory",
                line=1,
                column=macro.start(1) + 1,
            )


def _closing(text: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(text)):
        if text[at] == "(":
            depth += 1
        elif text[at] == ")":
            depth -= 1
            if depth == 0:
                return at
    return len(text)


@lru_cache(maxsize=256)
def _environment(names: tuple[str, ...]) -> Any:
    return cel.NewEnv(variables={name: cel.Type.TIMESTAMP if name in _TIMESTAMPS else cel.Type.DYN for name in names})


def _compile_error(text: str, said: str, names: tuple[str, ...]) -> ExpressionError:
    found = _POSITION.search(said)
    if found is None:
        return ExpressionError(_without_status(said))
    line, column, message = int(found[1]), int(found[2]), found[3].strip()
    undeclared = _UNDECLARED.search(message)
    if undeclared:
        from activity_plumbing.nearest import nearest

        name = undeclared[1].split(".")[0]
        place = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text)  # the library points at the last dot
        if place is not None:
            line = text.count("\n", 0, place.start()) + 1
            column = place.start() - (text.rfind("\n", 0, place.start()) + 1) + 1
        hint = nearest(name, names) or "; no names are declared"
        message = f"the name {name!r} is not declared{hint}"
    else:
        message = message.split(" expecting {")[0]
    return ExpressionError(message, line=max(0, line), column=max(0, column))


def _without_status(text: str) -> str:
    """The library's sentence without its gRPC status words."""
    text = re.sub(r"\s*\[[A-Z_]+\]\s*$", "", text)
    return re.sub(r"^[A-Z_]+: ", "", text).strip()


def evaluate_all(expressions: Iterable[Expression], names: Mapping[str, object]) -> list[Evaluated]:
    """Each expression's value, in order, up to the first that is not true; later ones are not asked.

    A value that is not a boolean is an error: a rule must not fire by truthiness.
    """
    results: list[Evaluated] = []
    for expression in expressions:
        try:
            value = expression.evaluate(names)
        except ExpressionError as failure:
            results.append(Evaluated(expression.text, None, failure.message))
            break
        if not isinstance(value, bool):
            results.append(
                Evaluated(expression.text, _shown(value), f"came to {_type_name(value)}, not to true or false")
            )
            break
        results.append(Evaluated(expression.text, value))
        if not value:
            break
    return results


def permit_key_of(expression: str, names: Mapping[str, object]) -> str:
    """The permit key that `key_expr` comes to over `names`. Raises ExpressionError for anything but short text."""
    value = compile_expression(expression, names).evaluate(names)
    if not isinstance(value, str) or not value or len(value) > LONGEST_PERMIT_KEY:
        raise ExpressionError(f"a permit key must be text of 1 to {LONGEST_PERMIT_KEY} characters, not {value!r:.80}")
    return value


def refuse_oversized(name: str, value: object) -> None:
    """Raises ExpressionError for a value too deep, too large or too odd to hand to the evaluator.

    Limits: 100 levels, 200,000 values, 1 Mi characters of text in all, no NUL in any text. Whatever comes from
    outside must pass here before `Expression.evaluate` sees it.
    """
    nodes = characters = 0
    level: list[object] = [value]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_VALUE_DEPTH:
            raise ExpressionError(f"the value of {name!r} is nested deeper than {MAX_VALUE_DEPTH} levels")
        below: list[object] = []
        for item in level:
            nodes += 1
            if isinstance(item, str):
                characters += len(item)
                if "\0" in item:  # the library would cut the text there and compare the rest only
                    raise ExpressionError(f"the value of {name!r} holds a NUL character")
            elif isinstance(item, dict):
                below.extend(item.values())
                characters += sum(len(key) for key in item if isinstance(key, str))
                if any("\0" in key for key in item if isinstance(key, str)):
                    raise ExpressionError(f"the value of {name!r} has a key with a NUL character")
            elif isinstance(item, (list, tuple)):
                below.extend(item)
        if nodes + len(below) > MAX_VALUE_NODES or characters > MAX_TEXT_CHARS:
            raise ExpressionError(f"the value of {name!r} is too large for a rule")
        level = below


def _shown(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)[:200]


def _type_name(value: object) -> str:
    names = {
        str: "text",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a map",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
