"""Two models with one tokenizer on the same text: how their predictions differ."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jinfer.config import EngineConfig
from jinfer.errors import ConfigError, EngineError
from jinfer.eval.continuations import Agreement, Continuations, ContinuationSizes, continue_greedily
from jinfer.eval.divergence import Comparison, OutputHead, compare_hidden
from jinfer.eval.engine_run import open_engine
from jinfer.eval.hidden_states import ScoredHiddenStates
from jinfer.eval.perplexity import TextScore, perplexity_of, text_score
from jinfer.eval.tokenized_text import TokenizedText, need_tokenizer
from jinfer.eval.windows import Window, WindowSizes
from jinfer.loading import ResolvedModel
from jinfer.progress import progress_bar
from jinfer.text.tokenizer import Tokenizer

IGNORED_ENTRIES = ("version", "truncation", "padding")  # of a tokenizer.json: no ids follow from them


@dataclass(frozen=True)
class CompareResult:
    """The figures of all scored tokens, the scores of the text by both models, and their agreement on
    continuations."""

    tokens: Comparison
    score_a: TextScore
    score_b: TextScore
    agreement: Agreement

    def fields(self) -> dict[str, Any]:
        """The figures by the names that they have in JSON."""
        a, b = self.score_a.fields(), self.score_b.fields()
        of_each = ("mean_nll_nats", "perplexity", "bits_per_byte")
        kl = np.asarray(self.tokens.kl, np.float64)
        return {
            **{name: value for name, value in a.items() if name not in of_each},
            **{f"{name}_a": a[name] for name in of_each},
            **{f"{name}_b": b[name] for name in of_each},
            "perplexity_ratio": perplexity_of(self.score_b.mean_nll - self.score_a.mean_nll),
            "top1_agreement": float(np.mean(self.tokens.is_top_equal)),
            "kl_mean_nats": float(np.mean(kl)),
            "kl_median_nats": float(np.median(kl)),
            "kl_p99_nats": float(np.percentile(kl, 99)),
            "kl_max_nats": float(np.max(kl)),
            "continuations": self.agreement.num_continuations,
            "token_agreement": self.agreement.token_share,
            "whole_agreement": self.agreement.whole_share,
        }


@dataclass(frozen=True, eq=False)
class ModelRecord:
    """The part of a model that is kept when its engine is closed, on the host and the disk."""

    hidden: ScoredHiddenStates
    head: OutputHead
    continuations: Continuations


def check_comparable(first: ResolvedModel, second: ResolvedModel) -> None:
    """Raises ConfigError, which says what differs, unless tokens mean the same to both models."""
    sizes = [model.model.config.vocab_size for model in (first, second)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"model A has {sizes[0]} logits and model B {sizes[1]}: distributions over two vocabularies "
            "cannot be compared; give two models with one vocabulary, as a model and its quantized form"
        )
    entries = [
        _entries(need_tokenizer(model.tokenizer, name))
        for model, name in ((first, "model A"), (second, "model B"))
    ]
    differing = [name for name in sorted(entries[0].keys() | entries[1].keys()) if _differs(name, *entries)]
    if differing:
        raise ConfigError(
            f"the tokenizers of model A and model B differ in {', '.join(differing)} of tokenizer.json, so "
            "that their tokens are not the same; give two models with one tokenizer"
        )


def compare_models(
    models: Sequence[ResolvedModel],
    config: EngineConfig,
    text: TokenizedText,
    sizes: WindowSizes,
    continuations: ContinuationSizes,
) -> CompareResult:
    """Reads the text with one model after the other, and compares what they predict. The models must be
    comparable. Raises ConfigError where a window does not fit into the memory, or the disk is too small."""
    windows = sizes.cut(len(text.token_ids), has_prefix=bool(text.prefix))
    records = [_record(model, config, text, sizes, continuations) for model in models]
    targets = np.concatenate([text.token_ids[window.first_scored : window.end] for window in windows])
    with progress_bar("comparing", total=len(targets), enabled=config.progress, unit="tokens") as bar:
        tokens = compare_hidden(
            [record.head for record in records],
            [record.hidden.array for record in records],
            targets.astype(np.int32),
            bar,
        )
    return CompareResult(
        tokens=tokens,
        score_a=text_score(text, sizes, windows, _window_sums("model A", tokens.nll_a, windows)),
        score_b=text_score(text, sizes, windows, _window_sums("model B", tokens.nll_b, windows)),
        agreement=Agreement.of(*(record.continuations for record in records)),
    )


def _window_sums(name: str, nll: np.ndarray, windows: Sequence[Window]) -> list[float]:
    """The sum over the tokens of each window, in float64. Raises EngineError for what is not finite."""
    ends = np.cumsum([window.num_scored for window in windows])
    sums = [math.fsum(of_window.tolist()) for of_window in np.split(nll, ends[:-1])]
    if not all(map(math.isfinite, sums)):
        raise EngineError(f"{name} gave log probabilities that are not finite")
    return sums


def _record(
    model: ResolvedModel,
    config: EngineConfig,
    text: TokenizedText,
    sizes: WindowSizes,
    continuations: ContinuationSizes,
) -> ModelRecord:
    windows = sizes.cut(len(text.token_ids), has_prefix=bool(text.prefix))
    with open_engine(model, config) as run:
        parts = run.parts
        sizes.check(max_model_len=parts.limits.max_model_len, num_prefix=len(text.prefix))
        continued = continue_greedily(
            run, continuations.prompts(text), continuations.output_tokens, progress=config.progress
        )
        hidden = ScoredHiddenStates.of(parts, text, windows, progress=config.progress)
        return ModelRecord(hidden, OutputHead.of(parts.loaded.model, parts.loaded.params), continued)


def _entries(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_json())


def _differs(name: str, first: dict[str, Any], second: dict[str, Any]) -> bool:
    return name not in IGNORED_ENTRIES and first.get(name) != second.get(name)
