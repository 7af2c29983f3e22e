"""An engine that is being measured: takes requests of token ids and gives times."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jinfer.bench.arrivals import Arrival
from jinfer.bench.workloads import Lengths, random_prompts
from jinfer.config import EngineLimits
from jinfer.errors import EngineError
from jinfer.requests.new_request import create_request
from jinfer.requests.request import Request, SequenceOutput
from jinfer.requests.sampling_params import SamplingParams

TEMPERATURE = 0.6
LONGEST_SLEEP_S = 0.001  # while nothing runs and the next arrival is awaited


class EngineUnderTest(Protocol):
    """The part of Engine that a measurement uses."""

    @property
    def has_work(self) -> bool: ...

    def add(self, request: Request) -> None: ...

    def step(self) -> list[SequenceOutput]: ...


@dataclass(frozen=True)
class RequestTimes:
    """The times of one request, in seconds from its arrival."""

    first_token_s: float
    last_token_s: float
    num_output_tokens: int

    @property
    def per_output_token_s(self) -> float | None:
        """TPOT of this request: the mean time between its tokens. None where it has but one."""
        if self.num_output_tokens < 2:
            return None
        return (self.last_token_s - self.first_token_s) / (self.num_output_tokens - 1)


@dataclass
class Session:
    """Runs requests on an engine. Every run draws new prompts, so that no run finds its prefix in a cache.

    `sampling` are fields of SamplingParams that every request has, besides its length and seed.
    """

    engine: EngineUnderTest
    limits: EngineLimits
    vocab_size: int
    seed: int = 0
    after_step: Callable[[list[SequenceOutput]], Any] | None = None
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    sampling: Mapping[str, Any] = field(default_factory=dict)
    rng: random.Random = field(init=False)
    _num_requests: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def run(self, lengths: Sequence[Lengths]) -> float:
        """Seconds from handing in random prompts, all at once, to reading the last token of all."""
        return self.run_prompts(random_prompts(lengths, self.vocab_size, self.rng), lengths)[0]

    def run_prompts(
        self, prompts: Sequence[Sequence[int]], lengths: Sequence[Lengths]
    ) -> tuple[float, list[RequestTimes]]:
        """The seconds of all together, and the times of each."""
        began = self.clock()
        requests = [self.request(prompt, each.output) for prompt, each in zip(prompts, lengths, strict=True)]
        for request in requests:
            self.engine.add(request)
        while self.engine.has_work:
            self._step()
        seconds = self.clock() - began
        return seconds, [_times(request, began) for request in requests]

    def replay(
        self, arrivals: Sequence[Arrival], prompts: Sequence[Sequence[int]] | None = None
    ) -> list[RequestTimes]:
        """Adds each request when its time has come, between two steps, and goes on until all have ended.
        Random prompts, where none are given."""
        if prompts is None:
            prompts = random_prompts([arrival.lengths for arrival in arrivals], self.vocab_size, self.rng)
        requests: list[Request] = []
        began = self.clock()
        while len(requests) < len(arrivals) or self.engine.has_work:
            now = self.clock() - began
            while len(requests) < len(arrivals) and arrivals[len(requests)].time_s <= now:
                place = len(requests)
                requests.append(self.request(prompts[place], arrivals[place].lengths.output))
                self.engine.add(requests[-1])
            if self.engine.has_work:
                self._step()
            else:
                self.sleep(min(LONGEST_SLEEP_S, arrivals[len(requests)].time_s - now))
        return [_times(r, began + arrival.time_s) for r, arrival in zip(requests, arrivals, strict=True)]

    def request(self, prompt: Sequence[int], max_tokens: int) -> Request:
        """A request for exactly `max_tokens` tokens."""
        self._num_requests += 1
        seed = self.seed + self._num_requests
        fields = {"temperature": TEMPERATURE, **self.sampling}
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, seed=seed, **fields)
        return create_request(
            f"bench-{self._num_requests}",
            None,
            prompt,
            params.with_defaults({}),
            eos_token_ids=frozenset(),
            vocab_size=self.vocab_size,
            limits=self.limits,
        )

    def _step(self) -> None:
        outputs = self.engine.step()
        if self.after_step is not None:
            self.after_step(outputs)


def _times(request: Request, arrival: float) -> RequestTimes:
    """Raises EngineError where a request did not give what was asked for: its time would mean nothing."""
    (sequence,) = request.sequences
    wanted, got = request.params.max_tokens, sequence.num_output_tokens
    if got != wanted or request.first_token_time is None or request.finished_time is None:
        raise EngineError(
            f"{request.request_id} ended with {got} of {wanted} tokens ({sequence.finish_reason}: "
            f"{sequence.error}); its time means nothing"
        )
    return RequestTimes(request.first_token_time - arrival, request.finished_time - arrival, got)
