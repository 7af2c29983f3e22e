"""The memory of a step beside its arguments: known from the compiled step, without running it."""

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp

from jinfer.batching.buckets import Buckets, StepShape
from jinfer.config import CompilerOptions, EngineLimits
from jinfer.execution.compiled_steps import compile_step
from jinfer.execution.device_state import abstract_device_state
from jinfer.models.config import ExpertsConfig, MLPConfig, ModelConfig
from jinfer.models.model import Model
from jinfer.models.registry import build_model
from jinfer.placement import Placement
from jinfer.sampling.processed_logits import abstract_logits_state

# Weights are on their way to the GPU meanwhile, and what is timed beside them would be kept for the steps
# that run.
WITHOUT_TUNING: dict[str, str | bool] = {"xla_gpu_autotune_level": "0"}
# float32 [rows, vocab] arrays that sampling may hold at a time: logits, noise, probabilities, bits.
LOGITS_COPIES = 6
ACTIVATION_COPIES = 4  # of the widest activations of a step, between two layers
MIN_LAYERS = 3  # two ordinary ones, since they share buffers, and the last, which is smaller


def step_workspace_bytes(step: jax.stages.Compiled) -> int | None:
    """XLA's temporary arrays, and results that take over no argument's memory. None where XLA does not
    say."""
    analysis = step.memory_analysis()
    if analysis is None:
        return None
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes


def largest_workspace_bytes(steps: Mapping[StepShape, jax.stages.Compiled]) -> int | None:
    """The largest workspace of all steps, of which one runs at a time. None where XLA does not say."""
    sizes = [step_workspace_bytes(step) for step in steps.values()]
    return max((size for size in sizes if size is not None), default=None)


def start_probing(
    model: Model, limits: EngineLimits, dtype: jnp.dtype, placement: Placement, compiler: CompilerOptions
) -> Future[int | None]:
    """Compiles, in a thread, the largest step of each kind. The result is the workspace of the larger.

    Nothing has to be on the device yet. `limits.num_pages` may be any number, for no step makes an array that
    long. On a CPU, where compiling takes longer than loading a model, the result is None.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="jinfer-workspace")
    try:
        return thread.submit(
            lambda: (
                probe(model, limits, dtype, placement, compiler)
                if placement.device.platform == "gpu"
                else None
            )
        )
    finally:
        thread.shutdown(wait=False)


def probe(
    model: Model, limits: EngineLimits, dtype: jnp.dtype, placement: Placement, compiler: CompilerOptions
) -> int | None:
    """Workspace of the largest decode step and the largest mixed step; None where XLA does not say.

    They are those of a few layers, which all use the same memory one after the other: each adds some 1,300
    bytes.
    """
    model = _of_few_layers(model, dtype)
    buckets, device = Buckets.for_limits(limits), placement.device
    params = model.param_specs.tree(model.param_specs.placed(placement))
    state = placement.placed(abstract_device_state(model.config, limits, dtype))

    def compile_one(shape: StepShape) -> jax.stages.Compiled:
        return compile_step(model, limits, params, state, compiler, device, shape, **WITHOUT_TUNING)

    shapes = (buckets.decode[-1], buckets.mixed[-1])
    with ThreadPoolExecutor(len(shapes)) as threads:
        return largest_workspace_bytes(dict(zip(shapes, threads.map(compile_one, shapes), strict=True)))


def _of_few_layers(model: Model, dtype: jnp.dtype) -> Model:
    """The model with a layer of each kind that it has before the last: kernels for a window are not those for
    all positions."""
    layers = list(dict.fromkeys(model.config.layers))
    layers += layers[:1] * max(1, MIN_LAYERS - len(layers))
    if model.is_own or len(layers) >= model.config.num_layers:
        return model
    few = build_model(dataclasses.replace(model.config, layers=tuple(layers)), dtype, model.implementation)
    return few.fitted_to(few.param_specs.typed(model.param_specs.kernel_types))


def estimated_workspace_bytes(model: ModelConfig, limits: EngineLimits, dtype: jnp.dtype) -> int:
    """An upper estimate, for where compiling takes too long or XLA does not say."""
    widest = 2 * model.hidden_size + max(
        _mlp_width(layer.mlp)
        + (0 if layer.experts_beside is None else _mlp_width(layer.experts_beside))
        + layer.attention.query_width
        for layer in model.layers
    )
    logits = LOGITS_COPIES * limits.max_num_seqs * model.vocab_size * 4
    return logits + ACTIVATION_COPIES * limits.max_num_batched_tokens * widest * dtype.itemsize


def _mlp_width(mlp: MLPConfig | ExpertsConfig) -> int:
    """The features between the products of an MLP, or of all experts of a token."""
    if isinstance(mlp, MLPConfig):
        return 2 * mlp.intermediate_size
    shared = 0 if mlp.shared is None else _mlp_width(mlp.shared)
    return 2 * mlp.routing.top_k * mlp.intermediate_size + shared


def split_steps_bytes(vocab_size: int, limits: EngineLimits) -> int:
    """The memory that steps in two halves take beside a step's workspace: what follows from the rules of all
    rows, and the logits that wait for the second half."""
    kept = jax.tree.leaves(abstract_logits_state(limits.max_num_seqs, vocab_size))
    return sum(x.size * x.dtype.itemsize for x in kept) + limits.max_num_seqs * vocab_size * 4
