"""The experts of published models: what tests and benchmarks run over."""

from dataclasses import dataclass

from pallas_kernels.core.gating import ClampedSwiglu, ExpertActivation


@dataclass(frozen=True)
class ExpertsShape:
    """The experts of a layer, of which a token has `top_k`."""

    num_experts: int
    top_k: int
    num_features: int
    num_inner: int
    activation: ExpertActivation = "silu"
    has_biases: bool = False


SHAPES = {
    "qwen3-30b-a3b": ExpertsShape(128, 8, 2048, 768),
    "mixtral-8x7b": ExpertsShape(8, 2, 4096, 14336),
    "gpt-oss-20b": ExpertsShape(32, 4, 2880, 2880, ClampedSwiglu(), has_biases=True),
    "deepseek-v2-lite": ExpertsShape(64, 6, 2048, 1408),
}
