"""The description of a decoder's parameters: what each is, and where a checkpoint has it."""

import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from jinfer.models.model import Model
from jinfer.models.registry import build_model, read_model_config
from jinfer.weights.expert_tensors import with_expert_tensors
from jinfer.weights.safetensors_directory import open_source
from jinfer.weights.safetensors_layout import tensor_names
from jinfer.weights.text_model import text_model
from tests.checkpoints import CONFIG
from tests.models.goldens import GOLDENS

BFLOAT16 = jnp.dtype("bfloat16")


def model_of(**changes) -> Model:
    return build_model(read_model_config(dict(CONFIG, **changes)), BFLOAT16, "reference")


def test_each_axis_of_a_parameter_has_a_name():
    specs = model_of(architectures=["Qwen3ForCausalLM"], attention_bias=True).param_specs.by_path

    assert {path: (spec.shape, spec.axes) for path, spec in specs.items()} == {
        "embedding/kernel": ((300, 32), ("vocab", "embed")),
        "head/kernel": ((300, 32), ("vocab", "embed")),
        "attention_norm/scale": ((2, 32), ("layers", "embed")),
        "mlp_norm/scale": ((2, 32), ("layers", "embed")),
        "final_norm/scale": ((1, 32), ("layers", "embed")),
        "attention/qkv/kernel": ((2, 32, 64), ("layers", "embed", "joined")),
        "attention/qkv/bias": ((2, 64), ("layers", "joined")),
        "attention/q_norm/scale": ((2, 8), ("layers", "head_dim")),
        "attention/k_norm/scale": ((2, 8), ("layers", "head_dim")),
        "attention/output/kernel": ((2, 32, 32), ("layers", "heads", "embed")),
        "attention/output/bias": ((2, 32), ("layers", "embed")),
        "mlp/gate_up/kernel": ((2, 32, 96), ("layers", "embed", "joined")),
        "mlp/down/kernel": ((2, 48, 32), ("layers", "mlp", "embed")),
    }
    assert {spec.dtype for spec in specs.values()} == {BFLOAT16}


def test_norms_behind_and_norms_of_projections_have_the_names_of_their_tensors():
    specs = model_of(architectures=["Olmo2ForCausalLM"]).param_specs.by_path

    of_norms = {path: spec for path, spec in specs.items() if "norm" in path and path != "final_norm/scale"}
    assert {
        path: (spec.shape, spec.axes, spec.tensors[0].name.split("{layer}.")[1])
        for path, spec in of_norms.items()
    } == {
        "attention_post_norm/scale": ((2, 32), ("layers", "embed"), "post_attention_layernorm.weight"),
        "mlp_post_norm/scale": ((2, 32), ("layers", "embed"), "post_feedforward_layernorm.weight"),
        "attention/q_projection_norm/scale": ((2, 32), ("layers", "heads"), "self_attn.q_norm.weight"),
        "attention/k_projection_norm/scale": ((2, 16), ("layers", "kv_heads"), "self_attn.k_norm.weight"),
    }


def test_joined_tensors_say_which_columns_each_fills():
    qkv = model_of().param_specs.by_path["attention/qkv/kernel"]

    columns = [(tensor.axis, tensor.num_columns) for tensor in qkv.tensors]
    assert columns == [("heads", 32), ("kv_heads", 16), ("kv_heads", 16)]
    assert list(qkv.tensor_names())[-1] == "model.layers.1.self_attn.v_proj.weight"


@pytest.mark.parametrize("directory", sorted(GOLDENS.iterdir()), ids=lambda path: path.name)
def test_the_tensors_are_those_that_transformers_writes(directory):
    """Those of a text model in a multimodal one by its names there, and those of a layer's experts perhaps in
    one."""
    config = read_model_config(json.loads((directory / "config.json").read_text()))
    specs, files = build_model(config, BFLOAT16, "reference").param_specs, open_source(source_of(directory))
    if specs.is_part:
        specs, files = text_model(specs, files)
    assert tensor_names(specs) == with_expert_tensors(specs, files).tensors.keys()


def source_of(directory: Path) -> Path:
    """The index of a checkpoint of several files, or its only file."""
    index = directory / "model.safetensors.index.json"
    return index if index.exists() else directory / "model.safetensors"


def test_a_head_of_its_own_unties_the_model():
    model = model_of(tie_word_embeddings=True)
    untied = model.fitted_to(model.param_specs.untied("embedding/kernel"))

    assert "head" not in model.abstract_params
    assert untied.abstract_params["head"] == untied.abstract_params["embedding"]
    assert model.config.tie_word_embeddings
    assert not untied.config.tie_word_embeddings
