"""Parameters filled from arrays that lie elsewhere, in files or in host memory, by way of the staging buffers.

Each array is cut along its first axis into pieces of equal size, pieces are packed into buffers, and on the device each
is written into its place. A parameter is allocated once, so stacking layers and joining projections takes no second
copy, and a model has a handful of piece shapes to compile for.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, UInt8

from jinfer.progress import progress_bar
from jinfer.weights.staging import stream
from jinfer.weights.tensor_source import STREAMED_DTYPES, HostArray, StoredArray

BUFFER_BYTES = 16 * 2**20
ALIGNMENT = 64  # of pieces in a buffer


@dataclass(frozen=True)
class Part:
    """What fills parameter[start[0]:, start[1]:, ...]: the array, transposed first where that is said."""

    array: StoredArray
    path: str
    start: tuple[int, ...]
    transposed: bool = False


def host_parts(path: str, array: np.ndarray, dtype: np.dtype) -> list[Part]:
    """A whole parameter of `dtype` from host memory: one part for each matrix of a stack.

    Dtypes that checkpoints do not have are converted to `dtype` on the host.
    """
    read_as = array.dtype if array.dtype in STREAMED_DTYPES else dtype
    return [
        Part(HostArray(array[index], read_as), path, (*index, *(0,) * (array.ndim - len(index))))
        for index in np.ndindex(array.shape[:-2])
    ]


@dataclass(frozen=True)
class Piece:
    """Rows of a part, and where they are in a staging buffer."""

    part: Part
    first_row: int
    num_rows: int
    offset: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_rows, *self.part.array.shape[1:])

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.part.array.dtype.itemsize

    @property
    def start(self) -> tuple[int, ...]:
        """Where the piece begins in the parameter. Its rows go along the last axis of a transposed part."""
        start = list(self.part.start)
        axis = -1 if self.part.transposed else -len(self.part.array.shape)
        start[axis] += self.first_row
        return tuple(start)


def fill_params(
    abstract: Mapping[str, jax.ShapeDtypeStruct], parts: Sequence[Part], device: jax.Device, *, progress: bool
) -> dict[str, Array]:
    """Parameters by path, zero but for `parts`, which are converted to the parameter's dtype.

    Host memory in use: the buffers of `staging.stream`, 24 times 16 MiB at most (or 24 rows of the first axis, if a row
    is larger), and as much on the device until all is loaded. Raises what reading an array raises.
    """
    params = _zeros(abstract, device)
    buffer_bytes = _buffer_bytes(parts)
    loads = list(_pack((piece for part in parts for piece in _cut(part, buffer_bytes)), buffer_bytes))
    fills = [functools.partial(_read, load) for load in loads]
    total = sum(_num_bytes(load) for load in loads)
    with progress_bar("loading weights", total=total, unit="B", unit_scale=True, enabled=progress) as bar:
        for load, staged in zip(loads, stream(fills, buffer_bytes, device), strict=True):
            for piece in load:
                where = np.array((piece.offset, *piece.start), np.int32)
                array, path = piece.part.array, piece.part.path
                params[path] = _write(params[path], staged, where, piece.shape, array.dtype, piece.part.transposed)
            jax.block_until_ready([params[piece.part.path] for piece in load])  # for the buffer is filled anew
            bar.update(_num_bytes(load))
    return params


def _zeros(abstract: Mapping[str, jax.ShapeDtypeStruct], device: jax.Device) -> dict[str, Array]:
    """All parameters in one program, for each has a shape of its own."""
    shapes = {path: (x.shape, x.dtype) for path, x in abstract.items()}
    make = jax.jit(
        lambda: {path: jnp.zeros(*shape) for path, shape in shapes.items()}, out_shardings=SingleDeviceSharding(device)
    )
    return dict(make())


def _buffer_bytes(parts: Sequence[Part]) -> int:
    """No more than the largest part needs, and no less than a row of any part."""
    row_sizes = [math.prod(part.array.shape[1:]) * part.array.dtype.itemsize for part in parts]
    sizes = [size * part.array.shape[0] for size, part in zip(row_sizes, parts, strict=True)]
    return max(min(BUFFER_BYTES, max(sizes, default=0)), max(row_sizes, default=0))


def _cut(part: Part, buffer_bytes: int) -> Iterator[Piece]:
    """Pieces of as many rows each, so that they have one shape; the last begins within the one before it, if it must.

    10 rows, of which 4 fit: rows 0 to 3, 4 to 7 and 6 to 9.
    """
    num_rows = part.array.shape[0]
    row_bytes = math.prod(part.array.shape[1:]) * part.array.dtype.itemsize
    num_pieces = -(-num_rows // (buffer_bytes // row_bytes))
    rows_each = -(-num_rows // num_pieces)
    for i in range(num_pieces):
        yield Piece(part, min(i * rows_each, num_rows - rows_each), rows_each)


def _pack(pieces: Iterable[Piece], buffer_bytes: int) -> Iterator[list[Piece]]:
    """Pieces side by side in buffers, in their order."""
    load: list[Piece] = []
    used = 0
    for piece in pieces:
        if used + piece.num_bytes > buffer_bytes:
            yield load
            load, used = [], 0
        load.append(Piece(piece.part, piece.first_row, piece.num_rows, used))
        used += -(-piece.num_bytes // ALIGNMENT) * ALIGNMENT
    if load:
        yield load


def _num_bytes(load: list[Piece]) -> int:
    return sum(piece.num_bytes for piece in load)


def _read(load: list[Piece], buffer: np.ndarray) -> None:
    for piece in load:
        piece.part.array.read_rows(piece.first_row, buffer[piece.offset : piece.offset + piece.num_bytes])


@jax.jit(donate_argnums=0, static_argnums=(3, 4, 5))
def _write(
    target: Array, staged: UInt8[Array, " bytes"], where: Array, shape: tuple[int, ...], dtype: np.dtype,
    transposed: bool,
) -> Array:  # fmt: skip
    """Puts the piece at offset where[0] of the buffer into target[where[1]:, ...]; axes it has not are of size one."""
    num_bytes = math.prod(shape) * dtype.itemsize
    raw = jax.lax.dynamic_slice(staged, (where[0],), (num_bytes,))
    piece = jax.lax.bitcast_convert_type(raw.reshape(*shape, dtype.itemsize), dtype)
    piece = (piece.T if transposed else piece).astype(target.dtype)
    piece = piece.reshape((1,) * (target.ndim - piece.ndim) + piece.shape)
    return jax.lax.dynamic_update_slice(target, piece, tuple(where[1:]))
