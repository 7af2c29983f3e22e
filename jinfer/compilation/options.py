"""Options of XLA's compiler: they belong to an executable, and never to the process."""

from collections.abc import Mapping

import jax

from jinfer.compilation.assembler import with_assembler
from jinfer.errors import ConfigError
from jinfer.options import CompilerValue

# Measured on an H200: faster from 64 rows on than what the defaults find by autotuning, and compiled in
# seconds.
GPU_COMPILER_OPTIONS: dict[str, CompilerValue] = {
    "xla_gpu_enable_triton_gemm": False,
    "xla_gpu_enable_cublaslt": True,
    "xla_gpu_enable_dynamic_slice_fusion": True,
}
# JAX's profiler would otherwise turn CUDA graphs off, and a trace would show gaps that an engine does not
# have.
TRACED_AS_IT_RUNS: dict[str, CompilerValue] = {"xla_enable_command_buffers_during_profiling": True}
REFUSALS = ("No such compile option", "While setting option")  # of XLA, for an unknown name and a wrong value


def compiler_options(
    device: jax.Device, chosen: Mapping[str, CompilerValue]
) -> dict[str, CompilerValue] | None:
    """The options for programs of a device, of which `chosen` replace jinfer's own; None leaves XLA's own."""
    own = {**TRACED_AS_IT_RUNS, **GPU_COMPILER_OPTIONS} if device.platform == "gpu" else {}
    return {**own, **chosen} or None


def compiled(lowered: jax.stages.Lowered, options: dict[str, CompilerValue] | None) -> jax.stages.Compiled:
    """The program compiled with these options. Raises ConfigError for an option that XLA refuses."""
    try:
        return with_assembler(lambda: lowered.compile(options))
    except jax.errors.JaxRuntimeError as error:
        if not any(refusal in str(error) for refusal in REFUSALS):
            raise
        raise ConfigError(
            f"XLA refuses one of compiler_options={options}: {error}; correct it or leave it out"
        ) from error
