"""The pull gate's verdict over every standing a clone can have (C-16)."""

from __future__ import annotations

from itertools import product

from state_hub.git.gate import Gate, Standing, judge


def standings() -> list[Standing]:
    return [
        Standing(branch="main", checked_out=out, in_progress=doing, ahead=ahead, behind=behind)
        for out, doing, ahead, behind in product(
            ["main", "topic", None], [None, "a rebase", "a merge"], [0, 1, 7], [0, 1, 7]
        )
    ]


def is_free(standing: Standing) -> bool:
    return (
        standing.behind > 0
        and standing.ahead == 0
        and standing.in_progress is None
        and standing.checked_out == standing.branch
    )


def test_only_a_clean_clone_that_is_behind_on_its_own_branch_may_be_pulled() -> None:
    for standing, is_dirty in product(standings(), [False, True]):
        gate = judge(standing, lambda is_dirty=is_dirty: is_dirty)  # type: ignore[misc]
        assert gate.may_pull == (is_free(standing) and not is_dirty), standing


def test_a_clone_that_is_not_behind_has_nothing_to_be_told() -> None:
    for standing in standings():
        if standing.behind == 0:
            assert judge(standing, lambda: True) == Gate(), standing


def test_a_clone_that_is_behind_and_left_alone_says_why_and_by_how_much() -> None:
    for standing in standings():
        gate = judge(standing, lambda: True)
        if standing.behind == 0:
            continue
        assert gate.reason is not None and f"{standing.behind} commit(s) behind" in gate.reason
        words = {
            "diverged": standing.ahead > 0,
            str(standing.in_progress): standing.ahead == 0 and standing.in_progress is not None,
            "uncommitted": is_free(standing),
        }
        assert all(word in gate.reason for word, is_told in words.items() if is_told), gate.reason


def test_changes_are_looked_for_only_where_the_verdict_hangs_on_them() -> None:
    for standing in standings():
        asked: list[Standing] = []

        def has_changes(standing: Standing = standing, asked: list[Standing] = asked) -> bool:
            asked.append(standing)
            return False

        judge(standing, has_changes)
        assert len(asked) == is_free(standing), standing
