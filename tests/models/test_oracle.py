"""Every family and option against torch and transformers, live, on weights that are new in each run.

A failure prints its seed; `ORACLE_SEED=1234 pytest -m oracle` runs it again.
"""

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest

from tests.models.goldens import MAX_LOGIT_ERROR, engine_greedy_ids
from tests.models.paged_run import PagedRun
from tools.goldens.models import ROPE_VARIANTS, VARIANTS

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch", reason="torch computes what is right; install jinfer[oracle]")
pytest.importorskip("transformers", reason="transformers computes what is right; install jinfer[oracle]")

CHUNK_SIZE = 7


@pytest.fixture(scope="module")
def first_seed() -> int:
    return int(os.environ.get("ORACLE_SEED", random.randrange(2**31)))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch's threads cost more than they bring on models this small."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


ALL = {**VARIANTS, **ROPE_VARIANTS}


@pytest.mark.parametrize("name", ALL)
def test_logits_and_greedy_tokens_are_those_of_transformers(name: str, first_seed: int, tmp_path) -> None:
    from tools.goldens.oracle import ask

    oracle = ask(ALL[name], first_seed)
    print(f"ORACLE_SEED={oracle.seed}")
    oracle.save(tmp_path)
    prompts = [answer.prompt_ids.tolist() for answer in oracle.answers]
    greedy_ids = [answer.greedy_ids.tolist() for answer in oracle.answers]

    sequences = [prompt + greedy[:-1] for prompt, greedy in zip(prompts, greedy_ids, strict=True)]
    computed = PagedRun(tmp_path).logits(sequences, [len(prompt) for prompt in prompts], CHUNK_SIZE)
    for answer, logits in zip(oracle.answers, computed, strict=True):
        np.testing.assert_allclose(logits, answer.logits, rtol=0, atol=MAX_LOGIT_ERROR)
    # One row at a time has two shapes to compile; the goldens' test runs the prompts together.
    assert engine_greedy_ids(tmp_path, prompts, len(greedy_ids[0]), max_num_seqs=1) == greedy_ids
