"""/health and /metrics."""

from fastapi import APIRouter, Response

from jinfer.errors import EngineError
from jinfer.server.api import Api
from jinfer.server.errors import ApiError
from jinfer.server.metrics import CONTENT_TYPE, ServerMetrics

QUIET_PATHS = frozenset({"/health", "/metrics"})  # asked every few seconds by machines
OPEN_PATHS = frozenset({"/health"})  # without a key


def health_router(api: Api, metrics: ServerMetrics) -> APIRouter:
    """The endpoints for what watches over the server."""
    router = APIRouter()

    @router.head("/health", include_in_schema=False)
    @router.get("/health", response_class=Response)
    async def health() -> Response:
        """200 if the engine answers within a bounded time, and 503 otherwise or while the server ends."""
        try:
            api.service.check_open()
            await api.service.engine.heartbeat()
        except EngineError as error:
            raise ApiError(str(error), status=503, code="engine_failed") from error
        return Response(b"{}", media_type="application/json")

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", response_class=Response)
    async def show_metrics() -> Response:
        """All metrics in Prometheus' text format."""
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return router
