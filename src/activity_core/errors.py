"""What can go wrong, grouped by who must act. Expected outcomes (a false rule, a skip) are values, not errors."""

from __future__ import annotations

from activity_plumbing.yaml_document import DocumentError


class ActivityCoreError(Exception):
    """The root of every error this package raises on purpose."""


class DefinitionError(ActivityCoreError, DocumentError):
    """For the author of a definition: everything found wrong in one file, in the order of its lines."""


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
