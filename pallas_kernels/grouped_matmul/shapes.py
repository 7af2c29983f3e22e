"""The products of published models' experts: what tests and benchmarks run over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GroupedShape:
    """A product of `num_groups` matrices, of which a token takes `top_k`."""

    num_groups: int
    top_k: int
    num_in: int
    num_out: int
    is_gated: bool = False


SHAPES = {
    "qwen3-30b-a3b-gate-up": GroupedShape(128, 8, 2048, 768, is_gated=True),
    "qwen3-30b-a3b-down": GroupedShape(128, 8, 768, 2048),
    "mixtral-8x7b-gate-up": GroupedShape(8, 2, 4096, 14336, is_gated=True),
    "mixtral-8x7b-down": GroupedShape(8, 2, 14336, 4096),
    "gpt-oss-20b-gate-up": GroupedShape(32, 4, 2880, 2880, is_gated=True),
    "gpt-oss-20b-down": GroupedShape(32, 4, 2880, 2880),
    "deepseek-v2-lite-gate-up": GroupedShape(64, 6, 2048, 1408, is_gated=True),
    "deepseek-v2-lite-down": GroupedShape(64, 6, 1408, 2048),
}
