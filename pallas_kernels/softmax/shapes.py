"""Lengths of the rows that published models take the softmax of: what tests and benchmarks run over."""

EXPERTS = {"mixtral-8x7b": 8, "gpt-oss-20b": 32, "deepseek-v2-lite": 64, "qwen3-30b-a3b": 128}

VOCABULARIES = {
    "stories260K": 512,
    "mixtral-8x7b": 32000,
    "phi-2": 51200,
    "deepseek-v2-lite": 102400,
    "llama-3.1-8b": 128256,
    "qwen3-8b": 151936,
    "gpt-oss-20b": 201088,
}
