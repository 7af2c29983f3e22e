"""A text file as tokens, each with the bytes of the text that it stands for."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jinfer.errors import ConfigError, TokenizerError
from jinfer.eval.windows import Window
from jinfer.text.tokenizer import Tokenizer

MIN_TOKENS = 2
SAMPLE = "a"  # any text: its tokens show what is put before them


@dataclass(frozen=True)
class TokenizedText:
    """The tokens of a text, and how many bytes of its UTF-8 each stands for.

    `prefix` is what the tokenizer puts before a text, often a BOS token. It stands before every window and
    is never scored.
    """

    prefix: tuple[int, ...]
    token_ids: tuple[int, ...]
    num_bytes: tuple[int, ...]

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer, max_tokens: int | None = None) -> "TokenizedText":
        """The first `max_tokens` tokens of a text, or all. Raises ConfigError for less than MIN_TOKENS."""
        token_ids, ends = tokenizer.encode_with_ends(text)
        kept = slice(max_tokens)
        if (count := len(token_ids[kept])) < MIN_TOKENS:
            raise ConfigError(
                f"the text has {count} tokens, and at least {MIN_TOKENS} are needed, one to "
                "predict the other from; give a longer --text or more --max-tokens"
            )
        return cls(_prefix(tokenizer), tuple(token_ids[kept]), tuple(_num_bytes(text, ends)[kept]))

    def num_scored_bytes(self, windows: Iterable[Window]) -> int:
        """The bytes of the text whose tokens the windows score."""
        return sum(sum(self.num_bytes[window.first_scored : window.end]) for window in windows)


def read_text(path: Path, option: str = "--text") -> str:
    """The text of a file, with its line ends as they are. Raises ConfigError, which names the file and the
    option that it was given to."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error.strerror}; name a file of text") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{option} {path} is not UTF-8 at byte {error.start} ({error.reason}); convert it to UTF-8"
        ) from error


def need_tokenizer(tokenizer: Tokenizer | None, model: str) -> Tokenizer:
    """The tokenizer. Raises TokenizerError where the model has none."""
    if tokenizer is None:
        raise TokenizerError(
            f"{model} has no tokenizer, and a text is tokenized with the model's own; put its tokenizer.json "
            "into the directory"
        )
    return tokenizer


def _prefix(tokenizer: Tokenizer) -> tuple[int, ...]:
    plain, whole = tokenizer.encode(SAMPLE, add_special_tokens=False), tokenizer.encode(SAMPLE)
    begins = range(len(whole) - len(plain) + 1)
    return tuple(whole[: next(begin for begin in begins if whole[begin : begin + len(plain)] == plain)])


def _num_bytes(text: str, ends: list[int]) -> list[int]:
    """The bytes of each token: of the characters up to its end that no token before has. The first of
    several tokens that make up a character has all of its bytes, and the last token what no token stands
    for at the end."""
    counts, done = [], 0
    for end in [*ends[:-1], len(text)]:
        reached = max(done, end)
        counts.append(len(text[done:reached].encode("utf-8")))
        done = reached
    return counts
