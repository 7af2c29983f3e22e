"""Every step shape compiled ahead of time, so that nothing compiles while requests run."""

import functools
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jinfer.batching.batch import layout_of, size_of
from jinfer.batching.buckets import Buckets, StepShape
from jinfer.compilation.cache import cache_directory, persistent_cache
from jinfer.compilation.options import compiled, compiler_options
from jinfer.compilation.traced_programs import traced, with_tree
from jinfer.config import CompilerOptions, Limits
from jinfer.execution.device_state import DeviceState
from jinfer.execution.step import run_step
from jinfer.models.model import Model
from jinfer.options import CompilerValue
from jinfer.progress import progress_bar
from jinfer.sampling import StepResult
from jinfer.weights.params import Params


def compile_steps(
    model: Model,
    *,
    limits: Limits,
    buckets: Buckets,
    params: Params,
    state: DeviceState,
    device: jax.Device,
    compiler: CompilerOptions,
    progress: bool,
) -> Mapping[StepShape, jax.stages.Compiled]:
    """The executable of every shape, compiled in threads. It takes (params, state, packed batch) and returns
    (state, StepResult) at once; `state` is donated, and must not be used again."""
    abstract_params, abstract_state = jax.tree.map(_abstract, (params, state))
    options = compiler_options(device, compiler.compiler_options)
    tracing = threading.Lock()  # Python's own lock is shared: one shape is traced while others compile

    def compile_one(shape: StepShape) -> jax.stages.Compiled:
        with tracing:
            lowered = _lower(model, limits, abstract_params, abstract_state, compiler, device, shape)
        return compiled(lowered, options)

    executables: dict[StepShape, jax.stages.Compiled] = {}
    with (
        persistent_cache(steps_directory(compiler, device)),
        ThreadPoolExecutor(max_workers=os.cpu_count()) as pool,
        progress_bar("compiling", total=len(buckets.all), enabled=progress) as bar,
    ):
        # Largest shapes first: the small ones finish the pool evenly.
        futures = {pool.submit(compile_one, shape): shape for shape in buckets.all[::-1]}
        try:
            for future in as_completed(futures):
                executables[futures[future]] = future.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return executables


def compile_step(
    model: Model,
    limits: Limits,
    params: Any,
    state: Any,
    compiler: CompilerOptions,
    device: jax.Device,
    shape: StepShape,
    **more_options: CompilerValue,
) -> jax.stages.Compiled:
    """Compiles the step of one shape for abstract arguments, traced now or at an earlier start."""
    options = compiler_options(device, {**compiler.compiler_options, **more_options})
    return compiled(_lower(model, limits, params, state, compiler, device, shape), options)


def lower_step(model: Model, limits: Limits, params: Any, state: Any, shape: StepShape) -> jax.stages.Lowered:
    """Traces and lowers the step of one shape for abstract arguments."""
    step = jax.jit(functools.partial(run_step, model, shape, limits), donate_argnums=1)
    return step.lower(params, state, _abstract_packed(shape, limits))


def _lower(
    model: Model,
    limits: Limits,
    params: Any,
    state: Any,
    compiler: CompilerOptions,
    device: jax.Device,
    shape: StepShape,
) -> jax.stages.Lowered:
    keeps_traces = device.platform == "gpu" or compiler.compilation_cache_dir is not None
    directory = steps_directory(compiler, device) if keeps_traces else None
    if directory is None:
        return lower_step(model, limits, params, state, shape)
    return _lower_traced_step(model, limits, params, state, shape, directory, device)


def _lower_traced_step(
    model: Model,
    limits: Limits,
    params: Any,
    state: Any,
    shape: StepShape,
    directory: Path,
    device: jax.Device,
) -> jax.stages.Lowered:
    leaves, structure = jax.tree.flatten((params, state, _abstract_packed(shape, limits)))

    def flat_step(*arguments: Any) -> list[Any]:
        return jax.tree.leaves(run_step(model, shape, limits, *jax.tree.unflatten(structure, arguments)))

    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
    what = model.config, model.implementation, limits, shape, structure, shapes
    exported = traced(flat_step, leaves, what, directory, device)
    result_structure = jax.tree.structure((state, StepResult(*range(len(StepResult._fields)))))
    step = jax.jit(with_tree(exported, result_structure), donate_argnums=1)
    return step.lower(params, state, _abstract_packed(shape, limits))


def _abstract_packed(shape: StepShape, limits: Limits) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size_of(layout_of(shape, limits)),), jnp.int32)


def steps_directory(compiler: CompilerOptions, device: jax.Device) -> Path | None:
    """The directory of compiled steps; None where they are not kept."""
    return cache_directory(
        device, is_enabled=compiler.compilation_cache, chosen=compiler.compilation_cache_dir
    )


def _abstract(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
