"""The only module that calls kernels written in Triton itself, through jax-triton 0.3, as `triton_call` is
the only one that calls Pallas.

jax-triton 0.3 compiles a kernel and asks XLA for a custom call of the old kind ("legacy"), which XLA never
puts into a CUDA graph. jaxlib 0.10.1 and later take the same payload through a typed call as well ("ffi"),
which XLA may put into a CUDA graph, and which is the default here. Neither runs on a CPU.
"""

import functools
import importlib
import importlib.metadata
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, get_args

import jax
from jaxtyping import Array

from pallas_kernels.core.device import target_device
from pallas_kernels.core.selection import UnsupportedError

CallKind = Literal["auto", "ffi", "legacy"]

FFI_TARGET = "triton_kernel_call_ffi"
LEGACY_TARGET = "triton_kernel_call"
DEFAULT_COMPUTE_CAPABILITY = 90  # of an H100 or H200, where no GPU can be asked
# XLA aligns every array at least so, and Triton loads vectors of 16 bytes where it may rely on it.
ALIGNMENT_BYTES = 16

logger = logging.getLogger(__name__)


def jax_triton_call(
    kernel: Callable,
    *operands: Array,
    out_shape: Sequence[jax.ShapeDtypeStruct],
    grid: tuple[int, ...],
    num_warps: int,
    num_stages: int,
    name: str,
    constants: Mapping[str, Any],
    call: CallKind = "auto",
) -> Sequence[Array]:
    """Runs `kernel`, a `triton.jit` function, once per point of `grid`; the first dimension varies fastest.

    Its first arguments are pointers to the operands and then to the results; `constants` are the others, by
    name. `call` forces either way into XLA, for comparison; "auto" is "ffi" where jaxlib has it.

    Raises UnsupportedError where jax-triton is missing, and on a CPU.
    """
    require_jax_triton()
    device = target_device()
    if device.kind == "cpu":
        raise UnsupportedError(
            f"jax-triton runs on NVIDIA GPUs, not on {device.kind!r}; take the reference or Pallas"
        )
    types = tuple(str(x.dtype) for x in operands) + tuple(str(x.dtype) for x in out_shape)
    payload = _payload(
        kernel, types, grid, num_warps, num_stages, name, tuple(constants.items()), _compute_capability()
    )
    if _resolved(call) == "ffi":
        return jax.ffi.ffi_call(FFI_TARGET, list(out_shape))(*operands, opaque=payload)
    # jax's annotation says str, but the payload is binary, and what is passed on is whatever is given.
    config: Any = payload
    legacy = jax.ffi.ffi_call(
        LEGACY_TARGET, list(out_shape), custom_call_api_version=2, legacy_backend_config=config
    )
    return legacy(*operands)


def require_jax_triton() -> ModuleType:
    """The part of jax-triton that compiles; UnsupportedError where it, Triton or JAX's CUDA plugin is not
    installed."""
    try:
        importlib.import_module("triton")
        return importlib.import_module("jax_triton.triton_lib")
    except ImportError as error:  # jax-triton raises it without the CUDA plugin, too
        raise UnsupportedError(
            'implementation "jax-triton" needs jax-triton, Triton and JAX\'s CUDA plugin '
            f'({error}); pip install "jinfer[cuda]"'
        ) from error


def has_ffi_target() -> bool:
    """True where this jaxlib takes kernels through the typed call."""
    plugin = require_jax_triton().triton_kernel_call_lib._cuda_triton
    return FFI_TARGET in getattr(plugin, "registrations", dict)()


@functools.cache
def _resolved(call: CallKind) -> Literal["ffi", "legacy"]:
    """The target of the call, cached so that a missing one is logged once."""
    if call not in get_args(CallKind):
        raise ValueError(
            f"call={call!r} is unknown; choose one of {', '.join(map(repr, get_args(CallKind)))}"
        )
    if call != "auto":
        return call
    if has_ffi_target():
        return "ffi"
    logger.warning(
        "jaxlib %s has no %s: Triton kernels stay outside of CUDA graphs; jaxlib 0.10.1 and later have it",
        *(importlib.metadata.version("jaxlib"), FFI_TARGET),
    )
    return "legacy"


def _compute_capability() -> int:
    """The number by which Triton names it: 90 for Hopper."""
    capability = getattr(jax.devices()[0], "compute_capability", None)
    if capability is None:
        return DEFAULT_COMPUTE_CAPABILITY
    major, minor = capability.split(".")
    return 10 * int(major) + int(minor)


@functools.cache
def _payload(
    kernel: Callable,
    types: tuple[str, ...],
    grid: tuple[int, ...],
    num_warps: int,
    num_stages: int,
    name: str,
    constants: tuple[tuple[str, Any], ...],
    compute_capability: int,
) -> bytes:
    """The payload that both kinds of call take: the compiled kernel and how to launch it, serialized and
    compressed."""
    library = require_jax_triton()
    compiled, _ = library.get_or_create_triton_kernel(
        library.get_cuda_backend,
        "cuda",
        kernel,
        [f"*{library._JAX_TO_TRITON_TYPE_MAP[jax.numpy.dtype(x)]}" for x in types],
        scalar_args=(),
        num_warps=num_warps,
        num_stages=num_stages,
        num_ctas=1,
        compute_capability=compute_capability,
        enable_fp_fusion=True,
        metaparams=dict(constants),
        dump=False,
    )
    jaxlib_triton = library.triton_kernel_call_lib
    pointers = [jaxlib_triton.create_array_parameter(0, ALIGNMENT_BYTES) for _ in types]
    x, y, z = (*grid, 1, 1)[:3]
    return zlib.compress(jaxlib_triton.TritonKernelCall(compiled, x, y, z, pointers).to_proto(name, b""))
