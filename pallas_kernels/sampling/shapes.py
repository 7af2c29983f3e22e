"""Vocabularies of published models and the rows of decode steps: what tests and benchmarks run over."""

VOCABULARIES = {
    "llama-2-7b": 32000,
    "llama-3.1-8b": 128256,
    "qwen3-8b": 151936,
}

ROWS = (1, 8, 64, 256)
