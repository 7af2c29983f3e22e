"""Engines of all kinds, requests that run in them together, and what each gives when it is alone."""

import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st

from jinfer import LLM, FinishReason, SamplingParams
from jinfer.requests.new_request import SEED_MODULUS, SEED_STEP
from jinfer.requests.structured_outputs import StructuredOutputs
from tests.calibrated_cache import write_calibrated
from tests.poison import poisoned
from tests.tiny_model import CONFIG, CONTEXT, VOCAB_SIZE, letters_tokenizer, tiny_llm

NUM_EXAMPLES, NUM_INTERPRETED_EXAMPLES = 20, 5  # besides those that are written out
MAX_PROMPT = 40
ROUNDING = 3e-6  # relative; twenty times the spacing of float32

FEW_PAGES = {
    size: {"page_size": size, "num_pages": 1 + -(-CONTEXT // size) + extra}
    for size, extra in ((1, 2), (4, 1), (16, 1))
}
SHORT_STEPS = {"max_num_batched_tokens": 4}
# The context before it was extended, of models whose keys are turned by the sequence's length as well.
ORIGINAL = 12
LONGROPE = {
    **CONFIG,
    "rope_scaling": {
        "rope_type": "longrope",
        "original_max_position_embeddings": ORIGINAL,
        "short_factor": [1.0, 1.5, 2.0, 3.0],
        "long_factor": [2.0, 4.0, 8.0, 16.0],
    },
}
DYNAMIC = {
    **CONFIG,
    "max_position_embeddings": ORIGINAL,
    "rope_scaling": {"rope_type": "dynamic", "factor": CONTEXT / ORIGINAL},
}
# A layer with experts, of which one is shared, and a layer with an MLP.
EXPERTS = {
    **CONFIG,
    "architectures": ["Qwen2MoeForCausalLM"],
    "mlp_only_layers": [1],
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
}
# Latent attention in both layers, and experts in the second.
LATENT = {
    **CONFIG,
    "architectures": ["DeepseekV3ForCausalLM"],
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 16,
}
CALIBRATED = tempfile.TemporaryDirectory(prefix="jinfer-calibrated-")
write_calibrated(Path(CALIBRATED.name))
# The options that tokens depend on: an engine has those of one of these, and what it has besides changes
# nothing.
MODELS: dict[str, dict[str, Any]] = {
    "static": {},
    "longrope": {"config": LONGROPE},
    "dynamic": {"config": DYNAMIC},
    "experts": {"config": EXPERTS},
    "latent": {"config": LATENT},
    "int8 cache": {"kv_cache_dtype": "int8"},
    "fp8 cache": {"kv_cache_dtype": "fp8_e4m3"},
    "calibrated cache": {"config": Path(CALIBRATED.name), "kv_cache_dtype": "fp8_e4m3"},
}
# Every switch is on in several and off in several, with pages of every size, and where they are few. Two
# engines have kernels, a shape of which takes ten seconds to compile where they are interpreted: they have
# two rows, and so one shape less.
ENGINES: dict[str, dict[str, Any]] = {
    "short steps, pages of 1, two in flight": {"page_size": 1, **SHORT_STEPS},
    "few pages of 1, no prefix cache, decode first": {
        **FEW_PAGES[1],
        "prefix_caching": False,
        "scheduling_policy": "decode_first",
    },
    "few pages of 4": FEW_PAGES[4],
    "short steps, few pages of 16, no overlap, prefill first": {
        **FEW_PAGES[16],
        **SHORT_STEPS,
        "overlap": False,
        "scheduling_policy": "prefill_first",
    },
    "pallas, fp8 cache, few pages of 1, prefill first, two in flight": {
        **FEW_PAGES[1],
        **MODELS["fp8 cache"],
        "max_num_seqs": 2,
        "kernels": "pallas",
        "scheduling_policy": "prefill_first",
    },
    "longrope, short steps, few pages of 4": {**FEW_PAGES[4], **SHORT_STEPS, **MODELS["longrope"]},
    "dynamic, few pages of 1, decode first": {
        **FEW_PAGES[1],
        "scheduling_policy": "decode_first",
        **MODELS["dynamic"],
    },
    "pallas, dynamic, short steps, pages of 4, no overlap, decode first": {
        "page_size": 4,
        **SHORT_STEPS,
        "max_num_seqs": 2,
        "kernels": "pallas",
        "overlap": False,
        "scheduling_policy": "decode_first",
        **MODELS["dynamic"],
    },
    "experts, short steps, few pages of 4, two in flight": {
        **FEW_PAGES[4],
        **SHORT_STEPS,
        **MODELS["experts"],
    },
    "latent, few pages of 4, no overlap": {**FEW_PAGES[4], "overlap": False, **MODELS["latent"]},
    "calibrated cache, short steps, few pages of 4": {
        **FEW_PAGES[4],
        **SHORT_STEPS,
        **MODELS["calibrated cache"],
    },
    "int8 cache, short steps, few pages of 4": {
        **FEW_PAGES[4],
        **SHORT_STEPS,
        **MODELS["int8 cache"],
    },
}


def model_of(engine: str) -> str:
    """The name of the options of an engine that its tokens depend on."""
    names = {name for model in MODELS.values() for name in model}
    options = {name: value for name, value in ENGINES[engine].items() if name in names}
    return next(name for name, model in MODELS.items() if model == options)


@dataclass(frozen=True)
class Job:
    """A request, and after how many pieces its caller leaves (None: never)."""

    prompt: tuple[int, ...]
    params: SamplingParams
    leaves_after: int | None = None


@dataclass(frozen=True)
class Completion:
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None


OPEN: dict[str, LLM] = {}


def poisoned_llm(name: str) -> LLM:
    """Compiled once for the tests of a file, which closes what is in OPEN."""
    if name not in OPEN:
        OPEN[name] = poisoned(tiny_llm(**ENGINES[name], tokenizer=letters_tokenizer()))
        if "two in flight" in name:  # always, and not only while the host hardly waits for the device
            OPEN[name].engine.in_flight.depth = lambda last_wait_s: 2
    return OPEN[name]


@functools.cache
def plain_llm(model: str = "static") -> LLM:
    """One request at a time, its prompt in one chunk, plenty of pages, and nothing is kept of it."""
    options = {"max_num_seqs": 1, "max_num_batched_tokens": CONTEXT, "prefix_caching": False}
    return tiny_llm(**MODELS[model], **options, tokenizer=letters_tokenizer())


ALONE: dict[tuple[Any, ...], tuple[Completion, ...]] = {}


def alone(prompt: tuple[int, ...], params: SamplingParams, model: str = "static") -> tuple[Completion, ...]:
    """What each completion of a request is when it is the only one that there is. Found once."""
    key = prompt, repr(params), model
    if key not in ALONE:
        ALONE[key] = tuple(alone_with(plain_llm(model), prompt, params))
    return ALONE[key]


def alone_with(llm: LLM, prompt: tuple[int, ...], params: SamplingParams) -> Iterator[Completion]:
    for index in range(params.n):
        seed = None if params.seed is None else (params.seed + index * SEED_STEP) % SEED_MODULUS
        (output,) = llm.generate([prompt], dataclasses.replace(params, n=1, seed=seed))[0].outputs
        yield Completion(output.token_ids, output.finish_reason)


def rounding_decides(job: Job, model: str) -> bool:
    """Whether weights that differ in their last bits give other tokens: two logits, or what a filter
    compares, are as good as equal, and steps of another shape, which add in another order, may choose
    either."""
    executor = plain_llm(model).engine.executor
    params, rng = executor.params, np.random.default_rng(0)
    try:
        for _ in range(16):
            executor.params = jax.tree.map(
                lambda x: x * (1 + ROUNDING * rng.normal(size=x.shape).astype(x.dtype)), params
            )
            if tuple(alone_with(plain_llm(model), job.prompt, job.params)) != alone(
                job.prompt, job.params, model
            ):
                return True
    finally:
        executor.params = params
    return False


# --- what hypothesis chooses

greedy = st.just({"temperature": 0.0})
sampled = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 0.7, 1.0, 2.0]),
        "top_k": st.sampled_from([0, 2, 20]),
        "top_p": st.sampled_from([1.0, 0.9, 0.5]),
        "min_p": st.sampled_from([0.0, 0.05, 0.3]),
        "seed": st.integers(0, SEED_MODULUS - 1),
        "n": st.sampled_from([1, 1, 2]),
    }
)
token_ids = st.integers(0, VOCAB_SIZE - 1)
STRUCTURES = [StructuredOutputs(regex="[a-m ]{4,12}"), StructuredOutputs(regex="([A-Z][a-z]+ )*")]
# What makes steps of two halves, in one request of three.
no_rules: st.SearchStrategy[dict[str, Any]] = st.just({})
rules = st.fixed_dictionaries(
    {},
    optional={
        "presence_penalty": st.sampled_from([-2.0, 0.5, 2.0]),
        "frequency_penalty": st.sampled_from([-1.0, 0.3, 2.0]),
        "repetition_penalty": st.sampled_from([0.5, 1.3]),
        "logit_bias": st.dictionaries(token_ids, st.floats(-100, 100), max_size=4),
        "allowed_token_ids": st.just(tuple(range(0, VOCAB_SIZE, 3))),
        "logprobs": st.just(2),
        "logprobs_mode": st.just("processed_logprobs"),
        "prompt_logprobs": st.integers(0, 2),
        "bad_words": st.lists(st.text("abcdefg", min_size=1, max_size=3), min_size=1, max_size=3),
        "structured_outputs": st.sampled_from(STRUCTURES),
    },
)
# Which prompts may have in common, for a while.
BEGINNINGS = (
    (),
    tuple(range(MAX_PROMPT)),
    (7,) * MAX_PROMPT,
)


@st.composite
def jobs(draw: st.DrawFn, extra: st.SearchStrategy[dict[str, Any]]) -> Job:
    beginning = draw(st.sampled_from(BEGINNINGS))[: draw(st.integers(0, MAX_PROMPT - 1))]
    own = draw(st.lists(token_ids, min_size=1, max_size=MAX_PROMPT - len(beginning)))
    prompt = (*beginning, *own)
    max_tokens = draw(st.integers(1, CONTEXT - len(prompt)))
    params = SamplingParams(
        **draw(greedy | sampled),
        **draw(extra),
        max_tokens=max_tokens,
        min_tokens=draw(st.sampled_from([0, 0, min(3, max_tokens)])),
        stop_token_ids=draw(st.sampled_from([None, (5, 18, 33, 47, 60)])),
        cache_salt=draw(st.sampled_from([None, None, None, "salt"])),
    )
    return Job(prompt, params, draw(st.none() | st.none() | st.integers(1, 8)))


def crowd_job(i: int, max_tokens: int) -> Job:
    params = SamplingParams(temperature=0.0 if i % 2 else 1.0, seed=i, max_tokens=max_tokens)
    return Job((i, 2 * i + 1, 40 - i), params)


# The few pages of 1 and 4 hold two of these when they end.
CROWD = [crowd_job(i, max_tokens=18) for i in range(6)]
RULED = [  # beside requests without rules, whose prompts they share
    dataclasses.replace(job, params=dataclasses.replace(job.params, **rules))
    for job, rules in zip(
        CROWD,
        [
            {"presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
            {},
            {"logit_bias": {5: 100.0}, "logprobs": 2, "logprobs_mode": "processed_logprobs"},
            {"prompt_logprobs": 2, "structured_outputs": STRUCTURES[0]},
            {"allowed_token_ids": tuple(range(0, VOCAB_SIZE, 3)), "min_tokens": 2, "stop_token_ids": (5, 18)},
            {},
        ],
        strict=True,
    )
]
SHARING = [  # two by two the same, with 17 tokens in common, and one of another salt
    Job(
        (*BEGINNINGS[1][:17], i // 2),
        SamplingParams(temperature=1.0, seed=i, max_tokens=6, n=1 + i % 2, cache_salt=salt),
    )
    for i, salt in enumerate([None, None, None, None, "salt"])
]
LONG_CROWD = [crowd_job(i, max_tokens=40) for i in range(4)]  # and the few pages of 16 one of these


# --- running them together


def run_staggered(llm: LLM, some_jobs: list[Job], turns: Iterable[int]) -> list[list[Completion]]:
    """Each job is a stream of its own, which begins at its first turn and gets a piece at every turn; in the
    end they take turns in order."""
    streams = [llm.stream([job.prompt], job.params) for job in some_jobs]
    pieces: list[list] = [[] for _ in some_jobs]
    open_places = set(range(len(some_jobs)))
    for turn in itertools.chain(turns, itertools.count()):
        place = turn % len(some_jobs)
        if place in open_places:
            piece = next(streams[place], None)
            pieces[place] += [] if piece is None else [piece]
            if piece is None or len(pieces[place]) == some_jobs[place].leaves_after:
                streams[place].close()
                open_places.remove(place)
        if not open_places:
            return [completions(job, parts) for job, parts in zip(some_jobs, pieces, strict=True)]
    raise AssertionError("unreachable")


def completions(job: Job, pieces: list) -> list[Completion]:
    found = []
    for index in range(job.params.n):
        of_one = [piece for piece in pieces if piece.output_index == index]
        tokens = tuple(token_id for piece in of_one for token_id in piece.token_ids)
        found.append(Completion(tokens, of_one[-1].finish_reason if of_one else None))
    return found


def agrees(job: Job, completion: Completion, expected: Completion) -> bool:
    if job.leaves_after is None or completion.finish_reason is not None:
        return completion == expected
    return completion.token_ids == expected.token_ids[: len(completion.token_ids)]


def check_idle(llm: LLM) -> None:
    llm.check_integrity()
    assert not llm.engine.has_work
    assert llm.engine.scheduler.page_pool.num_used == 0
