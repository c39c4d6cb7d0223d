"""What the hub's tests start from: an empty store on each kind of database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.state_hub.databases import KINDS, end_own_postgres, make_store, remove_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from state_hub.store.store import Store


@pytest.fixture(scope="session", autouse=True)
def _no_server_left_behind() -> Iterator[None]:
    yield
    end_own_postgres()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of database in turn."""
    found = request.param
    assert isinstance(found, str)
    return found


@pytest.fixture
def store(kind: str, tmp_path: Path) -> Iterator[Store]:
    """An empty, migrated database."""
    made = make_store(kind, tmp_path)
    yield made
    remove_store(made)
