"""How another activity fared, so that a rule can make one depend on the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from activity_core.errors import ContextError
from activity_plumbing.clock import format_instant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from activity_core.context.sources import SourceTools


class LastRun:
    """``{found, id, state, reason, slot, started_at, ended_at, duration_s, exit_status}`` of `definition`.

    The newest run whose command was started and has ended; ``{found: false}`` where there is none. Times are
    ISO 8601 in UTC.
    """

    name = "activity-core.last_run"
    parameters: Mapping[str, type] = {"definition": str}

    def __init__(self, tools: SourceTools) -> None:
        self._ledger = tools.ledger

    async def ask(self, arguments: Mapping[str, object]) -> object:
        """The last finished run."""
        definition_id = arguments.get("definition")
        if not isinstance(definition_id, str):
            raise ContextError("activity-core.last_run needs the key definition: <id>")
        if self._ledger is None:
            raise ContextError("there is no ledger here to look into")
        run = await asyncio.to_thread(self._ledger.last_attempted, definition_id)
        if run is None:
            return {"found": False}
        return {
            "found": True,
            "id": run.id,
            "state": run.state.value,
            "reason": run.reason and run.reason.value,
            "slot": format_instant(run.slot),
            "started_at": None if run.started_at is None else format_instant(run.started_at),
            "ended_at": None if run.ended_at is None else format_instant(run.ended_at),
            "duration_s": (run.duration_us or 0) / 1e6,
            "exit_status": run.exit_status,
        }
