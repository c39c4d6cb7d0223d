"""What a parent comes to, from the ends of its items."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activity_core.conclude import conclude
from activity_core.run import FINAL, Reason, State

COUNTS = st.dictionaries(st.sampled_from(sorted(FINAL - {State.MISSED})), st.integers(1, 50))


@pytest.mark.parametrize("state", [State.FAILED, State.TIMED_OUT, State.INTERRUPTED, State.CANCELLED])
def test_one_item_that_did_not_come_to_a_good_end_makes_the_parent_fail(state: State) -> None:
    conclusion = conclude({State.SUCCEEDED: 39, state: 1}, is_cancelled=False)
    assert (conclusion.state, conclusion.reason) == (State.FAILED, Reason.ITEM_FAILED)
    assert conclusion.detail == f"1 of 40 items {state.value.replace('_', ' ')}"


def test_skipped_items_are_told_and_do_no_harm() -> None:
    conclusion = conclude({State.SUCCEEDED: 1, State.SKIPPED: 2}, is_cancelled=False)
    assert (conclusion.state, conclusion.detail) == (State.SUCCEEDED, "2 of 3 items skipped")


@given(counts=COUNTS, is_cancelled=st.booleans())
def test_a_parent_ends_in_a_state_that_a_waiting_run_may_enter(counts: dict[State, int], is_cancelled: bool) -> None:
    conclusion = conclude(counts, is_cancelled=is_cancelled)
    assert conclusion.state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)
    assert (conclusion.state is State.CANCELLED) == is_cancelled
    assert (conclusion.reason is None) == (conclusion.state is State.SUCCEEDED)
