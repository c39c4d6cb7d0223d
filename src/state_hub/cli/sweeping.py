"""``state-hub sweep``, which is also ``scripts/consistency_check.py``; and the record of sweeps."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from activity_plumbing.text import printable
from state_hub.cli.shared import (
    EXIT_ERROR,
    EXIT_LOCKED,
    Console,
    console_of,
    echo_json,
    json_option,
    now,
    settings_options,
    table,
    when,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from state_hub.case import Visit
    from state_hub.settings import Settings
    from state_hub.sweep import Report

EXIT_FINDINGS = 3
EXIT_BUDGET = 4
HOOK_WAIT_S = 20.0
"""How long a visit to a single repo waits for its lock: the hook comes while a sweep may be at it."""


@click.command(
    "sweep",
    epilog="\b\nExamples:\n"
    "  .venv/bin/python scripts/consistency_check.py --remote --all --max-seconds 300\n"
    "  .venv/bin/python scripts/consistency_check.py --remote --all --dry-run\n"
    "  .venv/bin/python scripts/consistency_check.py --repo atlas\n\n\b\n"
    "Exit status: 0 done, also with findings or a spent budget; with --strict 3 for open\n"
    "findings and 4 for a spent budget; 75 another holds the lock; 1 an error.",
)
@click.option("--all", "all_repos", is_flag=True, help="Every active repo, oldest-checked first.")
@click.option("--repo", "slug", metavar="SLUG", help="One repo.")
@click.option(
    "--remote", is_flag=True, help="Fetch, pull and write back too; else only what the clone holds, file → database."
)
@click.option("--max-seconds", type=click.FloatRange(min=0.001), metavar="N", help="Start no visit after this time.")
@click.option("--fix/--no-fix", default=True, help="Change rows, files and clones (default), or only record findings.")
@click.option("--dry-run", is_flag=True, help="Print what would be done; change and record nothing.")
@click.option("--jobs", type=click.IntRange(1, 256), metavar="N", help="Repos visited at once (default: the setting).")
@click.option("--strict", is_flag=True, help="Exit with 3 for open findings, 4 for a spent budget.")
@json_option
@settings_options
@click.pass_context
def sweep_command(
    context: click.Context,
    all_repos: bool,
    slug: str | None,
    remote: bool,
    max_seconds: float | None,
    fix: bool,
    dry_run: bool,
    jobs: int | None,
    strict: bool,
    as_json: bool,
    config: str | None,
    state_dir: str | None,
) -> None:
    """Bring workplan files and database together, repo by repo."""
    if all_repos == (slug is not None):
        raise click.UsageError("give either --all or --repo SLUG")
    console = console_of(context, config, state_dir)
    settings = console.settings()
    if all_repos and remote and not dry_run:
        with _sweep_lock(settings):
            report = _run(console, settings, slug, remote, fix, dry_run, max_seconds, jobs, as_json)
    else:
        report = _run(console, settings, slug, remote, fix, dry_run, max_seconds, jobs, as_json)
    if as_json:
        echo_json(_report_json(report))
    else:
        _summary(report, is_dry_run=dry_run)
    sys.exit(_exit_status(report, slug, strict=strict))


@contextmanager
def _sweep_lock(settings: Settings) -> Iterator[None]:
    """The lock file that keeps two sweeps over everything apart, whoever starts them."""
    from activity_plumbing.file_lock import FileLock, LockHeld
    from state_hub.errors import ConfigurationError

    lock = FileLock(settings.sweep_lock, "consistency_check.py --remote --all")
    try:
        lock.acquire(now())
    except LockHeld as held:
        click.echo(f"another sweep is under way: {held}", err=True)
        sys.exit(EXIT_LOCKED)
    except OSError as failure:
        raise ConfigurationError(
            f"the lock file {settings.sweep_lock} cannot be opened: {failure.strerror}; is it another account's?"
        ) from failure
    try:
        yield
    finally:
        lock.release()


def _run(
    console: Console,
    settings: Settings,
    slug: str | None,
    remote: bool,
    fix: bool,
    dry_run: bool,
    max_seconds: float | None,
    jobs: int | None,
    as_json: bool,
) -> Report:
    from activity_plumbing.clock import SystemClock
    from state_hub.case import Options, Tools
    from state_hub.git.remote import Remotes
    from state_hub.sweep import chosen_repos, sweep

    with console.store(settings) as store:
        remotes = Remotes()
        try:
            tools = Tools(settings=settings, store=store, clock=SystemClock(), remotes=remotes)
            options = Options(
                is_remote=remote,
                fix=fix,
                is_dry_run=dry_run,
                role="consistency check",
                lock_wait_s=0.0 if slug is None else HOOK_WAIT_S,
            )
            chosen = chosen_repos(tools, slug)
            kind = ("remote " if remote else "") + ("all" if slug is None else f"repo {slug}")
            with _progress(len(chosen), is_shown=not as_json and slug is None) as advance:
                return sweep(chosen, tools, options, kind=kind, budget_s=max_seconds, jobs=jobs, on_visit=advance)
        finally:
            remotes.close()


@contextmanager
def _progress(total: int, *, is_shown: bool) -> Iterator[Callable[[Visit], None]]:
    """A bar on a terminal; elsewhere nothing, as the lines at the end say it all."""
    if not (is_shown and sys.stderr.isatty()):
        yield lambda _visit: None
        return
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
        number = bar.add_task("repos", total=total)

        def advance(visit: Visit) -> None:
            bar.update(number, advance=1, description=visit.slug[:30].ljust(30))

        yield advance


def _summary(report: Report, *, is_dry_run: bool) -> None:
    from state_hub.case import Outcome

    for visit in sorted(report.visits, key=lambda each: each.slug):
        if visit.outcome is Outcome.UNCHANGED and not visit.did:
            continue
        click.echo(f"{visit.slug}: {visit.outcome.value}" + (f", {printable(visit.detail)}" if visit.detail else ""))
        for line in visit.did:
            click.echo(f"  {printable(line)}")
        for found in visit.found:
            if found.message != visit.detail:
                place = f"{found.place}: " if found.place else ""
                click.echo(f"  {found.check} {found.weight.value}: {printable(place + found.message)}")
    counts = ", ".join(f"{report.count(outcome)} {outcome.value}" for outcome in Outcome if report.count(outcome))
    click.echo(f"{len(report.visits)} repo(s) in {report.duration_s:.2f} s: {counts or 'none registered'}")
    if report.left:
        click.echo(f"the budget was spent before {len(report.left)} repo(s); the next sweep starts with them")
    if report.open_findings and not is_dry_run:
        shown = ", ".join(f"{count} {severity}" for severity, count in sorted(report.open_findings.items()))
        click.echo(f"open findings: {shown}; `state-hub findings` lists them")


def _report_json(report: Report) -> dict[str, object]:
    return {
        "sweep": report.number,
        "kind": report.kind,
        "duration_s": round(report.duration_s, 3),
        "left": report.left,
        "open_findings": report.open_findings,
        "repos": [
            {
                "slug": visit.slug,
                "outcome": visit.outcome,
                "detail": visit.detail,
                "did": visit.did,
                "found": visit.found,
                "duration_s": round(visit.duration_s, 3),
            }
            for visit in sorted(report.visits, key=lambda each: each.slug)
        ],
    }


def _exit_status(report: Report, slug: str | None, *, strict: bool) -> int:
    from state_hub.case import Outcome

    if any(visit.is_hub_fault for visit in report.visits):
        return EXIT_ERROR
    if slug is not None and report.count(Outcome.LOCKED):
        return EXIT_LOCKED
    if slug is not None and report.failed:
        return EXIT_ERROR
    if strict and (report.failed or any(report.open_findings.get(weight) for weight in ("error", "warning"))):
        return EXIT_FINDINGS
    return EXIT_BUDGET if strict and report.left else 0


@click.command("sweeps", epilog="\b\nExample:\n  state-hub sweeps -n 5")
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 2000))
@json_option
@click.pass_obj
def sweeps_command(console: Console, limit: int, as_json: bool) -> None:
    """The sweeps so far, newest first."""
    from state_hub.store import sweeps

    with console.store() as store, store.reading() as connection:
        found = sweeps.list_sweeps(connection, limit=limit)
    if as_json:
        echo_json(found)
        return
    table(
        ("SWEEP", "STARTED", "KIND", "OUTCOME", "CHECKED", "FAILED", "BY"),
        [
            (
                each.id,
                when(each.started_at),
                each.kind,
                each.outcome or "under way, or killed",
                f"{each.checked} of {each.planned}",
                each.failed,
                each.by,
            )
            for each in found
        ],
    )
