"""Features of rows that products of published models read: what tests and benchmarks run over."""

SHAPES = {"qwen3-0.6b": 1024, "qwen3-8b": 4096, "qwen3-8b-down": 12288, "gpt-oss-20b": 2880}
