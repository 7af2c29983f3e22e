"""What is fused to a product, in front of it and behind it."""

from typing import NamedTuple

from jaxtyping import Array


class Ends(NamedTuple):
    """The norm's scale and epsilon; whether w is a gate and what it multiplies; what is added at last."""

    norm: tuple[Array, float] | None = None
    gated: bool = False
    residual: Array | None = None
