"""Features that published models normalize: what tests and benchmarks run over."""

SHAPES = {
    "stories260K": 64,
    "phi-2-head": 80,
    "qwen3-head": 128,
    "jinfer-demo": 256,
    "deepseek-v2-lite-latent": 512,
    "qwen3-0.6b": 1024,
    "deepseek-v2-lite": 2048,
    "qwen3-30b-a3b": 2048,
    "gpt-oss-20b": 2880,
    "phi-3.5-mini": 3072,
    "llama-3.1-8b": 4096,
    "mixtral-8x7b": 4096,
    "qwen3-8b": 4096,
    "qwen3-32b": 5120,
}
