"""Requests over HTTP. aiohttp reads a chunk of a stream for less than half of what httpx takes, measured."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import aiohttp

from jinfer.bench.serve.answers import Answer, AnswerError, error_message
from jinfer.bench.serve.events import EventBuffer
from jinfer.errors import ConfigError, shown

KEEP_ALIVE_S = 4.0  # less than servers keep a connection that is idle: uvicorn does for 5
MAX_ERROR_BYTES = 65_536


class Client:
    """Sends to one server. `timeout_s` bounds a whole answer."""

    def __init__(self, session: aiohttp.ClientSession, url: str, timeout_s: float) -> None:
        self._session, self._url, self._timeout_s = session, url.rstrip("/"), timeout_s

    async def ask(self, path: str, body: bytes, answer: Answer) -> None:
        """Sends a request, and fills `answer` while it comes. Raises AnswerError where it does not come
        whole."""
        clock, events = asyncio.get_running_loop().time, EventBuffer()
        with _answer_errors(self._timeout_s):
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.post(self._url + path, data=body, allow_redirects=False) as response,
            ):
                await _check_response(response)
                async for piece in response.content.iter_any():
                    now = clock()
                    for data in events.feed(piece):
                        answer.add(data, now)
        answer.check()

    async def first_model(self) -> str:
        """The first model that the server lists. Raises ConfigError where it cannot be asked, or has none."""
        try:
            return (await self._get("/v1/models"))["data"][0]["id"]
        except AnswerError as error:
            raise ConfigError(
                f"--url {self._url} does not list its models: {error}; start a server there, give another "
                "--url, or name the --model"
            ) from error
        except (LookupError, TypeError) as error:
            raise ConfigError(f"--url {self._url} lists no model; name the --model") from error

    async def version(self) -> str | None:
        """The version that the server says it has; None where it says nothing."""
        try:
            return str((await self._get("/version"))["version"])
        except (AnswerError, LookupError, TypeError):
            return None

    async def _get(self, path: str) -> Any:
        with _answer_errors(self._timeout_s):
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.get(self._url + path, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise await _status_error(response)
                return _parsed(await response.content.read(MAX_ERROR_BYTES))


@contextlib.asynccontextmanager
async def open_client(url: str, timeout_s: float, headers: Mapping[str, str]) -> AsyncIterator[Client]:
    """A client with as many connections as there are requests at a time."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        headers={"Content-Type": "application/json", **headers},
        auto_decompress=True,
    ) as session:
        yield Client(session, url, timeout_s)


async def _check_response(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise await _status_error(response)
    if response.content_type != "text/event-stream":
        raise AnswerError("no stream", f"the answer has the content type {response.content_type}")


async def _status_error(response: aiohttp.ClientResponse) -> AnswerError:
    content = await response.content.read(MAX_ERROR_BYTES)
    message = error_message(_parsed(content)) or shown(content)
    retry_after = response.headers.get("Retry-After")
    return AnswerError(
        f"http {response.status}", message + (f" (Retry-After: {retry_after})" if retry_after else "")
    )


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


@contextlib.contextmanager
def _answer_errors(timeout_s: float) -> Iterator[None]:
    """An error of aiohttp's becomes an AnswerError."""
    try:
        yield
    except TimeoutError as error:
        raise AnswerError(
            "timeout", f"no whole answer within {timeout_s:g} s; --timeout allows more"
        ) from error
    except aiohttp.ClientConnectorError as error:
        refused = isinstance(error.os_error, ConnectionRefusedError)
        raise AnswerError("connection refused" if refused else "no connection", str(error)) from error
    except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise AnswerError("cut", "the connection ended before the answer did") from error
    except (aiohttp.ClientError, ValueError) as error:
        raise AnswerError(type(error).__name__, str(error)) from error
