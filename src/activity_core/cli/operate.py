"""Commands that act on what is there: pause, resume, cancel, doctor, prune, completion."""

from __future__ import annotations

import click

from activity_core.cli.engine import who
from activity_core.cli.shared import (
    EXIT_FINDINGS,
    Console,
    echo_json,
    find_definition_id,
    find_run,
    json_option,
    now,
)
from activity_core.run import FINAL


@click.command(epilog="\b\nExample:\n  activity-core pause my.activity --reason 'disk being replaced'")
@click.argument("definition_id")
@click.option("--reason", help="Why, for those who wonder later.")
@click.pass_obj
def pause(console: Console, definition_id: str, reason: str | None) -> None:
    """Stop a definition from starting, until `resume`.

    Holds for every version of it and over restarts. Slots that fall into the pause are recorded as skipped and
    never caught up. A run in progress goes on; end it with `cancel`.
    """
    from activity_core.doorbell import ring

    settings = console.settings()
    ledger = console.ledger(settings)
    name = find_definition_id(ledger, definition_id)
    if not ledger.pause(name, now(), reason, who()):
        click.echo(f"{name} is paused already", err=True)
        return
    ring(settings.socket_path)
    click.echo(f"{name} is paused; go on with: activity-core resume {name}")


@click.command(epilog="\b\nExample:\n  activity-core resume my.activity")
@click.argument("definition_id")
@click.pass_obj
def resume(console: Console, definition_id: str) -> None:
    """Let a paused definition start again, from its next slot on."""
    from activity_core.doorbell import ring

    settings = console.settings()
    ledger = console.ledger(settings)
    name = find_definition_id(ledger, definition_id)
    if not ledger.resume(name, now()):
        click.echo(f"{name} is not paused", err=True)
        return
    ring(settings.socket_path)
    click.echo(f"{name} runs again from its next slot on")


@click.command(epilog="\b\nExample:\n  activity-core cancel 17")
@click.argument("run_number")
@click.pass_obj
def cancel(console: Console, run_number: str) -> None:
    """End a run: one that waits never starts, one in progress is ended with all its processes.

    A run with items is ended with all of them; one item can be ended by its own number.
    """
    from activity_core.doorbell import ring
    from activity_plumbing.file_lock import holder_of

    settings = console.settings()
    ledger = console.ledger(settings)
    run = find_run(ledger, run_number)
    state = ledger.ask_cancel(run.id, now(), who())
    if run.state in FINAL:
        click.echo(f"run {run.id} was over already ({run.state.value})", err=True)
        raise SystemExit(EXIT_FINDINGS)
    ring(settings.socket_path)
    if state in FINAL:
        click.echo(f"run {run.id} is cancelled")
    elif holder_of(settings.lock_path) is None:
        click.echo(
            f"run {run.id} belongs to an engine that is gone; the next start ends what is left of it",
            err=True,
        )
        raise SystemExit(EXIT_FINDINGS)
    else:
        click.echo(f"run {run.id} is being ended; see: activity-core show {run.id}")


@click.command(epilog="\b\nExample:\n  activity-core doctor")
@json_option
@click.pass_obj
def doctor(console: Console, as_json: bool) -> None:
    """Check settings, folders, definitions, time zones, clock, disk and the engine, and say what to do.

    Exit status 1 if anything needs attention.
    """
    from activity_core.doctor import examine

    findings = examine(console.settings())
    if as_json:
        echo_json(
            [{"check": each.check, "ok": each.is_ok, "found": each.found, "do": each.advice} for each in findings]
        )
    else:
        for each in findings:
            click.echo(f"{'ok  ' if each.is_ok else 'LOOK'}  {each.check}: {each.found}")
            if each.advice:
                click.echo(f"      → {each.advice}")
    if not all(each.is_ok for each in findings):
        raise SystemExit(EXIT_FINDINGS)


@click.command(
    epilog="\b\nExamples:\n  activity-core prune --dry-run\n  activity-core prune --older-than 30d --yes\n"
    "  activity-core prune --keep 100 --yes"
)
@click.option("--older-than", help="Instead of the settings' history_max_age.")
@click.option("--keep", type=click.IntRange(0), help="Runs to keep per definition, instead of history_max_runs.")
@click.option("--dry-run", is_flag=True, help="Only say how many.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def prune(console: Console, older_than: str | None, keep: int | None, dry_run: bool, yes: bool) -> None:
    """Remove details and output of old runs. That a slot was run stays known, so none runs again.

    The engine does this by itself every hour, by its settings.
    """
    from activity_plumbing.clock import Instant
    from activity_plumbing.units import parse_duration_us

    settings = console.settings()
    ledger = console.ledger(settings)
    try:
        age = settings.history_max_age if older_than is None else parse_duration_us(older_than)
    except ValueError as failure:
        raise click.BadParameter(str(failure), param_hint="--older-than") from None
    runs = ledger.prunable(
        ended_before=None if age is None else Instant(now() - age),
        keep_per_definition=settings.history_max_runs if keep is None else keep,
    )
    if dry_run or not runs:
        click.echo(f"{len(runs):,} runs would be pruned")
        return
    if not yes:
        click.confirm(f"Remove details and output of {len(runs):,} runs?", abort=True)
    with click.progressbar(length=len(runs), label="pruning") as bar:
        for start in range(0, len(runs), 500):
            batch = runs[start : start + 500]
            ledger.prune(batch, now())
            bar.update(len(batch))
    click.echo(f"{len(runs):,} runs pruned")


@click.command(epilog="\b\nExample:\n  activity-core completion bash > /etc/bash_completion.d/activity-core")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in a shell."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    root = context.find_root()
    click.echo(found(root.command, {}, "activity-core", "_ACTIVITY_CORE_COMPLETE").source())
