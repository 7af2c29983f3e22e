"""Hidden sizes of published models' gated feed-forward layers: what tests and benchmarks run over."""

SHAPES = {
    "stories260K": 172,
    "qwen3-30b-a3b-expert": 768,
    "deepseek-v2-lite-expert": 1408,
    "deepseek-v2-lite-shared": 2816,
    "qwen3-0.6b": 3072,
    "deepseek-v2-lite": 10944,
    "qwen3-8b": 12288,
    "llama-3.1-8b": 14336,
    "mixtral-8x7b-expert": 14336,
    "qwen3-32b": 25600,
}
