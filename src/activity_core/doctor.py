"""Looking for what will go wrong at night, and saying what to do about it."""

from __future__ import annotations

import os
import shutil
import time
import zoneinfo
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from activity_core.catalog.survey import survey
from activity_core.definition.model import CalendarSchedule, CronSchedule, missing_features
from activity_core.errors import ConfigurationError
from activity_core.ledger.store import LEDGER_FILE, OUTPUT_FILE, Ledger
from activity_core.shell.environment import base_environment, read_secret
from activity_plumbing.clock import SystemClock, format_instant
from activity_plumbing.database import DatabaseError
from activity_plumbing.file_lock import holder_of
from activity_plumbing.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from activity_core.catalog.survey import Surveyed
    from activity_core.settings import Settings

LEAST_FREE_BYTES = 200 << 20
_PLAUSIBLE_SINCE = 1_767_225_600  # 2026-01-01: no clock that is right shows an earlier time


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was found, and what to do where it is not well."""

    check: str
    is_ok: bool
    found: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order a person would make them. Changes nothing."""
    surveyed = survey(settings.definitions)
    return [
        _settings(settings),
        *_folders(settings),
        *_definitions(surveyed),
        *_secrets(settings, surveyed),
        _zones(surveyed),
        _clock(),
        *_state(settings),
        _shell(),
        *_ledger(settings),
    ]


def _settings(settings: Settings) -> Finding:
    source = "defaults and environment" if settings.source is None else str(settings.source)
    return Finding(check="settings", is_ok=True, found=source)


def _folders(settings: Settings) -> Iterator[Finding]:
    for folder in settings.definitions:
        if not folder.is_dir():
            yield Finding(
                check="definitions",
                is_ok=False,
                found=f"{folder} does not exist",
                advice="create it, or change `definitions` in the settings",
            )
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield Finding(
                check="definitions",
                is_ok=False,
                found=f"{folder} cannot be read",
                advice=f"give this account read access: chmod o+rx {folder}",
            )
        elif folder.stat().st_mode & 0o002:
            yield Finding(
                check="definitions",
                is_ok=False,
                found=f"anybody on this machine may write to {folder}",
                advice=f"whoever can write a definition can run commands as this account: chmod o-w {folder}",
            )


def _definitions(surveyed: list[Surveyed]) -> Iterator[Finding]:
    valid = [each.definition for each in surveyed if each.definition is not None and not each.problems]
    yield Finding(
        check="definitions",
        is_ok=bool(valid),
        found=f"{len(valid)} valid",
        advice="" if valid else "put a .yaml file into a definitions folder; README has one to copy",
    )
    for each in surveyed:
        for problem in each.problems:
            yield Finding(check="definitions", is_ok=False, found=str(problem), advice="mend the file and save it")
    for definition in valid:
        missing = missing_features(definition)
        if missing:
            yield Finding(
                check="definitions",
                is_ok=True,
                found=f"{definition.id} is not run by this version: {', '.join(missing)}",
            )
        if definition.instruction.cwd is not None and not Path(definition.instruction.cwd).is_dir():
            yield Finding(
                check="definitions",
                is_ok=False,
                found=f"{definition.id}: the working directory {definition.instruction.cwd} does not exist",
                advice="create it, or change instruction.cwd",
            )


def _secrets(settings: Settings, surveyed: list[Surveyed]) -> Iterator[Finding]:
    names = sorted(
        {name for each in surveyed if each.definition is not None for name in each.definition.instruction.secrets}
    )
    for name in names:
        try:
            read_secret(name, environment=os.environ, folder=settings.secrets_dir)
        except ConfigurationError as failure:
            yield Finding(
                check="secrets",
                is_ok=False,
                found=str(failure),
                advice="set it where the engine starts, as a systemd credential, or as a file in secrets_dir",
            )


def _zones(surveyed: list[Surveyed]) -> Finding:
    names = {
        each.definition.schedule.timezone
        for each in surveyed
        if each.definition is not None and isinstance(each.definition.schedule, (CronSchedule, CalendarSchedule))
    }
    version = "from the tzdata package"
    for folder in zoneinfo.TZPATH:
        if Path(folder, "tzdata.zi").exists():
            with open(f"{folder}/tzdata.zi", encoding="utf-8", errors="replace") as file:
                version = f"{file.readline().strip().removeprefix('# version ')} in {folder}"
            break
    return Finding(check="time zones", is_ok=True, found=f"{len(names)} in use, data {version}")


def _clock() -> Finding:
    now = SystemClock().now()
    if now < _PLAUSIBLE_SINCE * 1_000_000:
        return Finding(
            check="clock",
            is_ok=False,
            found=f"it is said to be {format_instant(now)}",
            advice="set the clock; start the engine after time synchronisation",
        )
    return Finding(check="clock", is_ok=True, found=f"{format_instant(now)}, machine zone {time.tzname[0]}")


def _state(settings: Settings) -> Iterator[Finding]:
    folder = settings.state_dir
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(
            check="state folder",
            is_ok=False,
            found=f"{existing} cannot be written",
            advice="choose another with --state-dir or `state_dir`, or change its owner",
        )
        return
    free = shutil.disk_usage(existing).free
    yield Finding(
        check="disk",
        is_ok=free >= LEAST_FREE_BYTES,
        found=f"{free >> 20:,} MiB free for {folder}",
        advice="" if free >= LEAST_FREE_BYTES else "free some space, or shorten history: activity-core prune --dry-run",
    )
    if folder.exists() and folder.stat().st_mode & 0o077:
        yield Finding(
            check="state folder",
            is_ok=False,
            found=f"others may look into {folder}",
            advice=f"output and context may be private: chmod 700 {folder}",
        )
    yield from _state_files(folder)


def _state_files(folder: Path) -> Iterator[Finding]:
    for name in (LEDGER_FILE, OUTPUT_FILE):
        path = folder / name
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            yield Finding(
                check="state folder",
                is_ok=False,
                found=f"{path} cannot be read and written by this account",
                advice="run this as the account that runs the engine",
            )


def _shell() -> Finding:
    home = base_environment()["HOME"]
    if not os.access("/bin/sh", os.X_OK):
        return Finding(check="shell", is_ok=False, found="/bin/sh cannot be executed", advice="install a POSIX shell")
    return Finding(check="shell", is_ok=True, found=f"/bin/sh; commands start in {home}")


def _ledger(settings: Settings) -> Iterator[Finding]:
    holder = holder_of(settings.lock_path)
    if not Ledger.exists(settings.state_dir):
        yield Finding(check="engine", is_ok=False, found="has never run here", advice="start it: activity-core serve")
        return
    try:
        ledger = Ledger.open(settings.state_dir)
    except DatabaseError as failure:
        yield Finding(check="ledger", is_ok=False, found=str(failure), advice="see the message")
        return
    last = ledger.last_engine()
    if holder is not None:
        yield Finding(check="engine", is_ok=True, found=f"running: {holder}")
    else:
        since = "" if last is None else f" since {format_instant(last.stopped_at or last.seen_at)}"
        how = "killed" if last is not None and last.stopped_at is None else "stopped"
        yield Finding(
            check="engine",
            is_ok=False,
            found=f"not running{since} ({how})",
            advice="start it: activity-core serve",
        )
    active = ledger.active_runs()
    items = sum(run.parent_run is not None for run in active)
    and_items = f", and {items:,} item(s) of them" if items else ""
    yield Finding(check="ledger", is_ok=True, found=f"{len(active) - items:,} run(s) in progress{and_items}")
    now = SystemClock().now()
    for pause in ledger.pauses():
        if pause.until is None and now - pause.since > 7 * 86_400_000_000:
            yield Finding(
                check="pauses",
                is_ok=False,
                found=f"{pause.definition_id} is paused for {format_duration(now - pause.since)}",
                advice=f"activity-core resume {pause.definition_id}, or set enabled: false in its file",
            )
    ledger.close()
