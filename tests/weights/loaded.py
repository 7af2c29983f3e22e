"""What an engine would compute with: the parameters of a source, found and loaded as LLM does it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jinfer.config import EngineConfig
from jinfer.errors import ModelError
from jinfer.loading import load_model, resolve_model
from jinfer.placement import default_placement
from jinfer.weights.params import flatten
from pallas_kernels.core.weights import QuantizedWeight

LAYER_NAMES = {
    "attention_norm/scale": ("input_layernorm",),
    "attention/qkv/kernel": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention/output/kernel": ("self_attn.o_proj",),
    "mlp_norm/scale": ("post_attention_layernorm",),
    "mlp/gate_up/kernel": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp/down/kernel": ("mlp.down_proj",),
}


def loaded(source: Path | Mapping[str, Any], params: Any = None, **options: Any) -> dict[str, np.ndarray]:
    """Parameters by path, of a directory, or of a config and params."""
    config = EngineConfig.from_options({"dtype": "float32", "progress": False, **options})
    placement = default_placement()
    resolved = resolve_model(source, params=params, tokenizer=None, config=config, placement=placement)
    loaded_model = load_model(resolved, params=params, config=config, placement=placement)
    return {path: as_floats(x) for path, x in flatten(loaded_model.params).items()}


def as_floats(x: Any) -> np.ndarray:
    """A parameter, of a quantized kernel the floats that it stands for."""
    return np.asarray(x.dequantized() if isinstance(x, QuantizedWeight) else x)


def raised(source: Path | Mapping[str, Any], params: Any = None) -> str:
    """What is said of a source that is refused."""
    with pytest.raises(ModelError) as caught:
        loaded(source, params)
    return str(caught.value)


def expected(tensors: Mapping[str, np.ndarray], num_layers: int = 2) -> dict[str, np.ndarray]:
    """The parameters of Hugging Face's tensors, put together by numpy."""

    def stacked(names: tuple[str, ...]) -> np.ndarray:
        layers = [[tensors[f"model.layers.{i}.{name}.weight"] for name in names] for i in range(num_layers)]
        return np.stack([np.concatenate([x.T for x in layer], axis=-1) for layer in layers])

    params = {path: stacked(names) for path, names in LAYER_NAMES.items()}
    params |= {"embedding/kernel": tensors["model.embed_tokens.weight"]}
    params |= {"final_norm/scale": tensors["model.norm.weight"][None]}
    return params | ({"head/kernel": tensors["lm_head.weight"]} if "lm_head.weight" in tensors else {})


def assert_same(given: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    assert given.keys() == wanted.keys()
    for path, array in wanted.items():
        np.testing.assert_array_equal(given[path], array, err_msg=path)
