"""Writing the weights as an ordinary Hugging Face Qwen3 directory, and reading them back."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.flax import load_file, save_file
from tokenizers import Tokenizer

from _demo_training.model import Params, layer_shapes
from _demo_training.rows import END_OF_TEXT, END_OF_TEXT_ID
from _demo_training.settings import Settings

WEIGHTS_FILE = "model.safetensors"
STORIES_TEMPERATURE = 0.7
STORIES_TOP_P = 0.95
LAYER_NAMES = {
    "input_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def num_inputs(name: str, shape: tuple[int, ...]) -> int:
    """How many of a weight's elements one output sums over: "o" reads heads and channels, others one axis."""
    return shape[0] * shape[1] if name == "o" else shape[0]


def to_hugging_face(params: Params, settings: Settings) -> dict[str, jnp.ndarray]:
    """[in..., out...] becomes a flat [out, in]; everything is stored in bfloat16."""
    tensors = {"model.embed_tokens.weight": params["embed"], "model.norm.weight": params["final_norm"]}
    for name, shape in layer_shapes(settings).items():
        for layer in range(settings.num_layers):
            weight = params["layers"][name][layer]
            if weight.ndim > 1:
                weight = weight.reshape(num_inputs(name, shape), -1).T
            tensors[f"model.layers.{layer}.{LAYER_NAMES[name]}.weight"] = weight
    return {name: weight.astype(jnp.bfloat16) for name, weight in tensors.items()}


def read_params(folder: Path, settings: Settings) -> Params:
    """The stored weights in the training layout, float32: what a reader of the directory really gets."""
    tensors = {name: weight.astype(jnp.float32) for name, weight in load_file(folder / WEIGHTS_FILE).items()}
    layers = {}
    for name, shape in layer_shapes(settings).items():
        stored = [tensors[f"model.layers.{i}.{LAYER_NAMES[name]}.weight"] for i in range(settings.num_layers)]
        layers[name] = jnp.stack([weight.T.reshape(shape) for weight in stored])
    return {
        "embed": tensors["model.embed_tokens.weight"],
        "layers": layers,
        "final_norm": tensors["model.norm.weight"],
    }


def model_config(s: Settings) -> dict:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": s.vocab_size,
        "hidden_size": s.hidden_size,
        "intermediate_size": s.intermediate_size,
        "num_hidden_layers": s.num_layers,
        "num_attention_heads": s.num_heads,
        "num_key_value_heads": s.num_kv_heads,
        "head_dim": s.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": s.max_positions,
        "rope_theta": s.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": s.rms_norm_eps,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": s.num_layers,
        "tie_word_embeddings": True,
        "initializer_range": s.init_std,
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def generation_config() -> dict:
    return {
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "pad_token_id": END_OF_TEXT_ID,
        "do_sample": True,
        "temperature": STORIES_TEMPERATURE,
        "top_p": STORIES_TOP_P,
    }


def tokenizer_config(s: Settings) -> dict:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": s.max_positions,
    }


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_directory(folder: Path, params: Params, tokenizer: Tokenizer, settings: Settings) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(to_hugging_face(params, settings), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    # safetensors writes for the owner alone; a file of the package is read by everybody.
    (folder / WEIGHTS_FILE).chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", model_config(settings))
    write_json(folder / "generation_config.json", generation_config())
    write_json(folder / "tokenizer_config.json", tokenizer_config(settings))


def num_parameters(params: Params) -> int:
    return int(
        sum(
            np.prod(weight.shape)
            for weight in [params["embed"], params["final_norm"], *params["layers"].values()]
        )
    )
