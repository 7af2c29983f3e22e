"""Each engine as a function from prompts to seconds. What an engine needs is imported when it is asked
for."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.workloads import Generate, check_counts
from jinfer.bench.session import TEMPERATURE

MAX_NUM_SEQS = 256
STATIC_BATCH = 64  # rows of transformers' generate, which adds no request to a running batch


@dataclass(frozen=True)
class CompareEngine:
    """`open(config directory, longest request, options)` needs `package` to be installed."""

    package: str
    open: Callable[..., Generate]


def open_jinfer(config: Path, max_model_len: int, options: Mapping[str, Any]) -> Generate:
    """The engine with its defaults but for `options`, driven as `jinfer bench` does."""
    from jinfer.bench.opening import Source
    from jinfer.bench.session import Session
    from jinfer.bench.workloads import Lengths

    parts = Source(config=config).start({**options, "progress": False})
    session = Session(parts.engine, parts.limits, parts.loaded.model.config.vocab_size)

    def generate(prompts, outputs):
        lengths = [Lengths(len(prompt), output) for prompt, output in zip(prompts, outputs, strict=True)]
        return session.run_prompts(prompts, lengths)[0]

    return generate


def open_vllm(config: Path, max_model_len: int, options: Mapping[str, Any]) -> Generate:
    """The offline engine with its defaults, but without prefix cache and tokenizer."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=str(config),
        load_format="dummy",
        dtype="bfloat16",
        skip_tokenizer_init=True,
        max_num_seqs=MAX_NUM_SEQS,
        max_model_len=max_model_len,
        enable_prefix_caching=False,
        **options,
    )

    def generate(prompts, outputs):
        params = [
            SamplingParams(temperature=TEMPERATURE, max_tokens=count, ignore_eos=True, detokenize=False)
            for count in outputs
        ]
        began = time.perf_counter()
        done = llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts], params, use_tqdm=False
        )
        seconds = time.perf_counter() - began
        check_counts(outputs, [len(each.outputs[0].token_ids) for each in done])
        return seconds

    return generate


def open_transformers(config: Path, max_model_len: int, options: Mapping[str, Any]) -> Generate:
    """`generate` on static batches, padded on the left to the longest prompt and run to the longest output.
    Only the tokens that a request asked for count."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        settings = AutoConfig.from_pretrained(config)
        model = AutoModelForCausalLM.from_config(settings, **{"dtype": dtype, **options}).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0

    def batch(prompts, outputs):
        width = max(map(len, prompts))
        ids = torch.zeros((len(prompts), width), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
            mask[row, width - len(prompt) :] = 1
        done = model.generate(
            ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, max_new_tokens=max(outputs)
        )
        check_counts([max(outputs)], [done.shape[1] - width])

    def generate(prompts, outputs):
        began = time.perf_counter()
        for first in range(0, len(prompts), STATIC_BATCH):
            batch(prompts[first : first + STATIC_BATCH], outputs[first : first + STATIC_BATCH])
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return generate


ENGINES = {
    "jinfer": CompareEngine("jinfer", open_jinfer),
    "vllm": CompareEngine("vllm", open_vllm),
    "transformers": CompareEngine("transformers", open_transformers),
}
