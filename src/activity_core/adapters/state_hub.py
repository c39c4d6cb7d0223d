"""What the state hub tells: its health, and the repos it keeps. Base URL and token come from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from activity_core.errors import ContextError
from activity_plumbing.http_guard import HttpGuardError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from activity_core.context.sources import SourceTools

_TIMEOUT_S = 5.0
_REPOS_BYTES = 8 << 20


class StateHubHealth:
    """``GET /state/health`` → ``{status, db, …}``; a hub that answers with an error is a failed query."""

    name = "state-hub.health"
    parameters: Mapping[str, type] = {}

    def __init__(self, tools: SourceTools) -> None:
        self._tools = tools

    async def ask(self, arguments: Mapping[str, object]) -> object:
        """The hub's own word on its health."""
        return await _get(self._tools, "/state/health")


class StateHubRepos:
    """``GET /repos/?status=active`` → a list of repos; `status` chooses others."""

    name = "state-hub.repos"
    parameters: Mapping[str, type] = {"status": str}

    def __init__(self, tools: SourceTools) -> None:
        self._tools = tools

    async def ask(self, arguments: Mapping[str, object]) -> object:
        """The registered repos."""
        status = quote(str(arguments.get("status", "active")), safe="")
        return await _get(self._tools, f"/repos/?status={status}")


async def _get(tools: SourceTools, path: str) -> object:
    url = tools.settings.state_hub_url.rstrip("/") + path
    token = tools.settings.state_hub_token
    headers = [("Authorization", f"Bearer {token}")] if token else []
    try:
        answer = await tools.http().get(url, timeout_s=_TIMEOUT_S, headers=headers, max_bytes=_REPOS_BYTES)
        if not 200 <= answer.status < 300:
            raise ContextError(f"{url} answered with status {answer.status}")
        return answer.value()
    except HttpGuardError as failure:
        raise ContextError(str(failure)) from failure
