"""How often a text depends on the batch that it was made in: `python -m benchmarks.batch_dependence [--model
DIR]`.

A request's tokens depend on the request and the weights alone, but for rounding: XLA and the kernels add in
another order for another number of rows, and where two tokens are as good as equal, another may come out. The
same requests run alone, and then together. For each dtype, greedy and with seeds, this prints how many texts
are the same to their end, and where those that are not differ first.
"""

import argparse
import statistics
from collections.abc import Sequence

import jax

from jinfer import LLM
from jinfer.placement import default_placement

STARTS = (
    "Once upon a time",
    "One day",
    "The little",
    "Tom and",
    "In the forest",
    "A big dog",
    "Lily was",
    "There was",
)
SAMPLING = {"greedy": {"temperature": 0.0}, "seeded": {"temperature": 1.0}}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="default: the model that ships with jinfer")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=150)
    options = parser.parse_args(arguments)
    kind = default_placement().device.device_kind
    print(f"{kind}, jax {jax.__version__}: {options.requests} requests of {options.tokens} tokens")
    for dtype in ("float32", "bfloat16"):
        with LLM(options.model, dtype=dtype, prefix_caching=False, progress=False) as llm:
            for name, sampling in SAMPLING.items():
                print(
                    f"{dtype}, {name}: {compare(llm, options.requests, options.tokens, sampling)}", flush=True
                )


def compare(llm: LLM, num_requests: int, num_tokens: int, sampling: dict[str, float]) -> str:
    """Compares the texts of requests that run alone with those of the same requests in one batch."""
    prompts = [f"{STARTS[i % len(STARTS)]} {i // len(STARTS)}" for i in range(num_requests)]
    bounds = {"max_tokens": num_tokens, "ignore_eos": True, "seed": 1, **sampling}
    alone = [llm.generate(prompt, **bounds)[0].outputs[0].token_ids for prompt in prompts]
    together = [output.outputs[0].token_ids for output in llm.generate(prompts, **bounds)]
    first = [
        next(i for i, pair in enumerate(zip(*texts, strict=True)) if pair[0] != pair[1])
        for texts in zip(alone, together, strict=True)
        if texts[0] != texts[1]
    ]
    same = f"{num_requests - len(first)} of {num_requests} are the same alone and together"
    if not first:
        return same
    median = statistics.median(first)
    return f"{same}, the others differ first at token {min(first)} to {max(first)}, median {median:g}"


if __name__ == "__main__":
    main()
