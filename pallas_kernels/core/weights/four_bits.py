"""Codes of four bits, four in a word of 16, and the sizes of weights that are made of them.

The four of a word are 64 inputs apart. Of every 256 inputs (a piece), word j of an output holds

    bits 0 to 3     input 256 * piece + j
    bits 4 to 7     input 256 * piece + 64 + j
    bits 8 to 11    input 256 * piece + 128 + j
    bits 12 to 15   input 256 * piece + 192 + j       j = 0..63

so that a kernel that loads a tile of words has four tiles of weights whose inputs lie side by side, and never
has to weave them together: it multiplies each with its own inputs. And two words in a register have the same
bits of both where two bfloat16 have theirs: a mask takes two weights out at once. Inputs are filled up to a
multiple of 256, by codes that nothing reads.
"""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, UInt, UInt8, UInt16

from pallas_kernels.core.weights.activations import Activations
from pallas_kernels.core.weights.scaling import ceil_div

CODES_OF_A_WORD = 4
SLOT = 64  # inputs between the codes of a word
PIECE = CODES_OF_A_WORD * SLOT


class FourBits:
    """The matrix, or the stack of matrices, that the words `packed` [..., out, words] belong to."""

    packed: Array
    num_in: int

    @property
    def elements(self) -> UInt16[Array, "*layers out words"]:
        """The array that kernels read weights from, of so many elements for an output."""
        return self.packed

    @property
    def num_out(self) -> int:
        return self.packed.shape[-2]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array it stands for, [..., in, out]."""
        return *self.packed.shape[:-2], self.num_in, self.num_out

    @property
    def ndim(self) -> int:
        return self.packed.ndim

    @property
    def activations(self) -> Activations:
        """Always floats: no product of this package quantizes rows to multiply them with four bits."""
        return "float"


def pack(codes: UInt8[Array, "*layers out in"]) -> UInt16[Array, "*layers out words"]:
    """Codes of 0 to 15 in the order of the module."""
    num_in = codes.shape[-1]
    num_pieces = ceil_div(num_in, PIECE)
    filled = jnp.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, num_pieces * PIECE - num_in)])
    slots = filled.reshape(*codes.shape[:-1], num_pieces, CODES_OF_A_WORD, SLOT).astype(jnp.uint16)
    words = (slots << shifts(CODES_OF_A_WORD, jnp.uint16)).sum(-2, dtype=jnp.uint16)
    return words.reshape(*codes.shape[:-1], num_pieces * SLOT)


def unpack(packed: UInt16[Array, "*layers out words"], num_in: int) -> UInt8[Array, "*layers out in"]:
    """The codes that were packed."""
    pieces = packed.reshape(*packed.shape[:-1], -1, 1, SLOT)
    slots = (pieces >> shifts(CODES_OF_A_WORD, jnp.uint16)) & 15
    return slots.reshape(*packed.shape[:-1], -1)[..., :num_in].astype(jnp.uint8)


def shifts(num_codes: int, dtype: DTypeLike) -> UInt[Array, "codes 1"]:
    """The shifts of codes of four bits in a word."""
    return (4 * jnp.arange(num_codes)).astype(dtype)[:, None]
