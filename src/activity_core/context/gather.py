"""Asking a definition's context queries, each question of one instant only once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from activity_core.context.sources import SourceTools, make_source
from activity_core.errors import ContextError
from activity_core.rule import refuse_oversized
from activity_plumbing.http_guard import HttpGuardError
from activity_plumbing.units import parse_duration_us

if TYPE_CHECKING:
    from collections.abc import Mapping

    from activity_core.definition.model import ContextQuery
    from activity_core.ports import ContextSource
    from activity_plumbing.clock import Instant

LONGEST_ASK_S = 60.0
"""For named sources; http_get has a timeout of its own."""
SHARED_FOR_S = 5.0
"""Runs of one slot share an answer for this long; later ones ask again."""


@dataclass(slots=True)
class _Asked:
    answer: asyncio.Future[object]
    asked_at: float


class ContextGatherer:
    """Answers context queries; one per engine."""

    def __init__(self, tools: SourceTools) -> None:
        self._tools = tools
        self._sources: dict[str, ContextSource] = {}
        self._asked: dict[tuple[str, str, int], _Asked] = {}

    async def gather(self, queries: tuple[ContextQuery, ...], slot: Instant) -> dict[str, object]:
        """Each query's answer by its bind. Raises ContextError naming the query that failed."""
        answers: dict[str, object] = {}
        for query in queries:
            try:
                answers[query.bind] = await self._shared(query, slot)
            except ContextError as failure:
                raise ContextError(f"{query.bind} ({query.kind}): {failure}") from failure
        return answers

    async def _shared(self, query: ContextQuery, slot: Instant) -> object:
        loop = asyncio.get_running_loop()
        now = loop.time()
        key = (query.kind, json.dumps(dict(query.arguments), sort_keys=True) if query.arguments else "", slot)
        known = self._asked.get(key)
        if known is None or now - known.asked_at >= SHARED_FOR_S:
            self._forget(now)
            known = self._asked[key] = _Asked(asyncio.ensure_future(self._checked(query)), now)
        try:
            return known.answer.result() if known.answer.done() else await asyncio.shield(known.answer)
        except ContextError:
            if self._asked.get(key) is known:
                del self._asked[key]  # the next run asks anew
            raise

    async def _checked(self, query: ContextQuery) -> object:
        try:
            value = await self._ask(query)
            refuse_oversized(query.bind, value)
        except ContextError:
            raise
        except TimeoutError as failure:
            raise ContextError(f"no answer within {LONGEST_ASK_S:g} s") from failure
        except Exception as failure:  # a source is foreign code: whatever it raises is a failed query
            raise ContextError(str(failure) or type(failure).__name__) from failure
        return value

    def _forget(self, now: float) -> None:
        if self._asked:
            gone = [key for key, asked in self._asked.items() if now - asked.asked_at >= SHARED_FOR_S]
            for key in gone:
                del self._asked[key]

    async def _ask(self, query: ContextQuery) -> object:
        if query.kind == "http_get":
            return await self._http_get(query.arguments)
        source = self._sources.get(query.kind)
        if source is None:
            found = make_source(query.kind, self._tools)
            if found is None:
                raise ContextError("no installed package offers this source")
            source = self._sources[query.kind] = found
        async with asyncio.timeout(LONGEST_ASK_S):
            return await source.ask(query.arguments)

    async def _http_get(self, arguments: Mapping[str, object]) -> object:
        url = str(arguments["url"])
        timeout_s = parse_duration_us(str(arguments["timeout"])) / 1e6
        try:
            answer = await self._tools.http().get(url, timeout_s=timeout_s)
            if not 200 <= answer.status < 300:
                raise ContextError(f"{url} answered with status {answer.status}")
            return answer.value()
        except HttpGuardError as failure:
            raise ContextError(str(failure)) from failure
