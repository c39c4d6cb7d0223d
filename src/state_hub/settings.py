"""The hub's settings: ``state-hub.toml``, overridden by ``STATE_HUB_*`` variables (docs/settings.md)."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from activity_plumbing.settings_file import (
    Reader,
    SettingsError,
    SettingsFile,
    read_duration,
    read_number,
    read_text,
    read_texts,
)
from state_hub.errors import ConfigurationError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ADDRESS = re.compile(r"[^\s<>]+@[^\s<>]+")


def _bot_email(value: object) -> str:
    text = read_text(value)
    if not _ADDRESS.fullmatch(text):
        raise ValueError("must be an address such as state-hub@example.org")
    return text


def _bot_name(value: object) -> str:
    text = read_text(value)
    if not text.strip() or re.search(r"[<>\n\0]", text):
        raise ValueError("must be a name without < > and line ends")
    return text


def _port(value: object) -> int:
    number = read_number(value)
    if number > 65535:
        raise ValueError("must be a port: 1 to 65535")
    return number


def _default_state_dir() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("state-hub", appauthor=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything an operator may set. Durations in microseconds."""

    state_dir: Path = field(default_factory=_default_state_dir)
    """Where the database, the token and the clones that the hub makes lie."""
    database_url: str = field(default="", repr=False)
    """``postgresql://…``; empty: SQLite in the state folder."""
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = field(default="", repr=False)
    """What clients must show; empty: the one in the state folder, made at the first start."""
    allowed_hosts: tuple[str, ...] = ()
    """Names besides the address it listens on that a request's Host header may carry."""
    allowed_remotes: tuple[str, ...] = ("*",)
    """Globs; a repo whose remote URL matches none is neither registered nor visited."""
    repo_roots: tuple[Path, ...] = ()
    """Folders below which the API may register clones that exist already; the command line may anywhere."""
    sweep_lock: Path = Path("/tmp/custodian-consistency-remote-all.lock")
    jobs: int = 8
    """Repos visited at once."""
    jobs_per_host: int = 4
    """Of these, at one remote host."""
    repo_timeout: int = 60_000_000
    """The longest a visit to one repo may take."""
    overdue: int = 3_600_000_000
    """How long a change may wait to be written back, or an event to be sent, before that is a finding."""
    bot_name: str = "State Hub"
    bot_email: str = "state-hub@localhost"
    source: Path | None = None
    """The file these came from."""

    @property
    def database(self) -> str:
        """The database's URL or path."""
        return self.database_url or str(self.state_dir / "state-hub.db")

    @property
    def token_path(self) -> Path:
        """The file with the token that was made at the first start."""
        return self.state_dir / "token"

    @property
    def clones_dir(self) -> Path:
        """Where the hub makes clones of its own."""
        return self.state_dir / "clones"


_READERS: dict[str, Reader] = {
    "state_dir": read_text,
    "database_url": read_text,
    "host": read_text,
    "port": _port,
    "token": read_text,
    "allowed_hosts": read_texts,
    "allowed_remotes": read_texts,
    "repo_roots": read_texts,
    "sweep_lock": read_text,
    "jobs": read_number,
    "jobs_per_host": read_number,
    "repo_timeout": read_duration,
    "overdue": read_duration,
    "bot_name": _bot_name,
    "bot_email": _bot_email,
}
_FILE = SettingsFile(
    program="state-hub",
    prefix="STATE_HUB_",
    readers=_READERS,
    paths=frozenset({"state_dir", "repo_roots", "sweep_lock"}),
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
    return Settings(source=source, **values)  # type: ignore[arg-type]  # each value was made by its reader


def allow_remote(settings: Settings, url: str) -> None:
    """Raises RefusedError unless the URL matches the allow list."""
    if not any(fnmatchcase(url, pattern) for pattern in settings.allowed_remotes):
        raise RefusedError(f"{url} matches none of allowed_remotes ({', '.join(settings.allowed_remotes)})")


def load_token(settings: Settings, *, create: bool = False) -> str | None:
    """The token clients must show; None when there is none and `create` is not asked. Raises ConfigurationError."""
    if settings.token:
        return settings.token
    path = settings.token_path
    try:
        if not path.exists():
            if not create:
                return None
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = path.with_name(f".token.{secrets.token_hex(8)}")
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
            try:
                os.link(made, path)  # never over one that another process has just made
            except FileExistsError:
                pass
            finally:
                made.unlink()
        token = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as failure:
        raise ConfigurationError(f"{path} holds no text; remove it, and the next start makes a new token") from failure
    except OSError as failure:
        raise ConfigurationError(f"{path}: {failure.strerror}; the token cannot be read or made there") from failure
    if not token:
        raise ConfigurationError(f"{path} is empty; remove it, and the next start makes a new token")
    return token


assert {each.name for each in fields(Settings)} == {*_READERS, "source"}
