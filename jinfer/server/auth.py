"""The key that a client must show."""

import hashlib
import hmac
from collections.abc import Collection, Sequence
from http import HTTPStatus
from typing import Any

from jinfer.server.error_shapes import in_shape_of
from jinfer.server.errors import ApiError, error_reply
from jinfer.server.replies import send_reply

MISSING = "no key was given; send 'Authorization: Bearer KEY'"
WRONG = "this key is not one of the server's; send 'Authorization: Bearer KEY' with the right one"


class ApiKeyGuard:
    """Lets requests pass that have one of the keys, whatever their path, and those to open paths."""

    def __init__(self, app: Any, keys: Sequence[str], *, open_paths: Collection[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]
        self._open_paths = open_paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        key = _key_of(scope["headers"])
        if key is not None and self._knows(key):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            MISSING if key is None else WRONG,
            status=HTTPStatus.UNAUTHORIZED,
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
        await send_reply(in_shape_of(scope["path"], error_reply(error)), send)

    def _knows(self, key: bytes) -> bool:
        """True for one of the keys, in a time that does not depend on which, or how much of it is right."""
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


def _key_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The key in the header of OpenAI's clients, or in that of Anthropic's."""
    named = dict(headers)
    scheme, _, key = named.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and key.strip():
        return key.strip()
    return named.get(b"x-api-key") or None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
