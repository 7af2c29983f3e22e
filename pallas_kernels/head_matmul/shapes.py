"""Heads of published models: what tests and benchmarks run over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HeadMatmulShape:
    """Heads whose rows make keys of `nope_dim` and, behind these, values of `value_dim`."""

    num_heads: int
    nope_dim: int = 128
    value_dim: int = 128
    latent_dim: int = 512


SHAPES = {
    "tiny": HeadMatmulShape(3, 12, 20, 32),
    "deepseek-v2-lite": HeadMatmulShape(16),
    "glm-4.7-flash": HeadMatmulShape(20, 192, 256),
    "deepseek-v3": HeadMatmulShape(128),
}
