"""The figures of a server while it works: memory of its processes, and what it says of itself."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp

from benchmarks.server_process import ServerProcess

METRIC = re.compile(r"^jinfer:(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
STATUS = re.compile(r'status="(\d+)"')
IDLE_WITHIN_S, LOOK_AGAIN_S = 60.0, 0.2


@dataclass(frozen=True)
class Sample:
    """The server at one moment.

    - `time_s`: seconds since the soak began.
    - `resident_mib`: by process: `front`, `engine`, `others`.
    - `num_running`, `num_waiting`: sequences.
    - `cache_usage`: the share of the cache's pages that sequences use, 0 to 1.
    - `num_generated_tokens`, `num_preemptions`: since the server's start.
    - `num_answers`: since then, by status of HTTP.
    """

    time_s: float
    resident_mib: Mapping[str, float]
    num_running: int
    num_waiting: int
    cache_usage: float
    num_generated_tokens: int
    num_preemptions: int
    num_answers: Mapping[int, int]

    @property
    def is_idle(self) -> bool:
        return self.num_running == self.num_waiting == 0 and self.cache_usage == 0


class Watch:
    """Takes samples of a server, and keeps them. Times are seconds since it was made."""

    def __init__(self, server: ServerProcess, session: aiohttp.ClientSession) -> None:
        self.samples: list[Sample] = []
        self._server, self._session = server, session
        self._began_s = asyncio.get_running_loop().time()

    async def sample(self) -> Sample:
        """The server now. It is not kept."""
        async with self._session.get("/metrics") as response:
            text = await response.text()
        values = {name: float(value) for name, _, value in METRIC.findall(text)}
        return Sample(
            time_s=round(asyncio.get_running_loop().time() - self._began_s, 1),
            resident_mib=self._server.resident_mib(),
            num_running=int(values["num_requests_running"]),
            num_waiting=int(values["num_requests_waiting"]),
            cache_usage=values["kv_cache_usage_perc"],
            num_generated_tokens=int(values["generation_tokens_total"]),
            num_preemptions=int(values["num_preemptions_total"]),
            num_answers=_answers(text),
        )

    async def keep_sampling(self, period_s: float, show: Callable[[Sample], None]) -> None:
        """Takes a sample each `period_s` seconds and shows it, until it is cancelled."""
        while True:
            await asyncio.sleep(period_s)
            self.samples.append(await self.sample())
            show(self.samples[-1])

    async def idle_sample(self) -> Sample:
        """The server when nothing runs or waits any more and no sequence has a page; or after a minute, as it
        is then."""
        for _ in range(round(IDLE_WITHIN_S / LOOK_AGAIN_S)):
            sample = await self.sample()
            if sample.is_idle:
                break
            await asyncio.sleep(LOOK_AGAIN_S)
        return sample


def _answers(text: str) -> dict[int, int]:
    found = [
        (STATUS.search(labels), value)
        for name, labels, value in METRIC.findall(text)
        if name == "http_responses_total"
    ]
    return {int(status[1]): int(float(value)) for status, value in found if status}
