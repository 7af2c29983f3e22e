"""Steps of models with experts compile for an H200: still one CUDA graph, and no expert is copied."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jinfer.batching.batch import layout_of, size_of
from jinfer.batching.buckets import StepShape
from jinfer.execution.device_state import abstract_device_state
from jinfer.execution.step import run_step
from jinfer.models.registry import build_model, read_model_config
from jinfer.weights.formats.format_choice import read_format
from jinfer.weights.formats.kernel_choice import with_described_types
from tests.execution.test_steps_on_an_h200 import LIMITS, OPTIONS, interpret_nothing
from tests.pallas_kernels.h200 import CompiledProgram, compile_for_h200, compiler_process, what_is_missing

pytestmark = pytest.mark.skipif(what_is_missing() is not None, reason=what_is_missing() or "")

MODELS: dict[str, dict[str, Any]] = {
    "Qwen3-30B-A3B": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
    },
    "gpt-oss-20b": {
        "architectures": ["GptOssForCausalLM"],
        "vocab_size": 201_088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
        },
    },
}
NUM_LAYERS = 2
MAX_TEMPORARY_BYTES = 2**27  # all experts of a layer are 1.2 GB and 0.4 GB


def compile_step(name: str, shape: StepShape) -> CompiledProgram:
    interpret_nothing()
    raw = {**MODELS[name], "max_position_embeddings": 40_960, "num_hidden_layers": NUM_LAYERS}
    model = build_model(read_model_config(raw), jnp.dtype("bfloat16"), "pallas")
    stored_as = read_format(raw)
    if stored_as is not None:
        model = model.fitted_to(with_described_types(model.param_specs, stored_as))
    state = abstract_device_state(model.config, LIMITS, jnp.dtype("bfloat16"))
    packed = jax.ShapeDtypeStruct((size_of(layout_of(shape, LIMITS)),), jnp.int32)
    step = functools.partial(run_step, model, shape, LIMITS)
    return compile_for_h200(step, model.abstract_params, state, packed, donate=[1], compiler_options=OPTIONS)


@pytest.mark.parametrize(
    ("name", "shape"), [("Qwen3-30B-A3B", StepShape(64)), ("gpt-oss-20b", StepShape(1))], ids=str
)
def test_a_step_is_one_graph_that_copies_no_expert(name, shape):
    with compiler_process(compile_step) as compile_:
        program = compile_(name, shape)
    assert program.thunks == ["kCommandBuffer"]
    assert program.temporary_bytes < MAX_TEMPORARY_BYTES
    assert not [kernel.name for kernel in program.kernels if kernel.spill_bytes]
