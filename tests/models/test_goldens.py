"""Every family and option against logits and greedy tokens that transformers computed
(tools/make_goldens.py)."""

import jax
import numpy as np
import pytest

from jinfer.scheduling.page_pool import NULL_PAGE
from tests.models.goldens import GOLDENS, MAX_LOGIT_ERROR, NAMES, engine_greedy_ids, read_goldens
from tests.models.paged_run import PagedRun
from tools.goldens.models import VARIANTS

WHOLE_PROMPT, CHUNK_SIZE = 64, 7  # 7 divides neither a prompt (3, 13, 37 tokens) nor a page (4)
NUM_INTERPRETED_IDS = 24  # of 64
PALLAS_NAMES = (
    "mistral_window",
    "qwen3_head_dim_80",  # which is no power of two
    "phi3_partial_longrope_tied",  # heads of which a part is turned
    "glm4_post_norms_tied",  # pairs side by side
    "olmo2_gqa_biases",  # products without a norm before them, and with one behind
    "deepseek_v2_dense_yarn",
    "gemma2_soft_caps",  # of scores and logits; norms of 1 + w, and GELU
    "gpt_oss_yarn",  # experts with biases, and sinks
)

# The two programs of the last layer differ, and a GPU's XLA may fuse what comes before it in another way too.
MAX_CACHE_ERROR = 0 if jax.default_backend() == "cpu" else 1e-5


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest) -> PagedRun:
    return PagedRun.of_checkpoint(GOLDENS / request.param)


def test_every_variant_has_its_fixture() -> None:
    assert set(NAMES) == set(VARIANTS), "run `python -m tools.make_goldens`"


@pytest.mark.parametrize(("run", "name"), [(name, name) for name in NAMES], indirect=["run"], ids=NAMES)
@pytest.mark.parametrize("chunk_size", [WHOLE_PROMPT, CHUNK_SIZE])
def test_logits_are_those_of_transformers(run: PagedRun, name: str, chunk_size: int) -> None:
    goldens = read_goldens(name)
    sequences = [golden.prompt_ids + golden.greedy_ids[:-1] for golden in goldens]
    computed = run.logits(sequences, [len(golden.prompt_ids) for golden in goldens], chunk_size)
    for golden, logits in zip(goldens, computed, strict=True):
        np.testing.assert_allclose(logits[golden.positions], golden.logits, rtol=0, atol=MAX_LOGIT_ERROR)
        assert logits[len(golden.prompt_ids) - 1 :].argmax(-1).tolist() == golden.greedy_ids


@pytest.mark.parametrize(("run", "name"), [(name, name) for name in NAMES], indirect=["run"], ids=NAMES)
def test_the_last_tokens_alone_are_what_they_are_among_all(run: PagedRun, name: str) -> None:
    sequences = [golden.prompt_ids + golden.greedy_ids[:3] for golden in read_goldens(name)]
    starts = [len(sequence) // 3 for sequence in sequences]
    alone, cache = run.last_logits(sequences, starts, are_alone=True)
    among_all, cache_of_all = run.last_logits(sequences, starts, are_alone=False)
    np.testing.assert_allclose(alone, among_all, rtol=0, atol=MAX_LOGIT_ERROR)
    for layer, layer_of_all in zip(cache, cache_of_all, strict=True):
        axis = layer.page_axis
        for array, of_all in zip(jax.tree.leaves(layer), jax.tree.leaves(layer_of_all), strict=True):
            pages = (np.delete(each, NULL_PAGE, axis) for each in (array, of_all))
            np.testing.assert_allclose(*pages, rtol=0, atol=MAX_CACHE_ERROR)


@pytest.mark.parametrize("name", NAMES)
def test_engine_gives_the_greedy_tokens_of_transformers(name: str) -> None:
    goldens = read_goldens(name)
    ids = engine_greedy_ids(
        GOLDENS / name, [golden.prompt_ids for golden in goldens], len(goldens[0].greedy_ids)
    )
    assert ids == [golden.greedy_ids for golden in goldens]


@pytest.mark.parametrize("name", PALLAS_NAMES)
def test_engine_gives_them_with_the_kernels_too(name: str) -> None:
    """One row at a time, which has two shapes to compile: with more rows the kernels are in
    test_invariants.py."""
    goldens = read_goldens(name)
    prompts = [golden.prompt_ids for golden in goldens]
    ids = engine_greedy_ids(GOLDENS / name, prompts, NUM_INTERPRETED_IDS, kernels="pallas", max_num_seqs=1)
    assert ids == [golden.greedy_ids[:NUM_INTERPRETED_IDS] for golden in goldens]
