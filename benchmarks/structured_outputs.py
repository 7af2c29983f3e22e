"""What structured outputs cost the host: compiling grammars, and the masks of a step.

    python -m benchmarks.structured_outputs --tokenizer DIRECTORY --vocab-size 151936

Prints a line of JSON for each figure. Times are of the CPU, of this process alone, so that another process on
the machine changes them little. Outputs are random tokens that the masks allow; no model.
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.requests.token_masker import num_mask_words
from jinfer.text.grammar.grammar_compiler import GrammarCompiler
from jinfer.text.grammar.grammar_masker import GrammarMasker
from jinfer.text.grammar.mask_filling import fill_masks
from jinfer.text.tokenizer import Tokenizer

ADDRESS = {"type": "object", "properties": {"street": {"type": "string"}, "number": {"type": "integer"}}}
ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "status": {"enum": ["new", "paid", "sent", "returned"]},
        "to": {**ADDRESS, "required": ["street", "number"], "additionalProperties": False},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"item": {"type": "string"}}}},
    },
    "required": ["id", "status", "to", "lines"],
    "additionalProperties": False,
}
SHORT_STRING = {"type": "string", "maxLength": 20}
TOOLS = {
    "anyOf": [
        {"type": "object", "properties": {f"p{tool}_{i}": ORDER["properties"]["to"] for i in range(8)}}
        for tool in range(64)
    ]
}
GRAMMARS = {
    "small schema": StructuredOutputs(json=ADDRESS),
    "nested schema": StructuredOutputs(json=ORDER),
    "64 tools": StructuredOutputs(json=TOOLS),
    "enum of 5,000": StructuredOutputs(json={"enum": [f"value {i * 7919}" for i in range(5000)]}),
    "choice of 1,000": StructuredOutputs(choice=[f"choice {i * 7919}" for i in range(1000)]),
    "short strings": StructuredOutputs(json={"type": "array", "items": SHORT_STRING, "minItems": 100}),
    "expression": StructuredOutputs(regex=r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}Z"),
}
NUM_STEPS = 60


def main() -> None:
    """Measures one tokenizer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_directory(options.tokenizer)
    eos_token_ids = [0 if tokenizer.eos_token_id is None else tokenizer.eos_token_id]
    compiler = GrammarCompiler(tokenizer, vocab_size=options.vocab_size, eos_token_ids=eos_token_ids)
    show(
        "tokenizer, and the first grammar",
        "s",
        cpu_s(partial(compiled, compiler, StructuredOutputs(regex="a"))),
    )
    for name, outputs in GRAMMARS.items():
        show(f"compile: {name}", "ms", cpu_s(partial(compiled, compiler, outputs)) * 1e3)
    masker = compiled(compiler, GRAMMARS["nested schema"])
    masker.matcher()
    show("copy", "us", *[cpu_s(masker.copy) * 1e6 for _ in range(100)])
    for name in ("nested schema", "short strings"):
        for num_rows in (1, 64, 256):
            start = partial(compiled, compiler, GRAMMARS[name])
            walk(f"{num_rows} rows, {name}", start, num_rows, options.vocab_size)
    compiler.close()


def compiled(compiler: GrammarCompiler, outputs: StructuredOutputs) -> GrammarMasker:
    """The masker, when it is ready."""
    ready = threading.Event()
    masker = compiler.masker(outputs, on_ready=ready.set)
    ready.wait()
    if masker.error is not None:
        raise masker.error
    return masker


def walk(name: str, start: Callable[[], GrammarMasker], num_rows: int, vocab_size: int) -> None:
    """Random outputs of all rows at once; a row that is finished begins anew."""
    draw = np.random.default_rng(0)
    maskers = [start() for _ in range(num_rows)]
    words = np.zeros((num_rows, num_mask_words(vocab_size)), np.uint32)
    fills, accepts = [], []
    for _ in range(NUM_STEPS):
        fills.append(cpu_s(partial(fill_masks, maskers, words)) * 1e6)
        token_ids = [chosen(row, draw) for row in words]
        accepts.append(cpu_s(partial(accept, maskers, token_ids)) * 1e6)
        maskers = [start() if one.is_finished else one for one in maskers]
    show(f"fill, {name}", "us", *fills)
    show(f"accept, {name}", "us", *accepts)


def chosen(words: np.ndarray, draw: np.random.Generator) -> int:
    """A random token that the mask allows."""
    return int(draw.choice(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))))


def accept(maskers: Sequence[GrammarMasker], token_ids: Sequence[int]) -> None:
    """A token of each row, and what the engine asks after it."""
    for masker, token_id in zip(maskers, token_ids, strict=True):
        masker.accept(token_id)
        assert masker.error is None
        _ = masker.is_finished


def cpu_s(function: Callable[[], Any]) -> float:
    """Seconds of this process's CPU, all threads."""
    began = time.process_time()
    function()
    return time.process_time() - began


def show(name: str, unit: str, *values: float) -> None:
    """A line: the median, and with many values their 99th percentile and the largest."""
    line: dict[str, Any] = {"what": name, "unit": unit, "median": round(statistics.median(values), 2)}
    if len(values) > 1:
        line |= {"p99": round(float(np.percentile(values, 99)), 2), "max": round(max(values), 2)}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
