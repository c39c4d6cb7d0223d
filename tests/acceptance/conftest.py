"""What every acceptance test starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.acceptance.homes import Home

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty definitions folder and the name of a state folder."""
    return Home(tmp_path)
