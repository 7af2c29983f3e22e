"""The linear layers of a decode step, bound by reading the weights, with what a transformer does around them.

The norm in front is that of Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019), the gate behind that of
Shazeer, "GLU Variants Improve Transformer" (2020).
"""

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

from pallas_kernels.linear import reference, triton
from pallas_kernels.linear.ends import Ends
from pallas_kernels.linear.triton import MAX_NORM_ROWS, MAX_ROWS
from pallas_kernels.selection import Implementation, UnsupportedError, select, should_interpret

__all__ = ["MAX_NORM_ROWS", "MAX_ROWS", "linear"]


def linear(
    x: Float[Array, "rows in"],
    w: Float[Array, "in out"] | Float[Array, "layers in out"],
    *,
    layer: int | Int32[Array, ""] | None = None,
    transposed: bool = False,
    norm: tuple[Float[Array, " in"] | Float[Array, "layers in"], float] | None = None,
    gated: bool = False,
    residual: Float[Array, "rows out"] | None = None,
    out_dtype: DTypeLike | None = None,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "rows out"]:
    """x @ w, or x @ w.T where w is `transposed` ([out, in], as a tied embedding is), or that of w[layer] of a stack.

    `norm`, the scale and epsilon of an RMSNorm, puts x / sqrt(mean(x ** 2) + epsilon) * scale in the place of x, with
    scale[layer] of a stack. Where `gated`, w has the columns of a gate and then as many others (2 * out in all), and
    the result is silu(x @ w_gate) * (x @ w_other) with silu(y) = y / (1 + exp(-y)). `residual` is added at last.

    All sums are float32. x * scale is rounded to x's dtype, to be multiplied with w, and the row's factor
    1 / sqrt(...) applied to the sums; from there nothing is rounded until the end, when gate and residual are in, and
    then once, to `out_dtype` (x's own where None). Equal arguments give equal bits, and a row's do not depend on what
    other rows hold.

    Where one program would read too much, several share its inputs, and XLA adds their sums up: one kernel more, unless
    it can be fused with what follows.

    A stack of layers is indexed by the kernel: `w[layer]` as an argument would be copied first. The layer is data, also
    where it is a Python integer, so that the layers of a model share one trace and one compiled kernel. x, w, scale and
    residual are all bfloat16 or all float32.

    Measured on an H200 in bfloat16 over the layers of Qwen3-0.6B and 8B with their norms, gates and residuals, the best
    blocks were this many times as fast as XLA's dot (cuBLAS, or XLA's own at one row) with XLA's fusions around it:

        1 row       1.0 (the head of 8B, at 96% of the bandwidth) to 2.4 (the small layers of 0.6B)
        32 rows     1.10 to 1.23 (o and down of 8B)
        64 rows     0.87 to 1.06, and a third with a norm, which it does not take there

    So up to 16 rows it pays, and up to 32 without a norm. Beyond it is there for what XLA cannot do: index a stack
    without a copy.

    Raises ValueError where arguments contradict each other, and UnsupportedError where `implementation` cannot serve
    them: the Pallas kernel takes up to `MAX_ROWS` rows in bfloat16, up to `MAX_NORM_ROWS` with a norm or in float32.
    """
    ends = Ends(norm, gated, residual)
    _check(x, w, layer, transposed)
    _check_ends(x, w, transposed, ends)
    out_dtype = x.dtype if out_dtype is None else out_dtype
    if select(implementation) == "reference":
        return reference.linear(x, w, layer, transposed, ends, out_dtype)
    return triton.linear(x, w, layer, transposed, ends, out_dtype, interpret=should_interpret(interpret))


def _check(x: Array, w: Array, layer: int | Array | None, transposed: bool) -> None:
    if x.ndim != 2 or w.ndim not in (2, 3) or 0 in (*x.shape, *w.shape):
        raise ValueError(f"x has shape {x.shape} and w {w.shape}; pass [rows, in] and one or a stack of matrices")
    if (w.ndim == 3) != (layer is not None):
        raise ValueError(f"layer={layer} with w of shape {w.shape}: a stack of layers needs one, a matrix takes none")
    if isinstance(layer, int | np.integer) and not 0 <= layer < w.shape[0]:
        raise ValueError(f"layer={layer} is outside of a stack of {w.shape[0]} layers, which count from 0")
    num_in = w.shape[-1 if transposed else -2]
    if x.shape[1] != num_in:
        layout = "[out, in]" if transposed else "[in, out]"
        raise ValueError(f"x has {x.shape[1]} inputs and w {num_in}; they must be equal ({layout} is {w.shape[-2:]})")
    if x.dtype != w.dtype:
        raise UnsupportedError(f"x in {x.dtype} and w in {w.dtype}: no implementation mixes dtypes; cast x")


def _check_ends(x: Array, w: Array, transposed: bool, ends: Ends) -> None:
    num_columns, (rows, num_in) = w.shape[-2 if transposed else -1], x.shape
    if ends.gated and num_columns % 2:
        raise ValueError(f"w has {num_columns} outputs; gate and others are equal halves of them")
    out = rows, num_columns // 2 if ends.gated else num_columns
    if ends.residual is not None and ends.residual.shape != out:
        raise ValueError(f"residual has shape {ends.residual.shape} and the result {out}; they must be equal")
    scale = None if ends.norm is None else ends.norm[0]
    if scale is not None and scale.shape not in ((num_in,), (*w.shape[:-2], num_in)):
        raise ValueError(
            f"the norm's scale has shape {scale.shape}; it must be ({num_in},), or a stack of such as w is of "
            f"matrices (w is {w.shape})"
        )
    for name, array in (("scale", scale), ("residual", ends.residual)):
        if array is not None and array.dtype != x.dtype:
            raise UnsupportedError(f"x in {x.dtype} and {name} in {array.dtype}: no implementation mixes dtypes")
