"""Every step shape compiled ahead of time, so that nothing compiles while requests run."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jinfer.batching.batch import layout_of, size_of
from jinfer.batching.buckets import Buckets, StepShape
from jinfer.compilation.cache import cache_directory, executables_directory
from jinfer.compilation.kept_calls import KeptCalls
from jinfer.compilation.options import compiler_options
from jinfer.compilation.program import Compilation, Program
from jinfer.config import CompilerOptions, EngineLimits
from jinfer.execution.device_state import DeviceState
from jinfer.execution.routed_step import run_routed_step
from jinfer.execution.step import run_step
from jinfer.models.model import Model
from jinfer.options import CompilerValue
from jinfer.placement import call_jitted
from jinfer.sampling.sampler import StepResult
from jinfer.weights.params import Params

RESULT = StepResult(*range(len(StepResult._fields) - 1))
"""The structure of what a step returns beside its state."""
ROUTED_RESULT = StepResult(*range(len(StepResult._fields)))
"""The same of a step that tells the experts of its tokens."""


def compile_steps(
    model: Model,
    *,
    limits: EngineLimits,
    buckets: Buckets,
    params: Params,
    state: DeviceState,
    device: jax.Device,
    compiler: CompilerOptions,
    progress: bool,
) -> Mapping[StepShape, jax.stages.Compiled]:
    """The executable of every shape. It takes (params, state, packed batch) and returns (state, StepResult)
    at once; `state` is donated, and must not be used again."""
    arguments = abstract(params), abstract(state)
    # Largest shapes first: the small ones finish the threads' work evenly.
    programs = {shape: step_program(model, limits, *arguments, shape) for shape in buckets.all[::-1]}
    return compilation_for(compiler, device).compile_all(programs, progress=progress)


def compile_step(
    model: Model,
    limits: EngineLimits,
    params: Any,
    state: Any,
    compiler: CompilerOptions,
    device: jax.Device,
    shape: StepShape,
    **more_options: CompilerValue,
) -> jax.stages.Compiled:
    """Compiles the step of one shape for abstract arguments, traced now or at an earlier start."""
    compilation = compilation_for(compiler, device, more_options)
    return compilation.compile(step_program(model, limits, params, state, shape))


def lower_step(
    model: Model, limits: EngineLimits, params: Any, state: Any, shape: StepShape
) -> jax.stages.Lowered:
    """Traces and lowers the step of one shape for abstract arguments."""
    return step_program(model, limits, params, state, shape).lower()


def step_program(model: Model, limits: EngineLimits, params: Any, state: Any, shape: StepShape) -> Program:
    """The step of one shape for abstract arguments."""
    function, result = (run_step, RESULT) if limits.num_experts is None else (run_routed_step, ROUTED_RESULT)
    return Program(
        function=functools.partial(function, model, shape, limits),
        arguments=(params, state, abstract_packed(shape, limits)),
        donated=(1,),
        result_structure=jax.tree.structure((state, result)),
        facts=model.trace_facts(limits, shape),
    )


def compilation_for(
    compiler: CompilerOptions, device: jax.Device, more_options: Mapping[str, CompilerValue] | None = None
) -> Compilation:
    """The way to compile the programs of an engine. Traces are kept on a GPU, and where a directory was
    chosen."""
    directory = steps_directory(compiler, device)
    keeps_traces = device.platform == "gpu" or compiler.compilation_cache_dir is not None
    return Compilation(
        device=device,
        options=compiler_options(device, {**compiler.compiler_options, **(more_options or {})}),
        directory=executables_directory(directory),
        traces_directory=directory if keeps_traces else None,
    )


def kept_calls(compiler: CompilerOptions, device: jax.Device) -> Callable[..., Any]:
    """The way to call the small programs of a start, for `Placement.call`."""
    directory = executables_directory(steps_directory(compiler, device))
    if directory is None:
        return call_jitted
    return KeptCalls(Compilation(device, options=None, directory=directory, traces_directory=None))


def abstract_packed(shape: StepShape, limits: EngineLimits) -> jax.ShapeDtypeStruct:
    """The shape of a packed batch."""
    return jax.ShapeDtypeStruct((size_of(layout_of(shape, limits)),), jnp.int32)


def steps_directory(compiler: CompilerOptions, device: jax.Device) -> Path | None:
    """The directory of compiled steps; None where they are not kept."""
    return cache_directory(
        device, is_enabled=compiler.compilation_cache, chosen=compiler.compilation_cache_dir
    )


def abstract(arrays: Any) -> Any:
    """The shapes and placements of a pytree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arrays)
