"""Whole steps compile for an H200, on a machine without one: a decode step is one CUDA graph that copies no
cache."""

import dataclasses
import functools
import math
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from jinfer.batching.batch import layout_of, size_of
from jinfer.batching.buckets import Buckets, StepShape
from jinfer.compilation.options import GPU_COMPILER_OPTIONS
from jinfer.config import EngineLimits, KVCacheDType
from jinfer.engine.split_plan import SplitKind
from jinfer.execution.device_state import abstract_device_state
from jinfer.execution.split_programs import ProgramKey, SplitPrograms
from jinfer.execution.step import run_step
from jinfer.execution.workspace import MIN_LAYERS
from jinfer.models.model import Model
from jinfer.models.registry import build_model, read_model_config
from jinfer.weights.rounded_weights import ROUNDINGS, with_rounded_types
from tests.pallas_kernels.h200 import CompiledProgram, compile_for_h200, compiler_process, what_is_missing

pytestmark = pytest.mark.skipif(what_is_missing() is not None, reason=what_is_missing() or "")

NUM_LAYERS, MORE_LAYERS = 3, 4
QWEN3_06B = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}
DEEPSEEK_V2_LITE = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "vocab_size": 102_400,
    "hidden_size": 2048,
    "intermediate_size": 10_944,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 16,
    "q_lora_rank": None,
    "first_k_dense_replace": 1,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1408,
    "max_position_embeddings": 40_960,
}
LIMITS = EngineLimits(
    page_size=16, num_pages=2000, max_num_seqs=64, max_num_batched_tokens=256, max_model_len=40_960
)
# Slices of stacked weights in front of cuBLAS: XLA needs a GPU to take them for what they are, and copies
# them here.
NEEDS_A_GPU = "xla_gpu_enable_dynamic_slice_fusion"
SLICES_A_LAYER = 4
OPTIONS = {name: value for name, value in GPU_COMPILER_OPTIONS.items() if name != NEEDS_A_GPU}


def compile_step(
    shape: StepShape,
    *,
    num_layers: int = NUM_LAYERS,
    quantization: str | None = None,
    is_permuted: bool = False,
    kv_cache_dtype: KVCacheDType = "auto",
    is_calibrated: bool = False,
) -> CompiledProgram:
    interpret_nothing()
    model = the_model(num_layers)
    if quantization is not None:
        rounding = ROUNDINGS[quantization](jnp.dtype("bfloat16"))
        model = model.fitted_to(with_rounded_types(model.param_specs, rounding))
    if is_permuted:
        types = model.param_specs.kernel_types
        permuted = {path: dataclasses.replace(each, is_permuted=True) for path, each in types.items()}
        model = model.fitted_to(model.param_specs.typed(permuted))
    if is_calibrated:
        model = model.fitted_to(model.param_specs.with_kv_scales())
    limits = dataclasses.replace(LIMITS, kv_cache_dtype=kv_cache_dtype)
    state = abstract_device_state(model.config, limits, jnp.dtype("bfloat16"))
    packed = jax.ShapeDtypeStruct((size_of(layout_of(shape, limits)),), jnp.int32)
    step = functools.partial(run_step, model, shape, limits)
    return compile_for_h200(step, model.abstract_params, state, packed, donate=[1], compiler_options=OPTIONS)


def interpret_nothing() -> None:
    """In a process without a GPU, where kernels would else be interpreted."""
    for name, module in list(sys.modules.items()):
        if name.startswith("pallas_kernels") and hasattr(module, "should_interpret"):
            vars(module)["should_interpret"] = lambda interpret: False


def the_model(num_layers: int) -> Model:
    raw = {**QWEN3_06B, "num_hidden_layers": num_layers}
    return build_model(read_model_config(raw), jnp.dtype("bfloat16"), "pallas")


def compile_half(kind: SplitKind, key: ProgramKey) -> CompiledProgram:
    """A program of steps in two halves."""
    interpret_nothing()
    model = the_model(NUM_LAYERS)
    state = abstract_device_state(model.config, LIMITS, jnp.dtype("bfloat16"))
    programs = SplitPrograms(model, LIMITS, Buckets.for_limits(LIMITS), model.abstract_params, state)
    program = programs.of_kind(kind)[key]
    return compile_for_h200(
        program.function, *program.arguments, donate=list(program.donated), compiler_options=OPTIONS
    )


@pytest.fixture(scope="module")
def compiled():
    """Compiles steps, each once."""
    with compiler_process(compile_step) as compile_:
        yield functools.cache(compile_)


@pytest.fixture(scope="module")
def compiled_half():
    with compiler_process(compile_half) as compile_:
        yield compile_


@pytest.fixture(scope="module")
def compiled_latent():
    with compiler_process(compile_latent) as compile_:
        yield compile_


def compile_latent(shape: StepShape) -> CompiledProgram:
    """Latent attention of real widths, with experts in two of three layers."""
    interpret_nothing()
    model = build_model(read_model_config(DEEPSEEK_V2_LITE), jnp.dtype("bfloat16"), "pallas")
    state = abstract_device_state(model.config, LIMITS, jnp.dtype("bfloat16"))
    packed = jax.ShapeDtypeStruct((size_of(layout_of(shape, LIMITS)),), jnp.int32)
    step = functools.partial(run_step, model, shape, LIMITS)
    return compile_for_h200(step, model.abstract_params, state, packed, donate=[1], compiler_options=OPTIONS)


def cache_bytes(raw: dict = QWEN3_06B) -> int:
    state = abstract_device_state(read_model_config(raw), LIMITS, jnp.dtype("bfloat16")).kv_cache
    return sum(math.prod(layer.shape) * layer.dtype.itemsize for layer in jax.tree.leaves(state))


KERNELS = {"kCustomKernel", "kKernel", "kCopy", "kCublasLtMatmul", "kGemm", "kMemset32BitValue"}
# What jax 0.11 calls a matmul that reads its layer's weights where they lie in the stack.
KERNELS |= {"kDynamicSliceFusion"}


@pytest.mark.parametrize("shape", [StepShape(1), StepShape(64), StepShape(64, 256)], ids=str)
def test_a_step_is_what_we_want(compiled, shape):
    """One CUDA graph: nothing is left to the host, no kernel, no condition that it would have to read, no
    loop. The cache is written in place, and no kernel spills registers."""
    program = compiled(shape)
    assert program.thunks == ["kCommandBuffer"]
    assert set(program.captured) <= KERNELS, Counter(program.captured)
    assert program.aliased_bytes >= cache_bytes()
    assert program.temporary_bytes < cache_bytes() / 2
    max_copies = 2 if shape.rows <= 16 else 2 + SLICES_A_LAYER * NUM_LAYERS
    assert program.captured.count("kCopy") <= max_copies
    assert not [kernel.name for kernel in program.kernels if kernel.spill_bytes]
    if shape == StepShape(1):
        check_layers_of_one_row(program)


@pytest.mark.parametrize(
    ("quantization", "is_permuted"), [("fp8", False), ("int4", False), ("int4", True)], ids=str
)
def test_a_decode_step_with_quantized_weights_is_one_graph(compiled, quantization, is_permuted):
    """And no weight becomes floats beside what floats take."""
    shape = StepShape(64)
    program = compiled(shape, quantization=quantization, is_permuted=is_permuted)
    floats = compiled(shape)
    assert program.thunks == ["kCommandBuffer"]
    assert set(program.captured) <= KERNELS, Counter(program.captured)
    assert program.aliased_bytes >= cache_bytes()
    assert program.temporary_bytes < floats.temporary_bytes + 2_000_000
    assert not [kernel.name for kernel in program.kernels if kernel.spill_bytes]


@pytest.mark.parametrize("shape", [StepShape(64), StepShape(64, 256)], ids=str)
def test_fixed_scales_of_a_cache_start_no_kernel_more(compiled, shape):
    found, fixed = (
        compiled(shape, kv_cache_dtype="fp8_e4m3", is_calibrated=is_calibrated)
        for is_calibrated in (False, True)
    )
    assert Counter(fixed.captured) == Counter(found.captured)
    assert fixed.temporary_bytes <= found.temporary_bytes + 4096
    assert not [kernel.name for kernel in fixed.kernels if kernel.spill_bytes]


def test_the_first_half_of_a_step_is_one_graph_and_copies_no_cache(compiled_half):
    program = compiled_half("processed", ProgramKey("forward", StepShape(64)))
    assert program.thunks == ["kCommandBuffer"]
    assert program.aliased_bytes >= cache_bytes()
    assert program.captured.count("kCopy") <= SLICES_A_LAYER * NUM_LAYERS
    # What passes between the halves lies where it lay: else the graph is written anew at each step.
    assert program.new_bytes < 4096, "a table of results alone"


def test_the_second_half_is_one_graph_that_writes_its_counts_in_place(compiled_half):
    """A condition would make the host wait for the device, before it may plan the next step."""
    program = compiled_half("processed", ProgramKey("choose", size=64))
    vocab_size = QWEN3_06B["vocab_size"]
    assert program.thunks == ["kCommandBuffer"]
    assert set(program.captured) == {"kCustomKernel"}
    counts_bytes = (LIMITS.max_num_seqs + 1) * vocab_size * 3
    assert program.aliased_bytes >= counts_bytes
    assert program.temporary_bytes < 2.1 * LIMITS.max_num_seqs * vocab_size * 4, "two arrays of logits"
    assert not [kernel.name for kernel in program.kernels if kernel.spill_bytes]


def test_the_logits_of_a_scored_prompt_are_never_there_all_together(compiled_half):
    program = compiled_half("scored", ProgramKey("score", StepShape(64, 256)))
    all_logits = 256 * QWEN3_06B["vocab_size"] * 4
    assert program.aliased_bytes >= cache_bytes()
    assert program.temporary_bytes < 0.6 * all_logits


@pytest.mark.parametrize("shape", [StepShape(64), StepShape(64, 256)], ids=str)
def test_layers_use_the_same_workspace(compiled, shape):
    """Beside an entry each in a table of results: so that few of them tell what all need."""
    few, all_ = (compiled(shape, num_layers=count).temporary_bytes for count in (MIN_LAYERS, MORE_LAYERS))
    assert few <= all_ < few + (MORE_LAYERS - MIN_LAYERS) * 4096


@pytest.mark.parametrize("shape", [StepShape(64), StepShape(64, 256)], ids=str)
def test_a_step_with_latent_attention_is_one_graph(compiled_latent, shape):
    """That copies no cache, no weight of a head or of an expert, and makes no table of a page for each
    token."""
    program = compiled_latent(shape)
    assert program.thunks == ["kCommandBuffer"]
    assert set(program.captured) <= KERNELS, Counter(program.captured)
    assert program.aliased_bytes >= cache_bytes(DEEPSEEK_V2_LITE)
    assert program.captured.count("kCopy") <= 2 + SLICES_A_LAYER * NUM_LAYERS
    of_experts = 64 * 3 * 2048 * 1408 * 2
    assert program.temporary_bytes < min(of_experts, 2 * cache_bytes(DEEPSEEK_V2_LITE))
    assert not [kernel.name for kernel in program.kernels if kernel.spill_bytes]
    names = Counter(kernel.name.rstrip("_0123456789") for kernel in program.kernels)
    assert names["head_matmul"] == 2 * NUM_LAYERS
    assert "input_concatenate_fusion" not in names, "two weights are copied side by side"
    assert names["latent_cache_write"] == names["latent_attention"] == NUM_LAYERS


def check_layers_of_one_row(program: CompiledProgram) -> None:
    """Norm, projection, gate and residual in one kernel each; all from the projection to attention; and its
    merge."""
    names = Counter(kernel.name.rstrip("_0123456789") for kernel in program.kernels)
    of_a_layer = {"matmul": 4, "append_and_decode": 1, "merge_splits": 1}
    for name, count in of_a_layer.items():
        assert names[name] in (count * NUM_LAYERS, count * NUM_LAYERS + (name == "matmul")), names
    assert sum(names.values()) < 6 * NUM_LAYERS + 25, names
