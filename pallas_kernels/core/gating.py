"""The gate of a feed-forward layer."""

from jaxtyping import Array


def silu_and_multiply(gate: Array, other: Array, exp_minus_gate: Array) -> Array:
    """silu(gate) * other with silu(x) = x / (1 + exp(-x)), of which the caller computes the exponential."""
    return gate / (1 + exp_minus_gate) * other
