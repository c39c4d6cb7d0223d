"""What can go wrong, grouped by who must act. Expected outcomes (a false rule, a skip) are values, not errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class ActivityCoreError(Exception):
    """The root of every error this package raises on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a definition file, and what would be right.

    `line` and `column` count from 1; 0 means the file as a whole.
    """

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return f"{place}: {self.message}"


class DefinitionError(ActivityCoreError):
    """For the author of a definition: everything found wrong in one file, in the order of its lines."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(
            sorted(problems, key=lambda p: (p.path, p.line, p.column, p.message))
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ConfigurationError(ActivityCoreError):
    """For the operator: settings, folders, permissions, another engine in the way."""


class NotFoundError(ActivityCoreError):
    """For whoever asked: no definition or run goes by that name."""


class ExpressionError(ActivityCoreError):
    """A CEL expression that does not compile or cannot be evaluated.

    `line` and `column` are those within the expression, from 1; 0 where the library gives none.
    """

    def __init__(self, message: str, *, line: int = 0, column: int = 0) -> None:
        self.message = message
        self.line = line
        self.column = column
        super().__init__(message)


class ContextError(ActivityCoreError):
    """A context query that failed: the run fails at stage ``context``."""


class CommandError(ActivityCoreError):
    """A command that could not be started at all: the run fails at stage ``shell``."""
