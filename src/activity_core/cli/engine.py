"""Commands that run things: serve and run."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import signal
import sys
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from activity_core.cli.shared import EXIT_FINDINGS, Console, find_definition_id, json_option, run_json
from activity_core.errors import ConfigurationError
from activity_core.run import ACTIVE, FAILURES, State

if TYPE_CHECKING:
    from activity_core.ledger.store import Ledger
    from activity_core.run import RunId
    from activity_core.settings import Settings


@click.command(
    epilog="\b\nExamples:\n  activity-core serve\n  activity-core -d activity-definitions serve --live\n"
    "  activity-core serve --run-now --log-level debug"
)
@click.option("--live", is_flag=True, help="Show a table of runs as they end, instead of log lines.")
@click.option("--run-now", is_flag=True, help="Run every enabled definition once at start, besides its schedule.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def serve(console: Console, live: bool, run_now: bool, log_level: str, log_format: str) -> None:
    """Run the engine in the foreground, until SIGTERM or Ctrl-C.

    The first signal lets commands in progress finish (shutdown_grace); the second ends them at once.
    """
    from activity_core.serve import serve_until_stopped

    _set_up_logging("warning" if live else log_level, log_format)
    settings = console.settings()
    show = None
    if live:
        from activity_core.live import LiveTable

        show = LiveTable()
    asyncio.run(serve_until_stopped(settings, show=show, run_now=run_now))


def _set_up_logging(level: str, form: str) -> None:
    from activity_plumbing.logs import JsonLines, TextLines

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


@click.command(
    epilog="\b\nExamples:\n  activity-core run my.activity\n  activity-core run my.activity --detach\n"
    "\b\nExit status: 0 succeeded or skipped, 1 failed, 2 could not be asked."
)
@click.argument("definition_id")
@click.option("--detach", is_flag=True, help="Do not wait for the end; needs a running engine.")
@json_option
@click.pass_obj
def run(console: Console, definition_id: str, detach: bool, as_json: bool) -> None:
    """Run a definition once, now.

    With an engine running, it is asked to; without one, the run happens right here. Context, rule, overlap and
    concurrency are heeded as for any other run; a pause is not, since you ask for it yourself.
    """
    from activity_plumbing.file_lock import holder_of

    settings = console.settings()
    ledger = console.ledger(settings, create=True)
    holder = holder_of(settings.lock_path)
    if holder is not None and holder.startswith("run,"):
        raise ConfigurationError(
            f"another run is in progress here ({holder}); wait for it, or start an engine for both"
        )
    is_served = holder is not None
    if detach and not is_served:
        raise click.UsageError("--detach needs a running engine; start one with `activity-core serve`")
    if is_served:
        run_id = _request(ledger, settings, find_definition_id(ledger, definition_id))
        if detach:
            click.echo(f"run {run_id} asked for; see: activity-core logs {run_id} -f")
            return
        _follow(ledger, settings, run_id, quiet=as_json)
    else:
        _set_up_logging("warning", "text")
        run_id = asyncio.run(_run_here(settings, ledger, definition_id, asked_by=who(), quiet=as_json))
    found = ledger.run(run_id)
    assert found is not None
    if as_json:
        from activity_core.cli.shared import echo_json

        echo_json(run_json(found))
    else:
        reason = f" ({found.reason.value})" if found.reason else ""
        click.echo(f"run {run_id} {found.state.value}{reason}; see: activity-core show {run_id}", err=True)
    if found.state in FAILURES or found.state is State.CANCELLED:
        raise SystemExit(EXIT_FINDINGS)


async def _run_here(settings: Settings, ledger: Ledger, text: str, *, asked_by: str, quiet: bool) -> RunId:
    """Runs one definition in this process, as no engine is there to ask; its number."""
    from activity_core.cli.history import RunPrinter
    from activity_core.doorbell import Doorbell
    from activity_core.engine import Engine
    from activity_core.lock import EngineLock
    from activity_core.serve import manual_row
    from activity_plumbing.clock import SystemClock

    clock = SystemClock()
    lock = EngineLock(settings.lock_path, "run")
    lock.acquire(clock.now())
    try:
        ended = asyncio.Event()
        engine = Engine(settings, ledger, clock, on_end=lambda _ticket, _outcome: ended.set())
        await engine.start(schedules=False)
        stopped = asyncio.Event()
        run_id: RunId | None = None
        doorbell: Doorbell | None = None
        try:
            name = find_definition_id(ledger, text)
            row = manual_row(ledger, name, request_id=uuid.uuid4().hex, asked_by=asked_by)
            # nothing else runs without an engine: whatever waits in the ledger must not hold this up
            run_id = ledger.add_request(replace(row, is_serial=False, permit_key=None, permit_limit=None))

            def stop() -> None:
                stopped.set()
                engine.stop_at_once()

            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            doorbell = Doorbell(settings.socket_path, engine.doorbell)
            engine.serve_request(run_id)
            printer = RunPrinter(ledger, raw=False, only=None)
            while True:
                found = ledger.run(run_id)
                if found is not None and not quiet:
                    printer.print(found)
                if found is None or found.state not in ACTIVE or stopped.is_set():
                    return run_id
                ended.clear()
                try:
                    await asyncio.wait_for(ended.wait(), 0.2)
                except TimeoutError:
                    continue
        finally:
            await engine.stop(grace_us=0)
            if run_id is not None and stopped.is_set():
                ledger.ask_cancel(run_id, clock.now(), asked_by)  # nobody waits for it any more
            if doorbell is not None:
                doorbell.close()
    finally:
        lock.release()


def who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _request(ledger: Ledger, settings: Settings, definition_id: str) -> RunId:
    """Records a request for the running engine and rings its bell."""
    from activity_core.doorbell import ring
    from activity_core.serve import manual_row

    run_id = ledger.add_request(manual_row(ledger, definition_id, request_id=uuid.uuid4().hex, asked_by=who()))
    ring(settings.socket_path)
    return run_id


def _follow(ledger: Ledger, settings: Settings, run_id: RunId, *, quiet: bool) -> None:
    """Prints what the run prints until it is over. Raises ConfigurationError when its engine goes away."""
    from activity_core.cli.history import RunPrinter
    from activity_plumbing.file_lock import holder_of

    printer = RunPrinter(ledger, raw=False, only=None)
    look_at = time.monotonic()
    while True:
        if time.monotonic() >= look_at:
            look_at = time.monotonic() + 2.0
            if holder_of(settings.lock_path) is None:
                raise ConfigurationError(f"the engine went away; the next one takes up run {run_id}: see show {run_id}")
        found = ledger.run(run_id)
        if found is not None and not quiet:
            printer.print(found)
        if found is None or found.state not in ACTIVE:
            return
        time.sleep(0.1)
