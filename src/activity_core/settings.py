"""The operator's settings: a TOML file, overridden by ``ACTIVITY_*`` environment variables.

Looked for in this order: ``--config``, ``$ACTIVITY_CONFIG``, ``./activity-core.toml``,
``~/.config/activity-core/config.toml``, ``/etc/activity-core/config.toml``. Relative paths are relative to
the file they stand in. A plain dataclass, because a settings library took longer to import than all the rest
of a start.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from activity_core.errors import ConfigurationError
from activity_plumbing.settings_file import (
    Reader,
    SettingsError,
    SettingsFile,
    read_duration,
    read_endpoints,
    read_number,
    read_optional_duration,
    read_optional_number,
    read_size,
    read_text,
    read_texts,
    read_url,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _variables(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError('must be a table of texts, such as STATE_HUB_HOME = "/srv/state-hub"')
    for name in value:
        if name.startswith("ACTIVITY_"):
            raise ValueError(f"{name}: names that start with ACTIVITY_ are the engine's own")
        if not _VARIABLE.fullmatch(name) or "\0" in value[name]:
            raise ValueError(f"{name!r} cannot be an environment variable")
    return dict(value)


def _default_state_dir() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("activity-core", appauthor=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything an operator may set. Durations in microseconds, sizes in bytes."""

    state_dir: Path = field(default_factory=_default_state_dir)
    """Where the ledger, the lock and the socket live."""
    definitions: tuple[Path, ...] = ()
    """Folders with definition files."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that every command gets."""
    http_allow: tuple[str, ...] = ()
    """``host:port`` of private addresses that context queries may reach; the state hub's is always allowed."""
    state_hub_url: str = "http://127.0.0.1:8000"
    state_hub_token: str = field(default="", repr=False)
    secrets_dir: Path | None = None
    """A folder with one file per secret."""
    max_parallel: int = 16
    """Commands that run at once."""
    shutdown_grace: int = 30_000_000
    """How long running commands may go on after the first SIGTERM."""
    output_cap: int = 1 << 20
    """Bytes kept per stream and attempt: the first half and the last half."""
    context_cap: int = 1 << 16
    """Bytes of context values kept with a run."""
    history_max_age: int | None = 90 * 86_400_000_000
    history_max_runs: int | None = 10_000
    """Runs kept per definition."""
    rescan_interval: int = 300_000_000
    """How often folders are read again although no change was seen."""
    source: Path | None = None
    """The file these came from."""

    @property
    def socket_path(self) -> Path:
        """The engine's doorbell."""
        return self.state_dir / "engine.sock"

    @property
    def lock_path(self) -> Path:
        """The lock that makes one engine per state folder."""
        return self.state_dir / "engine.lock"

    def input_dir(self, ledger_id: str) -> Path:
        """Where the JSON input files of the commands in progress lie: in memory where the system offers that.

        Each file lives as long as its command, and writing it to a disk cost more than all the rest of a start.
        Looked for: systemd's runtime directory, the session's, /dev/shm, else the state folder.
        """
        for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
            folder = os.environ.get(name, "").split(":")[0]
            if folder and os.access(folder, os.W_OK | os.X_OK):
                return Path(folder) / f"activity-core-{ledger_id[:16]}"
        if os.access("/dev/shm", os.W_OK | os.X_OK):
            return Path(f"/dev/shm/activity-core-{os.geteuid()}-{ledger_id[:16]}")
        return self.state_dir / "input"


_READERS: dict[str, Reader] = {
    "state_dir": read_text,
    "definitions": read_texts,
    "environment": _variables,
    "http_allow": read_endpoints,
    "state_hub_url": read_url,
    "state_hub_token": read_text,
    "secrets_dir": read_text,
    "max_parallel": read_number,
    "shutdown_grace": read_duration,
    "output_cap": read_size,
    "context_cap": read_size,
    "history_max_age": read_optional_duration,
    "history_max_runs": read_optional_number,
    "rescan_interval": read_duration,
}
_FILE = SettingsFile(
    program="activity-core",
    prefix="ACTIVITY_",
    readers=_READERS,
    paths=frozenset({"state_dir", "definitions", "secrets_dir"}),
    only_in_file=frozenset({"environment"}),
)


def load_settings(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """The settings in force; `overrides` are those of the command line. Raises ConfigurationError."""
    try:
        values, source = _FILE.load(path, environment=environment, overrides=overrides or {})
    except SettingsError as failure:
        raise ConfigurationError(str(failure)) from failure
    if not values.get("definitions"):
        base = source.parent if source is not None else Path.cwd()
        values["definitions"] = ((base / "activity-definitions").resolve(),)
    return Settings(source=source, **values)  # type: ignore[arg-type]  # each value was made by its reader


assert {each.name for each in fields(Settings)} == {*_READERS, "source"}
