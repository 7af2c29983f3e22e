"""A model small enough for a thousand tokens a second on a CPU, and real in every part."""

import functools
import string
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from jinfer import LLM
from jinfer.models.registry import build_model, read_model_config
from jinfer.text.tokenizer import Tokenizer
from jinfer.weights.params import Params, flatten, unflatten

CONFIG: Mapping[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 48,
}
VOCAB_SIZE: int = CONFIG["vocab_size"]
CONTEXT: int = CONFIG["max_position_embeddings"]
# Of the weights: logits that are far apart, so that rounding does not decide which is largest.
STANDARD_DEVIATION = 0.5
# Decode steps of 1, 2 and 4 rows, and one mixed step.
FEW_SHAPES = {
    "max_num_seqs": 4,
    "max_num_batched_tokens": 16,
}


@functools.cache
def letters_tokenizer() -> Tokenizer:
    """A tokenizer with a letter, a digit or a space for each id of the tiny model, and no special tokens."""
    letters = [*string.ascii_letters, *string.digits, ".", "Ġ"]
    assert len(letters) == VOCAB_SIZE
    backend = Backend(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    with tempfile.TemporaryDirectory() as directory:
        backend.save(str(Path(directory) / "tokenizer.json"))
        return Tokenizer.from_directory(Path(directory))


def random_params(config: Mapping[str, Any] = CONFIG, seed: int = 0) -> Params:
    """Weights by path: normal matrices, and scales around one."""
    rng = np.random.default_rng(seed)
    abstract = flatten(build_model(read_model_config(config), jnp.dtype("float32"), "xla").abstract_params)
    draw = {
        path: rng.normal(0, STANDARD_DEVIATION, leaf.shape).astype(np.float32)
        for path, leaf in abstract.items()
    }
    return unflatten({path: 1 + x / 4 if path.endswith("scale") else x for path, x in draw.items()})


def tiny_llm(
    config: Mapping[str, Any] | Path = CONFIG, *, params: Params | None = None, **options: Any
) -> LLM:
    """An LLM of the tiny model in float32, or of a directory. `options` are those of EngineConfig."""
    if params is None and not isinstance(config, Path):
        params = random_params(config)
    return LLM(config, params=params, **{"progress": False, "dtype": "float32", **FEW_SHAPES, **options})


@functools.cache
def shared_llm(**options: Any) -> LLM:
    """`tiny_llm` once per set of options and test process, for compiling is what takes time. Leave it
    idle."""
    return tiny_llm(**options)
