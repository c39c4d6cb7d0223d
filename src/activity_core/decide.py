"""What becomes of the slots between the cursor and now: pure, so that a simulation and the engine cannot differ.

`decide` opens nothing, awaits nothing and reads no clock. It looks at slots in order, from the last one
considered up to now. A slot still within its grace is *on time*; an older one is a *misfire* that the
policy rules. Slots that are given up become rows too: up to 100 of them one row each, more as one range.

=================  =======================================  ==================================
misfire_policy     a prior run is active (overlap)          the engine was away (missed)
=================  =======================================  ==================================
``skip``           skipped(overlap)                         missed(reason), none runs
``run_once``       one waits, further ones are skipped      the newest runs, unless a slot that is on
                                                            time runs anyway; older: missed(superseded)
``run_all``        all wait                                 all run that lie in catchup_window
=================  =======================================  ==================================

``overlap_policy`` replaces the first column only. Slots in a pause are skipped(paused), and slots that the
wall clock jumped over without that time having passed are missed(clock_step): neither is ever caught up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, assert_never

from activity_core.definition.model import MisfirePolicy, OverlapPolicy
from activity_core.run import ActiveRun, Reason, RunId, State, jitter_of
from activity_plumbing.clock import Instant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from activity_core.definition.model import DefinitionId, Policy
    from activity_core.trigger import Trigger

RANGE_OVER = 100
"""More given-up slots than this, with one reason, become one range row."""

STARTS_AT_ONCE = 500
"""The most slots one decision lets through; the rest follow in the next, so memory stays bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A time in which nothing could start: `since` < slot <= `until`. `reason` says why."""

    since: Instant
    until: Instant
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A definition's pause: `since` < slot <= `until`; None while it lasts."""

    since: Instant
    until: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A recorded slot that an engine before this one decided to run and did not come to."""

    run_id: RunId
    slot: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything a decision depends on."""

    definition_id: DefinitionId
    trigger: Trigger
    policy: Policy
    now: Instant
    cursor: Instant
    """The last slot already considered; everything later and not after `now` is judged."""
    active: Sequence[ActiveRun] = ()
    standing: Sequence[Standing] = ()
    pauses: Sequence[Pause] = ()
    gaps: Sequence[Gap] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """Run this slot. `waits`: behind a prior run of the definition. `run_id`: of a slot recorded earlier."""

    slot: Instant
    due_at: Instant
    waits: bool
    run_id: RunId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Do not run these slots, and say why. One slot: `first` == `last`."""

    state: State
    reason: Reason
    first: Instant
    last: Instant
    count: int
    blocked_by: RunId | None = None
    run_id: RunId | None = None


Action = StartRun | GiveUp


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to record, in slot order. `next_due_at` is when to ask again: at once where `now` has passed it."""

    actions: tuple[Action, ...]
    cursor: Instant
    next_due_at: Instant | None


@dataclass(slots=True)
class _Judge:
    """One decision in the making."""

    situation: Situation
    is_paused: bool
    actions: list[Action] = field(default_factory=list)
    active: list[ActiveRun] = field(default_factory=list)
    starts: int = 0


def decide(situation: Situation) -> Decision:
    """The actions for every slot after the cursor that is due by now, and the new cursor.

    Slots whose jitter has not passed stay undecided. At most `STARTS_AT_ONCE` runs are started; the cursor
    then stops there and `next_due_at` is not after now.
    """
    is_paused = any(pause.until is None or pause.until >= situation.now for pause in situation.pauses)
    if is_paused:  # nothing may start now, so nothing is caught up either
        situation = replace(situation, policy=replace(situation.policy, misfire=MisfirePolicy.SKIP))
    judge = _Judge(situation, is_paused, active=list(situation.active))
    now, policy, cursor = situation.now, situation.policy, situation.cursor
    # Slots before `boundary` are misfires for certain; from there on each is looked at by itself.
    boundary = Instant(max(cursor + 1, now - policy.grace_us - policy.jitter_us))
    recent = list(_recent(situation, boundary))
    newest_late = None
    if policy.misfire is MisfirePolicy.RUN_ONCE:
        newest = [*recent, *(each.slot for each in situation.standing)]
        if not any(_is_on_time(situation, slot) and _pause_at(situation, slot) is None for slot in newest):
            newest_late = _newest_late(situation, boundary, recent)
    for each in situation.standing:
        _judge_standing(judge, each, newest_late)
    stopped_at = _judge_misfires(judge, cursor, boundary, newest_late)
    if stopped_at is not None:
        return Decision(actions=tuple(judge.actions), cursor=stopped_at, next_due_at=now)
    cursor = Instant(max(cursor, boundary - 1))
    for slot in recent:
        if judge.starts >= STARTS_AT_ONCE:
            return Decision(actions=tuple(judge.actions), cursor=cursor, next_due_at=now)
        _judge_recent(judge, slot, newest_late)
        cursor = slot
    following = situation.trigger.after(cursor)
    due = None if following is None else due_at(situation, following)
    return Decision(actions=tuple(judge.actions), cursor=cursor, next_due_at=due)


def due_at(situation: Situation, slot: Instant) -> Instant:
    """When a slot is to start: its nominal time and its share of the jitter."""
    return Instant(slot + jitter_of(situation.definition_id, slot, situation.policy.jitter_us))


def _recent(situation: Situation, boundary: Instant) -> Iterator[Instant]:
    slot = situation.trigger.after(Instant(boundary - 1))
    while slot is not None and slot <= situation.now and due_at(situation, slot) <= situation.now:
        yield slot
        slot = situation.trigger.after(slot)


def _is_on_time(situation: Situation, slot: Instant) -> bool:
    return due_at(situation, slot) + situation.policy.grace_us >= situation.now


def _newest_late(situation: Situation, boundary: Instant, recent: list[Instant]) -> Instant | None:
    """The newest misfire that `run_once` may still run: inside the window, not paused, not jumped over."""
    floor = Instant(max(situation.cursor, situation.now - situation.policy.window_us - 1))
    for slot in reversed(recent):
        if slot > floor and not _is_never_caught_up(situation, slot):
            return slot
    late = situation.trigger.last_before(boundary, floor)
    while late is not None and _is_never_caught_up(situation, late):
        late = situation.trigger.last_before(_start_of_stretch(situation, late), floor)
    standing = [each.slot for each in situation.standing if each.slot >= situation.now - situation.policy.window_us]
    candidates = [each for each in (late, *standing) if each is not None]
    return max(candidates, default=None)


def _is_never_caught_up(situation: Situation, slot: Instant) -> bool:
    return _pause_at(situation, slot) is not None or _gap_at(situation, slot) is Reason.CLOCK_STEP


def _start_of_stretch(situation: Situation, slot: Instant) -> Instant:
    """Just after the start of the pause or clock step that holds the slot, so the search can jump over it."""
    starts = [pause.since for pause in situation.pauses if _contains(pause, slot)]
    starts += [gap.since for gap in situation.gaps if gap.reason is Reason.CLOCK_STEP and _contains(gap, slot)]
    return Instant(min(starts) + 1)


def _contains(stretch: Pause | Gap, slot: Instant) -> bool:
    return stretch.since < slot and (stretch.until is None or slot <= stretch.until)


def _pause_at(situation: Situation, slot: Instant) -> Pause | None:
    return next((pause for pause in situation.pauses if _contains(pause, slot)), None)


def _gap_at(situation: Situation, slot: Instant) -> Reason:
    """Why a late slot could not start; LATE when the engine was up and simply did not get to it."""
    reasons = [gap.reason for gap in situation.gaps if _contains(gap, slot)]
    if Reason.CLOCK_STEP in reasons:
        return Reason.CLOCK_STEP
    return reasons[0] if reasons else Reason.LATE


def _judge_misfires(judge: _Judge, cursor: Instant, boundary: Instant, newest_late: Instant | None) -> Instant | None:
    """Judges the slots between cursor and boundary, both exclusive; the new cursor if it stopped early."""
    situation = judge.situation
    policy, trigger = situation.policy, situation.trigger
    slot = trigger.after(cursor)
    if slot is None or slot >= boundary:
        return None
    edges = sorted(_edges(situation, cursor, boundary))
    low = cursor
    for high in edges:  # (low, high] is judged alike throughout
        inside = trigger.after(low)
        if inside is None or inside > high:
            low = high
            continue
        if policy.misfire is MisfirePolicy.RUN_ALL and not _is_given_up(situation, inside):
            while inside is not None and inside <= high:
                if judge.starts >= STARTS_AT_ONCE:
                    return Instant(inside - 1)
                _start(judge, inside)
                inside = trigger.after(inside)
        else:
            _give_up(judge, low, high, inside, newest_late)
        low = high
    return None


def _edges(situation: Situation, cursor: Instant, boundary: Instant) -> set[Instant]:
    """Upper ends (inclusive) of the stretches that are judged alike."""
    ends = {Instant(boundary - 1)}
    if situation.policy.misfire is not MisfirePolicy.SKIP:
        ends.add(Instant(situation.now - situation.policy.window_us - 1))
    stretches: list[Pause | Gap] = [*situation.pauses, *situation.gaps]
    for stretch in stretches:
        ends.add(stretch.since)
        if stretch.until is not None:
            ends.add(stretch.until)
    return {end for end in ends if cursor < end < boundary}


def _is_given_up(situation: Situation, slot: Instant) -> bool:
    outside = slot < situation.now - situation.policy.window_us
    return outside or _is_never_caught_up(situation, slot)


def _verdict(situation: Situation, slot: Instant) -> tuple[State, Reason]:
    """State and reason of a slot that is given up for being late."""
    if _pause_at(situation, slot) is not None:
        return State.SKIPPED, Reason.PAUSED
    gap = _gap_at(situation, slot)
    if gap is Reason.CLOCK_STEP:
        return State.MISSED, gap
    if situation.policy.misfire is not MisfirePolicy.SKIP and slot < situation.now - situation.policy.window_us:
        return State.MISSED, Reason.CATCHUP_WINDOW
    if situation.policy.misfire is MisfirePolicy.RUN_ONCE:
        return State.MISSED, Reason.SUPERSEDED
    return State.MISSED, gap


def _give_up(judge: _Judge, low: Instant, high: Instant, first: Instant, newest_late: Instant | None) -> None:
    """Gives up the slots of (low, high], of which `first` is the first; runs `newest_late` if it is among them."""
    situation = judge.situation
    trigger = situation.trigger
    runs_newest = (
        situation.policy.misfire is MisfirePolicy.RUN_ONCE and newest_late is not None and low < newest_late <= high
    )
    until = newest_late if runs_newest and newest_late is not None else Instant(high + 1)
    count = trigger.count(low, until)
    if count:
        state, reason = _verdict(situation, first)
        if count > RANGE_OVER:
            last = trigger.last_before(until, low)
            assert last is not None
            judge.actions.append(GiveUp(state=state, reason=reason, first=first, last=last, count=count))
        else:
            slot: Instant | None = first
            while slot is not None and slot < until:
                judge.actions.append(GiveUp(state=state, reason=reason, first=slot, last=slot, count=1))
                slot = trigger.after(slot)
    if runs_newest and newest_late is not None:
        _start(judge, newest_late)


def _judge_recent(judge: _Judge, slot: Instant, newest_late: Instant | None) -> None:
    situation = judge.situation
    if _pause_at(situation, slot) is not None:
        _give_up_one(judge, slot, State.SKIPPED, Reason.PAUSED)
    elif _is_on_time(situation, slot) or _runs_late(situation, slot, newest_late):
        _start(judge, slot)
    else:
        _give_up_one(judge, slot, *_verdict(situation, slot))


def _runs_late(situation: Situation, slot: Instant, newest_late: Instant | None) -> bool:
    match situation.policy.misfire:
        case MisfirePolicy.SKIP:
            return False
        case MisfirePolicy.RUN_ONCE:
            return slot == newest_late
        case MisfirePolicy.RUN_ALL:
            return not _is_given_up(situation, slot)
        case _:
            assert_never(situation.policy.misfire)


def _judge_standing(judge: _Judge, each: Standing, newest_late: Instant | None) -> None:
    """A slot recorded as to be run by an engine that then went away is judged once more, as if it were new."""
    situation = judge.situation
    if _is_on_time(situation, each.slot) or _runs_late(situation, each.slot, newest_late):
        _start(judge, each.slot, run_id=each.run_id)
        return
    state, reason = _verdict(situation, each.slot)
    judge.actions.append(
        GiveUp(state=state, reason=reason, first=each.slot, last=each.slot, count=1, run_id=each.run_id)
    )


def _start(judge: _Judge, slot: Instant, run_id: RunId | None = None) -> None:
    """Starts, queues or skips a slot that is to run, by what is active."""
    if judge.is_paused:
        _give_up_one(judge, slot, State.SKIPPED, Reason.PAUSED, run_id=run_id)
        return
    blocker = next((run.run_id for run in judge.active if run.run_id), None)  # 0: not recorded yet
    waits = False
    match judge.situation.policy.overlap:
        case OverlapPolicy.ALLOW:
            pass
        case OverlapPolicy.SKIP:
            if judge.active:
                _give_up_one(judge, slot, State.SKIPPED, Reason.OVERLAP, blocker, run_id)
                return
        case OverlapPolicy.QUEUE_ONE:
            if any(run.is_waiting for run in judge.active):
                _give_up_one(judge, slot, State.SKIPPED, Reason.OVERLAP, blocker, run_id)
                return
            waits = bool(judge.active)
        case OverlapPolicy.QUEUE_ALL | OverlapPolicy.REPLACE:
            # `replace` needs cancel from within; until it exists such a run is refused by name when its turn comes
            waits = bool(judge.active)
        case _:
            assert_never(judge.situation.policy.overlap)
    due = due_at(judge.situation, slot)
    judge.actions.append(StartRun(slot=slot, due_at=due, waits=waits, run_id=run_id))
    judge.active.append(ActiveRun(run_id=run_id or RunId(0), is_waiting=waits))
    judge.starts += 1


def _give_up_one(
    judge: _Judge,
    slot: Instant,
    state: State,
    reason: Reason,
    blocked_by: RunId | None = None,
    run_id: RunId | None = None,
) -> None:
    judge.actions.append(
        GiveUp(state=state, reason=reason, first=slot, last=slot, count=1, blocked_by=blocked_by, run_id=run_id)
    )


def decide_request(policy: Policy, slot: Instant, active: Sequence[ActiveRun]) -> Action:
    """What becomes of a run that somebody asked for: it is never late, but overlap rules it as any other.

    A pause does not hold it back: whoever asks by hand knows of it.
    """
    blocker = active[0].run_id if active else None
    is_refused = bool(active) and (
        policy.overlap is OverlapPolicy.SKIP
        or (policy.overlap is OverlapPolicy.QUEUE_ONE and any(run.is_waiting for run in active))
    )
    if is_refused:
        return GiveUp(state=State.SKIPPED, reason=Reason.OVERLAP, first=slot, last=slot, count=1, blocked_by=blocker)
    waits = bool(active) and policy.overlap is not OverlapPolicy.ALLOW
    return StartRun(slot=slot, due_at=slot, waits=waits)
