"""The runs in the engine's hands: from the row that may start, through attempts and retries, to the end on disk.

A ticket is held from the moment its row is recorded, or found, until the row is over. What is held is what
`decide` sees as active, what an end may let through, and what a stop leaves for the next start.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from activity_core.decide import GiveUp, Standing, decide_request
from activity_core.execute import Outcome, Ticket
from activity_core.ports import EndRow, GivenUp, RecordDecisions, Requeue, Written
from activity_core.run import ACTIVE, ActiveRun, Kind, Reason, RunId, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence

    from activity_core.definition.model import Definition, VersionHash
    from activity_core.ledger.records import RunRecord
    from activity_core.ledger.store import Ledger
    from activity_core.ports import LedgerWriter
    from activity_plumbing.clock import Clock, Instant

log = logging.getLogger(__name__)

STOP_WRITES_S = 10.0
"""How long a stop waits for the last ends to be written; what is not is found by the next start."""


class RunsInHand:
    """The tickets of one engine. `connect` it to workers before the first run is let through.

    `doorbell` is called for a run that was let through and is not in hand: another process recorded it a moment
    ago. `on_pause`: an end has paused its definition. `keep` holds on to work in the background.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        writer: LedgerWriter,
        *,
        definition_of: Callable[[VersionHash, str], Definition | None],
        on_end: Callable[[Ticket, EndRow], None],
        on_pause: Callable[[], None],
        doorbell: Callable[[], None],
        keep: Callable[[Coroutine[object, object, object]], object],
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._writer = writer
        self._definition_of = definition_of
        self._on_end = on_end
        self._on_pause = on_pause
        self._doorbell = doorbell
        self._keep = keep
        self._tickets: dict[RunId, Ticket] = {}
        self._active: dict[str, dict[RunId, ActiveRun]] = {}
        self._endings: set[asyncio.Future[Written]] = set()
        self._timers: dict[RunId, asyncio.TimerHandle] = {}
        self.queueing: set[str] = set()
        """Definitions with a slot being recorded that is to wait for a run in progress."""
        self.only: RunId | None = None
        """The one request to serve, for an engine started without schedules."""
        self.lock = asyncio.Lock()
        """Held while rows are recorded and taken in hand, so that nobody finds a row between the two."""

    def connect(self, *, start: Callable[[Ticket], None], cancel: Callable[[RunId], bool]) -> None:
        """Says who starts tickets, and who ends a command in progress."""
        self._start = start
        self._cancel = cancel

    def __len__(self) -> int:
        return len(self._tickets)

    def active(self, name: str) -> Collection[ActiveRun]:
        """What of a definition is in progress, oldest first."""
        runs = self._active.get(name)
        return runs.values() if runs else ()

    def is_awaited(self, ticket: Ticket) -> bool:
        """Whether anything may wait for what this run holds."""
        name = ticket.definition.id
        return ticket.has_permit or name in self.queueing or any(run.is_waiting for run in self.active(name))

    # -- taken in hand, let through, let go --

    def hold(self, ticket: Ticket) -> None:
        """Takes a run in hand, or notes that it stands otherwise than before."""
        self._tickets[ticket.run_id] = ticket
        runs = self._active.setdefault(ticket.definition.id, {})
        runs[ticket.run_id] = ActiveRun(run_id=ticket.run_id, is_waiting=not ticket.is_granted and ticket.attempt == 0)

    def release(self, run_id: RunId) -> None:
        """Lets go of a run that is over; safe for one that is not in hand."""
        ticket = self._tickets.pop(run_id, None)
        if ticket is None:
            return
        runs = self._active.get(ticket.definition.id)
        if runs is not None:
            runs.pop(run_id, None)
            if not runs:
                del self._active[ticket.definition.id]

    def let_through(self, granted: Iterable[RunId]) -> None:
        """Hands runs that may start to the workers."""
        unknown = False
        for run_id in granted:
            ticket = self._tickets.get(run_id)
            if ticket is None:
                unknown = True
            elif not ticket.is_granted:
                ticket.is_granted = True
                self.hold(ticket)
                self._start(ticket)
        if unknown and self.only is None:  # recorded by another process a moment ago: read it from the ledger
            self._doorbell()

    async def _regrant(self) -> None:
        """Lets through whatever waits and may go: after a run was ended by another process."""
        waiting = [run_id for run_id, ticket in self._tickets.items() if not ticket.is_granted]
        written = await self._writer.write(RecordDecisions(at=self._clock.now(), regrant=waiting))
        self.let_through(written.granted)

    # -- what other processes did --

    async def look(self) -> None:
        """Acts on what other processes wrote: requests, cancellations. The caller holds `lock`."""
        rows = await asyncio.to_thread(self._ledger.active_runs)
        found = {row.id for row in rows}
        for row in rows:
            ticket = self._tickets.get(row.id)
            if row.state is State.RUNNING and row.cancel_asked_at is not None:
                self._cancel(row.id)
            elif row.state is State.PENDING and ticket is not None and row.granted_at is not None:
                self.let_through([row.id])
            elif row.state is State.PENDING and ticket is None and self.only in (None, row.id):
                await self._adopt(row.id)
        for run_id in [run_id for run_id in self._tickets if run_id not in found]:
            await self._gone(run_id)

    async def _adopt(self, run_id: RunId) -> None:
        """A pending run that another process recorded: judge it, unless it was let through already."""
        row = self._ledger.run(run_id)  # read again: a run adopted before it may have let it through
        ticket = None if row is None or row.state is not State.PENDING else self._ticket_of(row)
        if row is None or ticket is None:
            return
        active = tuple(self.active(row.definition_id))
        self.hold(ticket)
        if row.granted_at is not None:
            self.let_through([row.id])
            return
        action = decide_request(ticket.definition.policy, row.slot, active)
        now = self._clock.now()
        if isinstance(action, GiveUp):
            self.release(run_id)
            given_up = GivenUp(
                run_id=row.id, state=action.state, reason=action.reason, at=now, blocked_by=action.blocked_by
            )
            await self._writer.write(RecordDecisions(at=now, given_up=[given_up]))
        else:
            written = await self._writer.write(RecordDecisions(at=now, regrant=[row.id]))
            self.let_through(written.granted)

    async def _gone(self, run_id: RunId) -> None:
        """A ticket whose row another process has ended, by cancelling it; what waited behind it may go."""
        row = self._ledger.run(run_id)
        ticket = self._tickets.get(run_id)
        if ticket is None or row is None or row.state in ACTIVE or ticket.is_granted:
            return
        timer = self._timers.pop(run_id, None)
        if timer is not None:
            timer.cancel()
        self.release(run_id)
        await self._regrant()

    # -- the end of an attempt --

    def finished(self, ticket: Ticket, outcome: Outcome) -> None:
        """An attempt is over: record it."""
        if outcome.is_lost:
            self.release(ticket.run_id)
            self._keep(self._regrant())
        if outcome.end is None:
            return
        self._record_end(ticket, outcome.end)

    def _record_end(self, ticket: Ticket, end: EndRow) -> None:
        writing = asyncio.ensure_future(self._writer.write(end))
        self._endings.add(writing)

        def recorded(writing: asyncio.Future[Written]) -> None:
            self._endings.discard(writing)
            failure = writing.exception()
            if failure is None:
                self._ended(ticket, end, writing.result())
                return
            log.error("the end of run %s cannot be recorded as it is", ticket.run_id, exc_info=failure)
            bare = replace(
                end,
                detail="parts of this run could not be recorded; see the engine's log",
                output=(),
                rolled_out=(),
                context_json=None,
                rule_json=None,
                notify=end.notify and "see its history",
            )
            if bare != end:
                self._record_end(ticket, bare)

        writing.add_done_callback(recorded)

    def _ended(self, ticket: Ticket, end: EndRow, written: Written) -> None:
        """The end of an attempt is on disk."""
        if not written.done:
            self.release(ticket.run_id)  # another process has ended it
            self._keep(self._regrant())
            return
        if end.state is State.RETRY_WAIT:
            assert end.due_at is not None
            self._retry_later(ticket, end.due_at)
        elif end.state is not State.PENDING:
            self.release(ticket.run_id)
        if end.pause is not None:
            self._on_pause()
        self.let_through(written.granted)
        self._on_end(ticket, end)

    def _retry_later(self, ticket: Ticket, due_at: Instant) -> None:
        ticket.is_granted = False
        self.hold(ticket)
        delay_s = max(0.0, (due_at - self._clock.now()) / 1e6)
        self._timers[ticket.run_id] = asyncio.get_running_loop().call_later(
            delay_s, lambda: self._keep(self._requeue(ticket))
        )

    async def _requeue(self, ticket: Ticket) -> None:
        self._timers.pop(ticket.run_id, None)
        written = await self._writer.write(Requeue(run_id=ticket.run_id, at=self._clock.now()))
        if not written.done:
            self.release(ticket.run_id)
            await self._regrant()
        self.let_through(written.granted)

    async def settled(self) -> None:
        """Returns when the ends of what has run are on disk, or cannot be for `STOP_WRITES_S`."""
        if self._endings:
            await asyncio.wait(set(self._endings), timeout=STOP_WRITES_S)

    def close(self) -> None:
        """Forgets retries to come; they stay in the ledger for the next start."""
        for timer in self._timers.values():
            timer.cancel()

    # -- taking over from an earlier engine --

    async def take_over(
        self, left: Sequence[RunRecord], interrupted: Collection[RunId], scheduled: Collection[str]
    ) -> dict[str, list[Standing]]:
        """Takes in hand what a dead engine had recorded and not ended; the slots that are to be judged once more.

        `left` are its rows in progress, `interrupted` those of its running ones that are pending again;
        `scheduled` the definitions that have slots now. The standing slots come by definition.
        """
        standing: dict[str, list[Standing]] = {}
        regrant: list[RunId] = []
        gone: list[GivenUp] = []
        now = self._clock.now()
        for row in left:
            if row.state is State.RUNNING and row.id not in interrupted:
                continue
            ticket = self._ticket_of(row)
            if ticket is None:
                gone.append(GivenUp(run_id=row.id, state=State.CANCELLED, reason=Reason.ENGINE_DOWN, at=now))
                continue
            if row.state is State.RUNNING:
                ticket.interruptions += 1
            self.hold(ticket)
            if row.state is State.RETRY_WAIT:
                self._retry_later(ticket, row.due_at)
            elif row.kind is Kind.SCHEDULE and ticket.attempt == 0:
                if row.definition_id in scheduled:
                    standing.setdefault(row.definition_id, []).append(Standing(run_id=row.id, slot=row.slot))
                else:
                    gone.append(GivenUp(run_id=row.id, state=State.MISSED, reason=Reason.ENGINE_DOWN, at=now))
            else:
                regrant.append(row.id)
        for each in gone:
            self.release(each.run_id)
        if gone or regrant:
            written = await self._writer.write(RecordDecisions(at=now, given_up=gone, regrant=regrant))
            self.let_through(written.granted)
        return standing

    def _ticket_of(self, row: RunRecord) -> Ticket | None:
        """A ticket for a row; None when no definition of that version can be had any more."""
        definition = self._definition_of(row.version_hash, row.definition_id)
        if definition is None:
            return None
        return Ticket(
            run_id=row.id,
            definition=definition,
            version_hash=row.version_hash,
            kind=row.kind,
            slot=row.slot,
            due_at=row.due_at,
            attempt=row.attempt,
            interruptions=row.interruptions,
            asked_by=row.asked_by,
            has_permit=row.permit_key is not None,
            problem=row.detail if row.attempt == 0 else None,
        )
