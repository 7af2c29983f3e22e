"""An engine without a model, whose steps take known times of a clock that nobody waits for."""

from types import SimpleNamespace

import jax.numpy as jnp

from jinfer.bench.limits import MachineLimits
from jinfer.bench.measure import Bench
from jinfer.bench.roofline import ModelWork
from jinfer.bench.session import Session
from jinfer.config import EngineLimits
from jinfer.execution.kv_cache import KVLayout
from jinfer.models.registry import read_model_config
from jinfer.requests.request import FinishReason
from tests.tiny_model import CONFIG

PREFILL_S, DECODE_S = 0.1, 0.005
LIMITS = EngineLimits(
    page_size=16, num_pages=1000, max_num_seqs=256, max_num_batched_tokens=64, max_model_len=8192
)
MACHINE = MachineLimits(read_tb_per_s=4.0, copy_tb_per_s=3.0, matmul_tflop_per_s=700.0)
MODEL = read_model_config(CONFIG)
WORK = ModelWork(
    MODEL, weight_bytes=10**9, kv_layout=KVLayout.of(MODEL, page_size=1, dtype=jnp.dtype("bfloat16"))
)


class FakeEngine:
    """A step gives every request a token. It takes PREFILL_S for each new request, or else DECODE_S."""

    def __init__(self) -> None:
        self.now = 0.0
        self.prompts, self.slept = [], 0
        self._new, self._running = [], []

    @property
    def has_work(self) -> bool:
        return bool(self._new or self._running)

    def add(self, request) -> None:
        self.prompts.append(request.prompt_token_ids)
        self._new.append(request)

    def step(self) -> list[SimpleNamespace]:
        self.now += PREFILL_S * len(self._new) or DECODE_S
        self._running += self._new
        self._new = []
        updates = [self._token(request) for request in self._running]
        self._running = [request for request in self._running if not request.is_finished]
        return updates

    def _token(self, request) -> SimpleNamespace:
        (sequence,) = request.sequences
        sequence.token_ids.append(0)
        if request.first_token_time is None:
            request.first_token_time = self.now
        if sequence.num_output_tokens == request.params.max_tokens:
            sequence.finish_reason, request.finished_time = FinishReason.LENGTH, self.now
        return SimpleNamespace(sequence=sequence, token_id=0, token_ids=(0,))

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept += 1
        self.now += seconds


def fake_bench(engine: FakeEngine, *, repeats: int = 3, **options) -> Bench:
    """A measurement of a FakeEngine, on a machine of round numbers."""
    session = Session(engine, LIMITS, 64, clock=lambda: engine.now, sleep=engine.sleep)
    return Bench(session, WORK, MACHINE, "8b", repeats, **options)
