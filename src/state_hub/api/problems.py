"""Every error as JSON: ``{"detail": "what is wrong, and what would be right"}``."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response

from state_hub.api.hub import DatabaseGoneError
from state_hub.errors import GitError, NotFoundError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Request

log = logging.getLogger(__name__)

_SHOWN = 5
_LONGEST = 2_000
_RETRY = {"Retry-After": "5"}


def add_problem_handlers(app: FastAPI) -> None:
    """Makes every exception that a route may raise an answer."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(NotFoundError, _not_found)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(GitError, _git_failed)
    app.add_exception_handler(DatabaseGoneError, _database_gone)
    app.add_exception_handler(sa.exc.SQLAlchemyError, _database_failed)
    app.add_exception_handler(Exception, _own_mistake)


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer. Its JSON is plain ASCII: what a client sent may hold halves of characters."""
    body = json.dumps({"detail": detail[:_LONGEST]}, ensure_ascii=True)
    return Response(body, status, headers, media_type="application/json")


async def _invalid(_request: Request, failure: Exception) -> Response:
    """Says where and what, without repeating what was sent."""
    assert isinstance(failure, RequestValidationError)
    lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in failure.errors()[:_SHOWN]]
    return problem(422, "; ".join(lines))


async def _not_found(_request: Request, failure: Exception) -> Response:
    return problem(404, str(failure))


async def _refused(_request: Request, failure: Exception) -> Response:
    return problem(409, str(failure))


async def _git_failed(_request: Request, failure: Exception) -> Response:
    return problem(502, str(failure))


async def _database_gone(_request: Request, failure: Exception) -> Response:
    log.error("%s", failure)
    return problem(503, str(failure))


async def _database_failed(_request: Request, failure: Exception) -> Response:
    if isinstance(failure, sa.exc.IntegrityError):
        return problem(409, "somebody else changed the same thing at this moment; look at it, then try again")
    said = (str(getattr(failure, "orig", failure)).strip().splitlines() or [type(failure).__name__])[0]
    log.error("the database did not do what a request needs: %s", said)
    detail = f"the database does not answer: {said}; see that it runs and has room, then try again"
    return problem(503, detail, _RETRY)


async def _own_mistake(_request: Request, _failure: Exception) -> Response:
    return problem(500, "the hub itself failed; its log says where")
