"""A served hub on each kind of database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.state_hub.api.clients import TOKEN, Client, StageServer
from tests.state_hub.api.fleet import StillClock

from state_hub.api.app import create_app
from state_hub.api.hub import Hub
from state_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from state_hub.store.store import Store


@pytest.fixture(scope="session")
def server() -> Iterator[StageServer]:
    """One real server for all tests of this process."""
    with StageServer() as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings under which clones in ``roots`` may be registered, and no remote is ever asked."""
    return Settings(
        state_dir=tmp_path / "state",
        repo_roots=((tmp_path / "roots").resolve(),),
        allowed_remotes=(str(tmp_path / "roots" / "*"),),
        allowed_hosts=("hub.example",),
    )


@pytest.fixture
def hub(store: Store, settings: Settings) -> Hub:
    """A hub with an empty database."""
    return Hub(settings, store, StillClock())


@pytest.fixture
def api(server: StageServer, hub: Hub, settings: Settings) -> Client:
    """A client of the served hub."""
    server.stage.app = create_app(hub, token=TOKEN, hosts=settings.allowed_hosts, health_timeout_s=5.0)
    return Client(server.port)
