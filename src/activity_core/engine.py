"""The loop: look at the clock, decide what is due, persist, act; and everything that wakes it.

One heap holds the next slot of every definition; one alarm is set to its head. Nothing is polled per
definition, so ten thousand of them cost memory and nothing else until they are due.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import os
import socket
import stat
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from activity_core.catalog.catalog import Catalog, Changes, InForce
from activity_core.clockwatch import ClockWatch, Jump
from activity_core.context.gather import ContextGatherer
from activity_core.context.sources import SourceTools
from activity_core.decide import (
    Decision,
    Gap,
    GiveUp,
    Pause,
    Situation,
    Standing,
    StartRun,
    decide,
)
from activity_core.definition.model import Definition, VersionHash
from activity_core.dispatch.local import LocalDispatch
from activity_core.errors import ConfigurationError
from activity_core.execute import Executor, Ticket
from activity_core.in_hand import RunsInHand
from activity_core.ledger.writer import GroupedWriter
from activity_core.ports import CursorMove, EndRow, GivenUp, RecordDecisions, SlotRow
from activity_core.retention import prune
from activity_core.run import Kind, RunId, State
from activity_core.shell.process import Processes
from activity_core.slot_rows import new_row
from activity_core.trigger import Trigger, trigger_of
from activity_plumbing.alarm import WallAlarm
from activity_plumbing.clock import DAY_US, SECOND_US, Clock, Instant, to_datetime
from activity_plumbing.database import is_passing
from activity_plumbing.proc import read_stat

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from pathlib import Path

    from activity_core.ledger.records import EngineRecord, RunRecord
    from activity_core.ledger.store import Ledger
    from activity_core.settings import Settings

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 60.0
RESCAN_AFTER_FAILURE_S = 5.0
REFUSED_AGAIN_US = 10 * SECOND_US
"""Well within the usual grace, so that the slot still is on time."""
PRUNE_EVERY_S = 3600.0
_MOST_PER_TICK = 2_000
"""Definitions decided in one transaction; more that are due follow in the next."""


@dataclass(slots=True, kw_only=True)
class _Scheduled:
    """A definition in the heap."""

    entry: InForce
    trigger: Trigger
    cursor: Instant
    due: Instant | None = None


class Engine:
    """One engine on one ledger. `start`, then `stop`; `on_end` hears of every run that ends."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        clock: Clock,
        *,
        on_end: Callable[[Ticket, EndRow], None] = lambda _ticket, _end: None,
        on_change: Callable[[Changes], None] = lambda _changes: None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._clock = clock
        self._on_end = on_end
        self._on_change = on_change
        self.catalog = Catalog(ledger, settings.definitions)
        self._scheduled: dict[str, _Scheduled] = {}
        self._heap: list[tuple[Instant, str]] = []
        self._pauses: dict[str, list[Pause]] = {}
        self._gaps: list[Gap] = []
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()
        self._recheck: asyncio.TimerHandle | None = None
        self._scan_lock = asyncio.Lock()
        self._standing_again: dict[str, Sequence[Standing]] = {}
        self._stopping = False
        self.trouble: str | None = None

    # -- life --

    async def start(self, *, schedules: bool = True) -> None:
        """Recovers what an earlier engine left, loads the catalog and judges what is due. Then it is ready.

        Without `schedules` it serves single requests only: slots stay undecided for the next engine, which
        also accounts for the time in between.
        """
        self._schedules = schedules
        self._ledger_id = self._ledger.identity()
        self._watch = ClockWatch(self._clock)
        before = self._ledger.last_engine()
        if before is not None:
            self._refuse_copy(before)
        now = self._clock.now()
        jump = None if before is None or not schedules else self._watch.since_engine(before)
        self._engine_id = None
        if schedules:
            self._engine_id = self._ledger.add_engine(
                host=socket.gethostname(),
                pid=os.getpid(),
                boot_id=self._watch.boot_id,
                at=now,
                boottime_us=self._clock.boottime_us(),
                pid_started=_own_start(),
            )
        self._writer = GroupedWriter(self._ledger, self._note_trouble)
        self._processes = Processes()
        self._tools = SourceTools(self._settings, self._ledger)
        self._input_dir = self._make_input_dir()
        self._runs = RunsInHand(
            self._ledger,
            self._clock,
            self._writer,
            definition_of=self._definition_of_version,
            on_end=self._on_end,
            on_pause=self._load_pauses,
            doorbell=self.doorbell,
            keep=self._keep,
        )
        self._executor = Executor(
            settings=self._settings,
            clock=self._clock,
            writer=self._writer,
            gatherer=ContextGatherer(self._tools),
            processes=self._processes,
            ledger_id=self._ledger_id,
            engine_id=self._engine_id,
            input_dir=self._input_dir,
            is_paused=self._is_paused,
            is_awaited=self._runs.is_awaited,
        )
        self._dispatch = LocalDispatch(self._settings.max_parallel, self._executor.execute, self._runs.finished)
        self._runs.connect(start=self._dispatch.put, cancel=self._executor.cancel)
        self._alarm = WallAlarm(self._changed.set)
        if jump is not None:
            await self._apply_jump(jump)
        self._gaps = [
            Gap(since=gap.since, until=gap.until, reason=gap.reason)
            for gap in self._ledger.gaps_after(Instant(now - 400 * DAY_US))
        ]
        self._load_pauses()
        left = self._ledger.active_runs()
        self._apply_catalog(self.catalog.scan(now))
        if schedules:
            await self._cursors_from_ledger()
        await self._take_over(left)
        if schedules:
            self._keep(self._housekeep())
        self._changed.set()

    def _refuse_copy(self, before: EngineRecord) -> None:
        """Raises ConfigurationError when the engine of this ledger lives on: in another folder, as we hold this one."""
        stat_now = read_stat(before.pid)
        is_same = stat_now is not None and stat_now.started == before.pid_started and before.pid != os.getpid()
        if is_same and before.stopped_at is None and before.boot_id == self._watch.boot_id:
            raise ConfigurationError(
                f"{self._settings.state_dir} is a copy of a state folder that engine {before.pid} is using: both would"
                " end each other's commands; stop that engine, or start from an empty folder"
            )

    async def run(self) -> None:
        """Ticks until `stop`. Call `start` first."""
        while not self._stopping:
            await self._changed.wait()
            self._changed.clear()
            if not self._stopping:
                await self.tick()

    async def tick(self) -> None:
        """Decides everything that is due now, records it, and starts what may start; then sets the alarm."""
        while not self._stopping:
            await self._look_at_clock()
            now = self._clock.now()
            due = self._pop_due(now)
            if not due:
                break
            async with self._runs.lock:
                await self._decide_and_record(due, now)
        self._alarm.set(self.next_due())

    async def stop(self, *, grace_us: int | None = None) -> None:
        """Starts nothing more, lets commands finish within the grace, ends the others as interrupted."""
        self._stopping = True
        self._changed.set()
        self._dispatch.stop()
        self._executor.stop_starting()
        grace_s = (self._settings.shutdown_grace if grace_us is None else grace_us) / 1e6
        try:
            await asyncio.wait_for(asyncio.shield(self._drained()), grace_s)
        except TimeoutError:
            self._executor.stop_commands(at_once=False)
            await self._drained()
        await self._close()

    @property
    def running(self) -> int:
        """How many commands are in progress."""
        return self._executor.running

    @property
    def in_hand(self) -> int:
        """How many runs are recorded and not over: waiting, in progress, or between two attempts."""
        return len(self._runs)

    def stop_at_once(self) -> None:
        """The second request to stop: commands in progress are killed now."""
        self._executor.stop_commands(at_once=True)

    async def _drained(self) -> None:
        await self._dispatch.drained()
        await self._runs.settled()

    async def _close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        self._runs.close()
        if self._recheck is not None:
            self._recheck.cancel()
        self._alarm.close()
        await self._processes.settle()
        self._processes.close()
        await self._tools.close()
        if not self._writer.close():
            log.error("the ends of the last runs could not be written; the next start will call them interrupted")
        with contextlib.suppress(OSError):
            self._input_dir.rmdir()
        if self._engine_id is not None:
            try:
                self._ledger.note_alive(self._engine_id, self._clock.now(), self._clock.boottime_us(), stopped=True)
            except Exception as failure:
                log.error("the stop could not be recorded: %s", failure)

    # -- what wakes the loop besides the alarm --

    def serve_request(self, run_id: RunId) -> None:
        """Judges and runs this request and nothing else: for an engine started without schedules."""
        self._runs.only = run_id
        self.doorbell()

    def doorbell(self) -> None:
        """Somebody wrote to the ledger: look for requests, cancellations and pauses."""
        self._keep(self._resync())

    def files_changed(self) -> None:
        """Definition files may have changed: read them again."""
        self._keep(self._rescan())

    async def _rescan(self) -> None:
        async with self._scan_lock:
            if self._stopping:
                return
            try:
                changes = await asyncio.to_thread(self.catalog.scan, self._clock.now())
            except Exception as failure:
                log.error("the definitions could not be recorded, and are read again soon: %s", failure)
                asyncio.get_running_loop().call_later(RESCAN_AFTER_FAILURE_S, self.files_changed)
                return
        self._apply_catalog(changes)
        self._changed.set()

    async def _resync(self) -> None:
        async with self._runs.lock:
            if self._stopping:
                return
            self._load_pauses()
            await self._runs.look()

    async def _housekeep(self) -> None:
        """Once a minute: say that we are alive, look for changes nobody told us of; now and then prune."""
        loop = asyncio.get_running_loop()
        next_prune = loop.time() + 5 * HOUSEKEEPING_S
        next_scan = loop.time() + self._settings.rescan_interval / 1e6
        await asyncio.to_thread(self.catalog.note_origins)
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            try:
                if loop.time() >= next_prune:  # first: on a full disk it makes room for the rest
                    next_prune = loop.time() + PRUNE_EVERY_S
                    await asyncio.to_thread(prune, self._ledger, self._settings, self._clock.now())
                assert self._engine_id is not None
                await asyncio.to_thread(
                    self._ledger.note_alive, self._engine_id, self._clock.now(), self._clock.boottime_us()
                )
                await self._resync()
                if loop.time() >= next_scan:
                    next_scan = loop.time() + self._settings.rescan_interval / 1e6
                    await self._rescan()
                    await asyncio.to_thread(self.catalog.note_origins)
            except Exception as failure:  # most likely the disk; the next minute tries again
                log.error("housekeeping failed and is tried again in a minute: %s", failure)

    # -- the clock --

    async def _look_at_clock(self) -> None:
        jump = self._watch.look()
        if jump is not None:
            await self._apply_jump(jump)

    async def _insist(self, write: Callable[[], None]) -> None:
        """Writes to the ledger, again and again while it passes by itself: the disk is full, the file locked."""
        while True:
            try:
                write()
                return
            except DBAPIError as failure:
                if not is_passing(failure):
                    raise
                log.error("the ledger cannot be written: %s; trying again until it can", failure.orig)
                await asyncio.sleep(1.0)

    async def _apply_jump(self, jump: Jump) -> None:
        """Remembers why nothing could start; after a step back, opens again what has not come yet."""
        for gap in jump.gaps:
            log.warning(
                "nothing could start between %s and %s: %s",
                to_datetime(gap.since),
                to_datetime(gap.until),
                gap.reason.value,
            )
            self._gaps.append(gap)
            await self._insist(partial(self._ledger.add_gap, gap.since, gap.until, gap.reason, jump.now))
        if jump.went_back:
            log.warning("the wall clock went back to %s", to_datetime(jump.now))
            await self._step_back(jump.now)

    async def _step_back(self, now: Instant) -> None:
        gone: list[RunId] = []
        shortened: list[tuple[RunId, Instant, int]] = []
        for row in self._ledger.given_up_after(now):
            if row.slot > now:
                gone.append(row.id)
                continue
            trigger = self._trigger_of_version(row.version_hash)
            last = None if trigger is None else trigger.last_before(Instant(now + 1), Instant(row.slot - 1))
            if trigger is not None and last is not None:
                shortened.append((row.id, last, trigger.count(Instant(row.slot - 1), Instant(now + 1))))
        await self._insist(partial(self._ledger.step_back, now, gone, shortened))
        for scheduled in self._scheduled.values():
            if scheduled.cursor > now:
                scheduled.cursor = now
                self._push(scheduled, scheduled.trigger.after(now))

    def _trigger_of_version(self, version_hash: str) -> Trigger | None:
        definition = self._definition_of_version(VersionHash(version_hash))
        return None if definition is None else trigger_of(definition.schedule)

    # -- the catalog --

    def _apply_catalog(self, changes: Changes) -> None:
        """Brings the heap in line with what is in force."""
        for name in changes.removed:
            self._scheduled.pop(name, None)
        cursors = None
        for entry in changes.in_force:
            definition = entry.definition
            trigger = trigger_of(definition.schedule) if definition.enabled else None
            if trigger is None:
                self._scheduled.pop(definition.id, None)
                continue
            known = self._scheduled.get(definition.id)
            if known is not None and known.entry.trigger_hash == entry.trigger_hash:
                known.entry = entry
                continue
            if cursors is None:
                cursors = self._ledger.cursors()
            cursor = cursors.get((definition.id, entry.trigger_hash), self._clock.now())
            scheduled = _Scheduled(entry=entry, trigger=trigger, cursor=cursor)
            self._scheduled[definition.id] = scheduled
            self._push(scheduled, trigger.after(cursor))
        if changes.recheck_at is not None:
            delay_s = max(0.05, (changes.recheck_at - self._clock.now()) / 1e6)
            if self._recheck is not None:
                self._recheck.cancel()
            self._recheck = asyncio.get_running_loop().call_later(delay_s, self.files_changed)
        if changes.in_force or changes.removed or changes.problems:
            self._on_change(changes)

    async def _cursors_from_ledger(self) -> None:
        """A last engine's clock may have been ahead: no cursor lies in the future."""
        now = self._clock.now()
        if any(scheduled.cursor > now for scheduled in self._scheduled.values()):
            await self._step_back(now)

    # -- the heap --

    def _push(self, scheduled: _Scheduled, due: Instant | None) -> None:
        scheduled.due = due
        if due is not None:
            heapq.heappush(self._heap, (due, scheduled.entry.definition.id))

    def next_due(self) -> Instant | None:
        """The instant at which something is due next."""
        while self._heap:
            due, name = self._heap[0]
            scheduled = self._scheduled.get(name)
            if scheduled is not None and scheduled.due == due:
                return due
            heapq.heappop(self._heap)
        return None

    def upcoming(self) -> list[tuple[Instant, str]]:
        """(when due, id) of every scheduled definition, in no order."""
        return [(scheduled.due, name) for name, scheduled in self._scheduled.items() if scheduled.due is not None]

    def _pop_due(self, now: Instant) -> list[_Scheduled]:
        due: list[_Scheduled] = []
        while len(due) < _MOST_PER_TICK:
            head = self.next_due()
            if head is None or head > now:
                break
            _, name = heapq.heappop(self._heap)
            scheduled = self._scheduled[name]
            scheduled.due = None
            due.append(scheduled)
        return due

    # -- decisions --

    async def _decide_and_record(
        self, due: Sequence[_Scheduled], now: Instant, standing: dict[str, list[Standing]] | None = None
    ) -> None:
        rows: list[SlotRow] = []
        cursors: list[CursorMove] = []
        given_up: list[GivenUp] = []
        regrant: list[RunId] = []
        entries: dict[str, InForce] = {}
        before = [scheduled.cursor for scheduled in due]
        for scheduled in due:
            entry = scheduled.entry
            name = entry.definition.id
            entries[name] = entry
            decision = decide(self._situation(scheduled, now, (standing or self._standing_again).get(name, ())))
            rows += self._rows(decision, entry, now, given_up, regrant)
            if decision.cursor != scheduled.cursor:
                cursors.append(CursorMove(definition_id=name, trigger_hash=entry.trigger_hash, slot=decision.cursor))
                scheduled.cursor = decision.cursor
            self._push(scheduled, decision.next_due_at)
        if not (rows or cursors or given_up or regrant):
            return
        self._runs.queueing = {row.definition_id for row in rows if row.state is State.PENDING and not row.is_granted}
        write = RecordDecisions(at=now, rows=rows, cursors=cursors, given_up=given_up, regrant=regrant)
        try:
            written = await self._writer.write(write)
        except Exception:
            for scheduled, cursor in zip(due, before, strict=True):
                scheduled.cursor = cursor
            await self._decide_one_by_one(due, now, standing)
            return
        for each in given_up:
            self._runs.release(each.run_id)
        for row in rows:
            run_id = written.recorded.get((row.definition_id, row.kind, row.slot, row.item_key, row.request_id))
            if run_id is not None:
                entry = entries[row.definition_id]
                self._runs.hold(
                    Ticket(
                        run_id=run_id,
                        definition=entry.definition,
                        version_hash=entry.version_hash,
                        kind=row.kind,
                        slot=row.slot,
                        due_at=row.due_at,
                        has_permit=row.permit_key is not None,
                        problem=row.detail,
                    )
                )
        self._runs.queueing = set()
        for written_name in entries:
            self._standing_again.pop(written_name, None)
        self._runs.let_through(written.granted)

    async def _decide_one_by_one(
        self, due: Sequence[_Scheduled], now: Instant, standing: dict[str, list[Standing]] | None
    ) -> None:
        """After a refused write: each definition by itself; the one that cannot be written is tried again later."""
        if len(due) > 1:
            for scheduled in due:
                await self._decide_and_record([scheduled], now, standing)
            return
        name = due[0].entry.definition.id
        self._standing_again[name] = (standing or {}).get(name, ())
        log.exception("the slots of %s cannot be recorded; trying again in ten seconds", name)
        self._push(due[0], Instant(now + REFUSED_AGAIN_US))

    def _situation(self, scheduled: _Scheduled, now: Instant, standing: Sequence[Standing]) -> Situation:
        definition = scheduled.entry.definition
        judged_again = {each.run_id for each in standing}
        return Situation(
            definition_id=definition.id,
            trigger=scheduled.trigger,
            policy=definition.policy,
            now=now,
            cursor=scheduled.cursor,
            active=[run for run in self._runs.active(definition.id) if run.run_id not in judged_again],
            standing=standing,
            pauses=self._pauses.get(definition.id, ()),
            gaps=self._gaps,
        )

    def _rows(
        self, decision: Decision, entry: InForce, now: Instant, given_up: list[GivenUp], regrant: list[RunId]
    ) -> Iterable[SlotRow]:
        """The rows of a decision; slots recorded earlier go to `given_up` and `regrant`."""
        definition = entry.definition
        for action in decision.actions:
            match action:
                case StartRun(run_id=None):
                    yield new_row(definition, entry.version_hash, action.slot, action.due_at, now, waits=action.waits)
                case StartRun(run_id=run_id):
                    assert run_id is not None
                    regrant.append(run_id)
                case GiveUp(run_id=None):
                    yield SlotRow(
                        definition_id=definition.id,
                        kind=Kind.SCHEDULE,
                        slot=action.first,
                        last_slot=action.last,
                        slot_count=action.count,
                        version_hash=entry.version_hash,
                        state=action.state,
                        reason=action.reason,
                        due_at=action.first,
                        created_at=now,
                        blocked_by=action.blocked_by,
                    )
                case GiveUp(run_id=run_id):
                    assert run_id is not None
                    blocker = action.blocked_by
                    given_up.append(
                        GivenUp(run_id=run_id, state=action.state, reason=action.reason, at=now, blocked_by=blocker)
                    )

    # -- taking over from an earlier engine --

    async def _take_over(self, left: Sequence[RunRecord]) -> None:
        """Ends what still runs of a dead engine, and judges again what it had decided and not started."""
        from activity_core.recover import end_survivors

        if left:
            self._ledger.ungrant_pending()
        running = [row for row in left if row.state is State.RUNNING]
        await end_survivors(
            running,
            ledger_id=self._ledger_id,
            boot_id=self._watch.boot_id,
            ledger=self._ledger,
            definition_of=self._definition_of_version,
            writer=self._writer,
            now=self._clock.now(),
        )
        if not self._schedules:
            return  # what waits is for an engine that stays
        if running:
            left = self._ledger.active_runs()
        standing = await self._runs.take_over(left, self._scheduled)
        if standing:
            await self._decide_and_record([self._scheduled[name] for name in standing], self._clock.now(), standing)

    def _definition_of_version(self, version_hash: VersionHash, name: str | None = None) -> Definition | None:
        if name is not None:
            entry = self.catalog.in_force.get(name)
            if entry is not None and entry.version_hash == version_hash:
                return entry.definition
        from activity_core.catalog.load import restore

        version = self._ledger.version(version_hash)
        return None if version is None else restore(version.plain_json)

    # -- small things --

    def _load_pauses(self) -> None:
        # a pause that ended matters for slots that were missed since; gaps and windows reach back that far
        found: dict[str, list[Pause]] = {}
        for record in self._ledger.pauses(after=Instant(self._clock.now() - 400 * DAY_US)):
            found.setdefault(record.definition_id, []).append(Pause(since=record.since, until=record.until))
        self._pauses = found

    def _is_paused(self, name: str) -> bool:
        return any(pause.until is None for pause in self._pauses.get(name, ()))

    def _note_trouble(self, trouble: str | None) -> None:
        self.trouble = trouble

    def _make_input_dir(self) -> Path:
        """An empty folder of our own for input files; in the state folder where another account was quicker."""
        for folder in (self._settings.input_dir(self._ledger_id), self._settings.state_dir / "input"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
                for left in folder.iterdir():
                    left.unlink()
                return folder
            log.warning("%s is not a private folder of this account and is not used", folder)
        raise ConfigurationError(f"{self._settings.state_dir}/input is not a private folder: chmod 700, or remove it")

    def _keep(self, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        task: asyncio.Task[object] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of the engine failed", exc_info=task.exception())


def _own_start() -> int:
    own = read_stat(os.getpid())
    assert own is not None
    return own.started
