"""Options of XLA's compiler: they belong to an executable, and never to the process."""

import jax

# Measured on an H200: faster from 64 rows on than what the defaults find by autotuning, and compiled in seconds.
GPU_COMPILER_OPTIONS: dict[str, str | bool] = {
    "xla_gpu_enable_triton_gemm": False,
    "xla_gpu_enable_cublaslt": True,
    "xla_gpu_enable_dynamic_slice_fusion": True,
}
# JAX's profiler would otherwise turn CUDA graphs off, and a trace would show gaps that an engine does not have.
TRACED_AS_IT_RUNS = {"xla_enable_command_buffers_during_profiling": True}
NO_CUDA_GRAPHS = {"xla_gpu_enable_command_buffer": ""}


def compiler_options(device: jax.Device, *, cuda_graphs: bool, gemm_autotuning: bool) -> dict[str, str | bool] | None:
    """The options for programs of a device; None leaves XLA's own."""
    if device.platform != "gpu":
        return None
    return {
        **TRACED_AS_IT_RUNS,
        **({} if gemm_autotuning else GPU_COMPILER_OPTIONS),
        **({} if cuda_graphs else NO_CUDA_GRAPHS),
    }
