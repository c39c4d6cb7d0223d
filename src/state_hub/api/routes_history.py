"""What the hub found, did and has to tell: findings, checks, sweeps, writebacks, events."""

from enum import StrEnum

from fastapi import APIRouter

from activity_plumbing.outbox import list_events
from state_hub.api.hub import Hub
from state_hub.api.shapes import (
    CheckId,
    CheckView,
    FindingView,
    Limit,
    Number,
    OutboxView,
    Page,
    Problem,
    Slug,
    SweepDetail,
    SweepView,
    WritebackView,
    page,
)
from state_hub.checks import CATALOGUE
from state_hub.store import findings, plans, sweeps
from state_hub.store.schema import outbox


class FindingState(StrEnum):
    """Which findings to list."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


def history_routes(hub: Hub) -> APIRouter:
    """The routes on this hub."""
    router = APIRouter(tags=["history"])
    _add_findings(router, hub)
    _add_sweeps(router, hub)
    _add_sent(router, hub)
    return router


def _add_findings(router: APIRouter, hub: Hub) -> None:
    @router.get("/findings/")
    def list_findings(
        repo: Slug | None = None,
        check: CheckId | None = None,
        state: FindingState = FindingState.OPEN,
        after: Number = 0,
        limit: Limit = 100,
    ) -> Page[FindingView, int]:
        """Findings in the order in which they were opened."""
        is_open = None if state is FindingState.ALL else state is FindingState.OPEN
        with hub.reading() as connection:
            rows = findings.list_findings(
                connection, repo=repo, check=check, is_open=is_open, after=after, limit=limit + 1
            )
        return page(rows, limit, FindingView.model_validate, lambda row: row.id)

    @router.get("/checks/")
    async def list_checks() -> Page[CheckView, str]:
        """The catalogue of checks, all of it."""
        return Page(items=[CheckView.model_validate(check) for check in CATALOGUE.values()], next=None)


def _add_sweeps(router: APIRouter, hub: Hub) -> None:
    @router.get("/sweeps/")
    def list_sweeps(before: Number | None = None, limit: Limit = 20) -> Page[SweepView, int]:
        """Sweeps, newest first; `next` is the `before` of the older ones."""
        with hub.reading() as connection:
            rows = sweeps.list_sweeps(connection, before=before, limit=limit + 1)
        return page(rows, limit, SweepView.model_validate, lambda row: row.id)

    @router.get("/sweeps/{number}", responses={404: {"model": Problem}})
    def show_sweep(number: Number) -> SweepDetail:
        """One sweep, with what came of it."""
        with hub.reading() as connection:
            return SweepDetail.model_validate(sweeps.find_sweep(connection, number))


def _add_sent(router: APIRouter, hub: Hub) -> None:
    @router.get("/writebacks/")
    def list_writebacks(repo: Slug | None = None, limit: Limit = 50) -> Page[WritebackView, int]:
        """What the hub wrote into files: the newest, newest first. Older ones stand in the files' own history."""
        with hub.reading() as connection:
            rows = plans.list_writebacks(connection, repo=repo, limit=limit)
        return Page(items=[WritebackView.model_validate(row) for row in rows], next=None)

    @router.get("/outbox/")
    def list_outbox(sent: bool | None = None, after: Number = 0, limit: Limit = 100) -> Page[OutboxView, int]:
        """Events in order; `sent` chooses those sent or those waiting."""
        with hub.reading() as connection:
            rows = list_events(connection, outbox, is_sent=sent, after=after, limit=limit + 1)
        return page(rows, limit, OutboxView.model_validate, lambda row: row.id)
