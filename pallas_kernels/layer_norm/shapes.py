"""Features that published models with layer normalization normalize: what tests and benchmarks run over."""

SHAPES = {
    "gpt2": 768,
    "opt-1.3b": 2048,
    "phi-2": 2560,
    "bloom-7b1": 4096,
    "falcon-7b": 4544,
    "gpt-neox-20b": 6144,
}
