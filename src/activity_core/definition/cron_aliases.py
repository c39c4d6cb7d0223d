"""The @-words of crontab(5), which cronsim leaves to its callers."""

from __future__ import annotations

CRON_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def plain_expression(expression: str) -> str:
    """The five fields an expression stands for.

    >>> plain_expression("@daily")
    '0 0 * * *'
    """
    return CRON_ALIASES.get(expression.strip().lower(), expression.strip())
