"""The operator's settings: a TOML file, overridden by ``ACTIVITY_*`` environment variables.

Looked for in this order: ``--config``, ``$ACTIVITY_CONFIG``, ``./activity-core.toml``,
``~/.config/activity-core/config.toml``, ``/etc/activity-core/config.toml``. Relative paths are relative to
the file they stand in. A plain dataclass, because a settings library took longer to import than all the rest
of a start.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from activity_core.errors import ConfigurationError
from activity_plumbing.http_guard import Endpoint
from activity_plumbing.nearest import nearest
from activity_plumbing.units import parse_duration_us, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FILE_NAME = "activity-core.toml"
SMALLEST_CAP = 1024
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text in quotes")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):  # an environment variable
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of texts")
    return tuple(value)


def _endpoints(value: object) -> tuple[str, ...]:
    texts = _texts(value)
    for text in texts:
        Endpoint.of(text)
    return texts


def _url(value: object) -> str:
    text = _text(value)
    if not text.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    Endpoint.of(text)
    return text


def _duration(value: object) -> int:
    return parse_duration_us(_text(value))


def _optional_duration(value: object) -> int | None:
    return None if value in ("", "never") else _duration(value)


def _size(value: object) -> int:
    size = parse_size(_text(value))
    if size < SMALLEST_CAP:
        raise ValueError(f"must be at least {SMALLEST_CAP} bytes")
    return size


def _number(value: object) -> int:
    number = int(value) if isinstance(value, str) and value.isdigit() else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError("must be a whole number above zero")
    return number


def _optional_number(value: object) -> int | None:
    return None if value in ("", "unlimited") else _number(value)


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


_READERS: dict[str, Callable[[object], object]] = {
    "state_dir": _text,
    "definitions": _texts,
    "environment": _variables,
    "http_allow": _endpoints,
    "state_hub_url": _url,
    "state_hub_token": _text,
    "secrets_dir": _text,
    "max_parallel": _number,
    "shutdown_grace": _duration,
    "output_cap": _size,
    "context_cap": _size,
    "history_max_age": _optional_duration,
    "history_max_runs": _optional_number,
    "rescan_interval": _duration,
}
_PATHS = frozenset({"state_dir", "definitions", "secrets_dir"})


def load_settings(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """The settings in force; `overrides` are those of the command line. Raises ConfigurationError."""
    source = _find(path, environment)
    values: dict[str, object] = {}
    if source is not None:
        for name, value in _read(source).items():
            values[name] = _value(name, value, f"{source}: {name}", source.parent)
    for name in _READERS:
        variable = f"ACTIVITY_{name.upper()}"
        if name != "environment" and environment.get(variable):
            values[name] = _value(name, environment[variable], f"${variable}", Path.cwd())
    values.update({name: value for name, value in (overrides or {}).items() if value is not None})
    if not values.get("definitions"):
        base = source.parent if source is not None else Path.cwd()
        values["definitions"] = ((base / "activity-definitions").resolve(),)
    return Settings(source=source, **values)  # type: ignore[arg-type]  # each value was made by its reader


def _find(path: Path | None, environment: Mapping[str, str]) -> Path | None:
    if path is None and environment.get("ACTIVITY_CONFIG"):
        path = Path(environment["ACTIVITY_CONFIG"])
    if path is not None:
        if not path.is_file():
            raise ConfigurationError(f"{path}: there is no such settings file")
        return path.resolve()
    import platformdirs

    places = [
        Path.cwd() / FILE_NAME,
        Path(platformdirs.user_config_dir("activity-core", appauthor=False)) / "config.toml",
        Path("/etc/activity-core/config.toml"),
    ]
    return next((place.resolve() for place in places if place.is_file()), None)


def _read(source: Path) -> dict[str, object]:
    try:
        with source.open("rb") as file:
            values = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as failure:
        raise ConfigurationError(f"{source}: not valid TOML: {failure}") from failure
    except OSError as failure:
        raise ConfigurationError(f"{source}: cannot be read: {failure.strerror}") from failure
    for name in values:
        if name not in _READERS:
            raise ConfigurationError(f"{source}: unknown setting {name!r}{nearest(name, _READERS)}")
    return values


def _value(name: str, value: object, place: str, base: Path) -> object:
    try:
        read = _READERS[name](value)
    except (ValueError, TypeError) as failure:
        raise ConfigurationError(f"{place}: {failure}") from failure
    if name not in _PATHS:
        return read
    try:
        if isinstance(read, tuple):
            return tuple(_resolved(each, base) for each in read)
        return _resolved(str(read), base)
    except (RuntimeError, ValueError, OSError) as failure:  # no such home, a NUL, a loop of links
        raise ConfigurationError(f"{place}: {failure}") from failure


def _resolved(text: str, base: Path) -> Path:
    return (base / Path(text).expanduser()).resolve()


assert {each.name for each in fields(Settings)} == {*_READERS, "source"}
