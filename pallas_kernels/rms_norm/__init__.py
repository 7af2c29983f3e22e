"""Root-mean-square layer normalization (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019)."""

from jaxtyping import Array, Float

from pallas_kernels.rms_norm import reference, triton
from pallas_kernels.selection import Implementation, select, should_interpret

__all__ = ["rms_norm"]


def rms_norm(
    x: Float[Array, "*batch features"],
    weight: Float[Array, " features"],
    *,
    epsilon: float,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "*batch features"]:
    """x / sqrt(mean(x ** 2) + epsilon) * weight over the last axis, in float32, rounded once to x's dtype.

    Raises ValueError where `weight` does not have x's number of features.
    """
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"weight has shape {weight.shape}, but the last axis of x has {x.shape[-1]} features")
    if select(implementation) == "reference":
        return reference.rms_norm(x, weight, epsilon)
    return triton.rms_norm(x, weight, epsilon, interpret=should_interpret(interpret))
