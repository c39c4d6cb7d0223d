"""The databases that the ledger's suite runs on; a second one joins by a name and a branch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from activity_core.ledger.store import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """An empty, migrated ledger."""
    assert request.param == "sqlite"
    opened = Ledger.open(tmp_path / "state")
    yield opened
    opened.close()
