"""What the hub's acceptance tests start from: a fleet, and the settings that its commands find."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.state_hub.databases import make_store, remove_store
from tests.state_hub.fleet import ISOLATED, Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ISOLATED.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """No repos yet, on SQLite; remotes are reached by path unless asked for otherwise."""
    store = make_store("sqlite", tmp_path)
    made = Fleet.make(tmp_path, store)
    made.write_settings()
    yield made
    made.close()
    remove_store(store)
