"""One run, from its turn to its outcome: context, rule, start on disk, shell, end on disk.

Context and rule are asked once, before the first attempt; a retry goes straight to the shell. Nothing here
decides *whether* a slot runs in its definition's queue: that was `decide`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from activity_core.conclude import consequences
from activity_core.definition.model import Definition, OnInterrupt, VersionHash, missing_features
from activity_core.errors import CommandError, ConfigurationError, ContextError, ExpressionError
from activity_core.items import choose_items
from activity_core.ports import EndRow, LedgerWriter, ProcessRow, SaveOutput, SpawnItems, StartRow, Written
from activity_core.rule import compile_expression, evaluate_all
from activity_core.run import Kind, Reason, RunId, Stage, State, fence_of
from activity_core.shell.capture import Capture, Redactor
from activity_core.shell.environment import base_environment, data_variables, read_secret
from activity_core.shell.process import CommandResult, CommandSpec, Ending, Processes, RunningCommand
from activity_plumbing.clock import Clock, Instant, format_instant, to_datetime
from activity_plumbing.proc import read_stat
from activity_plumbing.text import encode_json, stored_json
from activity_plumbing.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from activity_core.context.gather import ContextGatherer
    from activity_core.settings import Settings

log = logging.getLogger(__name__)

MOST_INTERRUPTIONS = 3
"""A run that is to be retried after an interruption gives up after this many: it may be what kills the machine."""

FLUSH_S = 0.25
"""How often the output of a command in progress is stored."""

LOCK_HELD = 75
"""EX_TEMPFAIL of sysexits.h: what scripts with a lock of their own answer when another holds it."""


@dataclass(slots=True, kw_only=True)
class Ticket:
    """A run in the engine's hands."""

    run_id: RunId
    definition: Definition
    version_hash: VersionHash
    kind: Kind
    slot: Instant
    due_at: Instant
    is_granted: bool = False
    attempt: int = 0
    interruptions: int = 0
    has_permit: bool = False
    asked_by: str | None = None
    problem: str | None = None
    """What was found wrong when it was recorded; fails the run when its turn comes."""
    context: dict[str, object] | None = None
    """The answers to its queries; None until they were asked, and after a restart."""
    parent: Ticket | None = None
    """The run it is an item of, whose context it shares."""
    item_key: str = ""
    item_json: str = "null"
    items: int = 0
    """How many of its items are in hand."""
    is_waiting: bool = False
    """Its items are recorded: it needs no worker any more, and ends with the last of them."""
    is_over: bool = False
    """Another process has ended it while it waited for a worker."""

    @property
    def title(self) -> str:
        """The definition, and the item where it is one, for people."""
        return f"{self.definition.id}[{self.item_key}]" if self.item_key else self.definition.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended, yet to be recorded. Neither `end` nor `spawn`: it was not started.

    `spawn`: it goes on as the parent of these items. `is_lost`: another process has ended the run meanwhile; else
    it stays pending for a later engine.
    """

    end: EndRow | None
    spawn: SpawnItems | None = None
    is_lost: bool = False


GIVEN_BACK = Outcome(end=None)
LOST = Outcome(end=None, is_lost=True)


class _GivenBack(Exception):
    """The engine stops before this run has started."""


@dataclass(slots=True)
class _InProgress:
    ticket: Ticket
    command: RunningCommand
    capture: Capture
    is_noted: bool = False


class Executor:
    """Executes tickets; one per engine."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        writer: LedgerWriter,
        gatherer: ContextGatherer,
        processes: Processes,
        ledger_id: str,
        engine_id: int | None,
        input_dir: Path,
        is_paused: Callable[[str], bool],
        is_awaited: Callable[[Ticket], bool],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._writer = writer
        self._gatherer = gatherer
        self._processes = processes
        self._ledger_id = ledger_id
        self._engine_id = engine_id
        self._is_paused = is_paused
        self._is_awaited = is_awaited
        self._in_progress: dict[RunId, _InProgress] = {}
        self._flush_timer: asyncio.TimerHandle | None = None
        self._writes: set[asyncio.Future[Written]] = set()
        self._stopping = False
        self._ends_all = False
        self._cancelled: set[RunId] = set()
        self._preparing: set[asyncio.Task[object]] = set()
        base = {**base_environment(), **settings.environment, "ACTIVITY_LEDGER": ledger_id}
        self._environment = base
        self._input_dir = str(input_dir)
        self._redactor = Redactor([settings.state_hub_token])

    # -- from outside --

    async def execute(self, ticket: Ticket) -> Outcome:
        """Runs one attempt of a ticket; its end is for the caller to record.

        Never raises for what the run itself does wrong.
        """
        try:
            return await self._execute(ticket)
        except _GivenBack:
            return GIVEN_BACK
        except asyncio.CancelledError:  # its queries were still being asked: nothing has started
            return GIVEN_BACK
        except Exception as failure:  # our own mistake, or a source's: it must not hold up what waits behind it
            log.exception("run %s of %s broke the engine's own code", ticket.run_id, ticket.definition.id)
            detail = f"activity-core itself failed: {type(failure).__name__}: {failure}"[:500]
            detail = detail.encode("utf-8", "backslashreplace").decode()
            return Outcome(end=self.not_run(ticket, State.FAILED, Reason.NOT_STARTED, Stage.SHELL, detail))
        finally:
            self._cancelled.discard(ticket.run_id)

    async def _execute(self, ticket: Ticket) -> Outcome:
        if ticket.is_over:
            return LOST
        task = asyncio.current_task()
        assert task is not None
        self._preparing.add(task)
        try:
            prepared = await self._prepare(ticket)
        finally:
            self._preparing.discard(task)
        if isinstance(prepared, EndRow):
            return Outcome(end=prepared)
        if isinstance(prepared, SpawnItems):
            return Outcome(end=None, spawn=prepared)
        context_json, rule_json, secrets = prepared
        attempt = ticket.attempt + 1
        if self._stopping:
            return GIVEN_BACK
        started = await self._writer.write(
            StartRow(
                run_id=ticket.run_id,
                attempt=attempt,
                fence=fence_of(ticket.run_id, attempt),
                engine_id=self._engine_id,
                at=self._clock.now(),
                context_json=context_json,
                rule_json=rule_json,
            )
        )
        if not started.done:  # cancelled while its context was asked
            return LOST
        ticket.attempt = attempt
        return Outcome(end=await self._run_command(ticket, secrets))

    def cancel(self, run_id: RunId) -> bool:
        """Ends a command because somebody asked; False when it is not in progress here."""
        self._cancelled.add(run_id)  # also for a command that is just about to start, and against its retry
        found = self._in_progress.get(run_id)
        if found is None:
            return False
        found.command.end(Ending.CANCELLED)
        return True

    def stop_starting(self) -> None:
        """From now on nothing starts; what runs goes on."""
        self._stopping = True

    def stop_commands(self, *, at_once: bool) -> None:
        """Ends every command in progress, and any that is just about to start; `at_once` without the grace."""
        self._ends_all = True
        for task in tuple(self._preparing):
            task.cancel()
        for found in tuple(self._in_progress.values()):
            found.command.end(Ending.STOPPED)
            if at_once:
                found.command.end_at_once()

    @property
    def running(self) -> int:
        """How many commands are in progress."""
        return len(self._in_progress)

    # -- before the command --

    async def _prepare(self, ticket: Ticket) -> EndRow | SpawnItems | tuple[str | None, str | None, dict[str, str]]:
        """Context and rule: the end of a run that does not get to its command, its items, or what the command needs."""
        definition = ticket.definition
        if ticket.problem is not None:
            return self.not_run(ticket, State.FAILED, Reason.RULE_FAILED, Stage.DECIDE, ticket.problem)
        missing = missing_features(definition)
        if missing:
            features = ", ".join(missing)
            detail = f"this version of activity-core reads but does not yet run: {features}"
            return self.not_run(ticket, State.FAILED, Reason.UNSUPPORTED, Stage.DECIDE, detail)
        if ticket.parent is None and ticket.kind is Kind.SCHEDULE and self._is_paused(definition.id):
            return self.not_run(ticket, State.SKIPPED, Reason.PAUSED, Stage.DECIDE, None)
        try:
            secrets = self._secrets(definition)
        except ConfigurationError as failure:
            return self.not_run(ticket, State.FAILED, Reason.NOT_STARTED, Stage.DECIDE, str(failure))
        asks_for = ticket.parent or ticket  # the items of one parent share its answers, also those asked again
        if asks_for.context is not None and (ticket.attempt or ticket.parent is not None):
            return None, None, secrets
        redactor = Redactor([*secrets.values(), self._settings.state_hub_token]) if secrets else self._redactor
        context_json = rule_json = None
        if definition.context:
            try:
                asks_for.context = await self._gatherer.gather(definition.context, ticket.slot)
            except ContextError as failure:
                detail = redactor.text(str(failure))
                return self.not_run(ticket, State.FAILED, Reason.CONTEXT_FAILED, Stage.CONTEXT, detail)
            context_json = self._kept_context(asks_for.context, redactor)
        else:
            asks_for.context = {}
        if (
            ticket.attempt or ticket.parent is not None
        ):  # only asked again for its input: what an earlier engine was told is gone with it
            return None, None, secrets
        if definition.when:
            refusal, rule_json = self._ask_rule(ticket, redactor, context_json)
            if refusal is not None:
                return refusal
        if self._stopping:
            raise _GivenBack
        if definition.for_each is not None:
            return self._spawn(ticket, redactor, context_json, rule_json)
        return context_json, rule_json, secrets

    def _spawn(
        self, ticket: Ticket, redactor: Redactor, context_json: str | None, rule_json: str | None
    ) -> EndRow | SpawnItems:
        """The items of a run, or its end where they cannot be listed."""
        definition = ticket.definition
        each, concurrency = definition.for_each, definition.instruction.concurrency
        assert each is not None
        try:
            items = choose_items(definition, _names(ticket), redactor)
        except ExpressionError as failure:
            detail = redactor.text(f"for_each: {failure.message}")
            return self.not_run(ticket, State.FAILED, Reason.BAD_ITEMS, Stage.ITEMS, detail, context_json, rule_json)
        if self._engine_id is None:  # nothing else runs without an engine: nobody else may wait in line for these keys
            own = f"run {ticket.run_id}: "
            items = [replace(item, permit_key=item.permit_key and own + item.permit_key) for item in items]
        return SpawnItems(
            run_id=ticket.run_id,
            at=self._clock.now(),
            items=items,
            max_parallel=each.max_parallel,
            permit_limit=None if concurrency is None else concurrency.limit,
            context_json=context_json,
            rule_json=rule_json,
        )

    def _secrets(self, definition: Definition) -> dict[str, str]:
        return {
            name: read_secret(name, environment=os.environ, folder=self._settings.secrets_dir)
            for name in definition.instruction.secrets
        }

    def _ask_rule(self, ticket: Ticket, redactor: Redactor, context_json: str | None) -> tuple[EndRow | None, str]:
        definition = ticket.definition
        names = _names(ticket)
        try:
            results = evaluate_all([compile_expression(text, names) for text in definition.when], names)
        except ExpressionError as failure:  # checked at load; only a changed library can get here
            return self.not_run(ticket, State.FAILED, Reason.RULE_FAILED, Stage.RULE, failure.message), "[]"
        rule_json = stored_json(
            [
                {"expression": each.expression, "value": redactor.value(each.value)}
                | ({"error": redactor.text(each.error)} if each.error is not None else {})
                for each in results
            ]
        )
        last = results[-1]
        if last.is_true:
            return None, rule_json
        if last.error is not None:
            state, reason = State.FAILED, Reason.RULE_FAILED
            detail = redactor.text(f"{last.expression!r}: {last.error}")
        else:
            state, reason, detail = State.SKIPPED, Reason.RULE_FALSE, last.expression
        return self.not_run(ticket, state, reason, Stage.RULE, detail, context_json, rule_json), rule_json

    def _kept_context(self, context: dict[str, object], redactor: Redactor) -> str:
        """The context values as they are kept with the run: without secrets, within the cap."""
        shown_values = {name: redactor.value(value) for name, value in context.items()}
        text = stored_json(shown_values)
        if len(text) <= self._settings.context_cap:
            return text
        kept: dict[str, object] = {}
        share = max(64, self._settings.context_cap // max(1, len(context)) - 64)
        for name, value in shown_values.items():
            shown = stored_json(value)
            kept[name] = value if len(shown) <= share else {"cut": shown[:share], "characters": len(shown)}
        return stored_json(kept)

    def not_run(
        self,
        ticket: Ticket,
        state: State,
        reason: Reason,
        stage: Stage,
        detail: str | None,
        context_json: str | None = None,
        rule_json: str | None = None,
    ) -> EndRow:
        """The end of a run that did not get to its command."""
        notify, pause = _consequences(ticket, state, reason, detail)
        return EndRow(
            run_id=ticket.run_id,
            definition_id=ticket.definition.id,
            parent_run=None if ticket.parent is None else ticket.parent.run_id,
            state=state,
            at=self._clock.now(),
            reason=reason,
            stage=stage,
            detail=detail,
            context_json=context_json,
            rule_json=rule_json,
            frees=self._is_awaited(ticket),
            notify=notify,
            pause=pause,
        )

    # -- the command --

    async def _run_command(self, ticket: Ticket, secrets: dict[str, str]) -> EndRow:
        began_us = self._clock.monotonic_us()
        hidden = [*secrets.values(), self._settings.state_hub_token] if secrets else ()
        capture = Capture(ticket.run_id, ticket.attempt, self._settings.output_cap, hidden)
        input_path = f"{self._input_dir}/{ticket.run_id}-{ticket.attempt}.json"
        try:
            command = self._start_command(ticket, capture, secrets, input_path)
        except (CommandError, OSError) as failure:
            _unlink(input_path)
            return self._end(ticket, State.FAILED, Reason.NOT_STARTED, str(failure), began_us, None, capture)
        self._in_progress[ticket.run_id] = _InProgress(ticket, command, capture)
        if self._ends_all:
            command.end(Ending.STOPPED)
        elif ticket.run_id in self._cancelled:
            command.end(Ending.CANCELLED)
        if self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)
        try:
            result = await command.wait()
        finally:
            del self._in_progress[ticket.run_id]
            _unlink(input_path)
        state, reason = _judged(ticket.definition, result)
        return self._end(ticket, state, reason, _detail(ticket.definition, result, capture), began_us, result, capture)

    def _start_command(
        self, ticket: Ticket, capture: Capture, secrets: dict[str, str], input_path: str
    ) -> RunningCommand:
        instruction = ticket.definition.instruction
        slot = format_instant(ticket.slot)
        fence = fence_of(ticket.run_id, ticket.attempt)
        environment = {
            **self._environment,
            **instruction.env,
            **secrets,
            "ACTIVITY_ID": ticket.definition.id,
            "ACTIVITY_RUN_ID": str(ticket.run_id),
            "ACTIVITY_SLOT": slot,
            "ACTIVITY_ATTEMPT": str(ticket.attempt),
            "ACTIVITY_FENCE": str(fence),
            "ACTIVITY_INPUT": input_path,
        }
        about: dict[str, object] = {
            "definition": {"id": ticket.definition.id, "version": ticket.version_hash},
            "run": {
                "id": ticket.run_id,
                "kind": ticket.kind.value,
                "slot": slot,
                "attempt": ticket.attempt,
                "fence": fence,
            },
            "context": (ticket.parent or ticket).context,
        }
        if ticket.parent is not None:
            item = json.loads(ticket.item_json)
            environment |= data_variables("ACTIVITY_ITEM", item)
            about |= {"item": item, "item_key": ticket.item_key, "parent_run": ticket.parent.run_id}
        folder = instruction.cwd or environment["HOME"]
        if instruction.cwd is not None and not Path(instruction.cwd).is_dir():
            raise CommandError(f"the working directory {instruction.cwd} does not exist")
        self._write_input(input_path, encode_json(about))
        spec = CommandSpec(
            text=instruction.cmd,
            folder=folder,
            environment=environment,
            marks=run_marks(self._ledger_id, ticket.run_id),
            timeout_us=instruction.timeout_us,
            kill_grace_us=instruction.kill_grace_us,
        )
        return self._processes.start(spec, capture)

    def _write_input(self, path: str, text: str) -> None:
        try:
            _write_private(path, text)
        except FileNotFoundError:  # folders in memory are cleaned up by others, at logout for instance
            Path(self._input_dir).mkdir(mode=0o700)
            _write_private(path, text)

    def _flush(self) -> None:
        """Stores the output so far, and the process, of every command that has been running for a while."""
        self._flush_timer = None
        if not self._in_progress:
            return
        for found in self._in_progress.values():
            if not found.is_noted:
                found.is_noted = True
                stat = read_stat(found.command.pid)
                if stat is not None:
                    self._write_aside(ProcessRow(run_id=found.ticket.run_id, pid=stat.pid, pid_started=stat.started))
            chunks, rolled_out = found.capture.unsaved()
            if chunks or rolled_out:
                self._write_aside(SaveOutput(chunks=chunks, rolled_out=rolled_out))
        self._flush_timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _write_aside(self, write: ProcessRow | SaveOutput) -> None:
        future = asyncio.ensure_future(self._writer.write(write))
        self._writes.add(future)
        future.add_done_callback(self._writes.discard)

    # -- the end --

    def _end(
        self,
        ticket: Ticket,
        state: State,
        reason: Reason | None,
        detail: str | None,
        began_us: int,
        result: CommandResult | None,
        capture: Capture,
    ) -> EndRow:
        now = self._clock.now()
        retry = ticket.definition.instruction.retry
        due_at = None
        if ticket.run_id in self._cancelled and state in (State.FAILED, State.TIMED_OUT, State.INTERRUPTED):
            state, reason = State.CANCELLED, Reason.ASKED
        if state in (State.FAILED, State.TIMED_OUT) and ticket.attempt - ticket.interruptions < retry.max_attempts:
            state = State.RETRY_WAIT
            due_at = Instant(now + retry.delay_before_us(ticket.attempt - ticket.interruptions + 1))
        elif state is State.INTERRUPTED and may_be_retried(ticket):
            state = State.PENDING
        output, rolled_out = capture.unsaved()
        notify, pause = _consequences(ticket, state, reason, detail)
        return EndRow(
            run_id=ticket.run_id,
            definition_id=ticket.definition.id,
            parent_run=None if ticket.parent is None else ticket.parent.run_id,
            state=state,
            at=now,
            reason=reason,
            stage=Stage.SHELL,
            detail=detail,
            duration_us=self._clock.monotonic_us() - began_us,
            exit_status=None if result is None else result.exit_status,
            signal=None if result is None else result.signal,
            cpu_us=None if result is None else result.cpu_us,
            max_rss_bytes=None if result is None else result.max_rss_bytes,
            stdout_bytes=capture.stdout_bytes,
            stderr_bytes=capture.stderr_bytes,
            output=output,
            rolled_out=rolled_out,
            due_at=due_at,
            frees=self._is_awaited(ticket),
            notify=notify,
            pause=pause,
        )


def run_marks(ledger_id: str, run_id: int) -> frozenset[bytes]:
    """The environment strings that every process of a run inherits."""
    return frozenset({f"ACTIVITY_LEDGER={ledger_id}".encode(), f"ACTIVITY_RUN_ID={run_id}".encode()})


def may_be_retried(ticket: Ticket) -> bool:
    """Whether an interrupted run is to be started again."""
    wants = ticket.definition.instruction.on_interrupt is OnInterrupt.RETRY
    return wants and ticket.interruptions + 1 < MOST_INTERRUPTIONS


def _judged(definition: Definition, result: CommandResult) -> tuple[State, Reason | None]:
    """What an ending means, by the definition's own exit codes where it has any."""
    match result.ending:
        case Ending.STOPPED:
            return State.INTERRUPTED, Reason.ENGINE_STOPPED
        case Ending.CANCELLED:
            return State.CANCELLED, Reason.ASKED
        case Ending.TIMEOUT:
            return State.TIMED_OUT, Reason.TIMEOUT
        case None:
            pass
    if result.signal is not None:
        return State.FAILED, Reason.SIGNAL
    status = result.exit_status
    assert status is not None
    if status == 0:
        return State.SUCCEEDED, None
    match definition.instruction.exit_codes.get(status):
        case "skipped":
            return State.SKIPPED, Reason.LOCKED if status == LOCK_HELD else Reason.EXIT_STATUS
        case "succeeded":
            return State.SUCCEEDED, Reason.EXIT_STATUS
        case _:
            return State.FAILED, Reason.EXIT_STATUS


def _detail(definition: Definition, result: CommandResult, capture: Capture) -> str | None:
    said = []
    if result.ending is Ending.TIMEOUT and definition.instruction.timeout_us is not None:
        said.append(f"ran longer than {format_duration(definition.instruction.timeout_us)}")
    if result.left_behind:
        said.append("left processes running behind it, which were ended")
    if result.killed:
        said.append(f"{result.killed} process(es) ignored SIGTERM and were killed")
    if result.ending is None and result.exit_status != 0:
        last = capture.tail_text().splitlines()[-1:]
        said += [line[:200] for line in last]
    return "; ".join(said) or None


def _consequences(
    ticket: Ticket, state: State, reason: Reason | None, detail: str | None
) -> tuple[str | None, str | None]:
    """What the end of a run means to others; that of an item means nothing but by its parent's end."""
    if ticket.parent is not None:
        return None, None
    on_failure = ticket.definition.instruction.on_failure
    return consequences(ticket.definition.id, ticket.run_id, on_failure, state, reason, detail)


def _names(ticket: Ticket) -> dict[str, object]:
    """What the expressions of a run may use: its context by bind, and its slot."""
    return {**(ticket.context or {}), "slot": to_datetime(ticket.slot)}


def _write_private(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        data = text.encode("utf-8", "surrogatepass")
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - on the path of every run
