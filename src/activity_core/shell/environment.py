"""The environment a command sees: small, documented, and the only way in for data besides one JSON file.

As under cron, a command starts from almost nothing: PATH, HOME, LOGNAME, USER, SHELL and LANG. Then come
the engine's configured variables, the definition's ``env``, its secrets, and last the ``ACTIVITY_*`` names,
which nothing else can set.
"""

from __future__ import annotations

import os
import pwd
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from activity_core.errors import CommandError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CRON_PATH = "/usr/local/bin:/usr/bin:/bin"
LONGEST_VALUE = 131_071
"""Linux takes at most 128 KiB for one environment string (execve(2), MAX_ARG_STRLEN)."""

_NOT_IN_NAMES = re.compile(r"[^A-Z0-9]+")
_SECRET_BYTES = 16_384


@lru_cache(maxsize=1)
def base_environment() -> dict[str, str]:
    """The variables every command starts from."""
    account = pwd.getpwuid(os.geteuid())
    home = account.pw_dir if Path(account.pw_dir).is_dir() else "/"
    return {
        "PATH": CRON_PATH,
        "HOME": home,
        "LOGNAME": account.pw_name,
        "USER": account.pw_name,
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
    }


def data_variables(prefix: str, value: object) -> dict[str, str]:
    """The scalars of a JSON-like value as variables: path joined by ``_``, upper case; lists are left out.

    Raises CommandError for two paths that make one name, for a NUL, and for a value over 128 KiB: the JSON
    input file carries such values, an environment cannot.

    >>> data_variables("ACTIVITY_EVENT", {"data": {"repo-slug": "x", "count": 2, "ok": True}})
    {'ACTIVITY_EVENT_DATA_REPO_SLUG': 'x', 'ACTIVITY_EVENT_DATA_COUNT': '2', 'ACTIVITY_EVENT_DATA_OK': 'true'}
    """
    variables: dict[str, str] = {}
    paths: dict[str, str] = {}
    for path, scalar in _scalars(value):
        name = "_".join([prefix, *(_NOT_IN_NAMES.sub("_", part.upper()) for part in path)])
        written = ".".join(path)
        if name in variables:
            raise CommandError(f"{written} and {paths[name]} both become {name}; read them from $ACTIVITY_INPUT")
        if "\0" in scalar:
            raise CommandError(f"{written} holds a NUL character, which no environment can carry")
        if len(scalar.encode("utf-8", "surrogatepass")) + len(name) >= LONGEST_VALUE:
            raise CommandError(f"{written} is longer than the 128 KiB that one variable may have")
        variables[name] = scalar
        paths[name] = written
    return variables


def _scalars(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    stack: list[tuple[tuple[str, ...], object]] = [(path, value)]
    while stack:
        at, item = stack.pop()
        match item:
            case dict():
                stack.extend(((*at, str(key)), below) for key, below in reversed(item.items()))
            case bool():
                yield at, "true" if item else "false"
            case None:
                yield at, ""
            case int() | float() | str():
                yield at, str(item)
            case _:
                pass


def read_secret(name: str, *, environment: Mapping[str, str], folder: Path | None) -> str:
    """A secret by name: from systemd's credentials, else a file in `folder`, else the engine's environment.

    One trailing newline of a file is dropped. Raises ConfigurationError where it is nowhere, empty, or holds
    a NUL. Source: systemd.exec(5), CREDENTIALS_DIRECTORY.
    """
    credentials = environment.get("CREDENTIALS_DIRECTORY")
    places = [Path(credentials) / name] if credentials else []
    if folder is not None:
        places.append(folder / name)
    for place in places:
        try:
            with place.open("rb") as file:
                content = file.read(_SECRET_BYTES + 2)
            if len(content) > _SECRET_BYTES:
                raise ConfigurationError(f"the secret {name} in {place} is longer than {_SECRET_BYTES:,} bytes")
            value = content.decode("utf-8")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as failure:
            raise ConfigurationError(f"the secret {name} cannot be read from {place}: {failure}") from failure
        value = value.removesuffix("\n")
        break
    else:
        value = environment.get(name, "")
        if not value:
            looked = ", ".join([*(str(place) for place in places), f"${name} of the engine"])
            raise ConfigurationError(f"the secret {name} was not found; looked in {looked}")
    if not value or "\0" in value or len(value) > _SECRET_BYTES:
        raise ConfigurationError(f"the secret {name} is empty, longer than {_SECRET_BYTES:,} bytes or holds a NUL")
    return value
