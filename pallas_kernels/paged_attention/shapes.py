"""Attention shapes of published models, by name: what tests and benchmarks run over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionShape:
    """Heads of one layer. A window and a cap of None are those of a model that has none, and so is
    sinks=False."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    sliding_window: int | None = None
    soft_cap: float | None = None
    sinks: bool = False


SHAPES = {
    "stories260K": AttentionShape(8, 4, 8),
    "jinfer-demo": AttentionShape(8, 4, 32),
    "tinyllama-1.1b": AttentionShape(32, 4, 64),
    "gpt-oss-20b": AttentionShape(64, 8, 64, sinks=True),
    "gpt-oss-20b-local": AttentionShape(64, 8, 64, sliding_window=128, sinks=True),
    "falcon-7b": AttentionShape(71, 1, 64),
    "phi-2": AttentionShape(32, 32, 80),
    "phi-3.5-mini": AttentionShape(32, 32, 96),
    "llama-2-7b": AttentionShape(32, 32, 128),
    "llama-3.1-8b": AttentionShape(32, 8, 128),
    "starcoder": AttentionShape(48, 1, 128),
    "mqa-64": AttentionShape(64, 1, 128),  # the largest group of the contract, of no model that we know
    "mistral-7b-v0.1": AttentionShape(32, 8, 128, sliding_window=4096),
    "qwen2.5-7b": AttentionShape(28, 4, 128),
    "qwen3-0.6b": AttentionShape(16, 8, 128),
    "qwen3-30b-a3b": AttentionShape(32, 4, 128),
    "qwen3-32b": AttentionShape(64, 8, 128),
    "gemma-2-2b": AttentionShape(8, 4, 256, soft_cap=50.0),
    "gemma-2-2b-local": AttentionShape(8, 4, 256, sliding_window=4096, soft_cap=50.0),
    "gemma-4-e2b-global": AttentionShape(8, 1, 512),
    "gemma-4-26b-global": AttentionShape(16, 2, 512),
}
