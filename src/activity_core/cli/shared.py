"""What every command needs: settings, the ledger, times as people write them, output for both kinds of reader."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from activity_core.errors import ConfigurationError, NotFoundError
from activity_plumbing.clock import Instant, SystemClock, format_instant, parse_instant
from activity_plumbing.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from activity_core.ledger.records import RunRecord
    from activity_core.ledger.store import Ledger
    from activity_core.settings import Settings

EXIT_ERROR = 2
"""Something was asked that cannot be done: bad settings, unknown id, a ledger that cannot be opened."""
EXIT_FINDINGS = 1
"""The command worked, and what it found is not well: invalid files, a failed run, findings."""

_RELATIVE = re.compile(r"^-?\d+(\.\d+)?(s|m|h|d|w)\b")


@dataclass(slots=True)
class Console:
    """The options of the command group, and what they lead to."""

    config: str | None
    state_dir: str | None
    definitions: tuple[str, ...]

    def settings(self) -> Settings:
        """The settings in force. Raises ConfigurationError."""
        from activity_core.settings import load_settings

        overrides: dict[str, object] = {}
        if self.state_dir is not None:
            overrides["state_dir"] = Path(self.state_dir).expanduser().resolve()
        if self.definitions:
            overrides["definitions"] = tuple(Path(folder).expanduser().resolve() for folder in self.definitions)
        return load_settings(None if self.config is None else Path(self.config), overrides=overrides)

    def ledger(self, settings: Settings, *, create: bool = False) -> Ledger:
        """The ledger of the state folder. Raises ConfigurationError where there is none yet."""
        from activity_core.ledger.store import Ledger

        if not create and not Ledger.exists(settings.state_dir):
            raise ConfigurationError(
                f"{settings.state_dir} holds no history yet; start the engine with `activity-core serve`,"
                " or name its folder with --state-dir"
            )
        return Ledger.open(settings.state_dir)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def echo_json(value: object) -> None:
    """One JSON value, indented, times as ISO 8601."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A plain table for a terminal; cells are text, never markup."""
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        drawn.add_column(header, overflow="fold")
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(printable(str(cell))) for cell in row))
    width = None if sys.stdout.isatty() else 160
    RichConsole(width=width, highlight=False).print(drawn)


_COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "timed_out": "red",
    "interrupted": "red",
    "running": "cyan",
    "pending": "cyan",
    "retry_wait": "yellow",
    "waiting": "cyan",
    "skipped": "yellow",
    "missed": "yellow",
    "cancelled": "magenta",
}


def state_text(run: RunRecord) -> Any:
    """The state, with its reason, in its colour."""
    from rich.text import Text

    words = run.state.value if run.reason is None else f"{run.state.value} ({run.reason.value})"
    return Text(words, style=_COLOURS.get(run.state.value, ""))


def now() -> Instant:
    """The wall clock, for commands that stand outside the engine."""
    return SystemClock().now()


def read_time(text: str) -> Instant:
    """A time as people write it: ISO 8601 (UTC unless it says otherwise), ``now``, or ``2h`` for two hours ago."""
    from activity_plumbing.units import parse_duration_us

    word = text.strip()
    if word == "now":
        return now()
    try:
        if _RELATIVE.match(word):
            return Instant(now() - parse_duration_us(word.removeprefix("-")))
        return parse_instant(word)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a time; write 2026-03-29T02:30Z, 2026-03-29, now, or 2h for two hours ago"
        ) from None


def run_json(run: RunRecord) -> dict[str, object]:
    """A run as JSON; its keys are those of the ledger, times ISO 8601, durations in seconds."""
    found: dict[str, object] = {}
    for name in run.__dataclass_fields__:
        value = getattr(run, name)
        if value is not None and (name.endswith("_at") or name in ("slot", "last_slot")):
            value = format_instant(value)
        elif name == "duration_us":
            name, value = "duration_s", None if value is None else value / 1e6
        elif name == "cpu_us":
            name, value = "cpu_s", None if value is None else value / 1e6
        elif name in ("context_json", "rule_json", "item_json"):
            name, value = name.removesuffix("_json"), None if value is None else json.loads(value)
        found[name] = value
    late = run.lateness_us
    found["lateness_s"] = None if late is None else late / 1e6
    return found


def find_run(ledger: Ledger, text: str) -> RunRecord:
    """The run of a number as typed. Raises NotFoundError; anything but digits is refused unread."""
    number = text.removeprefix("#")
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise NotFoundError(f"{printable(text)!r} is not a run number; `activity-core history` lists them")
    run = ledger.run(int(number))
    if run is None:
        raise NotFoundError(f"there is no run {number}; `activity-core history` lists them")
    return run


def find_definition_id(ledger: Ledger, text: str) -> str:
    """The full id that `text` names: exactly, or as the only one that ends with it. Raises NotFoundError."""
    from activity_plumbing.nearest import nearest

    names = [record.id for record in ledger.definitions()]
    if text in names:
        return text
    ending = [name for name in names if name.endswith(f".{text}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise NotFoundError(f"{text!r} could be {', '.join(ending)}; give the whole id")
    raise NotFoundError(f"no definition is called {printable(text)!r}{nearest(text, names)}")
