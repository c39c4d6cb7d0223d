"""Why a slot did or did not run, in lines for one screen; read from the record, never guessed afterwards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from activity_core.catalog.load import describe_schedule, restore
from activity_core.definition.model import Definition, EventSubscription, missing_features
from activity_core.run import Kind, Reason, State
from activity_core.trigger import trigger_of
from activity_plumbing.clock import Instant, format_instant
from activity_plumbing.units import format_duration

if TYPE_CHECKING:
    from activity_core.ledger.records import DefinitionRecord, RunRecord
    from activity_core.ledger.store import Ledger

_WHY = {
    Reason.OVERLAP: "a prior run of this definition was still in progress",
    Reason.RULE_FALSE: "an expression of the rule was false",
    Reason.PAUSED: "the definition was paused",
    Reason.LOCKED: "the command found its lock held by another (exit status 75)",
    Reason.SUPERSEDED: "a newer slot ran in its place",
    Reason.SHADOW: "the definition only decides; it does not run",
    Reason.ENGINE_DOWN: "no engine was running",
    Reason.SUSPENDED: "the machine was asleep",
    Reason.CLOCK_STEP: "the wall clock jumped over this time; it never passed",
    Reason.LATE: "the engine came to it only after its grace",
    Reason.CATCHUP_WINDOW: "it was older than the catch-up window",
    Reason.UNSUPPORTED: "the definition uses a feature that this version does not run",
    Reason.CONTEXT_FAILED: "a context query failed",
    Reason.RULE_FAILED: "an expression could not be evaluated",
    Reason.BAD_ITEMS: "its items could not be listed",
    Reason.ITEM_FAILED: "not every item succeeded",
    Reason.NOT_STARTED: "the command could not be started",
    Reason.EXIT_STATUS: "of the command's exit status",
    Reason.SIGNAL: "a signal ended the command",
    Reason.TIMEOUT: "the command ran into its timeout",
    Reason.ASKED: "somebody asked for it",
    Reason.ENGINE_STOPPED: "the engine was stopped while the command ran",
    Reason.ENGINE_KILLED: "the engine was killed while the command ran",
}
_LABEL_WIDTH = 10


def _line(label: str, text: str) -> str:
    return f"{label + ':':<{_LABEL_WIDTH}} {text}"


def explain_run(ledger: Ledger, run: RunRecord) -> list[str]:
    """The chain from the file to the outcome of one recorded slot."""
    version = ledger.version(run.version_hash)
    definition = None if version is None else restore(version.plain_json)
    lines = [f"run {run.id} of {run.definition_id}"]
    if version is not None:
        origin = f" (commit {version.git_commit[:12]})" if version.git_commit else ""
        lines.append(_line("file", f"{version.path}, version {version.hash[:12]}{origin}"))
    if definition is not None:
        lines += _definition_lines(definition)
    lines += _slot_lines(run, definition)
    lines += _wait_lines(run)
    lines += _context_lines(run)
    lines += _rule_lines(run, definition)
    lines += _items_lines(ledger, run, definition)
    if definition is not None and run.started_at is not None:
        lines.append(
            _line("command", definition.instruction.cmd.strip().replace("\n", "\n" + " " * (_LABEL_WIDTH + 1)))
        )
    for attempt in ledger.attempts(run.id):
        took = format_duration(attempt.ended_at - attempt.started_at)
        why = f" ({attempt.reason})" if attempt.reason else ""
        lines.append(_line("attempt", f"{attempt.attempt}: {attempt.outcome}{why} after {took}"))
    lines += _outcome_lines(run)
    return lines


def _definition_lines(definition: Definition) -> list[str]:
    lines = [_line("enabled", "yes" if definition.enabled else "no")]
    lines.append(_line("trigger", describe_schedule(definition.schedule)))
    missing = missing_features(definition)
    if missing:
        lines.append(_line("not run", f"this version reads but does not run {', '.join(missing)}"))
    return lines


def _slot_lines(run: RunRecord, definition: Definition | None) -> list[str]:
    slot = format_instant(run.slot)
    if run.slot_count > 1:
        slot += f" to {format_instant(run.last_slot)}: {run.slot_count:,} slots, recorded as one"
    if run.kind is not Kind.SCHEDULE:
        slot += f", asked for by {run.asked_by or 'somebody'} ({run.kind.value})"
    lines = [_line("slot", slot)]
    if run.parent_run is not None:
        return [_line("slot", slot), _line("item", f"{run.item_key} of run {run.parent_run}")]
    if definition is not None and run.kind is Kind.SCHEDULE and not isinstance(definition.schedule, EventSubscription):
        policy = definition.policy
        text = f"{policy.misfire.value} (grace {format_duration(policy.grace_us)})"
        late_us = run.created_at - run.due_at
        if run.state is State.MISSED:
            verdict = _because(run)
        elif late_us > policy.grace_us:
            verdict = f"decided {format_duration(late_us)} late, and run by this policy"
        else:
            verdict = "not a misfire"
        lines.append(_line("misfire", f"{text}: {verdict}"))
        overlap = f"{policy.overlap.value}: "
        if run.reason is Reason.OVERLAP:
            overlap += f"run {run.blocked_by} was in progress" if run.blocked_by else "a run was in progress"
        else:
            has_waited = run.attempt <= 1 and run.permit_key is None and (run.granted_at or 0) > run.created_at
            in_the_way = "it waited for the run before it" if has_waited else "nothing in the way"
            overlap += "not asked" if run.state is State.MISSED else in_the_way
        lines.append(_line("overlap", overlap))
    return lines


def _wait_lines(run: RunRecord) -> list[str]:
    lines = []
    if run.permit_key is not None:
        held = "granted" if run.granted_at is not None else "still waiting"
        if run.granted_at is not None and run.granted_at > run.created_at:
            held += f" after {format_duration(run.granted_at - run.created_at)}"
        lines.append(_line("permit", f"{run.permit_key} (limit {run.permit_limit}): {held}"))
    if run.started_at is not None:
        lines.append(
            _line(
                "started",
                f"{format_instant(run.started_at)}, {format_duration(run.lateness_us or 0)} after its slot",
            )
        )
    elif run.state is State.PENDING:
        before_it = "a run before it" if run.parent_run is None else "an item before it"
        lines.append(
            _line("waiting", f"for {before_it} or a permit" if run.granted_at is None else "for a free worker")
        )
    return lines


def _items_lines(ledger: Ledger, run: RunRecord, definition: Definition | None) -> list[str]:
    if run.item_json is not None:
        return [_line("value", _short(json.loads(run.item_json)))]
    counts = ledger.item_counts([run.id]).get(run.id)
    if not counts:
        return []
    each = None if definition is None else definition.for_each
    bound = f", at most {each.max_parallel} at once" if each is not None and each.max_parallel is not None else ""
    states = ", ".join(f"{counts[state]:,} {state.value}" for state in State if state in counts)
    return [_line("items", f"{sum(counts.values()):,}{bound}: {states}")]


def _context_lines(run: RunRecord) -> list[str]:
    if run.reason is Reason.CONTEXT_FAILED:
        return [_line("context", f"failed: {run.detail}")]
    if run.context_json is None:
        return []
    values = json.loads(run.context_json)
    return [
        _line("context" if index == 0 else "", f"{name} = {_short(value)}")
        if index == 0
        else " " * (_LABEL_WIDTH + 1) + f"{name} = {_short(value)}"
        for index, (name, value) in enumerate(values.items())
    ]


def _rule_lines(run: RunRecord, definition: Definition | None) -> list[str]:
    if run.rule_json is None:
        return []
    lines = []
    results = json.loads(run.rule_json)
    for each in results:
        value = f"error: {each['error']}" if "error" in each else _short(each["value"])
        lines.append(_line("rule", f"{each['expression']}  →  {value}"))
    unasked = [] if definition is None else definition.when[len(results) :]
    lines += [_line("rule", f"{text}  →  not asked") for text in unasked]
    return lines


def _outcome_lines(run: RunRecord) -> list[str]:
    text = run.state.value
    if run.reason is not None:
        text += f" because {_because(run)}"
    if run.duration_us is not None:
        text += f", after {format_duration(run.duration_us)}"
    if run.exit_status is not None:
        text += f", exit status {run.exit_status}"
    if run.signal is not None:
        text += f", signal {run.signal}"
    lines = [_line("outcome", text)]
    if run.detail and run.reason is not Reason.CONTEXT_FAILED:
        lines.append(_line("detail", run.detail))
    if run.stdout_bytes or run.stderr_bytes:
        printed = f"{run.stdout_bytes or 0:,} bytes to stdout, {run.stderr_bytes or 0:,} to stderr"
        lines.append(_line("printed", f"{printed}; see: activity-core logs {run.id}"))
    if run.pruned_at is not None:
        lines.append(_line("pruned", f"details were removed by retention at {format_instant(run.pruned_at)}"))
    return lines


def _because(run: RunRecord) -> str:
    return _WHY[run.reason] if run.reason is not None else "of no recorded reason"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "…"


def explain_absence(ledger: Ledger, name: str, instant: Instant | None, run: RunRecord | None) -> list[str]:
    """What must be said before the newest row: the definition's state now, and slots without a row.

    `instant`: the time asked about, None for now. `run`: the newest row not later than it.
    """
    record = ledger.definition(name)
    assert record is not None
    lines = [_state_line(ledger, record)]
    if record.problem_json is not None:
        problems = json.loads(record.problem_json)
        lines.append(_line("file", f"is invalid now, so the last good version stays in force: {problems[0]}"))
    if instant is None and run is not None:
        return [*lines, ""]
    version = ledger.version(record.version_hash)
    definition = None if version is None else restore(version.plain_json)
    trigger = None if definition is None else trigger_of(definition.schedule)
    if definition is None or trigger is None:
        return [*lines, ""]
    cursor = ledger.cursors().get((name, record.trigger_hash))
    if instant is None:
        upcoming = None if cursor is None else trigger.after(cursor)
        if upcoming is not None:
            lines.append(_line("next", f"{format_instant(upcoming)}; no slot has been due since it came into force"))
        return lines
    covered = run is not None and run.slot <= instant <= run.last_slot
    slot = trigger.last_before(Instant(instant + 1), Instant(record.in_force_since - 1))
    if covered or (slot is not None and run is not None and run.slot <= slot <= run.last_slot):
        return [*lines, ""]
    lines.append(_line("asked", f"about {format_instant(instant)}"))
    lines += _uncovered(ledger, record, slot, cursor, instant)
    if run is not None:
        lines += ["", "the newest row before that:"]
    return lines


def _uncovered(
    ledger: Ledger, record: DefinitionRecord, slot: Instant | None, cursor: Instant | None, instant: Instant
) -> list[str]:
    if instant < record.in_force_since:
        lines = [_line("answer", f"this version came into force only at {format_instant(record.in_force_since)}")]
    elif slot is None:
        lines = [_line("answer", "its schedule has no slot between its coming into force and that time")]
    elif cursor is not None and slot > cursor:
        lines = [
            _line(
                "answer",
                f"the slot {format_instant(slot)} is not yet decided; an engine decides it when it runs",
            )
        ]
    else:
        lines = [_line("answer", f"the slot {format_instant(slot)} was not this trigger's to run when it passed")]
    for event in reversed(ledger.catalog_events(record.id, limit=5)):
        detail = f" ({event.detail.splitlines()[0]})" if event.detail else ""
        lines.append(_line("history", f"{format_instant(event.at)} {event.event}{detail} {event.path}"))
    return lines


def _state_line(ledger: Ledger, record: DefinitionRecord) -> str:
    if record.removed_at is not None:
        return _line("now", f"{record.id} was removed at {format_instant(record.removed_at)} ({record.path} is gone)")
    pause = next((each for each in ledger.pauses(record.id) if each.until is None), None)
    if pause is not None:
        reason = f": {pause.reason}" if pause.reason else ""
        return _line("now", f"{record.id} is paused since {format_instant(pause.since)} by {pause.paused_by}{reason}")
    if not record.trigger_hash:
        return _line("now", f"{record.id} is disabled in {record.path}")
    return _line("now", f"{record.id} is in force from {record.path}")
