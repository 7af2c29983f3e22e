"""Random checkpoints in Hugging Face's layout, and what transformers computes from them in float32 on a
CPU."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers

from tools.goldens.models import MATRIX_SCALE, VOCAB_SIZE, Variant

PROMPT_LENGTHS = (3, 13, 37)
NUM_GREEDY = 64
MIN_GAP = 1e-3  # between the best and the second best logit: rounding, about 1e-5, never decides a token
MIN_DISTINCT_IDS = 10  # of a prompt's greedy ids: a model that repeats itself tests little
BIAS_SCALE = 0.5
CACHE_NAMES = ("cache", "past_key_values")  # of transformers 5.24, and of those before it
NORM_SPREAD = 0.5
LAYER_SCALE = "layer_scalar"  # of Gemma 4, which has it as a buffer


@dataclass(frozen=True, eq=False)
class Answer:
    """A prompt, its greedy continuation, and the logits after each position but the last: [num_positions,
    vocab]."""

    prompt_ids: np.ndarray
    greedy_ids: np.ndarray
    logits: np.ndarray

    @property
    def is_decisive(self) -> bool:
        """Whether every choice is clear, and they are not all the same."""
        second, best = np.sort(self.logits[len(self.prompt_ids) - 1 :], axis=-1)[:, -2:].T
        return (
            bool((best - second).min() > MIN_GAP) and len(set(self.greedy_ids.tolist())) >= MIN_DISTINCT_IDS
        )


@dataclass(frozen=True, eq=False)
class Oracle:
    """A random model and its answers."""

    seed: int
    model: Any
    variant: Variant
    answers: list[Answer]

    @property
    def rounding(self) -> float:
        """The largest error of transformers' own logits in float32."""
        return max(float(np.abs(a.logits - in_float64(self.model, a)).max()) for a in self.answers)

    def save(self, directory: Path) -> None:
        """config.json and safetensors, as transformers writes them."""
        transformers.utils.logging.disable_progress_bar()
        self.model.save_pretrained(directory, max_shard_size=self.variant.max_shard_size)
        (directory / "generation_config.json").unlink()  # says nothing that config.json does not


def ask(variant: Variant, first_seed: int, *, log: Callable[[str], None] = lambda line: None) -> Oracle:
    """The oracle of the first seed, from `first_seed` on, whose greedy choices are all clear."""
    for seed in itertools.count(first_seed):
        model = random_model(variant, seed)
        prompts = np.random.default_rng(seed)
        answers = [answer(model, prompts.integers(VOCAB_SIZE, size=length)) for length in PROMPT_LENGTHS]
        if all(a.is_decisive for a in answers):
            return Oracle(seed, model, variant, answers)
        log(f"seed {seed}: a greedy choice is too close, or the text too dull; trying the next")
    raise AssertionError("unreachable")


def random_model(variant: Variant, seed: int) -> Any:
    """Weights so large that attention is sharp; biases and norm scales that matter, unlike transformers'
    own."""
    model_class = getattr(transformers, variant.architecture)
    # GLM's writes its share of turned dimensions into the rope entry that it is given.
    config = model_class.config_class(**copy.deepcopy(dict(variant.options)), dtype="float32")
    config._attn_implementation = config._experts_implementation = "eager"
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                middle = parameter.mean().item()  # 1, or 0 where 1 is added to it
                parameter.uniform_(middle - NORM_SPREAD, middle + NORM_SPREAD, generator=generator)
            else:
                scale = BIAS_SCALE if name.endswith(("bias", "sinks")) else MATRIX_SCALE
                scale = variant.embedding_scale if name.endswith("embed_tokens.weight") else scale
                parameter.normal_(0, scale, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("correction_bias"):
                buffer.normal_(0, BIAS_SCALE, generator=generator)
            if name.endswith(LAYER_SCALE):
                buffer.uniform_(1 - NORM_SPREAD, 1 + NORM_SPREAD, generator=generator)
    return model


@torch.inference_mode()
def answer(model: Any, prompt_ids: np.ndarray) -> Answer:
    """Prefill in one call, then one token at a time over transformers' own cache.

    By a model that has computed nothing: transformers keeps dynamic frequencies from one sequence to the
    next.
    """
    decoder = getattr(model.model, "language_model", model.model)
    decoder.rotary_emb = type(decoder.rotary_emb)(decoder.config)
    out = model(torch.tensor(prompt_ids)[None], use_cache=True)
    logits, greedy_ids = [out.logits[0]], [int(out.logits[0, -1].argmax())]
    cache = next(name for name in CACHE_NAMES if name in out)
    while len(greedy_ids) < NUM_GREEDY:
        newest = torch.tensor([[greedy_ids[-1]]])
        out = model(newest, **{cache: out[cache]}, use_cache=True)
        logits.append(out.logits[0])
        greedy_ids.append(int(out.logits[0, -1].argmax()))
    return Answer(prompt_ids.astype(np.int32), np.array(greedy_ids, np.int32), torch.cat(logits).numpy())


def in_float64(model: Any, answered: Answer) -> np.ndarray:
    """The logits after each position of an answer. Raises AssertionError where rounding decides a token.

    Transformers computes norms, softmax and the frequencies of rope in float32 even in a model of float64, so
    float32 means float64 here. Frequencies of llama3 in float32 are off by up to two units in the last place,
    which moves logits by as much as all other rounding.
    """
    with mock.patch.multiple(torch, float=torch.float64, float32=torch.float64):
        exact = answer(copy.deepcopy(model).double(), answered.prompt_ids)
    np.testing.assert_array_equal(exact.greedy_ids, answered.greedy_ids, "rounding decides no token")
    return exact.logits
