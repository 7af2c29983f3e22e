"""The columns of a row as arrays whose sizes are powers of two, which is all that a kernel can hold."""

from dataclasses import dataclass

from pallas_kernels.core.triton_call import next_power_of_two


@dataclass(frozen=True)
class Columns:
    """Columns begin to begin + size of a matrix, of which the first `num_inside` exist."""

    begin: int
    size: int
    num_inside: int


def cut_columns(features: int, max_pieces: int) -> tuple[Columns, ...]:
    """All columns in one piece, or in two where that pads less and max_pieces is 2.

    5,120 features in two pieces are 4,096 + 1,024; in one they are 8,192, a third of which is padding.
    2,880 are 2,048 + 1,024, of which 192 are padding. 8,000 are one piece of 8,192 in any case.
    """
    padded = next_power_of_two(features)
    first = padded // 2
    rest = features - first
    if max_pieces == 1 or next_power_of_two(rest) >= first:
        return (Columns(0, padded, features),)
    return Columns(0, first, first), Columns(first, next_power_of_two(rest), rest)
