"""The hub's health, asked so that a database that hangs holds up neither the answer nor anything else."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from state_hub import __version__
from state_hub.health import health

if TYPE_CHECKING:
    from state_hub.api.hub import Hub

log = logging.getLogger(__name__)

TIMEOUT_S = 3.0


class HealthProbe:
    """Looks at the database in a thread of its own; whoever asks meanwhile waits for the same look.

    So a database that never answers costs one thread, not one per question. The thread is a daemon: it does not
    keep the process from ending.
    """

    def __init__(self, hub: Hub, *, timeout_s: float = TIMEOUT_S) -> None:
        self._hub = hub
        self._timeout_s = timeout_s
        self._look: Future[dict[str, object]] | None = None

    async def ask(self) -> dict[str, object]:
        """``{status, db, version, …}`` as `state_hub.health.health` gives it, within the timeout."""
        if self._look is None or self._look.done():
            self._look = self._start()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._look), self._timeout_s)
        except TimeoutError:
            return _error(f"no answer within {self._timeout_s:g} s")

    def _start(self) -> Future[dict[str, object]]:
        look: Future[dict[str, object]] = Future()
        look.set_running_or_notify_cancel()  # from here on whoever gives up waiting does not cancel it
        threading.Thread(target=self._work, args=(look,), name="health", daemon=True).start()
        return look

    def _work(self, look: Future[dict[str, object]]) -> None:
        try:
            gone = self._hub.gone()
            answer = health(self._hub.store) if gone is None else _error(gone)
        except Exception as failure:  # whatever it is, the answer is that the hub is not well
            log.exception("the hub's health could not be told")
            answer = _error(f"{type(failure).__name__}: the hub's log says more")
        look.set_result(answer)


def _error(wrong: str) -> dict[str, object]:
    return {"status": "error", "db": wrong, "version": __version__}
