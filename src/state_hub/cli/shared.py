"""What every command needs: settings, the store, times and tables."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import click

from activity_plumbing.clock import Instant, SystemClock, format_instant
from activity_plumbing.text import local_time, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from state_hub.settings import Settings
    from state_hub.store.store import Store

EXIT_ERROR = 1
"""Something was asked that cannot be done: bad settings, unknown slug, a database that cannot be opened."""
EXIT_LOCKED = 75
"""EX_TEMPFAIL of sysexits.h: another holds the lock; trying again later may help."""


@dataclass(slots=True)
class Console:
    """The options of the command group, and what they lead to."""

    config: str | None = None
    state_dir: str | None = None
    database_url: str | None = None

    def settings(self, **more: object) -> Settings:
        """The settings in force. Raises ConfigurationError."""
        from state_hub.settings import load_settings

        overrides: dict[str, object] = {"database_url": self.database_url, **more}
        if self.state_dir is not None:
            overrides["state_dir"] = Path(self.state_dir).expanduser().resolve()
        return load_settings(None if self.config is None else Path(self.config), overrides=overrides)

    @contextmanager
    def store(self, settings: Settings | None = None, *, create: bool = False) -> Iterator[Store]:
        """The hub's database; `create`: made if there is none. Raises ConfigurationError."""
        from state_hub.errors import ConfigurationError
        from state_hub.store.store import Store

        url = (settings or self.settings()).database
        if not create and "://" not in url and not Path(url).exists():
            raise ConfigurationError(
                f"{url} does not exist: no repo was registered there yet; `state-hub repos add` makes it, or name"
                " another hub with --config"
            )
        store = Store.open(url)
        try:
            yield store
        finally:
            store.close()


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of the group, for commands that also stand alone as a script."""
    command = click.option("--config", metavar="FILE", help="Settings file instead of the one that is looked for.")(
        command
    )
    return click.option("--state-dir", metavar="DIR", help="Where database, token and clones lie.")(command)


def console_of(context: click.Context, config: str | None = None, state_dir: str | None = None) -> Console:
    """The group's options, with those of the command itself before them."""
    outer = context.obj if isinstance(context.obj, Console) else Console()
    return Console(
        config=config or outer.config, state_dir=state_dir or outer.state_dir, database_url=outer.database_url
    )


def now() -> Instant:
    """The wall clock."""
    return SystemClock().now()


def plain(value: object) -> object:
    """A value as JSON has it: instants (``…_at``) as ISO 8601, enums as their text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found: dict[str, object] = {}
        for each in dataclasses.fields(value):
            item = getattr(value, each.name)
            if each.name.endswith("_at") and isinstance(item, int):
                item = format_instant(Instant(item))
            found[each.name] = plain(item)
        return found
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {
            key: format_instant(Instant(item)) if key.endswith("_at") and isinstance(item, int) else plain(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def echo_json(value: object) -> None:
    """One JSON value, indented."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, default=str))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A plain table for a terminal; cells are text, never markup."""
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        drawn.add_column(header, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(printable(str(cell)), style=_COLOURS.get(str(cell), "")) for cell in row))
    width = None if sys.stdout.isatty() else 160
    RichConsole(width=width, highlight=False).print(drawn)


_COLOURS = {
    "error": "red",
    "failed": "red",
    "blocked": "yellow",
    "warning": "yellow",
    "changed": "green",
    "done": "green",
    "finished": "green",
    "cancelled": "magenta",
    "progress": "cyan",
    "active": "cyan",
}


def when(instant: Instant | None) -> str:
    """A time in this machine's zone."""
    return local_time(instant)
