"""Latent-attention shapes of published models, by name: what tests and benchmarks run over."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LatentShape:
    """`head_dim` is that of a query before it is absorbed: its part without rotation and its rotary part
    together.

    A model that stretched its context with YaRN multiplies its scores by `yarn_scale` squared.
    """

    num_heads: int
    latent_dim: int = 512
    rope_dim: int = 64
    head_dim: int = 192
    yarn_scale: float = 1.0

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5 * self.yarn_scale**2


def yarn_scale(factor: float, coefficient: float) -> float:
    """0.1 * coefficient * ln(factor) + 1: a configuration's `factor` and `mscale_all_dim`."""
    return 0.1 * coefficient * math.log(factor) + 1


SHAPES = {
    "tiny": LatentShape(4, 64, 16, 48),
    "minicpm3-4b": LatentShape(40, 256, 32, 96),
    "deepseek-v2-lite": LatentShape(16, yarn_scale=yarn_scale(40, 0.707)),
    "deepseek-v2": LatentShape(128, yarn_scale=yarn_scale(40, 0.707)),
    "deepseek-v3": LatentShape(128, yarn_scale=yarn_scale(40, 1.0)),
    "deepseek-v3-half": LatentShape(
        64, yarn_scale=yarn_scale(40, 1.0)
    ),  # a device's share where 2 divide the heads
    "deepseek-v3-quarter": LatentShape(32, yarn_scale=yarn_scale(40, 1.0)),
}
