"""The tokens that a model is run over to see what its products read."""

from dataclasses import dataclass

from jinfer.errors import ConfigError
from jinfer.eval.tokenized_text import TokenizedText
from jinfer.eval.windows import WindowSizes
from jinfer.text.tokenizer import Tokenizer

MAX_WINDOWS, MAX_WINDOW_TOKENS = 64, 512
MIN_TOKENS = 64
"""Fewer show too little of what inputs are like."""


@dataclass(frozen=True)
class Calibration:
    """Windows of token ids, each a sequence of its own."""

    windows: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, content: str, tokenizer: Tokenizer, context: int) -> "Calibration":
        """At most MAX_WINDOWS windows of MAX_WINDOW_TOKENS tokens, evenly from the whole of a text. Raises
        ConfigError for a text of fewer than MIN_TOKENS."""
        text = TokenizedText.of(content, tokenizer)
        num_tokens = len(text.token_ids)
        if num_tokens < MIN_TOKENS:
            raise ConfigError(
                f"the text of --calibration has {num_tokens} tokens, and at least {MIN_TOKENS} are needed to "
                "see what inputs are like; give a longer one"
            )
        size = min(MAX_WINDOW_TOKENS, context - len(text.prefix), num_tokens)
        cut = WindowSizes(size, size).cut(num_tokens - num_tokens % size, has_prefix=True)
        step = -(-len(cut) // MAX_WINDOWS)
        return cls(tuple(window.prompt(text.prefix, text.token_ids) for window in cut[::step]))
