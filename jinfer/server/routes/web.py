"""The web page at /, and its files below /web/."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, HTTPException, Request, Response

DIRECTORY = Path(__file__).parent.parent / "web"
INDEX = "index.html"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"  # the page makes nothing from HTML in a string
)
HEADERS = {
    "cache-control": "no-cache",  # asks each time, and is told 304
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class WebFile(NamedTuple):
    """A file as it is sent."""

    body: bytes
    media_type: str
    etag: str


def _files() -> dict[str, WebFile]:
    """The files of the page by name. Nothing else in the file system can be asked for."""
    paths = [path for path in sorted(DIRECTORY.iterdir()) if path.suffix in MEDIA_TYPES]
    return {path.name: _read(path) for path in paths}


def _read(path: Path) -> WebFile:
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:16]
    return WebFile(body, MEDIA_TYPES[path.suffix], f'"{digest}"')


FILES = _files()
PAGE = FILES.pop(INDEX)
WEB_PATHS = frozenset({"/", *(f"/web/{name}" for name in FILES)})
"""The paths that need no key: a browser sends none for a page, and these have nothing of the model's."""


def web_router() -> APIRouter:
    """The page, which calls the other endpoints with the key that its user gives."""
    router = APIRouter(include_in_schema=False)

    @router.head("/")
    @router.get("/")
    async def index(request: Request) -> Response:
        return _answer(request, PAGE)

    @router.head("/web/{name}")
    @router.get("/web/{name}")
    async def file(request: Request, name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404, "no such file of the page")
        return _answer(request, FILES[name])

    return router


def _answer(request: Request, file: WebFile) -> Response:
    headers = {**HEADERS, "etag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.body, headers=headers, media_type=file.media_type)
