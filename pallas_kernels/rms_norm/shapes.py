"""Features that published models normalize: what tests and benchmarks run over."""

SHAPES = {
    "stories260K": 64,
    "phi-2-head": 80,
    "qwen3-head": 128,
    "jinfer-demo": 256,
    "qwen3-0.6b": 1024,
    "phi-3.5-mini": 3072,
    "llama-3.1-8b": 4096,
    "qwen3-32b": 5120,
}
