"""Workers take what there is, in order, and never leave anything waiting while one is free."""

from __future__ import annotations

import asyncio
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from activity_core.dispatch.local import LocalDispatch
from activity_core.execute import GIVEN_BACK, Outcome, Ticket


@settings(deadline=None, max_examples=100)
@given(
    parallel=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30),
)
def test_everything_put_is_worked_on_with_no_more_than_the_limit_at_once(
    parallel: int, steps: list[tuple[int, int]]
) -> None:
    """`steps`: how many loop turns to wait before putting each ticket, and how many turns its work takes."""
    started: list[int] = []
    ended: list[int] = []
    most = 0

    async def execute(ticket: Ticket) -> Outcome:
        nonlocal most
        number = cast("int", ticket)
        started.append(number)
        most = max(most, len(started) - len(ended))
        for _ in range(steps[number][1]):
            await asyncio.sleep(0)
        return GIVEN_BACK

    async def main() -> None:
        dispatch = LocalDispatch(parallel, execute, lambda ticket, _: ended.append(cast("int", ticket)))
        for number, (turns, _) in enumerate(steps):
            for _ in range(turns):
                await asyncio.sleep(0)
            dispatch.put(cast("Ticket", number))
        await dispatch.drained()

    asyncio.run(main())
    assert sorted(started) == sorted(ended) == list(range(len(steps)))
    if parallel == 1:
        assert started == sorted(started)
    assert most <= parallel
