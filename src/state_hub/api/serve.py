"""The hub's server as a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from state_hub.errors import ConfigurationError

if TYPE_CHECKING:
    from state_hub.settings import Settings


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Raises ConfigurationError for what the operator must change."""
    raise ConfigurationError(f"nothing serves on {settings.host}:{settings.port} yet; the routes come next")
