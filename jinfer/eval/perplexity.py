"""Perplexity of a text, from the log probabilities that the engine gives for the tokens of prompts."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinfer.errors import EngineError
from jinfer.eval.engine_run import EngineRun
from jinfer.eval.tokenized_text import TokenizedText
from jinfer.eval.windows import Window, WindowSizes
from jinfer.progress import progress_bar
from jinfer.requests.request import Request
from jinfer.requests.sampling_params import SamplingParams

SCORED = SamplingParams(prompt_logprobs=0, max_tokens=1, temperature=0, ignore_eos=True)


@dataclass(frozen=True)
class TextScore:
    """The score of a text: `window_nlls` are the sums over the scored tokens of each window, in nats, and
    `window_scored` the numbers of these tokens. Of its `num_tokens` tokens `num_scored` are scored in all,
    and `num_bytes` are the bytes of UTF-8 that these stand for. `num_prefix` tokens stand before each window.
    """

    sizes: WindowSizes
    num_prefix: int
    num_tokens: int
    num_bytes: int
    window_scored: tuple[int, ...]
    window_nlls: tuple[float, ...]

    @property
    def num_scored(self) -> int:
        return sum(self.window_scored)

    @property
    def total_nll(self) -> float:
        """The negative log likelihood of all scored tokens, in nats."""
        return math.fsum(self.window_nlls)

    @property
    def mean_nll(self) -> float:
        """The mean negative log likelihood of a token, in nats."""
        return self.total_nll / self.num_scored

    @property
    def bits_per_byte(self) -> float | None:
        """Bits for a byte of text, which models of different tokenizers can be compared by; None where the
        scored tokens stand for none."""
        return self.total_nll / math.log(2) / self.num_bytes if self.num_bytes else None

    def fields(self) -> dict[str, Any]:
        """The figures by the names that they have in JSON."""
        return {
            "window": self.sizes.window,
            "stride": self.sizes.stride,
            "prefix_tokens": self.num_prefix,
            "windows": len(self.window_nlls),
            "tokens": self.num_tokens,
            "scored_tokens": self.num_scored,
            "scored_bytes": self.num_bytes,
            "mean_nll_nats": self.mean_nll,
            "perplexity": perplexity_of(self.mean_nll),
            "bits_per_byte": self.bits_per_byte,
        }


def perplexity_of(mean_nll: float) -> float | None:
    """exp(mean_nll); None where float64 does not hold it."""
    try:
        return math.exp(mean_nll)
    except OverflowError:
        return None


def text_score(
    text: TokenizedText, sizes: WindowSizes, windows: Sequence[Window], window_nlls: Sequence[float]
) -> TextScore:
    """The score of a text each of whose windows sums up to one of `window_nlls`, in nats."""
    return TextScore(
        sizes=sizes,
        num_prefix=len(text.prefix),
        num_tokens=len(text.token_ids),
        num_bytes=text.num_scored_bytes(windows),
        window_scored=tuple(window.num_scored for window in windows),
        window_nlls=tuple(window_nlls),
    )


def score_text(
    run: EngineRun, text: TokenizedText, sizes: WindowSizes, *, progress: bool
) -> tuple[TextScore, float]:
    """The score of a text, and the seconds that it took. Sums are exact, and rounded to float64 once for
    each window and once for all. Raises EngineError for a log probability that is not finite."""
    windows = sizes.cut(len(text.token_ids), has_prefix=bool(text.prefix))
    prompts = [window.prompt(text.prefix, text.token_ids) for window in windows]
    sums = [0.0] * len(windows)
    run.prepare_scoring(progress=progress)
    began = time.perf_counter()
    num_scored = sum(window.num_scored for window in windows)
    with progress_bar("scoring", total=num_scored, enabled=progress, unit="tokens") as bar:
        for index, request in run.ended(prompts, SCORED):
            sums[index] = _nll(request, windows[index].num_scored)
            request.prompt_logprobs = None  # thousands of them would fill the memory
            bar.update(windows[index].num_scored)
    return text_score(text, sizes, windows, sums), time.perf_counter() - began


def _nll(request: Request, num_scored: int) -> float:
    """The sum of the negative log likelihoods of the last tokens of a prompt, in nats."""
    entries = list(zip(request.prompt_token_ids, request.prompt_logprobs or (), strict=True))
    logprobs = [math.nan if entry is None else entry[token] for token, entry in entries[-num_scored:]]
    if not all(map(math.isfinite, logprobs)):
        raise EngineError(f"{request.request_id}: the model gave log probabilities that are not finite")
    return -math.fsum(logprobs)
