"""Commands that read what happened: history, show, logs, explain."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from activity_core.cli.shared import (
    Console,
    echo_json,
    find_definition_id,
    find_run,
    json_option,
    read_time,
    run_json,
    state_text,
    table,
)
from activity_core.run import ACTIVE, Stage, State
from activity_plumbing.text import local_time, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from activity_core.ledger.records import RunRecord
    from activity_core.ledger.store import Ledger
    from activity_core.run import RunId


@click.command(
    epilog="\b\nExamples:\n  activity-core history\n  activity-core history my.activity --state failed --since 7d\n"
    "  activity-core history --json --limit 1000"
)
@click.argument("definition_id", required=False)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in State]),
    help="Only these.",
)
@click.option("--since", help="Only slots from this time on, such as 2026-11-01 or 7d.")
@click.option("--until", help="Only slots up to this time.")
@click.option("--before", "before_id", type=int, help="Only runs numbered below this one, to page on.")
@click.option("--items", is_flag=True, help="Show the items of runs among them.")
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 100_000))
@json_option
@click.pass_obj
def history(
    console: Console,
    definition_id: str | None,
    states: tuple[str, ...],
    since: str | None,
    until: str | None,
    before_id: int | None,
    items: bool,
    limit: int,
    as_json: bool,
) -> None:
    """Show runs and the slots that did not run, newest first.

    A run with items stands there once, with their number; `show` lists them.
    """
    ledger = console.ledger(console.settings())
    runs = ledger.history(
        definition_id=None if definition_id is None else find_definition_id(ledger, definition_id),
        states=[State(state) for state in states],
        since=None if since is None else read_time(since),
        until=None if until is None else read_time(until),
        before_id=before_id,
        limit=limit,
        items=items,
    )
    counts = ledger.item_counts([run.id for run in runs])
    if as_json:
        echo_json([{**run_json(run), "item_counts": counts.get(run.id)} for run in runs])
        return
    rows = [_history_row(run, counts.get(run.id)) for run in runs]
    table(("RUN", "SLOT", "ID", "OUTCOME", "TOOK", "LATE", ""), rows)
    if not runs:
        click.echo("nothing recorded yet that matches", err=True)
    elif len(runs) == limit:
        click.echo(f"older ones: activity-core history --before {runs[-1].id}", err=True)


def _history_row(run: RunRecord, counts: Mapping[State, int] | None) -> tuple[object, ...]:
    from activity_plumbing.units import format_duration

    slot = local_time(run.slot)
    if run.slot_count > 1:
        slot += f" … {local_time(run.last_slot)} ({run.slot_count:,} slots)"
    return (
        run.id,
        slot,
        f"{run.definition_id}[{run.item_key}]" if run.item_key else run.definition_id,
        state_text(run),
        "" if run.duration_us is None else format_duration(run.duration_us),
        "" if run.lateness_us is None else format_duration(run.lateness_us),
        (run.detail or (_item_count(counts) if counts else ""))[:60],
    )


def _item_count(counts: Mapping[State, int]) -> str:
    from activity_core.conclude import counted

    done = counted({state: number for state, number in counts.items() if state is not State.SUCCEEDED}, counts)
    return done or f"{sum(counts.values()):,} items"


def _item_row(item: RunRecord) -> tuple[object, ...]:
    from activity_plumbing.units import format_duration

    took = "" if item.duration_us is None else format_duration(item.duration_us)
    return item.id, item.item_key, state_text(item), took, (item.detail or "")[:60]


@click.command(epilog="\b\nExample:\n  activity-core show 17")
@click.argument("run_number")
@json_option
@click.pass_obj
def show(console: Console, run_number: str, as_json: bool) -> None:
    """Show everything recorded of one run, and its items where it has any."""
    ledger = console.ledger(console.settings())
    run = find_run(ledger, run_number)
    attempts = ledger.attempts(run.id)
    version = ledger.version(run.version_hash)
    items = ledger.items(run.id)
    if as_json:
        echo_json(
            {
                **run_json(run),
                "items": [run_json(item) for item in items],
                "earlier_attempts": [
                    {name: getattr(each, name) for name in each.__dataclass_fields__} for each in attempts
                ],
                "command": None if version is None else json.loads(version.plain_json)["instruction"]["cmd"],
                "version": None
                if version is None
                else {
                    "hash": version.hash,
                    "path": version.path,
                    "git_commit": version.git_commit,
                    "git_blob": version.git_blob,
                },
            }
        )
        return
    from activity_core.explain import explain_run

    for line in explain_run(ledger, run):
        click.echo(printable(line))
    if items:
        click.echo()
        table(("RUN", "ITEM", "OUTCOME", "TOOK", ""), [_item_row(item) for item in items])


@click.command(
    epilog="\b\nExamples:\n  activity-core logs 17\n  activity-core logs 17 -f\n"
    "  activity-core logs my.activity --stderr"
)
@click.argument("run_or_definition")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("--stdout", "only", flag_value=1, type=int, help="Only standard output.")
@click.option("--stderr", "only", flag_value=2, type=int, help="Only standard error.")
@click.option("--attempt", type=click.IntRange(1), help="Only this attempt.")
@click.option("--raw", is_flag=True, help="Write the bytes as they were, control characters included.")
@json_option
@click.pass_obj
def logs(
    console: Console,
    run_or_definition: str,
    follow: bool,
    only: int | None,
    attempt: int | None,
    raw: bool,
    as_json: bool,
) -> None:
    """Show what a run printed: of a run number, or of a definition's newest run that printed something.

    stdout goes to stdout and stderr to stderr, in the order they were read. Where the middle of a long output
    was cut, a line says how much is missing. Of a run with items, what each of them printed, under a line on stderr
    that names it.
    """
    ledger = console.ledger(console.settings())
    run = _run_or_newest(ledger, run_or_definition)
    if as_json:
        echo_json(
            [
                {
                    "run": of,
                    "attempt": number,
                    "stream": "stdout" if stream == 1 else "stderr",
                    "offset": offset,
                    "text": data.decode("utf-8", "backslashreplace"),
                }
                for of in [run.id, *(item.id for item in ledger.items(run.id))]
                for number, _, stream, offset, data in ledger.read_output(of, attempt)
                if only in (None, stream)
            ]
        )
        return
    printer = RunPrinter(ledger, raw=raw, only=only, attempt=attempt)
    printed = printer.print(run)
    while follow and run.state in ACTIVE:
        time.sleep(0.25)
        fresh = ledger.run(run.id)
        if fresh is None:
            break
        run = fresh
        printed |= printer.print(run)
    if not printed and not follow:
        click.echo(f"run {run.id} ({run.state.value}) printed nothing", err=True)


def _run_or_newest(ledger: Ledger, text: str) -> RunRecord:
    from activity_core.errors import NotFoundError

    if text.removeprefix("#").isdigit():
        return find_run(ledger, text)
    name = find_definition_id(ledger, text)
    for run in ledger.history(definition_id=name, limit=200):  # of runs with items, the one that has them all
        if run.started_at is not None:
            return run
    raise NotFoundError(f"{name} has not run yet; `activity-core explain {name}` says why")


class RunPrinter:
    """Writes what a run has printed since it was last asked; of a run with items, what they have."""

    def __init__(self, ledger: Ledger, *, raw: bool, only: int | None, attempt: int | None = None) -> None:
        self._ledger = ledger
        self._raw = raw
        self._only = only
        self._attempt = attempt
        self._printers: dict[RunId, Printer] = {}
        self._named: RunId | None = None
        self._over: set[RunId] = set()

    def print(self, run: RunRecord) -> bool:
        """Writes what is new; True if there was anything."""
        printed = self._print_one(run)
        if run.stage is Stage.ITEMS:
            for item in self._ledger.items(run.id):
                if item.id not in self._over:
                    printed |= self._print_one(item)
        return printed

    def _print_one(self, run: RunRecord) -> bool:
        printer = self._printers.setdefault(run.id, Printer(raw=self._raw, only=self._only))
        chunks = self._ledger.read_output(run.id, self._attempt, after=printer.last)
        if run.state not in ACTIVE:
            self._over.add(run.id)
        if chunks and run.item_key and self._named != run.id:
            self._named = run.id
            click.echo(f"— {printable(run.item_key)} (run {run.id}) —", err=True)
        return printer.print(chunks)


class Printer:
    """Writes chunks once each, and names what was cut between them."""

    def __init__(self, *, raw: bool, only: int | None) -> None:
        self._raw = raw
        self._only = only
        self.last = (0, -1)
        self._next_offset: dict[tuple[int, int], int] = {}

    def print(self, chunks: list[tuple[int, int, int, int, bytes]]) -> bool:
        """Writes those not yet written; True if there were any."""
        for attempt, seq, stream, offset, data in chunks:
            self.last = (attempt, seq)
            if self._only not in (None, stream):
                continue
            expected = self._next_offset.get((attempt, stream), 0)
            if offset > expected:
                name = "stdout" if stream == 1 else "stderr"
                click.echo(f"\n[… {offset - expected:,} bytes of {name} were not kept …]", err=True)
            self._next_offset[(attempt, stream)] = offset + len(data)
            target = sys.stdout if stream == 1 else sys.stderr
            if self._raw:
                target.buffer.write(data)
            else:
                target.write(printable(data.decode("utf-8", "replace").replace("\r\n", "\n")))
            target.flush()
        return bool(chunks)


@click.command(
    epilog="\b\nExamples:\n  activity-core explain my.activity\n"
    "  activity-core explain my.activity --at 2026-11-20T03:00Z\n"
    "  activity-core explain 17"
)
@click.argument("definition_or_run")
@click.option("--at", "moment", help="Explain the slot of this time instead of the newest.")
@json_option
@click.pass_obj
def explain(console: Console, definition_or_run: str, moment: str | None, as_json: bool) -> None:
    """Say on one screen why a slot ran or did not run.

    From the file to the outcome: enabled, trigger, misfire, overlap, permit, context values, each expression.
    Everything is read from what was recorded at the time.
    """
    from activity_core.explain import explain_absence, explain_run

    settings = console.settings()
    ledger = console.ledger(settings)
    if definition_or_run.removeprefix("#").isdigit():
        run: RunRecord | None = find_run(ledger, definition_or_run)
        lines = explain_run(ledger, run) if run is not None else []
    else:
        name = find_definition_id(ledger, definition_or_run)
        instant = None if moment is None else read_time(moment)
        if instant is None:
            newest = ledger.history(definition_id=name, limit=1)
            run = newest[0] if newest else None
        else:
            run = ledger.run_covering(name, instant)
        lines = explain_absence(ledger, name, instant, run)
        if run is not None:
            lines += explain_run(ledger, run)
    if as_json:
        echo_json({"lines": lines, "run": None if run is None else run_json(run)})
        return
    for line in lines:
        click.echo(printable(line))
