"""Clients of a server, each of which sends a request when its one before has ended."""

import asyncio
import collections
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.soak.answers import FaultyAnswerError, check, joined, texts_of
from benchmarks.soak.endpoints import READERS
from benchmarks.soak.traffic import CHAT, COMPLETIONS, Exchange, Traffic
from jinfer.bench.serve.events import EventBuffer

TIMEOUT_S = 300.0
MAX_KEPT_FAULTS = 20
JSON = {"content-type": "application/json"}


@dataclass
class Tally:
    """The counts of a soak so far, by kind of request and in all, and its first faults."""

    num_requests: collections.Counter[str] = field(default_factory=collections.Counter)
    num_output_tokens: int = 0
    num_left: int = 0
    num_faults: int = 0
    faults: list[str] = field(default_factory=list)
    golden_texts: dict[str, list[str]] = field(default_factory=dict)
    num_golden_repeats: int = 0
    num_golden_changes: int = 0

    def add_fault(self, message: str) -> None:
        """Counts a fault, and keeps the message of the first ones."""
        self.num_faults += 1
        if len(self.faults) < MAX_KEPT_FAULTS:
            self.faults.append(message)


class Clients:
    """Sends exchanges to one server, and keeps a tally. `texts_must_repeat` makes a fault of a golden request
    whose text is not that of the first."""

    def __init__(self, session: aiohttp.ClientSession, *, texts_must_repeat: bool) -> None:
        self.tally = Tally()
        self._session, self._texts_must_repeat = session, texts_must_repeat

    async def keep_sending(self, traffic: Traffic, until_s: float) -> None:
        """Sends one exchange after another until a time of the event loop, and ends with the answer to the
        last."""
        while asyncio.get_running_loop().time() < until_s:
            await self.send(traffic.next())

    async def send(self, exchange: Exchange) -> None:
        """Sends one exchange. A fault is counted."""
        self.tally.num_requests[exchange.kind] += 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._exchange(exchange)
        except TimeoutError:
            self._add_fault(exchange, f"no whole answer in {TIMEOUT_S:g} s")
        except (FaultyAnswerError, aiohttp.ClientError) as error:
            self._add_fault(exchange, f"{type(error).__name__}: {error}")

    def _add_fault(self, exchange: Exchange, message: str) -> None:
        self.tally.add_fault(f"{exchange.kind}: {message}; asked was {json.dumps(exchange.content)[:500]}")

    async def _exchange(self, exchange: Exchange) -> None:
        if exchange.leaves_after is not None and "stream" not in exchange.body:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(exchange.leaves_after / 100), self._asked(exchange) as response:
                    await response.read()
            self.tally.num_left += 1
            return
        async with self._asked(exchange) as response:
            if response.status != exchange.status:
                raise FaultyAnswerError(
                    f"status {response.status} and not {exchange.status}: {await response.text()}"
                )
            if exchange.status != 200:
                _check_refusal(await response.json())
            elif exchange.leaves_after is not None:
                await self._read_and_leave(response, exchange.leaves_after)
            elif exchange.path in (COMPLETIONS, CHAT):
                streams = "stream" in exchange.body
                self._take(exchange, joined(await _events(response)) if streams else await response.json())
            elif exchange.path in READERS:
                of_answer, of_events = READERS[exchange.path]
                streams = "stream" in exchange.body
                found = of_events(await _events(response)) if streams else of_answer(await response.json())
                self._take(exchange, found)
            else:
                await response.read()

    def _asked(self, exchange: Exchange) -> Any:
        if exchange.content is None:
            return self._session.get(exchange.path)
        text = exchange.content if isinstance(exchange.content, str) else json.dumps(exchange.content)
        return self._session.post(exchange.path, data=text.encode(), headers=JSON)

    async def _read_and_leave(self, response: aiohttp.ClientResponse, num_chunks: int) -> None:
        buffer, num_read = EventBuffer(), 0
        async for piece in response.content.iter_any():
            num_read += len(buffer.feed(piece))
            if num_read > num_chunks:
                break
        response.close()  # the connection, too
        self.tally.num_left += 1

    def _take(self, exchange: Exchange, answer: Mapping[str, Any]) -> None:
        check(exchange.body, answer)
        self.tally.num_output_tokens += answer["usage"]["completion_tokens"]
        if exchange.golden is None:
            return
        texts = texts_of(answer)
        first = self.tally.golden_texts.setdefault(exchange.golden, texts)
        self.tally.num_golden_repeats += first is not texts
        if texts != first:
            self.tally.num_golden_changes += 1
            if self._texts_must_repeat:
                raise FaultyAnswerError(f"the texts {texts}, which were {first}")


async def _events(response: aiohttp.ClientResponse) -> list[bytes]:
    buffer, events = EventBuffer(), []
    async for piece in response.content.iter_any():
        events += buffer.feed(piece)
    return events


def _check_refusal(answer: Any) -> None:
    """Raises FaultyAnswerError where an error has no message."""
    if not isinstance(answer, dict) or not (answer.get("error") or {}).get("message"):
        raise FaultyAnswerError(f"an error without a message: {answer}")
