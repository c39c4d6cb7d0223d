"""The OpenAPI document as a contract: whatever is sent, no answer is a failure of ours, and each is of its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import booleans
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.state_hub.api.clients import BEARER, TOKEN, StageServer
from tests.state_hub.api.fleet import (
    StillClock,
    add_event,
    add_findings,
    add_repo,
    add_sweep,
    add_task,
    add_workstream,
    add_writeback,
)
from tests.state_hub.databases import make_store, remove_store

from state_hub.api.app import create_app
from state_hub.api.hub import Hub
from state_hub.checks import Found
from state_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from schemathesis.schemas import APIOperation, BaseSchema

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = 19
KNOWN = {"slug": "app", "workplan_id": "WP-0001", "task_id": "T01", "number": 1}
"""What is there, which no generator would guess."""


@pytest.fixture
def contract(kind: str, tmp_path: Path) -> Iterator[BaseSchema]:
    """The document of a served hub that has a little of everything and may ask no remote."""
    store = make_store(kind, tmp_path)
    repo = add_repo(store, "app")
    add_task(store, add_workstream(store, repo, "WP-0001"), "T01")
    add_findings(store, repo, Found(check="C-12", subject="T01", message="no such task"))
    add_writeback(store, repo, "WP-0001", "T01")
    add_event(store, "a")
    add_sweep(store, repo)
    hub = Hub(Settings(state_dir=tmp_path / "state", allowed_remotes=()), store, StillClock())
    with StageServer() as server:
        server.stage.app = create_app(hub, token=TOKEN, health_timeout_s=30.0)
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json", headers=BEARER)
    remove_store(store)


def test_every_answer_is_of_its_shape_and_none_is_a_failure_of_ours(contract: BaseSchema) -> None:
    operations = [found.ok() for found in contract.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == OPERATIONS
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            attack(operation, mode)


def attack(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode) -> None:
    """Sends what fits the operation's schema, or what does not, and judges each answer."""

    @given(case=operation.as_strategy(generation_mode=mode), is_known=booleans())
    @settings(
        max_examples=8,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def judge(case: Case[Any], is_known: bool) -> None:
        if is_known and mode is GenerationMode.POSITIVE:
            case.path_parameters.update({name: KNOWN[name] for name in case.path_parameters})
        answer = case.call(headers=BEARER, timeout=30)
        case.validate_response(answer, checks=CHECKS)

    try:
        judge()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # nothing can be wrong with what takes nothing
