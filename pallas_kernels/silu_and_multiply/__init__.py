"""The activation of a gated feed-forward layer, SwiGLU (Shazeer, "GLU Variants Improve Transformer",
2020)."""

from jaxtyping import Array, Float

from pallas_kernels.core.selection import Implementation, select, should_interpret
from pallas_kernels.silu_and_multiply import reference, triton

__all__ = ["silu_and_multiply"]


def silu_and_multiply(
    gate_up: Float[Array, "*batch two_hidden"],
    *,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "*batch hidden"]:
    """silu(gate) * up with silu(x) = x / (1 + exp(-x)), in float32, rounded once to gate_up's dtype.

    gate is the first half of gate_up's last axis and up the second.

    On an H200 in bfloat16, [4096, 2 * 12288] moves at 94% of the copy bandwidth, 1.09 times as fast as XLA's
    fusion, and [64, 2 * 12288] takes 3.2 us, 1.03 times as fast. That is by itself: what XLA fuses with a
    neighbour is free.

    Raises ValueError where the last axis has no halves, and UnsupportedError where
    `implementation` cannot count the elements.
    """
    if gate_up.shape[-1] % 2:
        raise ValueError(
            f"the last axis of gate_up has {gate_up.shape[-1]} elements; gate and up are equal halves of it"
        )
    if select(implementation) == "reference":
        return reference.silu_and_multiply(gate_up)
    return triton.silu_and_multiply(gate_up, interpret=should_interpret(interpret))
