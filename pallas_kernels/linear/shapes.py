"""Linear layers of published models: what tests and benchmarks run over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearShape:
    """`transposed` is the [out, in] layout of an embedding, and of the head that it may serve as."""

    num_in: int
    num_out: int
    transposed: bool = False


SHAPES = {
    "qwen3-0.6b-qkv": LinearShape(1024, 4096),
    "qwen3-0.6b-o": LinearShape(2048, 1024),
    "qwen3-0.6b-gate-up": LinearShape(1024, 6144),
    "qwen3-0.6b-down": LinearShape(3072, 1024),
    "qwen3-0.6b-head": LinearShape(1024, 151936, transposed=True),
    "qwen3-8b-qkv": LinearShape(4096, 6144),
    "qwen3-8b-o": LinearShape(4096, 4096),
    "qwen3-8b-gate-up": LinearShape(4096, 24576),
    "qwen3-8b-down": LinearShape(12288, 4096),
    "qwen3-8b-head": LinearShape(4096, 151936, transposed=True),
    "qwen3-32b-down": LinearShape(25600, 5120),
    "gpt-oss-20b-qkv": LinearShape(2880, 5120),
}
