"""Commands about definition files: validate, schema, list, next."""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from activity_core.cli.shared import (
    EXIT_FINDINGS,
    Console,
    echo_json,
    json_option,
    now,
    read_time,
    run_json,
    state_text,
    table,
)
from activity_plumbing.clock import format_instant
from activity_plumbing.text import local_time, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from activity_core.catalog.survey import Surveyed
    from activity_core.definition.model import Definition
    from activity_core.ledger.store import Ledger
    from activity_plumbing.clock import Instant


@click.command(epilog="\b\nExamples:\n  activity-core validate\n  activity-core validate nightly.yaml other-folder/")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def validate(console: Console, paths: tuple[Path, ...], as_json: bool) -> None:
    """Check definition files, without running or recording anything.

    PATHS are files or folders; without any, the configured folders. Exit status 1 if any file is invalid.
    """
    from activity_core.catalog.survey import survey
    from activity_core.definition.model import missing_features

    found = survey(paths or console.settings().definitions)
    problems = [problem for each in found for problem in each.problems]
    if as_json:
        echo_json(
            {
                "files": len(found),
                "valid": sum(not each.problems for each in found),
                "problems": [
                    {"path": each.path, "line": each.line, "column": each.column, "message": each.message}
                    for each in problems
                ],
                "not_yet_run": {
                    each.path: list(missing)
                    for each in found
                    if each.definition is not None and (missing := missing_features(each.definition))
                },
            }
        )
    else:
        for each in found:
            if each.definition is not None and not each.problems:
                missing = missing_features(each.definition)
                note = f"  (valid; this version does not run it yet: {', '.join(missing)})" if missing else ""
                click.echo(f"ok       {each.path}: {each.definition.id}{note}")
        for problem in problems:
            click.echo(f"invalid  {printable(str(problem))}", err=True)
        if not found:
            click.echo("no definition files found; definitions end in .yaml or .yml", err=True)
    if problems or not found:
        raise SystemExit(EXIT_FINDINGS)


@click.command(epilog="\b\nExample:\n  activity-core schema > activity-definition.schema.json")
def schema() -> None:
    """Print the JSON Schema of definition files, for editors.

    Put this line on top of a definition, and the YAML language server marks mistakes while you type:

    \b
        # yaml-language-server: $schema=./activity-definition.schema.json
    """
    from activity_core.definition.schema import json_schema

    echo_json(json_schema())


def _surveyed(console: Console) -> tuple[list[Surveyed], Ledger | None]:
    from activity_core.catalog.load import LOADER
    from activity_core.catalog.survey import survey
    from activity_core.ledger.store import Ledger

    settings = console.settings()
    ledger = console.ledger(settings) if Ledger.exists(settings.state_dir) else None
    known = {} if ledger is None else ledger.versions_in_force(LOADER)
    return survey(settings.definitions, known), ledger


@click.command("list", epilog="\b\nExamples:\n  activity-core list\n  activity-core list --json | jq '.[].id'")
@json_option
@click.pass_obj
def list_(console: Console, as_json: bool) -> None:
    """Show every definition: its schedule, next slot, and how its last run went.

    Exit status 1 if a file is invalid.
    """
    from activity_core.catalog.load import describe_schedule

    found, ledger = _surveyed(console)
    last = {} if ledger is None else ledger.last_runs()
    paused = set() if ledger is None else {each.definition_id for each in ledger.pauses() if each.until is None}
    instant = now()
    valid = sorted(
        ((each, each.definition) for each in found if each.definition is not None),
        key=lambda pair: pair[1].id,
    )
    entries = [
        (
            each,
            definition,
            _status(definition, paused),
            _next_slot(definition, instant),
            last.get(definition.id),
        )
        for each, definition in valid
    ]
    problems = [problem for each in found for problem in each.problems]
    if as_json:
        echo_json(
            [
                {
                    "id": definition.id,
                    "path": each.path,
                    "status": status,
                    "schedule": describe_schedule(definition.schedule),
                    "next": None if upcoming is None or status != "on" else format_instant(upcoming),
                    "last_run": None if run is None else run_json(run),
                    "problems": [str(problem) for problem in each.problems],
                }
                for each, definition, status, upcoming, run in entries
            ]
        )
    else:
        table(
            ("ID", "STATUS", "SCHEDULE", "NEXT", "LAST RUN", ""),
            [
                (
                    definition.id,
                    status,
                    describe_schedule(definition.schedule),
                    local_time(upcoming) if status == "on" else "-",
                    "-" if run is None else local_time(run.slot),
                    "" if run is None else state_text(run),
                )
                for _, definition, status, upcoming, run in entries
            ],
        )
    for problem in problems:
        click.echo(f"invalid  {printable(str(problem))}", err=True)
    if problems:
        raise SystemExit(EXIT_FINDINGS)


def _status(definition: Definition, paused: Collection[str]) -> str:
    from activity_core.definition.model import missing_features

    missing = missing_features(definition)
    if missing:
        return f"not run yet: {', '.join(missing)}"
    if not definition.enabled:
        return "disabled"
    return "paused" if definition.id in paused else "on"


def _next_slot(definition: Definition, instant: Instant) -> Instant | None:
    from activity_core.trigger import trigger_of

    trigger = trigger_of(definition.schedule)
    return None if trigger is None or not definition.enabled else trigger.after(instant)


@click.command(
    "next",
    epilog="\b\nExamples:\n  activity-core next\n  activity-core next my.activity -n 5\n"
    "  activity-core next --from 2026-10-25T00:00+02:00",
)
@click.argument("definition_id", required=False)
@click.option("-n", "--count", default=10, show_default=True, type=click.IntRange(1, 10_000), help="How many slots.")
@click.option("--from", "start", help="Count from this time instead of now.")
@json_option
@click.pass_obj
def next_(console: Console, definition_id: str | None, count: int, start: str | None, as_json: bool) -> None:
    """Show the next slots, of one definition or of all."""
    from activity_core.run import jitter_of
    from activity_core.trigger import Trigger, trigger_of

    found, ledger = _surveyed(console)
    definitions: dict[str, Definition] = {
        each.definition.id: each.definition for each in found if each.definition and not each.problems
    }
    paused = set() if ledger is None else {each.definition_id for each in ledger.pauses() if each.until is None}
    if definition_id is not None:
        chosen = _choose(definitions, definition_id)
        definitions = {chosen.id: chosen}
    instant = now() if start is None else read_time(start)
    heap: list[tuple[Instant, str, Trigger]] = []
    for name, definition in definitions.items():
        trigger = trigger_of(definition.schedule)
        if trigger is not None and definition.enabled and (definition_id is not None or name not in paused):
            upcoming = trigger.after(instant)
            if upcoming is not None:
                heap.append((upcoming, name, trigger))
    heapq.heapify(heap)
    rows: list[dict[str, Any]] = []
    while heap and len(rows) < count:
        slot, name, trigger = heapq.heappop(heap)
        policy = definitions[name].policy
        due = slot + jitter_of(definitions[name].id, slot, policy.jitter_us)
        rows.append({"slot": slot, "due": due, "id": name})
        upcoming = trigger.after(slot)
        if upcoming is not None:
            heapq.heappush(heap, (upcoming, name, trigger))
    if as_json:
        echo_json(
            [
                {"slot": format_instant(row["slot"]), "due_at": format_instant(row["due"]), "id": row["id"]}
                for row in rows
            ]
        )
        return
    if not rows:
        click.echo("nothing is due: no enabled definition has a schedule that this version runs", err=True)
        return
    table(
        ("SLOT", "IN", "ID"),
        [(local_time(row["slot"]), _distance(row["due"] - instant), row["id"]) for row in rows],
    )


def _choose(definitions: Mapping[str, Definition], text: str) -> Definition:
    from activity_core.errors import NotFoundError
    from activity_plumbing.nearest import nearest

    if text in definitions:
        return definitions[text]
    ending = [name for name in definitions if name.endswith(f".{text}")]
    if len(ending) == 1:
        return definitions[ending[0]]
    raise NotFoundError(f"no valid definition is called {printable(text)!r}{nearest(text, definitions)}")


def _distance(duration_us: int) -> str:
    from activity_plumbing.units import format_duration

    return format_duration(max(0, round(duration_us / 1e6) * 1_000_000))
