"""An operator's settings: a TOML file, overridden by environment variables, each value read by its reader.

Looked for in this order: the path given, ``$<PREFIX>CONFIG``, ``./<program>.toml``,
``~/.config/<program>/config.toml``, ``/etc/<program>/config.toml``. Relative paths are relative to the file they
stand in.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from activity_plumbing.http_guard import Endpoint
from activity_plumbing.nearest import nearest
from activity_plumbing.units import parse_duration_us, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

SMALLEST_CAP = 1024

Reader = Callable[[object], object]
"""A value from TOML, or the text of a variable, to the setting. Raises ValueError saying what would be right."""


class SettingsError(Exception):
    """Settings that cannot be used; the message names the file or variable."""


def read_text(value: object) -> str:
    """Text as it is."""
    if not isinstance(value, str):
        raise ValueError("must be text in quotes")
    return value


def read_texts(value: object) -> tuple[str, ...]:
    """A list of texts; in an environment variable separated by commas."""
    if isinstance(value, str):  # an environment variable
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of texts")
    return tuple(value)


def read_endpoints(value: object) -> tuple[str, ...]:
    """A list of ``host:port``."""
    texts = read_texts(value)
    for text in texts:
        Endpoint.of(text)
    return texts


def read_url(value: object) -> str:
    """An http or https URL."""
    text = read_text(value)
    if not text.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    Endpoint.of(text)
    return text


def read_duration(value: object) -> int:
    """A duration such as ``30s``, in microseconds."""
    return parse_duration_us(read_text(value))


def read_optional_duration(value: object) -> int | None:
    """A duration, or None for ``never``."""
    return None if value in ("", "never") else read_duration(value)


def read_size(value: object) -> int:
    """A size such as ``64K``, in bytes."""
    size = parse_size(read_text(value))
    if size < SMALLEST_CAP:
        raise ValueError(f"must be at least {SMALLEST_CAP} bytes")
    return size


def read_number(value: object) -> int:
    """A whole number above zero."""
    number = int(value) if isinstance(value, str) and value.isdigit() else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError("must be a whole number above zero")
    return number


def read_optional_number(value: object) -> int | None:
    """A number, or None for ``unlimited``."""
    return None if value in ("", "unlimited") else read_number(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFile:
    """Where a program's settings stand. `paths` names those that are paths, `only_in_file` those without a variable."""

    program: str
    prefix: str
    readers: Mapping[str, Reader]
    paths: frozenset[str]
    only_in_file: frozenset[str] = frozenset()

    def load(
        self, path: Path | None, *, environment: Mapping[str, str], overrides: Mapping[str, object]
    ) -> tuple[dict[str, object], Path | None]:
        """The values that are set anywhere, and the file they came from. Raises SettingsError."""
        source = self._find(path, environment)
        values: dict[str, object] = {}
        if source is not None:
            for name, value in self._read(source).items():
                values[name] = self._value(name, value, f"{source}: {name}", source.parent)
        for name in self.readers:
            variable = f"{self.prefix}{name.upper()}"
            if name not in self.only_in_file and environment.get(variable):
                values[name] = self._value(name, environment[variable], f"${variable}", Path.cwd())
        values.update({name: value for name, value in overrides.items() if value is not None})
        return values, source

    def _find(self, path: Path | None, environment: Mapping[str, str]) -> Path | None:
        if path is None and environment.get(f"{self.prefix}CONFIG"):
            path = Path(environment[f"{self.prefix}CONFIG"])
        if path is not None:
            if not path.is_file():
                raise SettingsError(f"{path}: there is no such settings file")
            return path.resolve()
        import platformdirs

        places = [
            Path.cwd() / f"{self.program}.toml",
            Path(platformdirs.user_config_dir(self.program, appauthor=False)) / "config.toml",
            Path(f"/etc/{self.program}/config.toml"),
        ]
        return next((place.resolve() for place in places if place.is_file()), None)

    def _read(self, source: Path) -> dict[str, object]:
        try:
            with source.open("rb") as file:
                values = tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as failure:
            raise SettingsError(f"{source}: not valid TOML: {failure}") from failure
        except OSError as failure:
            raise SettingsError(f"{source}: cannot be read: {failure.strerror}") from failure
        for name in values:
            if name not in self.readers:
                raise SettingsError(f"{source}: unknown setting {name!r}{nearest(name, self.readers)}")
        return values

    def _value(self, name: str, value: object, place: str, base: Path) -> object:
        try:
            read = self.readers[name](value)
        except (ValueError, TypeError) as failure:
            raise SettingsError(f"{place}: {failure}") from failure
        if name not in self.paths:
            return read
        try:
            if isinstance(read, tuple):
                return tuple(resolved(each, base) for each in read)
            return resolved(str(read), base)
        except (RuntimeError, ValueError, OSError) as failure:  # no such home, a NUL, a loop of links
            raise SettingsError(f"{place}: {failure}") from failure


def resolved(text: str, base: Path) -> Path:
    """The path that `text` names from `base`, with ``~`` and links followed."""
    return (base / Path(text).expanduser()).resolve()
