"""Layer normalization (Ba, Kiros and Hinton, "Layer Normalization", 2016)."""

from jaxtyping import Array, Float

from pallas_kernels.core.selection import Implementation, select, should_interpret
from pallas_kernels.layer_norm import reference, triton

__all__ = ["layer_norm"]


def layer_norm(
    x: Float[Array, "*batch features"],
    weight: Float[Array, " features"] | None,
    bias: Float[Array, " features"] | None,
    *,
    epsilon: float,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "*batch features"]:
    """(x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias over the last axis, in float32, rounded
    once to x's dtype. The variance is the mean of the squared distances from the mean; weight None is 1 and
    bias None is 0.

    On an H200, [8192, 4096] in bfloat16 moves at 79% of the copy bandwidth, 1.23 times as fast as XLA's
    fusion.

    Raises ValueError where `weight` or `bias` does not have x's number of features, and UnsupportedError
    where `implementation` cannot hold so many.
    """
    for name, vector in {"weight": weight, "bias": bias}.items():
        if vector is not None and vector.shape != x.shape[-1:]:
            raise ValueError(
                f"{name} has shape {vector.shape}, but the last axis of x has {x.shape[-1]} features"
            )
    if select(implementation) == "reference":
        return reference.layer_norm(x, weight, bias, epsilon)
    return triton.layer_norm(x, weight, bias, epsilon, interpret=should_interpret(interpret))
