"""``state-hub workstreams``, ``tasks``, ``set-status`` and ``workplan``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from state_hub.cli.shared import Console, echo_json, json_option, now, table, when
from state_hub.errors import RefusedError
from state_hub.registry import WORKPLAN_ID, TaskStatus, WorkstreamStatus

if TYPE_CHECKING:
    from state_hub.workplan import Fault, Reading

_WORKSTREAM_STATUSES = [status.value for status in WorkstreamStatus]
_TASK_STATUSES = [status.value for status in TaskStatus]
_LIMIT = click.option("-n", "--limit", default=200, show_default=True, type=click.IntRange(1, 10_000))


@click.command("workstreams", epilog="\b\nExample:\n  state-hub workstreams --status active --repo atlas")
@click.option("--repo", metavar="SLUG")
@click.option("--status", "statuses", multiple=True, type=click.Choice(_WORKSTREAM_STATUSES))
@_LIMIT
@json_option
@click.pass_obj
def workstreams_command(
    console: Console, repo: str | None, statuses: tuple[str, ...], limit: int, as_json: bool
) -> None:
    """The workplans of the fleet, as the database has them."""
    from state_hub.store import workstreams

    with console.store() as store, store.reading() as connection:
        found = workstreams.list_workstreams(
            connection, repo=repo, statuses=[WorkstreamStatus(each) for each in statuses], limit=limit
        )
    if as_json:
        echo_json(found)
        return
    table(
        ("ID", "STATUS", "", "REPO", "CHANGED", "TITLE"),
        [
            (
                each.id,
                each.status.value,
                "to be written back" if each.is_pending else "",
                each.repo,
                when(each.status_changed_at),
                each.title,
            )
            for each in found
        ],
    )


@click.command("tasks", epilog="\b\nExample:\n  state-hub tasks --workstream CUST-WP-0040 --status todo --status wait")
@click.option("--repo", metavar="SLUG")
@click.option("--workstream", metavar="ID")
@click.option("--status", "statuses", multiple=True, type=click.Choice(_TASK_STATUSES))
@_LIMIT
@json_option
@click.pass_obj
def tasks_command(
    console: Console,
    repo: str | None,
    workstream: str | None,
    statuses: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """The tasks of the fleet, as the database has them."""
    from state_hub.store import workstreams

    with console.store() as store, store.reading() as connection:
        found = workstreams.list_tasks(
            connection,
            repo=repo,
            workplan_id=workstream,
            statuses=[TaskStatus(each) for each in statuses],
            limit=limit,
        )
    if as_json:
        echo_json(found)
        return
    table(
        ("TASK", "STATUS", "", "REPO", "CHANGED", "BY", "TITLE"),
        [
            (
                f"{each.workplan_id}/{each.id}",
                each.status.value,
                "to be written back" if each.is_pending else "",
                each.repo,
                when(each.status_changed_at),
                each.status_changed_by,
                each.title,
            )
            for each in found
        ],
    )


@click.command(
    "set-status",
    epilog="\b\nExamples:\n  state-hub set-status CUST-WP-0040/T04 done\n  state-hub set-status CUST-WP-0040 finished",
)
@click.argument("name", metavar="WORKPLAN[/TASK]")
@click.argument("status")
@click.pass_obj
def set_status_command(console: Console, name: str, status: str) -> None:
    """Set a status in the database; the next sweep with --remote writes it to the file."""
    from state_hub.store import workstreams

    workplan_id, _, task_id = name.partition("/")
    known = _TASK_STATUSES if task_id else _WORKSTREAM_STATUSES
    if status not in known:
        raise click.BadParameter(f"{status!r} is not one of {', '.join(known)}")
    with console.store() as store, store.writing() as connection:
        if task_id:
            workstreams.set_task_status(connection, workplan_id, task_id, TaskStatus(status), by="cli", at=now())
        else:
            workstreams.set_workstream_status(connection, workplan_id, WorkstreamStatus(status), by="cli", at=now())
    click.echo(f"{name} is {status}; the next sweep with --remote writes it to its file")


@click.group("workplan")
def workplan_group() -> None:
    """Workplan files: start one, check some."""


@workplan_group.command("new", epilog='\b\nExample:\n  state-hub workplan new CUST-WP-0041 "Move the timers"')
@click.argument("workplan_id", metavar="ID")
@click.argument("title")
@click.option("--folder", default="workplans", show_default=True, type=click.Path(file_okay=False, path_type=Path))
def new_command(workplan_id: str, title: str, folder: Path) -> None:
    """Write a fresh workplan; never over a file that exists."""
    from state_hub.workplan import new_workplan, read_workplan

    if not WORKPLAN_ID.fullmatch(workplan_id):
        raise RefusedError(f"{workplan_id!r} is not a workplan id; write for example CUST-WP-0041")
    if not title.strip() or not title.isprintable():
        raise RefusedError("the title cannot stand in a workplan; use one line of plain text")
    text = new_workplan(workplan_id, title)
    path = folder / f"{workplan_id}.md"
    if read_workplan(text.encode(), str(path)).workplan is None:
        raise RefusedError("the title cannot stand in a workplan; use one line of plain text")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as failure:
        raise RefusedError(f"{path} exists already") from failure
    except OSError as failure:
        raise RefusedError(f"{path} cannot be written: {failure.strerror}") from failure
    click.echo(f"{path}: edit it, then commit; `state-hub workplan lint {path}` checks it")


@workplan_group.command(
    "lint", epilog="\b\nExamples:\n  state-hub workplan lint\n  state-hub workplan lint workplans/CUST-WP-0040.md"
)
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@json_option
def lint_command(paths: tuple[Path, ...], as_json: bool) -> None:
    """Check workplan files, or all below folders (default: workplans). Exit status 1 if any is invalid."""
    from state_hub.workplan import lines_of, read_workplan

    files: list[Path] = []
    if not paths and not Path("workplans").is_dir():
        raise RefusedError("there is no folder workplans here; name files or folders to check")
    for path in paths or (Path("workplans"),):
        files += sorted(path.rglob("*.md")) if path.is_dir() else [path]
    readings: dict[str, Reading] = {}
    owners: dict[str, str] = {}
    for path in files:
        reading = read_workplan(path.read_bytes(), str(path))
        if reading.workplan is not None:
            first = owners.setdefault(reading.workplan.id, str(path))
            if first != str(path):
                twice = _twice(str(path), reading.workplan.line, reading.workplan.id, first)
                reading = replace(reading, faults=(*reading.faults, twice))
        readings[str(path)] = reading
    faults: list[Fault] = [fault for reading in readings.values() for fault in reading.faults]
    if as_json:
        echo_json(
            {
                "files": {name: _kind(reading) for name, reading in readings.items()},
                "faults": [{"check": fault.check, **_place(fault)} for fault in faults],
            }
        )
    else:
        for line in (line for reading in readings.values() for line in lines_of(reading.faults)):
            click.echo(line)
        counts = [_kind(reading) for reading in readings.values()]
        click.echo(
            f"{counts.count('workplan')} workplan(s), {counts.count('other')} other file(s),"
            f" {len(faults)} problem(s) in {sum(bool(reading.faults) for reading in readings.values())} file(s)",
            err=True,
        )
    sys.exit(1 if faults else 0)


def _kind(reading: Reading) -> str:
    if reading.workplan is not None:
        return "workplan"
    return "invalid" if reading.faults else "other"


def _place(fault: Fault) -> dict[str, object]:
    problem = fault.problem
    return {"path": problem.path, "line": problem.line, "column": problem.column, "message": problem.message}


def _twice(path: str, line: int, name: str, first: str) -> Fault:
    from activity_plumbing.yaml_document import Problem
    from state_hub.workplan import Fault

    message = f"{name} is also the id of {first}; give this one an id of its own"
    return Fault(check="C-04", problem=Problem(path=path, line=line, column=1, message=message))
