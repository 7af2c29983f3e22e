"""A model from outside of the package is served as any other: paged, with prefixes shared, compiled before
the first request."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jinfer import LLM
from jinfer.errors import CheckpointError
from jinfer.modeling import map_params
from tests.conftest import CACHE
from tests.end_to_end.own_model import NNX_MAP, Parallel, Sizes, parallel

SIZES = Sizes()
OPTIONS = {
    "dtype": "float32",
    "kernels": "xla",
    "page_size": 4,
    "max_num_seqs": 2,
    "max_num_batched_tokens": 16,
    "progress": False,
    "compilation_cache_dir": CACHE.name,
}
GREEDY = {"temperature": 0, "max_tokens": 10, "ignore_eos": True}
PREFIX = list(range(1, 22))
PROMPTS = [[5, 6, 7], [*PREFIX, 30], [*PREFIX, 40, 41]]


@pytest.fixture(scope="module")
def module() -> Parallel:
    return Parallel(SIZES, nnx.Rngs(0))


@pytest.fixture(scope="module")
def params(module: Parallel) -> dict[str, Any]:
    return map_params(nnx.state(module), NNX_MAP)


@pytest.fixture(scope="module")
def llm(params: dict[str, Any]) -> Iterator[LLM]:
    with LLM(parallel(SIZES), params=params, **OPTIONS) as llm:
        yield llm


def plain_ids(module: Parallel, prompt: list[int]) -> list[int]:
    """The greedy ids of the trained module, which computes the whole sequence for each of them. Padding
    behind a token changes nothing of it."""
    logits = nnx.jit(lambda module, ids: module(ids))
    ids = list(prompt)
    for _ in range(GREEDY["max_tokens"]):
        padded = jnp.asarray(np.pad(ids, (0, SIZES.context - len(ids))))
        ids.append(int(logits(module, padded)[len(ids) - 1].argmax()))
    return ids[len(prompt) :]


def ids(outputs: Any) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in outputs]


def test_its_greedy_tokens_are_those_of_the_trained_module(llm: LLM, module: Parallel) -> None:
    expected = [plain_ids(module, prompt) for prompt in PROMPTS]
    assert len({tuple(each) for each in expected}) == 3
    assert ids(llm.generate(PROMPTS, **GREEDY)) == expected
    llm.check_integrity()


def test_prefixes_are_shared_and_change_no_token(llm: LLM) -> None:
    first = llm.generate([PROMPTS[1]], **GREEDY)
    again = llm.generate([PROMPTS[1]], **GREEDY)
    assert ids(again) == ids(first)
    assert again[0].num_cached_tokens == 20


def test_nothing_compiles_while_it_runs(llm: LLM) -> None:
    found: list[str] = []

    def record(name: str, seconds: float, **details: Any) -> None:
        if name.endswith("backend_compile_duration"):
            found.append(f"{details} in {seconds:.2f} s")

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(record)
    llm.generate([[9, 8, 7, 6], [1, 2], PREFIX], temperature=1, max_tokens=6, seed=3)
    jax.monitoring.unregister_event_duration_listener(record)
    assert found == []


def test_its_products_may_be_quantized(params: dict[str, Any]) -> None:
    with LLM(parallel(SIZES), params=params, quantization="int8", **OPTIONS) as llm:
        assert "Int8" in type(llm.parts.loaded.params["up"]["kernel"]).__name__
        assert len(ids(llm.generate(PROMPTS[:1], **GREEDY))[0]) == 10


def test_params_that_do_not_fit_are_named(params: dict[str, Any]) -> None:
    wrong = {**params, "up": {"kernel": params["up"]["kernel"][:2]}}
    with pytest.raises(
        CheckpointError, match=r"up/kernel has shape \(2, 32, 48\), the model needs \(3, 32, 48\)"
    ):
        LLM(parallel(SIZES), params=wrong, **OPTIONS)
