"""Tiny checkpoints that are real in every file: weights, config.json, and a tokenizer trained on a few
sentences."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # teaches numpy bfloat16
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tests.conftest import CACHE

VOCAB_SIZE = 300
BOS, EOS = "<|bos|>", "<|eos|>"
BOS_ID, EOS_ID = 0, 1
CONTEXT = 64
TRAINING_TEXT = (
    "the cat sat on the mat and the dog lay by the door while the rain fell",
    "once upon a time there was a little girl who wanted to see the big sea",
    "she said that nothing in the world was as blue as the sky after the rain",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": EOS_ID,
    "torch_dtype": "float32",
}
TINY_ENGINE: Mapping[str, Any] = {
    "dtype": "float32",
    "page_size": 4,
    "max_num_seqs": 2,
    "max_num_batched_tokens": 16,
    "progress": False,
    "compilation_cache_dir": CACHE.name,  # else each start on a CPU would trace its steps anew
}
"""Engine options with three shapes to compile."""
DEMO_ENGINE: Mapping[str, Any] = {
    "dtype": "float32",
    "max_num_seqs": 2,
    "max_num_batched_tokens": 16,
    "progress": False,
    "compilation_cache_dir": CACHE.name,
}
"""The same for the model that ships."""


def random_tensors(config: Mapping[str, Any] = CONFIG, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights by their Hugging Face names, float32, of a size that makes the greedy tokens vary."""
    heads, kv_heads, dim = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    hidden, mlp, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        shapes |= {
            f"{block}input_layernorm.weight": (hidden,),
            f"{block}self_attn.q_proj.weight": (heads * dim, hidden),
            f"{block}self_attn.k_proj.weight": (kv_heads * dim, hidden),
            f"{block}self_attn.v_proj.weight": (kv_heads * dim, hidden),
            f"{block}self_attn.o_proj.weight": (hidden, heads * dim),
            f"{block}post_attention_layernorm.weight": (hidden,),
            f"{block}mlp.gate_proj.weight": (mlp, hidden),
            f"{block}mlp.up_proj.weight": (mlp, hidden),
            f"{block}mlp.down_proj.weight": (hidden, mlp),
        }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    random = np.random.default_rng(seed)
    return {name: random.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


def joined_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors with those of queries, keys and values as one of each layer, and gate and up as another."""
    joins = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj"}
    joins |= {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}
    parts: dict[str, list[np.ndarray]] = {}
    for name, x in tensors.items():
        block, _, rest = name.partition("_proj.")
        stem, _, leaf = f"{block}_proj".rpartition(".") if rest else (name, "", "")
        parts.setdefault(f"{stem}.{joins.get(leaf, leaf)}.{rest}" if rest else name, []).append(x)
    return {name: np.concatenate(each) for name, each in parts.items()}


def tiny_tokenizer() -> Backend:
    """Byte-level BPE with VOCAB_SIZE tokens, which puts BOS before every text."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TRAINING_TEXT, trainer)
    backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    assert backend.get_vocab_size() == VOCAB_SIZE
    return backend


def write_checkpoint(
    directory: Path,
    *,
    config: Mapping[str, Any] = CONFIG,
    tensors: Mapping[str, np.ndarray] | None = None,
    tokenizer: bool = True,
    generation_config: Mapping[str, Any] | None = None,
) -> Path:
    """A model directory with everything that one from the hub has."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", config)
    save_file(dict(random_tensors(config) if tensors is None else tensors), directory / "model.safetensors")
    if tokenizer:
        tiny_tokenizer().save(str(directory / "tokenizer.json"))
        names = {"bos_token": BOS, "eos_token": EOS, "chat_template": CHAT_TEMPLATE}
        write_json(directory / "tokenizer_config.json", names)
    if generation_config is not None:
        write_json(directory / "generation_config.json", generation_config)
    return directory


def write_shards(directory: Path, tensors: Mapping[str, np.ndarray], *, num_shards: int = 2) -> Path:
    """Weights alone, in several files with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    names, weight_map = sorted(tensors), {}
    for i in range(num_shards):
        file, here = f"model-{i + 1:05d}-of-{num_shards:05d}.safetensors", names[i::num_shards]
        save_file({name: tensors[name] for name in here}, directory / file)
        weight_map |= dict.fromkeys(here, file)
    write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return directory


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
