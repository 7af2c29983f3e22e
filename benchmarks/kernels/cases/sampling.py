"""sampling: bound by reading the logits. The same rows with three usual sets of parameters, and log
probabilities."""

import functools
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from benchmarks.kernels.case import Case, Limit, Target, Tuning, Work
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.selection import Implementation, should_interpret
from pallas_kernels.sampling import sample, top_logprobs, triton
from pallas_kernels.sampling.tuning import (
    SampleBlocks,
    TopBlocks,
    sample_candidates,
    sample_key,
    top_candidates,
    top_key,
)

VOCABULARY = 151936
NUM_BLOCKED = 16  # ids that a row may block, and here does not
SCALE = 1.3  # of the logits, as of an 8B model with random weights: nearly flat, which is the most work
COUNT = 20

WAYS: Mapping[str, Mapping[str, float]] = {
    "greedy": {"temperature": 0},
    "temperature": {"temperature": 0.6},
    "qwen3": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},  # what its generation_config.json asks for
    "top-p": {"temperature": 0.6, "top_p": 0.95},
}
TARGETS_US = {"greedy": 50, "temperature": 250, "qwen3": 450}
LATENCY_TARGET_US = 12


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields a large batch, a medium one, and one row."""
    if smoke:
        yield _sample_case("qwen3", 3, 100)
        yield _top_case(3, 100)
        return
    for rows in (256, 64, 1):
        for way in WAYS:
            yield _sample_case(way, rows, VOCABULARY)
    for rows in (256, 1):
        yield _top_case(rows, VOCABULARY)


def _sample_case(way: str, rows: int, vocab: int) -> Case:
    target = LATENCY_TARGET_US if rows == 1 else TARGETS_US.get(way) if rows == 256 else None
    return Case(
        id=f"sample-{way}-{rows}x{vocab}",
        op="sampling.sample",
        shape=f"{rows} x {vocab:,}, {way}",
        work=Work(4 * rows * vocab, 5 * rows),
        limit=Limit.READ,
        make=functools.partial(_make, rows, vocab),
        build=functools.partial(_sample_with, way),
        reference=functools.partial(_sample, way, "reference"),
        xla=functools.partial(_sample, way, "reference"),
        is_latency=True,
        target=None if target is None or way not in TARGETS_US else Target(target, "us"),
        tuning=Tuning("sampling", "sample", sample_key(rows, vocab), sample_candidates(rows, vocab)),
    )


def _make(rows: int, vocab: int, data: Data, num_sets: int) -> Inputs:
    token_ids = data.integers(np.arange(rows) % vocab)
    return Inputs(token_ids, [data.normal((rows, vocab), jnp.float32, SCALE) for _ in range(num_sets)])


def _parameters(way: str, rows: int) -> dict[str, jnp.ndarray]:
    """Makes rows of equal parameters and different seeds."""
    chosen = {"temperature": 0.0, "top_p": 1.0, "min_p": 0.0, "top_k": 0, **WAYS[way]}
    dtypes = {"temperature": jnp.float32, "top_p": jnp.float32, "min_p": jnp.float32, "top_k": jnp.int32}
    return {
        **{name: jnp.full(rows, value, dtypes[name]) for name, value in chosen.items()},
        "seeds": jnp.arange(2 * rows, dtype=jnp.uint32).reshape(rows, 2),
        "positions": jnp.arange(rows, dtype=jnp.int32),
        "min_lengths": jnp.zeros(rows, jnp.int32),
        "blocked_ids": jnp.full((rows, NUM_BLOCKED), -1, jnp.int32),
    }


def _sample(way: str, implementation: Implementation, token_ids, logits):
    chosen, _ = sample(logits, **_parameters(way, logits.shape[0]), implementation=implementation)
    return chosen, chosen


def _sample_with(way: str, blocks: SampleBlocks | None) -> Step:
    if blocks is None:
        return functools.partial(_sample, way, "pallas")

    def step(token_ids, logits):
        parameters = _parameters(way, logits.shape[0])
        chosen, _ = triton.sample(
            logits, *parameters.values(), interpret=should_interpret(None), blocks=blocks
        )
        return chosen, chosen

    return step


def _top_case(rows: int, vocab: int) -> Case:
    return Case(
        id=f"top-logprobs-{rows}x{vocab}",
        op="sampling.top_logprobs",
        shape=f"{rows} x {vocab:,}, {COUNT} of each",
        work=Work(4 * rows * vocab, 8 * rows * COUNT),
        limit=Limit.READ,
        make=functools.partial(_make, rows, vocab),
        build=_top_with,
        reference=functools.partial(_top, "reference"),
        xla=functools.partial(_top, "reference"),
        is_latency=True,
        tuning=Tuning("sampling", "top_logprobs", top_key(rows, vocab), top_candidates(rows, vocab)),
    )


def _top(implementation: Implementation, token_ids, logits):
    wanted = jnp.ones(token_ids.shape, bool)
    return token_ids, top_logprobs(logits, token_ids, wanted, count=COUNT, implementation=implementation)


def _top_with(blocks: TopBlocks | None) -> Step:
    if blocks is None:
        return functools.partial(_top, "pallas")

    def step(token_ids, logits):
        wanted = jnp.ones(token_ids.shape, bool)
        interpret = should_interpret(None)
        return token_ids, triton.top_logprobs(
            logits, token_ids, wanted, COUNT, interpret=interpret, blocks=blocks
        )

    return step
