"""The experts of a mixture, of Shazeer et al., "Outrageously Large Neural Networks: The Sparsely-Gated
Mixture-of-Experts Layer" (2017), whose experts are gated feed-forward layers."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float, Integer

from pallas_kernels.core.gating import ClampedSwiglu, ExpertActivation
from pallas_kernels.core.selection import Available, Implementation, select, should_interpret
from pallas_kernels.core.weights import QuantizedWeight
from pallas_kernels.experts import reference, triton, xla
from pallas_kernels.experts.contract import ExpertStacks, check_arguments
from pallas_kernels.experts.tuning import ExpertsCall, experts_choice, kernel_block_rows, serves

__all__ = ["ClampedSwiglu", "ExpertActivation", "experts"]

AVAILABLE: tuple[Available, ...] = ("pallas", "triton", "xla", "reference")
COMPUTE: Mapping[Available, Callable[..., Array]] = {
    "triton": triton.experts,
    "xla": xla.experts,
    "reference": reference.experts,
}


def experts(
    x: Float[Array, "tokens features"],
    weights: Float[Array, "tokens k"],
    expert_ids: Integer[Array, "tokens k"],
    gate_up: Float[Array, "layers experts features two_inner"] | QuantizedWeight,
    down: Float[Array, "layers experts inner features"] | QuantizedWeight,
    *,
    layer: int | Integer[Array, ""],
    activation: ExpertActivation = "silu",
    gate_up_bias: Float[Array, "layers experts two_inner"] | None = None,
    down_bias: Float[Array, "layers experts features"] | None = None,
    residual: Float[Array, "tokens features"] | None = None,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "tokens features"]:
    """residual + the sum over a token's experts e of weight * (gate(x @ gate_up[layer, e] + gate_up_bias) @
    down[layer, e] + down_bias), with biases and residual where they are given.

    gate_up has the columns of the gate and then as many others, as in `pallas_kernels.matmul`: the gate is
    activation(x @ w_gate) * (x @ w_other) of "silu" or "gelu_tanh", or a `ClampedSwiglu` of both. Weights and
    ids are those of `pallas_kernels.router.route`. An id outside of 0 to experts - 1 stands for no expert and
    adds nothing, such as where the expert is another device's.

    Weights are arrays of x's dtype, or stacks of Fp8Weight, BlockFp8Weight or Mxfp4Weight, whose first axes
    are layers and experts; x is not quantized. The layer is data, also where it is a Python integer, and no
    layer of a stack is copied. Sums are float32 and rounded to x's dtype between the two products and at the
    end. A row of the result depends on no other row.

    "pallas" is the faster of two for so many tokens, as measured (`tuned/`). "triton" computes each expert on
    its own tokens, and reads the weights of no other: rows are sorted by expert, and a program of the kernel
    has a block of rows of one expert. "xla" computes all experts on all tokens, as two products.

    Raises ValueError where arguments contradict each other, and UnsupportedError for other weights.
    """
    stacks = ExpertStacks(gate_up, down, gate_up_bias, down_bias)
    check_arguments(x, weights, expert_ids, stacks, layer=layer, activation=activation, residual=residual)
    chosen = select(implementation, AVAILABLE)
    call = ExpertsCall.of(x, expert_ids, stacks)
    if chosen == "pallas":
        chosen = experts_choice(call).way if serves(x, stacks) else "xla"
    options: dict[str, Any] = {"layer": layer, "activation": activation, "residual": residual}
    if chosen == "triton":
        options |= {"block_rows": kernel_block_rows(call), "interpret": should_interpret(interpret)}
    return COMPUTE[chosen](x, weights, expert_ids, stacks, **options)
