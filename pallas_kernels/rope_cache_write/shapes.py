"""Heads of published models: what tests and benchmarks run over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RopeCacheShape:
    """Heads of one layer; the first `rotary_dim` of a head's `head_dim` are rotated, in pairs that are half
    of them apart or, where they are `interleaved`, side by side."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    is_normalized: bool = False
    interleaved: bool = False


SHAPES = {
    "stories260K": RopeCacheShape(8, 4, 8, 8),
    "jinfer-demo": RopeCacheShape(8, 4, 32, 32),
    "gpt-oss-20b": RopeCacheShape(64, 8, 64, 64),
    "falcon-7b": RopeCacheShape(71, 1, 64, 64),
    "phi-2": RopeCacheShape(32, 32, 80, 32),
    "phi-3.5-mini": RopeCacheShape(32, 32, 96, 96),
    "phi-4-mini": RopeCacheShape(24, 8, 128, 96),
    "glm-4-9b": RopeCacheShape(32, 2, 128, 64, interleaved=True),
    "qwen2.5-7b": RopeCacheShape(28, 4, 128, 128),
    "llama-3.1-8b": RopeCacheShape(32, 8, 128, 128),
    "qwen3-0.6b": RopeCacheShape(16, 8, 128, 128, is_normalized=True),
    "qwen3-8b": RopeCacheShape(32, 8, 128, 128, is_normalized=True),
    "qwen3-30b-a3b": RopeCacheShape(32, 4, 128, 128, is_normalized=True),
    "qwen3-32b": RopeCacheShape(64, 8, 128, 128, is_normalized=True),
    "gemma-3-4b": RopeCacheShape(8, 4, 256, 256, is_normalized=True),
    "gemma-4-26b-global": RopeCacheShape(16, 2, 512, 512, is_normalized=True),
    "qwen3-next-80b": RopeCacheShape(16, 2, 256, 64, is_normalized=True),
}
