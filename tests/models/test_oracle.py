"""Every family and option against torch and transformers, live, on weights that are new in each run.

A failure prints its seed; `ORACLE_SEED=1234 pytest -m oracle` runs it again.
"""

import os
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.models.goldens import MAX_LOGIT_ERROR, engine_greedy_ids
from tests.models.oracle_process import oracle_process, what_is_missing
from tests.models.paged_run import PagedRun
from tools.goldens.models import VARIANTS

pytestmark = [pytest.mark.oracle, pytest.mark.skipif(what_is_missing() is not None, reason=str(what_is_missing()))]

CHUNK_SIZE = 7


@pytest.fixture(scope="module")
def first_seed() -> int:
    return int(os.environ.get("ORACLE_SEED", random.randrange(2**31)))


@pytest.fixture(scope="module")
def ask() -> Iterator[Callable]:
    with oracle_process() as ask:
        yield ask


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_greedy_tokens_are_those_of_transformers(name: str, ask, first_seed: int, tmp_path) -> None:
    seed, answers = ask(name, first_seed, tmp_path)
    print(f"ORACLE_SEED={seed}")
    prompts = [answer.prompt_ids for answer in answers]
    greedy_ids = [answer.greedy_ids for answer in answers]

    sequences = [prompt + greedy[:-1] for prompt, greedy in zip(prompts, greedy_ids, strict=True)]
    computed = PagedRun(tmp_path).logits(sequences, [len(prompt) for prompt in prompts], CHUNK_SIZE)
    for answer, logits in zip(answers, computed, strict=True):
        np.testing.assert_allclose(logits, answer.logits, rtol=0, atol=MAX_LOGIT_ERROR)
    # One row at a time has two shapes to compile; the goldens' test runs the prompts together.
    assert engine_greedy_ids(tmp_path, prompts, len(greedy_ids[0]), max_num_seqs=1) == greedy_ids
