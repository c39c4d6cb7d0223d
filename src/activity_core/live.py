"""What `serve --live` shows: the next slots, and a table of runs as they end."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from activity_core.serve import Shower
from activity_plumbing.text import local_time, printable
from activity_plumbing.units import format_duration

if TYPE_CHECKING:
    from activity_core.catalog.catalog import Changes
    from activity_core.engine import Engine
    from activity_core.execute import Ticket
    from activity_core.ports import EndRow
    from activity_core.settings import Settings

ROWS = 15
SLOTS = 6
_STYLES = {
    "succeeded": "green",
    "failed": "bold red",
    "timed_out": "bold red",
    "interrupted": "red",
    "skipped": "yellow",
}


class LiveTable(Shower):
    """A table that is redrawn as runs end; plain lines where the output is no terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._rows: deque[tuple[str, str, str, str, str]] = deque(maxlen=ROWS)
        self._live: Live | None = None
        self._engine: Engine | None = None

    def ready(self, settings: Settings, engine: Engine, took_s: float) -> None:
        """Says what is in force and where to look, then starts the table."""
        self._engine = engine
        count = len(engine.catalog.in_force)
        self._console.print(
            Text.assemble(("activity-core is ready ", "bold"), f"({took_s:.2f} s): {count} definitions in force")
        )
        for folder in settings.definitions:
            self._console.print(f"  definitions  {folder}", markup=False)
        self._console.print(f"  state        {settings.state_dir}", markup=False)
        self._console.print("  next slots", markup=False)
        for line in self._next_slots():
            self._console.print(f"    {line}", markup=False)
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._draw)
            self._live.start()

    def ended(self, ticket: Ticket, end: EndRow) -> None:
        """One more row."""
        reason = f" ({end.reason.value})" if end.reason else ""
        row = (
            str(ticket.run_id),
            ticket.title,
            end.state.value,
            "" if end.duration_us is None else format_duration(end.duration_us),
            printable((end.detail or "")[:60]),
        )
        self._rows.append((row[0], row[1], row[2] + reason, row[3], row[4]))
        if self._live is not None:
            self._live.refresh()
        else:
            self._console.print(
                f"  run {row[0]:>5}  {row[2] + reason:<22} {row[3]:>8}  {row[1]}  {row[4]}", markup=False
            )

    def changed(self, changes: Changes) -> None:
        """Redraws, and says what is wrong with files."""
        for problems in changes.problems.values():
            for problem in problems:
                self._console.print(Text(printable(str(problem)), style="red"))
        if self._live is not None:
            self._live.refresh()

    def stopping(self, engine: Engine, settings: Settings) -> None:
        """Ends the table."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if engine.running:
            grace = format_duration(settings.shutdown_grace)
            self._console.print(f"stopping: {engine.running} command(s) may go on for {grace}; once more ends them now")

    def stopped(self) -> None:
        """The last line."""
        self._console.print("stopped; what happened stays in the history")

    def _next_slots(self) -> list[str]:
        assert self._engine is not None
        upcoming = heapq.nsmallest(SLOTS, self._engine.upcoming())
        return [f"{local_time(slot)}  {name}" for slot, name in upcoming]

    def _draw(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for header in ("RUN", "ID", "OUTCOME", "TOOK", ""):
            table.add_column(header)
        for number, name, state, took, detail in self._rows:
            table.add_row(number, Text(name), Text(state, style=_STYLES.get(state.split()[0], "")), took, Text(detail))
        lines = Text("next: " + "   ".join(self._next_slots()[:3]), style="dim")
        return Group(Text(), table, lines, Text("Ctrl-C stops", style="dim"))
