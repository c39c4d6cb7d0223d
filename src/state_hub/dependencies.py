"""C-12: every depends_on names something that exists, and nothing waits for itself."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from state_hub.checks import Found
from state_hub.registry import TASK_ID
from state_hub.store import findings, workstreams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from activity_plumbing.clock import Instant
    from state_hub.store.store import Store

_SHOWN = 10

Edge = tuple[int, str, str, str, tuple[str, ...]]
"""(repo, path, workplan id, task id or '', what it depends on)."""


def check_dependencies(store: Store, now: Instant) -> None:
    """Looks at the whole fleet; opens and closes findings of C-12."""
    with store.reading() as connection:
        edges = workstreams.dependencies(connection)
        known = findings.open_of_check(connection, "C-12")
    found = find_problems(edges)
    wanted = {(repo, each.subject, each.message) for repo, several in found.items() for each in several}
    if wanted == {(repo, each.subject, each.message) for repo, several in known.items() for each in several}:
        return
    store.write(lambda connection: findings.update_check(connection, "C-12", found, known, now))


def find_problems(edges: Sequence[Edge]) -> dict[int, list[Found]]:
    """By repo: what depends on nothing that exists, and what depends on itself in the end.

    >>> find_problems([(1, "a.md", "A-WP-0001", "T01", ("T02",))])[1][0].message
    'depends on T02, which does not exist'
    """
    graph: dict[str, list[str]] = {}
    where: dict[str, tuple[int, str]] = {}
    for repo, path, workplan, task, _ in edges:
        name = f"{workplan}/{task}" if task else workplan
        graph[name] = []
        where[name] = (repo, path)
    found: dict[int, list[Found]] = {}
    for repo, path, workplan, task, depends in edges:
        name = f"{workplan}/{task}" if task else workplan
        missing = []
        for each in depends:
            target = f"{workplan}/{each}" if TASK_ID.fullmatch(each) else each
            if target in graph:
                graph[name].append(target)
            else:
                missing.append(each)
        if missing:
            message = f"depends on {', '.join(missing)}, which does not exist"
            found.setdefault(repo, []).append(Found(check="C-12", subject=name, message=message, path=path))
    for cycle in _cycles(graph):
        shown = " → ".join([*cycle, cycle[0]] if len(cycle) <= _SHOWN else [*cycle[:_SHOWN], "…", cycle[0]])
        repo, path = where[cycle[0]]
        message = f"waits for itself: {shown}"
        found.setdefault(repo, []).append(Found(check="C-12", subject=f"{cycle[0]}#cycle", message=message, path=path))
    return found


def _cycles(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """For each knot of things that wait for each other: a shortest cycle through its first name."""
    cycles = []
    for knot in _knots(graph):
        first = min(knot)
        came_from: dict[str, str] = {}
        waiting = deque([first])
        while first not in came_from:
            node = waiting.popleft()
            for target in graph[node]:
                if target in knot and target not in came_from:
                    came_from[target] = node
                    waiting.append(target)
        cycle = [first]
        node = came_from[first]
        while node != first:
            cycle.append(node)
            node = came_from[node]
        cycles.append([cycle[0], *reversed(cycle[1:])])
    return cycles


def _knots(graph: Mapping[str, Sequence[str]]) -> list[frozenset[str]]:
    """Strongly connected components that hold a cycle (Tarjan 1972), without recursion, as chains may be long."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    open_nodes: list[str] = []
    is_open: set[str] = set()
    knots = []
    for start in sorted(graph):
        if start in index:
            continue
        work = [(start, iter(graph[start]))]
        index[start] = low[start] = len(index)
        open_nodes.append(start)
        is_open.add(start)
        while work:
            node, following = work[-1]
            for target in following:
                if target not in index:
                    index[target] = low[target] = len(index)
                    open_nodes.append(target)
                    is_open.add(target)
                    work.append((target, iter(graph[target])))
                    break
                if target in is_open:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    at = open_nodes.index(node) if open_nodes[-1] != node else len(open_nodes) - 1
                    members = frozenset(open_nodes[at:])
                    del open_nodes[at:]
                    is_open -= members
                    if len(members) > 1 or node in graph[node]:
                        knots.append(members)
    return knots
