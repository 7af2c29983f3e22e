"""Every family and option against torch and transformers, live, on weights that are new in each run.

A failure prints its seed; `ORACLE_SEED=1234 pytest -m oracle` runs it again.
"""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jinfer.models.registry import known_architectures
from tests.models.goldens import MAX_LOGIT_ERROR, engine_greedy_ids
from tests.models.paged_run import PagedRun
from tools.goldens.models import ROPE_VARIANTS, VARIANTS, Variant

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
    greedy = [logits[len(prompt) - 1 :].argmax(-1).tolist() for prompt, logits in zip(prompts, computed, strict=True)]
    assert greedy == greedy_ids
    # An engine for each rope type in each family would take minutes, and the goldens have one of each type. One row at
    # a time has two shapes to compile; the goldens' test runs the prompts together.
    if name in VARIANTS:
        assert engine_greedy_ids(tmp_path, prompts, len(greedy_ids[0]), max_num_seqs=1) == greedy_ids


SMALL_SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 2}
WITHOUT_EFFECT = (
    "_name_or_path", "bos_token_id", "eos_token_id", "initializer_range", "pad_token_id", "torch_dtype",
    "transformers_version", "transformers.js_config", "use_cache",
)  # fmt: skip


def shrunk(raw: dict[str, Any]) -> dict[str, Any]:
    """A real config.json of few and small layers, with all its switches, and a context of 128 positions."""
    kept = {name: value for name, value in raw.items() if name not in WITHOUT_EFFECT}
    heads, kv_heads = raw["num_attention_heads"], raw.get("num_key_value_heads", raw["num_attention_heads"])
    small = {**kept, **SMALL_SIZES, "num_attention_heads": 4, "num_key_value_heads": 4 if heads == kv_heads else 2}
    small["max_position_embeddings"] = 128
    if "head_dim" in raw:
        small["head_dim"] = 16 if raw["head_dim"] * heads == raw["hidden_size"] else 32
    if raw.get("sliding_window"):
        small["sliding_window"] = 16
    if "max_window_layers" in raw:
        small["max_window_layers"] = 1
    if raw.get("layer_types"):
        small["layer_types"] = raw["layer_types"][:2]
    if original := (raw.get("rope_scaling") or {}).get("original_max_position_embeddings"):
        scaled = original * 128 // raw["max_position_embeddings"]
        small["rope_scaling"] = {**raw["rope_scaling"], "original_max_position_embeddings": scaled}
    return small


def test_real_configs_compute_what_transformers_computes(shared_data: Path, first_seed: int, tmp_path: Path) -> None:
    """Every config.json of the families that jinfer knows, shrunk; those that are then equal are one."""
    from tools.goldens.oracle import answer, random_model

    paths = sorted((shared_data / "configs").glob("*/config.json"))
    found = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    known = {name: raw for name, raw in found.items() if raw["architectures"][0] in known_architectures()}
    different = {json.dumps(shrunk(raw), sort_keys=True): name for name, raw in known.items()}
    print(f"ORACLE_SEED={first_seed}")
    for text, name in different.items():
        raw = json.loads(text)
        options = {key: value for key, value in raw.items() if key not in ("architectures", "model_type")}
        model = random_model(Variant(raw["architectures"][0], options), first_seed)
        right = answer(model, np.arange(5, 42))
        directory = tmp_path / name
        model.save_pretrained(directory)
        (directory / "config.json").write_text(text, encoding="utf-8")
        sequence = [*right.prompt_ids.tolist(), *right.greedy_ids.tolist()[:-1]]
        (logits,) = PagedRun(directory).logits([sequence], [len(right.prompt_ids)], CHUNK_SIZE)
        np.testing.assert_allclose(logits, right.logits, rtol=0, atol=MAX_LOGIT_ERROR, err_msg=name)
    assert len(different) > 10
