"""What is fused to a product, in front of it and behind it."""

from typing import NamedTuple

from jaxtyping import Array


class Ends(NamedTuple):
    """The norm's scale and epsilon, both None without one; whether w is a gate and others; what is added at last."""

    scale: Array | None = None
    epsilon: float | None = None
    gated: bool = False
    residual: Array | None = None
