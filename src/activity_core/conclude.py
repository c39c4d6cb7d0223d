"""What the items of a run come to, and what a failure means to the people around it: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from activity_core.definition.model import OnFailure
from activity_core.run import FAILURES, Reason, RunId, State

if TYPE_CHECKING:
    from collections.abc import Mapping

_SPOIL = (State.FAILED, State.TIMED_OUT, State.INTERRUPTED, State.CANCELLED)
"""Ends of an item that make its parent fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """How a parent ends."""

    state: State
    reason: Reason | None
    detail: str | None


def conclude(counts: Mapping[State, int], *, is_cancelled: bool) -> Conclusion:
    """The end of a parent, from how many of its items ended in each state.

    >>> conclude({State.SUCCEEDED: 37, State.FAILED: 2, State.SKIPPED: 1}, is_cancelled=False).detail
    '2 of 40 items failed, 1 skipped'
    """
    detail = counted({state: number for state, number in counts.items() if state is not State.SUCCEEDED}, counts)
    if is_cancelled:
        return Conclusion(state=State.CANCELLED, reason=Reason.ASKED, detail=detail)
    if any(counts.get(state) for state in _SPOIL):
        return Conclusion(state=State.FAILED, reason=Reason.ITEM_FAILED, detail=detail)
    return Conclusion(state=State.SUCCEEDED, reason=None, detail=detail if counts else "no items")


def counted(shown: Mapping[State, int], counts: Mapping[State, int]) -> str | None:
    """`shown` in words, the worst first, as parts of all the items in `counts`; None where nothing is shown.

    >>> counted({State.RUNNING: 2}, {State.RUNNING: 2, State.PENDING: 3})
    '2 of 5 items running'
    """
    order = (*_SPOIL, *(state for state in State if state not in _SPOIL))
    parts = [(shown[state], state.value.replace("_", " ")) for state in order if shown.get(state)]
    if not parts:
        return None
    total = sum(counts.values())
    (number, word), *others = parts
    return ", ".join([f"{number} of {total} items {word}", *(f"{number} {word}" for number, word in others)])


def consequences(
    definition_id: str, run_id: RunId, on_failure: OnFailure, state: State, reason: Reason | None, detail: str | None
) -> tuple[str | None, str | None]:
    """What an end means to others: the summary of a notification, the reason of a pause, or neither."""
    if state not in FAILURES or on_failure is OnFailure.LOG_AND_CONTINUE:
        return None, None
    summary = f"{definition_id} {state.value}" + (f" ({reason.value})" if reason else "")
    if detail:
        summary += f": {detail}"
    pause = f"run {run_id} {state.value}" if on_failure is OnFailure.PAUSE else None
    return summary[:2000], pause
