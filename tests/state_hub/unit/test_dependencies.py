"""C-12 against brute force on small graphs, and on graphs too deep or dense for a careless search."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from state_hub.dependencies import find_problems

if TYPE_CHECKING:
    from state_hub.dependencies import Edge

PLAN = "A-WP-0001"


def edges_of(graph: dict[str, list[str]]) -> list[Edge]:
    return [(1, "a.md", PLAN, name, tuple(targets)) for name, targets in graph.items()]


def cycles_in(edges: list[Edge]) -> list[list[str]]:
    """The cycles as told, each from its first name to the same again."""
    messages = [each.message for several in find_problems(edges).values() for each in several]
    start = "waits for itself: "
    return [message.removeprefix(start).split(" → ") for message in messages if message.startswith(start)]


def has_cycle(graph: dict[str, list[str]]) -> bool:
    """By taking away, again and again, what waits for nothing that is left."""
    left = {name: set(targets) for name, targets in graph.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    return bool(left)


names = [f"T{number:02}" for number in range(6)]
graphs = st.fixed_dictionaries({name: st.lists(st.sampled_from(names), max_size=3, unique=True) for name in names})


@settings(deadline=None, max_examples=100)
@given(graphs)
def test_every_cycle_told_is_one_and_where_there_is_one_it_is_told(graph: dict[str, list[str]]) -> None:
    told = cycles_in(edges_of(graph))
    for cycle in told:
        assert cycle[0] == cycle[-1] == min(cycle)
        assert len(set(cycle)) == len(cycle) - 1
        for here, there in pairwise(cycle):
            assert there.removeprefix(f"{PLAN}/") in graph[here.removeprefix(f"{PLAN}/")]
    assert bool(told) == has_cycle(graph)


@settings(deadline=None, max_examples=100)
@given(graphs)
def test_no_two_findings_are_about_the_same_subject_so_that_none_hides_another(graph: dict[str, list[str]]) -> None:
    found = [each.subject for several in find_problems(edges_of(graph)).values() for each in several]
    assert len(found) == len(set(found))


@settings(deadline=None)
@given(graphs)
def test_the_order_of_the_rows_does_not_change_what_is_found(graph: dict[str, list[str]]) -> None:
    edges = edges_of(graph)
    backwards = list(reversed(edges))

    def found(rows: list[Edge]) -> set[tuple[str, str]]:
        return {(each.subject, each.message) for several in find_problems(rows).values() for each in several}

    assert found(edges) == found(backwards)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(names[:3]), st.lists(st.sampled_from(names), max_size=3, unique=True)))
def test_exactly_what_does_not_exist_is_missing(graph: dict[str, list[str]]) -> None:
    found = find_problems(edges_of(graph)).get(1, [])
    missing = {each.subject: each.message for each in found if "does not exist" in each.message}
    wanted = {f"{PLAN}/{name}": [each for each in targets if each not in graph] for name, targets in graph.items()}
    assert missing == {
        name: f"depends on {', '.join(several)}, which does not exist" for name, several in wanted.items() if several
    }


def test_tasks_and_workplans_of_other_repos_count() -> None:
    edges: list[Edge] = [
        (1, "a.md", "A-WP-0001", "", ("B-WP-0001",)),
        (1, "a.md", "A-WP-0001", "T01", ("B-WP-0001/T02", "B-WP-0001")),
        (2, "b.md", "B-WP-0001", "", ()),
        (2, "b.md", "B-WP-0001", "T02", ("A-WP-0001/T01",)),
    ]
    found = find_problems(edges)
    (told,) = found[1]
    assert set(found) == {1}, "told where the first of the names stands"
    assert told.message == "waits for itself: A-WP-0001/T01 → B-WP-0001/T02 → A-WP-0001/T01"


def test_a_task_reference_means_the_task_of_the_same_workplan() -> None:
    edges: list[Edge] = [(1, "a.md", "A-WP-0001", "T01", ("T02",)), (2, "b.md", "B-WP-0001", "T02", ())]
    (told,) = find_problems(edges)[1]
    assert told.subject == "A-WP-0001/T01" and "T02" in told.message


def test_a_task_that_waits_for_itself_is_a_cycle() -> None:
    assert cycles_in([(1, "a.md", PLAN, "T01", ("T01",))]) == [[f"{PLAN}/T01", f"{PLAN}/T01"]]


def test_long_chains_and_rings_need_no_recursion() -> None:
    count = 5_000
    plans = [f"A-WP-{number:04}" for number in range(count)]
    chain: list[Edge] = [
        (1, "a.md", plan, "", (plans[n + 1],) if n + 1 < count else ()) for n, plan in enumerate(plans)
    ]
    assert find_problems(chain) == {}
    assert find_problems(chain[::-1]) == {}
    ring: list[Edge] = [*chain[:-1], (1, "a.md", plans[-1], "", (plans[0],))]
    (cycle,) = cycles_in(ring)
    assert cycle == [*plans[:10], "…", plans[0]], "the message stays short"


def test_a_dense_tangle_is_told_in_proportion_to_what_was_written() -> None:
    count = 120
    tangle = [f"T{number:03}" for number in range(count)]
    edges = edges_of({name: [other for other in tangle if other != name] for name in tangle})
    written = sum(len(target) for _, _, _, _, targets in edges for target in targets)
    told = sum(len(each.message) for each in find_problems(edges)[1])
    assert told < 4 * written
