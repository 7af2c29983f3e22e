"""Root-mean-square layer normalization (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019)."""

from jaxtyping import Array, Float

from pallas_kernels.core.selection import Implementation, select, should_interpret
from pallas_kernels.rms_norm import reference, triton

__all__ = ["add_rms_norm", "rms_norm"]


def rms_norm(
    x: Float[Array, "*batch features"],
    weight: Float[Array, " features"],
    *,
    epsilon: float,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "*batch features"]:
    """x / sqrt(mean(x ** 2) + epsilon) * weight over the last axis, in float32, rounded once to x's dtype.

    On an H200, [8192, 4096] in bfloat16 moves at 89% of the copy bandwidth, 1.12 times as fast as XLA's
    fusion. Inside a model, XLA fuses the norm with what is around it, and that is faster still.

    Raises ValueError where `weight` does not have x's number of features, and UnsupportedError where
    `implementation` cannot hold so many.
    """
    _check_weight(x, weight)
    if select(implementation) == "reference":
        return reference.rms_norm(x, weight, epsilon)
    return triton.rms_norm(x, weight, epsilon, interpret=should_interpret(interpret))


def add_rms_norm(
    x: Float[Array, "*batch features"],
    residual: Float[Array, "*batch features"],
    weight: Float[Array, " features"],
    *,
    epsilon: float,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> tuple[Float[Array, "*batch features"], Float[Array, "*batch features"]]:
    """rms_norm(new_residual, weight) and new_residual = x + residual, as between the layers of a transformer.

    The sum is rounded to x's dtype before it is normalized, so that the pair is what adding first and
    normalizing after gives.

    On an H200, [8192, 4096] in bfloat16 moves at 91% of the copy bandwidth and [64, 4096] takes 6.2 us: 1.66
    and 1.17 times as fast as the reference under XLA, which reads its operands twice.

    Raises ValueError where x and `residual` differ in shape or dtype or `weight` does not have their number
    of features, and UnsupportedError where `implementation` cannot hold so many.
    """
    if (x.shape, x.dtype) != (residual.shape, residual.dtype):
        raise ValueError(
            f"x is {x.dtype} {x.shape} and residual {residual.dtype} {residual.shape}; they must be equal "
            "to be added"
        )
    _check_weight(x, weight)
    if select(implementation) == "reference":
        return reference.add_rms_norm(x, residual, weight, epsilon)
    return triton.add_rms_norm(x, residual, weight, epsilon, interpret=should_interpret(interpret))


def _check_weight(x: Array, weight: Array) -> None:
    if weight.shape != x.shape[-1:]:
        raise ValueError(
            f"weight has shape {weight.shape}, but the last axis of x has {x.shape[-1]} features"
        )
