"""The hub's HTTP application: the routes behind the guard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

from state_hub import __version__
from state_hub.api.health import TIMEOUT_S, HealthProbe
from state_hub.api.problems import add_problem_handlers
from state_hub.api.routes_health import health_routes
from state_hub.api.routes_history import history_routes
from state_hub.api.routes_plans import plan_routes
from state_hub.api.routes_repos import repo_routes
from state_hub.api.security import Guard
from state_hub.api.shapes import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from state_hub.api.hub import Hub

_ANYWHERE: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be read"},
    401: {"model": Problem, "description": "No token, or not the hub's"},
    403: {"model": Problem, "description": "From another origin"},
    413: {"model": Problem, "description": "The body is too large"},
    421: {"model": Problem, "description": "Asked for under a name that is not the hub's"},
    422: {"model": Problem, "description": "Not what is asked for here"},
    503: {"model": Problem, "description": "The database does not answer"},
}


def create_app(hub: Hub, *, token: str, hosts: Iterable[str] = (), health_timeout_s: float = TIMEOUT_S) -> Guard:
    """The application a server runs. `hosts`: see `Guard`."""
    return Guard(create_routes(hub, health_timeout_s=health_timeout_s), token=token, hosts=hosts)


def create_routes(hub: Hub, *, health_timeout_s: float = TIMEOUT_S) -> FastAPI:
    """The routes alone, unguarded."""
    app = FastAPI(
        title="state-hub",
        version=__version__,
        description="A registry of git repos and the workplans in them.",
        docs_url=None,
        redoc_url=None,
        responses=_ANYWHERE,
    )
    add_problem_handlers(app)
    app.include_router(health_routes(HealthProbe(hub, timeout_s=health_timeout_s)))
    shown_in_schema = [Depends(HTTPBearer(auto_error=False, description="The guard asks for it"))]
    for routes in (repo_routes(hub), plan_routes(hub), history_routes(hub)):
        app.include_router(routes, dependencies=shown_in_schema)
    return app
