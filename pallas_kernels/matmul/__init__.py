"""The product of a few rows and a matrix, bound by reading the weights, with what a transformer does around
it.

The norm before it is that of Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019), the gate
after it that of Shazeer, "GLU Variants Improve Transformer" (2020).
"""

from typing import Any

from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

from pallas_kernels.core.gating import Activation
from pallas_kernels.core.selection import Implementation, select, should_interpret
from pallas_kernels.core.weights import (
    Activations,
    BlockFp8Weight,
    Fp8Weight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    QuantizedWeight,
)
from pallas_kernels.matmul.contract import Fusion, check_arguments
from pallas_kernels.matmul.table import implementations_of
from pallas_kernels.matmul.triton import MAX_NORM_ROWS, MAX_ROWS

__all__ = [
    "MAX_NORM_ROWS",
    "MAX_ROWS",
    "Activation",
    "Activations",
    "BlockFp8Weight",
    "Fp8Weight",
    "Int4Weight",
    "Int8Weight",
    "Mxfp4Weight",
    "QuantizedWeight",
    "matmul",
]


def matmul(
    x: Float[Array, "rows in"],
    w: Float[Array, "in out"] | Float[Array, "layers in out"] | QuantizedWeight,
    *,
    layer: int | Int32[Array, ""] | None = None,
    transposed: bool = False,
    norm: tuple[Float[Array, " in"] | Float[Array, "layers in"], float] | None = None,
    bias: Float[Array, " out"] | Float[Array, "layers out"] | None = None,
    gated: bool = False,
    activation: Activation = "silu",
    residual: Float[Array, "rows out"] | None = None,
    out_dtype: DTypeLike | None = None,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "rows out"]:
    """residual + gate(norm(x) @ w + bias), each where it is given; with w[layer], or transposed w, instead of
    w.

    `transposed` says that w is [out, in], as a tied embedding is. `norm`, the scale and epsilon of an
    RMSNorm, puts x / sqrt(mean(x ** 2) + epsilon) * scale instead of x. Where `gated`, w has the columns of a
    gate and then as many others (2 * out in all), and the result is activation(x @ w_gate) * (x @ w_other),
    of silu(y) = y / (1 + exp(-y)) or
    gelu_tanh(y) = y / 2 * (1 + tanh(sqrt(2 / pi) * (y + 0.044715 * y ** 3))). Scale and bias may be stacks as
    w is, of which layer `layer` is taken.
    `out_dtype` is x's own where None.

    "pallas" is the kernel in Triton ("triton") up to the rows to which it is the faster one, and XLA ("xla")
    beyond, and for what the kernel leaves out. How many rows that is was measured, and is kept in `tuned/`.

    In the kernel all sums are float32. x * scale is rounded to x's dtype, to be multiplied with w, and the
    row's factor 1 / sqrt(...) applied to the sums; from there nothing is rounded until the end, when gate and
    residual are in, and then once. "xla" rounds the norm to x's dtype, the product to `out_dtype`, and what
    follows as it goes. Equal arguments give equal bits, and in the kernel a row's do not depend on what other
    rows hold.

    Where one program would read too much, several share its inputs, and XLA adds their sums up: one kernel
    more, unless it can be fused with what follows.

    A stack of layers is indexed by the kernel: `w[layer]` as an argument would be copied first. The layer is
    data, also where it is a Python integer, so that the layers of a model share one trace and one compiled
    kernel. x, w, scale, bias and residual are all bfloat16 or all float32, but for the arrays of
    a quantized weight, and for a scale, which may always be float32.

    A quantized weight is taken where an array is, with all that is around the product; `transposed` is not
    for it, since it knows which of its axes are inputs. Its `activations` say what becomes of x: nothing, or
    x is quantized after the norm, of which nothing is rounded in between, and integers are summed exactly.
    "pallas" is the kernel in Triton up to 128 rows of bfloat16, in which bytes become floats in registers,
    and scales of groups are applied to float32 sums; beyond, where x is quantized, the kernel in Mosaic GPU
    on Hopper ("mosaic", with jax 0.11 and newer); and else XLA, which writes the weights as floats first.

    Measured on an H200 in bfloat16 over the layers of Qwen3-0.6B and 8B with their norms, gates and
    residuals, the best blocks were this many times as fast as XLA's dot (cuBLAS, or XLA's own at one row)
    with XLA's fusions around it:

        1 row       1.0 (the head of 8B, at 96% of the bandwidth) to 2.4 (the small layers of 0.6B)
        32 rows     1.10 to 1.23 (o and down of 8B)
        64 rows     0.87 to 1.06, and a third with a norm, which it does not take there

    And with quantized weights (`benchmarks.quantization`), many rows in Mosaic GPU against torch in the same
    run: int8 1.96 times as fast as bfloat16 with rows quantized before (the worse of 4096 and 8192 cubed),
    1.71 and 1.85 with that inside; fp8 0.97 times scaled_mm; fp8 of blocks 1.43 times bfloat16.

    Raises ValueError where arguments contradict each other, and UnsupportedError where `implementation`
    cannot serve them: the kernel takes up to `MAX_ROWS` rows in bfloat16, up to `MAX_NORM_ROWS` with a norm
    or in float32, and no bias but with quantized weights.
    """
    fusion = Fusion(norm, bias, gated, residual, activation)
    check_arguments(x, w, layer=layer, transposed=transposed, fusion=fusion)
    implementations = implementations_of(w)
    out_dtype = x.dtype if out_dtype is None else out_dtype
    chosen = select(implementation, implementations.available)
    if chosen == "pallas":
        chosen = implementations.best(x, w, fusion, out_dtype)
    options: dict[str, Any] = {
        "layer": layer,
        "transposed": transposed,
        "fusion": fusion,
        "out_dtype": out_dtype,
    }
    if chosen == "triton":
        options["interpret"] = should_interpret(interpret)
    return getattr(implementations, chosen)(x, w, **options)
