"""The number of rows up to which the kernel serves a call: as measured on the device, else on an H200."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.core.selection import Available
from pallas_kernels.core.tuned import tuned_blocks
from pallas_kernels.matmul.contract import Fusion

MEASURED_DEVICE = "nvidia-h200"


@dataclass(frozen=True)
class Choice:
    """Up to `max_kernel_rows` rows the kernel is at least as fast as XLA."""

    max_kernel_rows: int


def choice_key(is_normalized: bool, itemsize: int) -> dict[str, int | bool]:
    """The facts that the choice depends on."""
    return {"is_normalized": is_normalized, "itemsize": itemsize}


def choice_blocks(is_normalized: bool, itemsize: int) -> Choice:
    key = choice_key(is_normalized, itemsize)
    choice = tuned_blocks("matmul", "choice", key, Choice)
    choice = choice or tuned_blocks("matmul", "choice", key, Choice, device=MEASURED_DEVICE)
    assert choice is not None, f"no entry for {key}"
    return choice


def best_for_arrays(x: Array, w: Array, fusion: Fusion, out_dtype: DTypeLike) -> Available:
    """The kernel where it serves a call and is not slower than XLA."""
    del w, out_dtype
    if fusion.bias is not None or x.dtype not in (jnp.bfloat16, jnp.float32):
        return "xla"
    max_rows = choice_blocks(fusion.norm is not None, x.dtype.itemsize).max_kernel_rows
    return "triton" if x.shape[0] <= max_rows else "xla"
