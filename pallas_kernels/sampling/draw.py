"""The part of a draw that all implementations have in common, so that they choose the same token."""

from pallas_kernels.core.triton_call import ceil_div, next_power_of_two

MAX_SLICES = 1024  # whose statistics a program holds
MIN_SLICE = 256  # a slice is what is read again for one large logit


def draw_slice_size(vocab_size: int) -> int:
    """Tokens of a slice, of which one is drawn before a token of it is. A part of what `sample` means, and so
    no number to tune."""
    return max(MIN_SLICE, next_power_of_two(ceil_div(vocab_size, MAX_SLICES)))
