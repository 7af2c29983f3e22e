"""Error answers, sent from outside the framework and from within it."""

from typing import Any

from fastapi import Response

from jinfer.server.errors import ErrorReply


def reply_response(reply: ErrorReply) -> Response:
    """The answer as a response of the framework."""
    return Response(
        reply.body, status_code=reply.status, headers=reply.headers, media_type="application/json"
    )


async def send_reply(reply: ErrorReply, send: Any) -> None:
    """Sends the answer over ASGI."""
    headers = {
        "content-type": "application/json",
        "content-length": str(len(reply.body)),
        **reply.headers,
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    await send({"type": "http.response.body", "body": reply.body})
