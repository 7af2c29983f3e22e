"""Windows over the tokens of a text. Plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinfer.errors import ConfigError

MAX_DEFAULT_WINDOW = 2048
MIN_WINDOW = 2  # one token alone has no token before it


@dataclass(frozen=True)
class Window:
    """The tokens [begin, end) of a text, of which those from `first_scored` on are scored."""

    begin: int
    first_scored: int
    end: int

    @property
    def num_scored(self) -> int:
        return self.end - self.first_scored

    def prompt(self, prefix: Sequence[int], token_ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens that the model reads: those that stand before every window, and those of the window."""
        return (*prefix, *token_ids[self.begin : self.end])


@dataclass(frozen=True)
class WindowSizes:
    """Windows of `window` tokens of the text, each of which begins `stride` tokens after the one before."""

    window: int
    stride: int

    @classmethod
    def of(
        cls, window: int | None, stride: int | None, *, max_model_len: int, num_prefix: int
    ) -> "WindowSizes":
        """The sizes with their defaults: the context but at most MAX_DEFAULT_WINDOW tokens, and windows side
        by side. Raises ConfigError for a window that does not fit `max_model_len`, and for a stride that
        would leave tokens out."""
        room = max_model_len - num_prefix - 1
        chosen = min(room, MAX_DEFAULT_WINDOW) if window is None else window
        sizes = cls(chosen, chosen if stride is None else stride)
        sizes.check(max_model_len=max_model_len, num_prefix=num_prefix)
        if not 1 <= sizes.stride <= chosen:
            raise ConfigError(
                f"stride={stride} must be from 1 to the window of {chosen} tokens, or tokens between two "
                "windows would not be scored; lower --stride"
            )
        return sizes

    def check(self, *, max_model_len: int, num_prefix: int) -> None:
        """Raises ConfigError unless the context of an engine holds a window."""
        room = max_model_len - num_prefix - 1
        if not MIN_WINDOW <= self.window <= room:
            raise ConfigError(
                f"window={self.window} must be from {MIN_WINDOW} to {room}: the context of {max_model_len} "
                f"tokens also holds {num_prefix} before each window and one that is generated; change "
                "--window, or raise --max-model-len if the model allows"
            )

    def cut(self, num_tokens: int, *, has_prefix: bool) -> list[Window]:
        """The windows of a text, the last one perhaps shorter. Each token is scored in the first window that
        has it, unless it begins that window and nothing is put before.

        In: 10 tokens, window 4, stride 3, no prefix
        Out: [0, 4) scores 1 to 3, [3, 7) scores 4 to 6, [6, 10) scores 7 to 9
        """
        windows = []
        num_done = 0
        for begin in range(0, num_tokens, self.stride):
            end = min(begin + self.window, num_tokens)
            window = Window(begin, max(num_done, begin if has_prefix else begin + 1), end)
            if window.num_scored > 0:
                windows.append(window)
            num_done = end
        return windows
