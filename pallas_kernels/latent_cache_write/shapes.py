"""Sizes of published models: what tests and benchmarks run over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LatentWriteShape:
    """Heads whose last `rope_dim` of `head_dim` dimensions are turned, as is the key behind the latent
    vector."""

    num_heads: int
    head_dim: int = 192
    latent_dim: int = 512
    rope_dim: int = 64
    interleaved: bool = True


SHAPES = {
    "tiny": LatentWriteShape(4, 40, 64, 16),
    "minicpm3-4b": LatentWriteShape(40, 96, 256, 32, interleaved=False),
    "deepseek-v2-lite": LatentWriteShape(16),
    "glm-4.7-flash": LatentWriteShape(20, 256),
    "deepseek-v3": LatentWriteShape(128),
}
