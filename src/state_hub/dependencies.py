"""C-12: every depends_on names something that exists, and nothing waits for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from state_hub.checks import Found
from state_hub.registry import TASK_ID
from state_hub.store import findings, workstreams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from activity_plumbing.clock import Instant
    from state_hub.store.store import Store

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
    with store.writing() as connection:
        for repo in found.keys() | known.keys():
            findings.update_findings(
                connection, repo, found.get(repo, ()), is_judged=lambda each: each.check == "C-12", at=now
            )


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
        first = min(cycle)
        start = cycle.index(first)
        shown = [*cycle[start:], *cycle[:start], first]
        repo, path = where[first]
        message = f"waits for itself: {' → '.join(shown)}"
        found.setdefault(repo, []).append(Found(check="C-12", subject=f"{first}#cycle", message=message, path=path))
    return found


def _cycles(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """One cycle for each that a depth-first search meets; without recursion, as chains may be long."""
    cycles = []
    done: set[str] = set()
    for start in sorted(graph):
        if start in done:
            continue
        path: list[str] = []
        on_path: dict[str, int] = {}
        stack = [(start, iter(graph[start]))]
        path.append(start)
        on_path[start] = 0
        while stack:
            node, following = stack[-1]
            for target in following:
                if target in on_path:
                    cycles.append(path[on_path[target] :])
                elif target not in done:
                    on_path[target] = len(path)
                    path.append(target)
                    stack.append((target, iter(graph[target])))
                    break
            else:
                stack.pop()
                path.pop()
                del on_path[node]
                done.add(node)
    return cycles
