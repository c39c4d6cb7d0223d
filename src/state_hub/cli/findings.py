"""``state-hub findings``, ``checks``, ``writebacks`` and ``outbox``."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from state_hub.checks import CATALOGUE
from state_hub.cli.shared import Console, echo_json, json_option, table, when

if TYPE_CHECKING:
    from state_hub.store.findings import Finding


@click.command(
    "findings", epilog="\b\nExamples:\n  state-hub findings --repo atlas\n  state-hub findings --check C-10 --closed"
)
@click.option("--repo", metavar="SLUG")
@click.option("--check", type=click.Choice(list(CATALOGUE)), metavar="C-NN")
@click.option("--closed", is_flag=True, help="Those that closed, instead of those that are open.")
@click.option("-n", "--limit", default=200, show_default=True, type=click.IntRange(1, 10_000))
@json_option
@click.pass_obj
def findings_command(
    console: Console, repo: str | None, check: str | None, closed: bool, limit: int, as_json: bool
) -> None:
    """What the checks found, with where and since when."""
    from state_hub.store import findings

    with console.store() as store, store.reading() as connection:
        found = findings.list_findings(connection, repo=repo, check=check, is_open=not closed, limit=limit)
    if as_json:
        echo_json(found)
        return
    table(
        ("CHECK", "SEVERITY", "REPO", "SINCE", "CLOSED" if closed else "LAST SEEN", "WHERE", "WHAT"),
        [
            (
                each.check,
                each.severity.value,
                each.repo,
                when(each.first_seen_at),
                when(each.last_seen_at),
                _where(each),
                each.message,
            )
            for each in found
        ],
    )


def _where(each: Finding) -> str:
    """The place in a file, or what it is about."""
    if each.line:
        return f"{each.path}:{each.line}:{each.column}"
    return f"{each.subject} in {each.path}" if each.path and each.subject != each.path else each.path or each.subject


@click.command("checks", epilog="\b\nExample:\n  state-hub checks")
@json_option
def checks_command(as_json: bool) -> None:
    """The catalogue of checks: what each looks at, what the hub does, what you can do."""
    if as_json:
        echo_json(list(CATALOGUE.values()))
        return
    for check in CATALOGUE.values():
        click.echo(f"{check.id} {check.name} ({check.severity.value})")
        for label, text in (("", check.explanation), ("The hub: ", check.fix), ("You: ", check.advice)):
            if text:
                click.echo(textwrap.fill(label + text, 100, initial_indent="  ", subsequent_indent="  "))


@click.command("writebacks", epilog="\b\nExample:\n  state-hub writebacks --repo atlas")
@click.option("--repo", metavar="SLUG")
@click.option("-n", "--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@json_option
@click.pass_obj
def writebacks_command(console: Console, repo: str | None, limit: int, as_json: bool) -> None:
    """What the hub wrote into files, newest first."""
    from activity_plumbing.clock import Instant
    from state_hub.store import plans

    with console.store() as store, store.reading() as connection:
        found = plans.list_writebacks(connection, repo=repo, limit=limit)
    if as_json:
        echo_json(found)
        return
    table(
        ("WHEN", "REPO", "WHAT", "CHANGE", "COMMIT", "STATE"),
        [
            (
                when(Instant(int(str(each["made_at"])))),
                each["repo"],
                each["workplan_id"] if each["task_id"] is None else f"{each['workplan_id']}/{each['task_id']}",
                f"{each['old']} → {each['new']}",
                str(each["commit"])[:10],
                each["state"],
            )
            for each in found
        ],
    )


@click.command("outbox", epilog="\b\nExample:\n  state-hub outbox --sent")
@click.option("--sent", is_flag=True, help="Those that were sent, instead of those that wait.")
@click.option("-n", "--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@json_option
@click.pass_obj
def outbox_command(console: Console, sent: bool, limit: int, as_json: bool) -> None:
    """The events that tell of the hub's changes, in order."""
    from activity_plumbing.outbox import list_events
    from state_hub.store.schema import outbox

    with console.store() as store, store.reading() as connection:
        found = list_events(connection, outbox, is_sent=sent, after=0, limit=limit)
    if as_json:
        echo_json(found)
        return
    table(
        ("EVENT", "TYPE", "SUBJECT", "MADE", "SENT"),
        [(each.event_id, each.type, each.subject, when(each.created_at), when(each.sent_at)) for each in found],
    )
