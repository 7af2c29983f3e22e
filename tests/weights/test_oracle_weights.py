"""What is stored beside or instead of a model's weights, against transformers, live: the same greedy
tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jinfer import LLM
from tests.checkpoints import CONFIG, TINY_ENGINE, random_tensors, write_json, write_shards

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("one_torch_thread")]
torch = pytest.importorskip("torch", reason="torch computes what is right; install jinfer[oracle]")
pytest.importorskip("transformers", reason="transformers computes what is right; install jinfer[oracle]")

PROMPT, NUM_TOKENS = [5, 17, 3, 88, 41, 2, 9, 60, 33], 12
HEAD, EMBEDDING, BLOCK = "lm_head.weight", "model.embed_tokens.weight", "model.layers.1.self_attn."
UNTIED = random_tensors()
TIED = {name: x for name, x in UNTIED.items() if name != HEAD}
ONLY_HEAD = {HEAD if name == EMBEDDING else name: x for name, x in TIED.items()}
LLAMA = {**CONFIG, "model_type": "llama", "hidden_act": "silu"}
WITH_TIED = {**LLAMA, "tie_word_embeddings": True}
LEFT_OVER = {
    f"{BLOCK}rotary_emb.inv_freq": np.ones(4, np.float32),
    f"{BLOCK}rotary_emb.cos_cached": np.ones((64, 8), np.float32),
    f"{BLOCK}q_proj.bias": np.zeros(32, np.float32),
    "lm_head.bias": np.zeros(300, np.float32),
    "model.position_ids": np.arange(64),
}


def single(directory: Path, tensors: Mapping[str, np.ndarray]) -> None:
    save_file(dict(tensors), directory / "model.safetensors", metadata={"format": "pt"})


def both(directory: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """One file, and other weights in shards with an index."""
    write_shards(directory, random_tensors(seed=9))
    single(directory, tensors)


def explicit(directory: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """In a file that config.json names, beside another."""
    single(directory, tensors)
    (directory / "model.safetensors").rename(directory / "mine.safetensors")
    single(directory, random_tensors(seed=9))


@pytest.mark.parametrize(
    ("config", "tensors", "write"),
    [
        (LLAMA, UNTIED, single),
        (WITH_TIED, TIED, single),
        (WITH_TIED, UNTIED, single),
        (WITH_TIED, {**TIED, HEAD: TIED[EMBEDDING]}, single),
        (WITH_TIED, ONLY_HEAD, single),
        (LLAMA, {**UNTIED, **LEFT_OVER}, single),
        (LLAMA, {name: x.astype(np.float64) for name, x in UNTIED.items()}, single),
        (LLAMA, {name: x.astype(ml_dtypes.bfloat16) for name, x in UNTIED.items()}, single),
        (LLAMA, UNTIED, both),
        ({**LLAMA, "transformers_weights": "mine.safetensors"}, UNTIED, explicit),
    ],
    ids=[
        "plain",
        "tied",
        "a head of its own",
        "a copied head",
        "a head alone",
        "left over",
        "float64",
        "bfloat16",
        "a file and an index",
        "a file that config.json names",
    ],
)
def test_the_tokens_are_those_of_transformers(
    config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], write: Any, tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", config)
    write(tmp_path, tensors)

    with LLM(tmp_path, **TINY_ENGINE) as llm:
        output = llm.generate(PROMPT, temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)[0].outputs[0]
    assert list(output.token_ids) == by_transformers(tmp_path)


def by_transformers(directory: Path) -> list[int]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ids = list(PROMPT)
    with torch.no_grad():
        for _ in range(NUM_TOKENS):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(PROMPT) :]
