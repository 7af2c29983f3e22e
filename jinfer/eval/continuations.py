"""Greedy continuations of prompts that are cut from a text, and how long two models agree on them. Plain
Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from jinfer.errors import ConfigError
from jinfer.eval.engine_run import EngineRun
from jinfer.eval.tokenized_text import TokenizedText
from jinfer.progress import progress_bar
from jinfer.requests.sampling_params import SamplingParams

Continuations = Sequence[tuple[int, ...]]
"""The token ids that follow each prompt."""


@dataclass(frozen=True)
class ContinuationSizes:
    """At most `num_prompts` prompts of `prompt_tokens` tokens of the text, and `output_tokens` after each."""

    num_prompts: int
    prompt_tokens: int
    output_tokens: int

    def check(self, *, max_model_len: int, num_prefix: int) -> None:
        """Raises ConfigError where the context is too short."""
        total = num_prefix + self.prompt_tokens + self.output_tokens
        if total > max_model_len:
            raise ConfigError(
                f"prompts of {self.prompt_tokens} tokens, {num_prefix} before them and {self.output_tokens} "
                f"after them are {total}, and the context holds {max_model_len}; lower --prompt-tokens or "
                "--output-tokens"
            )

    def prompts(self, text: TokenizedText) -> list[tuple[int, ...]]:
        """Prompts at equal distances over the text, which do not overlap: fewer, where it is short, and one
        that is the whole text where that is shorter than a prompt."""
        num_tokens = len(text.token_ids)
        length = min(self.prompt_tokens, num_tokens)
        count = min(self.num_prompts, num_tokens // length)
        begins = [index * (num_tokens - length) // max(1, count - 1) for index in range(count)]
        return [(*text.prefix, *text.token_ids[begin : begin + length]) for begin in begins]


@dataclass(frozen=True)
class Agreement:
    """The agreement of two models on continuations: the share of tokens before the first that differs, and
    the share of continuations that are equal as a whole."""

    num_continuations: int
    token_share: float
    whole_share: float

    @classmethod
    def of(cls, first: Continuations, second: Continuations) -> "Agreement":
        """The continuations of the same prompts, in the same order."""
        pairs = list(zip(first, second, strict=True))
        equal = [sum(1 for _ in takewhile(_is_same, zip(*pair, strict=False))) for pair in pairs]
        return cls(
            num_continuations=len(pairs),
            token_share=sum(equal) / sum(max(map(len, pair)) for pair in pairs),
            whole_share=sum(one == other for one, other in pairs) / len(pairs),
        )


def continue_greedily(
    run: EngineRun, prompts: Sequence[Sequence[int]], num_tokens: int, *, progress: bool
) -> Continuations:
    """The most likely tokens after each prompt, `num_tokens` of each, also after an end of sequence."""
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    found: list[tuple[int, ...]] = [()] * len(prompts)
    with progress_bar("continuing", total=len(prompts), enabled=progress, unit="prompts") as bar:
        for index, request in run.ended(prompts, params):
            found[index] = tuple(request.sequences[0].output_token_ids)
            bar.update()
    return found


def _is_same(tokens: tuple[int, int]) -> bool:
    return tokens[0] == tokens[1]
