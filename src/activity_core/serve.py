"""The engine as a process: lock, doorbell, folder watch, signals, and what it shows while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import time
import uuid
from typing import TYPE_CHECKING

from activity_core.catalog.watch import FolderWatch
from activity_core.definition.model import missing_features
from activity_core.doorbell import Doorbell
from activity_core.engine import Engine
from activity_core.errors import NotFoundError
from activity_core.ledger.store import Ledger
from activity_core.lock import EngineLock
from activity_core.run import FAILURES, Kind, State
from activity_core.slot_rows import new_row
from activity_plumbing.clock import Clock, SystemClock, format_instant
from activity_plumbing.units import format_duration

if TYPE_CHECKING:
    from activity_core.catalog.catalog import Changes
    from activity_core.execute import Ticket
    from activity_core.ports import EndRow, SlotRow
    from activity_core.settings import Settings

log = logging.getLogger(__name__)


async def serve_until_stopped(
    settings: Settings, *, show: Shower | None = None, run_now: bool = False, clock: Clock | None = None
) -> None:
    """Runs an engine until SIGTERM or SIGINT. Raises ConfigurationError when another one holds the state folder."""
    began = time.monotonic()
    clock = clock or SystemClock()
    lock = EngineLock(settings.lock_path, "serve")
    lock.acquire(clock.now())
    try:
        ledger = Ledger.open(settings.state_dir)
        try:
            await _serve(settings, ledger, clock, began=began, show=show or Shower(), run_now=run_now)
        finally:
            ledger.close()
    finally:
        lock.release()


async def _serve(
    settings: Settings, ledger: Ledger, clock: Clock, *, began: float, show: Shower, run_now: bool
) -> None:
    engine = Engine(settings, ledger, clock, on_end=show.ended, on_change=show.changed)
    await engine.start()
    await engine.tick()
    doorbell = Doorbell(settings.socket_path, engine.doorbell)
    watch = FolderWatch(settings.definitions, engine.files_changed)
    _settle_memory()
    stopping = asyncio.Event()
    _handle_signals(engine, stopping)
    show.ready(settings, engine, time.monotonic() - began)
    if run_now:
        for name, entry in sorted(engine.catalog.in_force.items()):
            if entry.definition.enabled and not missing_features(entry.definition):
                ledger.add_request(manual_row(ledger, name, request_id=uuid.uuid4().hex, asked_by="serve --run-now"))
        engine.doorbell()
    running = asyncio.ensure_future(engine.run())
    stopped = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    show.stopping(engine, settings)
    watch.close()
    doorbell.close()
    await engine.stop()
    stopped.cancel()
    await running  # raises what broke the loop, if anything did
    show.stopped()


def _settle_memory() -> None:
    """Gives back what only the start needed: what is loaded now stays, so the collector need not look again."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _handle_signals(engine: Engine, stopping: asyncio.Event) -> None:
    def handle() -> None:
        if stopping.is_set():
            engine.stop_at_once()
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle)
    # a terminal that closes ends what runs in it; a service manager means: look at the files again
    loop.add_signal_handler(signal.SIGHUP, handle if os.isatty(0) else engine.files_changed)


def manual_row(ledger: Ledger, name: str, *, request_id: str, asked_by: str) -> SlotRow:
    """The row of a run asked for by hand. Raises NotFoundError for an id that is not in force."""
    from activity_core.catalog.load import restore

    record = ledger.definition(name)
    if record is None or record.removed_at is not None:
        raise NotFoundError(f"{name} is not in force; `activity-core list` shows what is")
    version = ledger.version(record.version_hash)
    definition = None if version is None else restore(version.plain_json)
    if definition is None:
        raise NotFoundError(f"{name} was stored by another version of activity-core; let an engine load it first")
    now = SystemClock().now()
    return new_row(
        definition,
        record.version_hash,
        now,
        now,
        now,
        waits=False,
        kind=Kind.MANUAL,
        request_id=request_id,
        asked_by=asked_by,
    )


class Shower:
    """Log lines about what the engine does."""

    def ready(self, settings: Settings, engine: Engine, took_s: float) -> None:
        in_force = engine.catalog.in_force
        waiting = [name for name, entry in in_force.items() if missing_features(entry.definition)]
        upcoming = engine.next_due()
        log.info(
            "ready after %.2f s: %d definitions in force from %s; state in %s; next slot %s",
            took_s,
            len(in_force),
            ", ".join(map(str, settings.definitions)),
            settings.state_dir,
            "none" if upcoming is None else format_instant(upcoming),
        )
        for name in sorted(waiting):
            features = ", ".join(missing_features(in_force[name].definition))
            log.warning("%s is read but not run: this version lacks %s", name, features)
        if not in_force:
            log.warning("no definition is in force; see `activity-core doctor`")

    def ended(self, ticket: Ticket, end: EndRow) -> None:
        level = logging.WARNING if end.state in FAILURES or end.state is State.RETRY_WAIT else logging.INFO
        if not log.isEnabledFor(level):
            return
        took = "" if end.duration_us is None else f" in {format_duration(end.duration_us)}"
        reason = f" ({end.reason.value})" if end.reason else ""
        detail = f": {end.detail}" if end.detail else ""
        log.log(
            level,
            "run %d %s %s%s%s%s",
            ticket.run_id,
            ticket.title,
            end.state.value,
            reason,
            took,
            detail,
        )

    def changed(self, changes: Changes) -> None:
        for entry in changes.in_force[:20]:
            log.debug("in force: %s from %s", entry.definition.id, entry.path)
        for name in changes.removed:
            log.info("no longer in force: %s", name)
        for path, problems in sorted(changes.problems.items()):
            for problem in problems:
                log.warning("%s", problem)
            if not problems:
                log.info("%s is in order again", path)

    def stopping(self, engine: Engine, settings: Settings) -> None:
        if engine.running:
            grace = format_duration(settings.shutdown_grace)
            log.info(
                "stopping: %d command(s) may go on for %s; a second signal ends them now",
                engine.running,
                grace,
            )

    def stopped(self) -> None:
        log.info("stopped")
