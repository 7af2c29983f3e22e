"""The outermost layer of the app: an id for each request, a line in the log, and an end for every error."""

import logging
import re
import time
import uuid
from typing import Any

from jinfer.server.error_shapes import in_shape_of
from jinfer.server.errors import CLIENT_LEFT, ClientLeftError, error_reply
from jinfer.server.metrics import ServerMetrics
from jinfer.server.replies import send_reply
from jinfer.server.routes.health import QUIET_PATHS
from jinfer.server.routes.web import WEB_PATHS

logger = logging.getLogger(__name__)
DEBUG_PATHS = QUIET_PATHS | WEB_PATHS
GIVEN_ID = re.compile(rb"[!-~]{1,128}")
ID_HEADER = b"x-request-id"


class RequestLog:
    """Gives each request the id of its x-request-id header, or a new one, and logs how it went."""

    def __init__(self, app: Any, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope["headers"])
        began = time.perf_counter()
        status: int | None = None

        async def send_with_id(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (ID_HEADER, request_id)]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientLeftError:
            status = CLIENT_LEFT
        except Exception as error:
            logger.exception("an error at %s", scope["path"], extra={"request_id": request_id.decode()})
            if status is None:
                await send_reply(in_shape_of(scope["path"], error_reply(error)), send_with_id)
        finally:
            self._tell(scope, request_id.decode(), status or CLIENT_LEFT, time.perf_counter() - began)

    def _tell(self, scope: Any, request_id: str, status: int, duration_s: float) -> None:
        self._metrics.count_answer(status)
        level = logging.DEBUG if scope["path"] in DEBUG_PATHS else logging.INFO
        if not logger.isEnabledFor(level):
            return
        fields = {"request_id": request_id, "status": status, "duration_s": round(duration_s, 6)}
        client = scope.get("client")
        fields |= {"client": client[0]} if client else {}
        fields |= _timings(scope)
        words = " ".join(f"{name}={value}" for name, value in fields.items())
        # with !r: a path may hold line feeds, which must not begin a line of the log
        logger.log(level, "%s %r %s", scope["method"], scope["path"], words, extra={"fields": fields})


def _timings(scope: Any) -> dict[str, Any]:
    """Counts and times of what was generated."""
    generation = scope.get("state", {}).get("generation")
    if generation is None:
        return {}
    usage = generation.usage()
    first = generation.first_token_time
    timings = {
        "prompt_tokens": usage.num_prompt_tokens,
        "cached_tokens": usage.num_cached_tokens,
        "completion_tokens": usage.num_output_tokens,
    }
    return timings if first is None else {**timings, "ttft_s": round(first - generation.arrival, 6)}


def _request_id(headers: list[tuple[bytes, bytes]]) -> bytes:
    given = next((value for name, value in headers if name == ID_HEADER), b"")
    return given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex.encode()
