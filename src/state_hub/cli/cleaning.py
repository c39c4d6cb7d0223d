"""``state-hub cleanup``, which is also ``scripts/cleanup_stale_tasks.py``; and ``state-hub rebuild``."""

from __future__ import annotations

import sys

import click

from activity_plumbing.text import printable
from state_hub.cli.shared import EXIT_ERROR, Console, console_of, echo_json, json_option, now, settings_options


@click.command(
    "cleanup",
    epilog="\b\nExamples:\n  .venv/bin/python scripts/cleanup_stale_tasks.py --dry-run\n"
    "  .venv/bin/python scripts/cleanup_stale_tasks.py --json",
)
@click.option("--dry-run", is_flag=True, help="Print what would be cancelled; change nothing.")
@json_option
@settings_options
@click.pass_context
def cleanup_command(
    context: click.Context, dry_run: bool, as_json: bool, config: str | None, state_dir: str | None
) -> None:
    """Cancel tasks still wait, todo or progress in finished or archived workstreams.

    Each cancellation is stored together with its event org.statehub.task.stale; the next sweep writes the
    statuses to the files. Doing it again changes nothing.
    """
    from state_hub.cleanup import cancel_stale, find_stale

    with console_of(context, config, state_dir).store() as store:
        stale, kept = find_stale(store) if dry_run else cancel_stale(store, now())
    if as_json:
        echo_json({"dry_run": dry_run, "cancelled": stale, "kept": kept})
        return
    for task in stale:
        verb = "would cancel" if dry_run else "cancelled"
        title = printable(task.title)
        click.echo(
            f"{verb} {task.name} ({task.status.value}, workstream {task.workplan_status.value}) {title}".rstrip()
        )
    for task in kept:
        click.echo(f"kept {task.name}: somebody took back what the hub wrote there; close it in its file")
    if not stale:
        click.echo("no stale tasks")
    else:
        click.echo(f"{len(stale)} task(s) {'to cancel' if dry_run else 'cancelled'}")


@click.command("rebuild", epilog="\b\nExamples:\n  state-hub rebuild atlas\n  state-hub rebuild --all --discard")
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
@click.option("--all", "all_repos", is_flag=True, help="Every active repo.")
@click.option("--discard", is_flag=True, help="Also when statuses wait to be written back: they are dropped.")
@click.option("--dry-run", is_flag=True, help="Say what would be dropped; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rebuild_command(
    console: Console, slugs: tuple[str, ...], all_repos: bool, discard: bool, dry_run: bool, yes: bool
) -> None:
    """Forget the rows of repos and read their files anew, whatever history they have now.

    Refuses while changes made in the database are not in the files yet, unless --discard is given.
    """
    from activity_plumbing.clock import SystemClock
    from state_hub.case import Options, Outcome, Tools
    from state_hub.git.remote import Remotes
    from state_hub.rebuild import forget, pending_changes
    from state_hub.registry import RepoStatus
    from state_hub.store import repos
    from state_hub.sweep import sweep

    if bool(slugs) == all_repos:
        raise click.UsageError("give slugs, or --all")
    settings = console.settings()
    with console.store(settings) as store:
        with store.reading() as connection:
            chosen = (
                repos.list_repos(connection, RepoStatus.ACTIVE)
                if all_repos
                else [repos.find_repo(connection, slug) for slug in slugs]
            )
            counts = repos.count_workstreams(connection)
        waiting = pending_changes(store, chosen)
        for repo in chosen:
            lost = f"; {waiting[repo.slug]} unwritten change(s) are lost" if repo.slug in waiting and discard else ""
            click.echo(f"{repo.slug}: {counts.get(repo.id, 0)} workstream(s) are read anew{lost}")
        if dry_run:
            return
        if not yes and sys.stdin.isatty():
            click.confirm("Go on?", abort=True)
        forget(store, chosen, now(), discard=discard)
        with store.reading() as connection:
            chosen = [repos.find_repo(connection, repo.slug) for repo in chosen]
        remotes = Remotes()
        try:
            tools = Tools(settings=settings, store=store, clock=SystemClock(), remotes=remotes)
            report = sweep(chosen, tools, Options(is_remote=False, role="rebuild"), kind="rebuild")
        finally:
            remotes.close()
    for visit in report.visits:
        click.echo(f"{visit.slug}: {visit.outcome.value} {printable(visit.detail)}".rstrip())
    sys.exit(0 if all(each.outcome is not Outcome.FAILED for each in report.visits) else EXIT_ERROR)
