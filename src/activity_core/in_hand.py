"""The runs in the engine's hands: from the row that may start, through attempts and retries, to the end on disk.

A ticket is held from the moment its row is recorded, or found, until the row is over. What is held is what
`decide` sees as active, what an end may let through, and what a stop leaves for the next start. A run with items is
held while it waits for them; the items are held beside it, and `decide` does not see them.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from activity_core.conclude import consequences
from activity_core.decide import GiveUp, Standing, decide_request
from activity_core.execute import Outcome, Ticket
from activity_core.ports import EndRow, GivenUp, RecordDecisions, Requeue, Written
from activity_core.run import ACTIVE, ActiveRun, Kind, Reason, RunId, Stage, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence

    from activity_core.definition.model import Definition, VersionHash
    from activity_core.ledger.records import RunRecord
    from activity_core.ledger.store import Ledger
    from activity_core.ports import LedgerWriter, SpawnItems
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
        self._endings: set[asyncio.Future[Written] | asyncio.Future[None]] = set()
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
        name, each = ticket.definition.id, ticket.definition.for_each
        return (
            ticket.has_permit
            or (ticket.parent is not None and each is not None and each.max_parallel is not None)
            or name in self.queueing
            or any(run.is_waiting for run in self.active(name))
        )

    # -- taken in hand, let through, let go --

    def hold(self, ticket: Ticket) -> None:
        """Takes a run in hand, or notes that it stands otherwise than before."""
        if ticket.parent is not None:
            ticket.parent.items += ticket.run_id not in self._tickets
            self._tickets[ticket.run_id] = ticket
            return
        self._tickets[ticket.run_id] = ticket
        runs = self._active.setdefault(ticket.definition.id, {})
        runs[ticket.run_id] = ActiveRun(run_id=ticket.run_id, is_waiting=not ticket.is_granted and ticket.attempt == 0)

    def release(self, run_id: RunId) -> None:
        """Lets go of a run that is over; safe for one that is not in hand."""
        ticket = self._tickets.pop(run_id, None)
        if ticket is None:
            return
        if ticket.parent is not None:
            ticket.parent.items -= 1
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
        waiting = [ticket for ticket in self._tickets.values() if not ticket.is_granted]
        written = await self._writer.write(RecordDecisions(at=self._clock.now(), regrant=_to_regrant(waiting)))
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
        gone = [ticket for run_id, ticket in self._tickets.items() if run_id not in found]
        gone.sort(key=lambda ticket: ticket.parent is None)  # a parent goes with its last item
        has_made_room = False
        for ticket in gone:
            has_made_room |= self._gone(ticket)
        if has_made_room:
            await self._regrant()

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

    def _gone(self, ticket: Ticket) -> bool:
        """Lets go of a run that another process has ended, by cancelling it; True if something may go in its place."""
        if self._tickets.get(ticket.run_id) is not ticket or (ticket.is_waiting and ticket.items):
            return False
        if ticket.is_granted and not ticket.is_waiting:
            ticket.is_over = True  # a worker has it, or will: it lets go
            return True
        row = self._ledger.run(ticket.run_id)
        if row is not None and row.state in ACTIVE:
            return False
        timer = self._timers.pop(ticket.run_id, None)
        if timer is not None:
            timer.cancel()
        self.release(ticket.run_id)
        return True

    async def _lost(self, ticket: Ticket) -> None:
        """A worker found that another process has ended this run; what waited behind it may go."""
        self.release(ticket.run_id)
        if ticket.parent is not None and ticket.parent.is_waiting:
            self._gone(ticket.parent)
        await self._regrant()

    # -- the end of an attempt --

    def finished(self, ticket: Ticket, outcome: Outcome) -> None:
        """An attempt is over, or a run has come to its items: record it."""
        if outcome.is_lost:
            self._keep(self._lost(ticket))
        elif outcome.spawn is not None:
            spawning = asyncio.ensure_future(self._record_items(ticket, outcome.spawn))
            self._endings.add(spawning)
            spawning.add_done_callback(self._endings.discard)
        elif outcome.end is not None:
            self._record_end(ticket, outcome.end)

    async def _record_items(self, ticket: Ticket, spawn: SpawnItems) -> None:
        """From one run to its items, in one transaction; then they are in hand and the first may start."""
        async with self.lock:
            try:
                written = await self._writer.write(spawn)
            except Exception:
                log.exception("the items of run %s cannot be recorded", ticket.run_id)
                self._record_end(ticket, self._unrecorded(ticket))
                return
            if not written.done:
                await self._lost(ticket)
                return
            ticket.is_waiting = True
            numbers = {item_key: run_id for (_, _, _, item_key, _), run_id in written.recorded.items()}
            for item in spawn.items:
                self.hold(
                    Ticket(
                        run_id=numbers[item.key],
                        definition=ticket.definition,
                        version_hash=ticket.version_hash,
                        kind=ticket.kind,
                        slot=ticket.slot,
                        due_at=ticket.due_at,
                        has_permit=item.permit_key is not None,
                        asked_by=ticket.asked_by,
                        parent=ticket,
                        item_key=item.key,
                        item_json=item.item_json,
                    )
                )
        self._parents_ended(written)
        self.let_through(written.granted)

    def _unrecorded(self, ticket: Ticket) -> EndRow:
        detail = "its items could not be recorded; see the engine's log"
        state, reason, name = State.FAILED, Reason.NOT_STARTED, ticket.definition.id
        on_failure = ticket.definition.instruction.on_failure
        notify, pause = consequences(name, ticket.run_id, on_failure, state, reason, detail)
        return EndRow(
            run_id=ticket.run_id,
            definition_id=ticket.definition.id,
            state=state,
            at=self._clock.now(),
            reason=reason,
            stage=Stage.ITEMS,
            detail=detail,
            notify=notify,
            pause=pause,
        )

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
            self._keep(self._lost(ticket))
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
        self._parents_ended(written)

    def _parents_ended(self, written: Written) -> None:
        """The last item took its parent with it."""
        for end in written.ended:
            ticket = self._tickets.get(end.run_id)
            if ticket is not None:
                self.release(end.run_id)
                if end.pause is not None:
                    self._on_pause()
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
            await self._lost(ticket)
        self.let_through(written.granted)

    async def settled(self) -> None:
        """Returns when the ends of what has run are on disk, or cannot be for `STOP_WRITES_S`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STOP_WRITES_S
        while self._endings and loop.time() < deadline:
            await asyncio.wait(set(self._endings), timeout=deadline - loop.time())

    def close(self) -> None:
        """Forgets retries to come; they stay in the ledger for the next start."""
        for timer in self._timers.values():
            timer.cancel()

    # -- taking over from an earlier engine --

    async def take_over(self, left: Sequence[RunRecord], scheduled: Collection[str]) -> dict[str, list[Standing]]:
        """Takes in hand what a dead engine had recorded and not ended; the slots that are to be judged once more.

        `left` are its rows in progress, none of them running any more; `scheduled` the definitions that have slots
        now. The standing slots come by definition. A parent goes on waiting, its items go on.
        """
        standing: dict[str, list[Standing]] = {}
        regrant: list[Ticket] = []
        gone: list[GivenUp] = []
        now = self._clock.now()
        for row in left:  # by slot and number, so a parent comes before its items
            ticket = self._ticket_of(row)
            if ticket is None:
                gone.append(GivenUp(run_id=row.id, state=State.CANCELLED, reason=Reason.ENGINE_DOWN, at=now))
                continue
            self.hold(ticket)
            if row.state is State.WAITING:
                continue
            if row.state is State.RETRY_WAIT:
                self._retry_later(ticket, row.due_at)
            elif ticket.parent is not None:
                regrant.append(ticket)
            elif row.kind is Kind.SCHEDULE and ticket.attempt == 0:
                if row.definition_id in scheduled:
                    standing.setdefault(row.definition_id, []).append(Standing(run_id=row.id, slot=row.slot))
                else:
                    gone.append(GivenUp(run_id=row.id, state=State.MISSED, reason=Reason.ENGINE_DOWN, at=now))
            else:
                regrant.append(ticket)
        for each in gone:
            self.release(each.run_id)
        if gone or regrant:
            written = await self._writer.write(RecordDecisions(at=now, given_up=gone, regrant=_to_regrant(regrant)))
            self.let_through(written.granted)
        return standing

    def _ticket_of(self, row: RunRecord) -> Ticket | None:
        """A ticket for a row; None when no definition of that version can be had any more, or no parent."""
        parent = None if row.parent_run is None else self._tickets.get(row.parent_run)
        if parent is not None:
            definition: Definition | None = parent.definition
        else:
            definition = self._definition_of(row.version_hash, row.definition_id)
        if definition is None or (row.parent_run is not None and parent is None):
            return None
        is_waiting = row.state is State.WAITING
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
            parent=parent,
            item_key=row.item_key,
            item_json=row.item_json or "null",
            is_granted=is_waiting,
            is_waiting=is_waiting,
        )


def _to_regrant(tickets: Iterable[Ticket]) -> list[RunId]:
    """Those to ask about: of the items of one parent a single one, as it brings the others with it."""
    return list(
        {ticket.parent.run_id if ticket.parent else ticket.run_id: ticket.run_id for ticket in tickets}.values()
    )
