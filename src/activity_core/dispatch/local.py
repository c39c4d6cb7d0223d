"""Bounded workers in the engine's own process: first granted, first started."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from activity_core.execute import Outcome, Ticket


class LocalDispatch:
    """Runs at most `max_parallel` tickets at once; the others wait in order."""

    def __init__(
        self,
        max_parallel: int,
        execute: Callable[[Ticket], Awaitable[Outcome]],
        on_end: Callable[[Ticket, Outcome], None],
    ) -> None:
        self._max_parallel = max_parallel
        self._execute = execute
        self._on_end = on_end
        self._queue: deque[Ticket] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers = 0
        self._stopping = False

    def put(self, ticket: Ticket) -> None:
        """Starts a ticket, or queues it while all workers are busy."""
        if self._stopping:
            return
        if self._workers < self._max_parallel:
            self._workers += 1
            task = asyncio.ensure_future(self._work(ticket))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._queue.append(ticket)

    def stop(self) -> None:
        """Starts nothing more; what is queued stays pending in the ledger."""
        self._stopping = True
        self._queue.clear()

    async def drained(self) -> None:
        """Returns when nothing is being worked on."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _work(self, ticket: Ticket) -> None:
        """One worker: its ticket, and then the next ones waiting.

        The end of one run is recorded while the next one starts, so that both share a commit.
        """
        current: Ticket | None = ticket
        while current is not None:
            outcome = await self._execute(current)
            self._on_end(current, outcome)
            current = self._queue.popleft() if self._queue and not self._stopping else None
        self._workers -= 1  # in the same step as the look at the queue: nobody can be queued in between
