"""Named context sources, found through the entry point group ``activity_core.context_sources``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

from activity_core.errors import ConfigurationError
from activity_plumbing.http_guard import Endpoint, GuardedClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from activity_core.ledger.store import Ledger
    from activity_core.ports import ContextSource
    from activity_core.settings import Settings

ENTRY_POINT_GROUP = "activity_core.context_sources"


@dataclass(slots=True)
class SourceTools:
    """What a source may use: settings, the ledger, and a client whose reach is limited."""

    settings: Settings
    ledger: Ledger | None = None
    _client: GuardedClient | None = field(default=None)

    def http(self) -> GuardedClient:
        """The guarded client, made at first use."""
        if self._client is None:
            allowed = {Endpoint.of(text) for text in self.settings.http_allow}
            allowed.add(Endpoint.of(self.settings.state_hub_url))
            self._client = GuardedClient(allowed)
        return self._client

    async def close(self) -> None:
        """Closes the client's connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None


@lru_cache(maxsize=1)
def _installed() -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def source_names() -> list[str]:
    """The names of every installed source."""
    return sorted(_installed())


@lru_cache(maxsize=64)
def source_class(name: str) -> type[ContextSource] | None:
    """The class behind a name; None when no installed package offers it. Raises ConfigurationError."""
    entry = _installed().get(name)
    if entry is None:
        return None
    try:
        return cast("type[ContextSource]", entry.load())
    except Exception as failure:
        raise ConfigurationError(
            f"the context source {name!r} is registered as {entry.value} but cannot be loaded: {failure}"
        ) from failure


def make_source(name: str, tools: SourceTools) -> ContextSource | None:
    """A source ready to be asked; None when no installed package offers it."""
    found = source_class(name)
    return None if found is None else found(tools)  # type: ignore[call-arg]  # a Protocol cannot declare __init__
