"""The sizes of weights that take a byte each."""

from jaxtyping import Array, Shaped


class EightBits:
    """The matrix, or the stack of matrices, that `values` [..., out, in] belong to."""

    values: Array

    @property
    def elements(self) -> Shaped[Array, "*layers out in"]:
        """The array that kernels read weights from, of so many elements for an output."""
        return self.values

    @property
    def num_in(self) -> int:
        return self.values.shape[-1]

    @property
    def num_out(self) -> int:
        return self.values.shape[-2]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array it stands for, [..., in, out]."""
        return *self.values.shape[:-2], self.num_in, self.num_out

    @property
    def ndim(self) -> int:
        return self.values.ndim
