"""Whether the process lives, and whether the hub is well: the two routes that ask for no token."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from state_hub.api.health import HealthProbe
from state_hub.api.shapes import HealthView


def health_routes(probe: HealthProbe) -> APIRouter:
    """The routes, asking this probe."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def alive() -> dict[str, str]:
        """The process answers; nothing else is looked at."""
        return {"status": "ok"}

    @router.get("/state/health", response_model=HealthView, responses={503: {"model": HealthView}})
    async def state_health() -> JSONResponse:
        """How the hub is: 200 when its database answers, 503 when it does not, within seconds."""
        answer = await probe.ask()
        return JSONResponse(answer, 200 if answer["status"] == "ok" else 503)

    return router
