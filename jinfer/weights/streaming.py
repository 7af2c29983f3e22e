"""Parameters filled from tensors that lie elsewhere, in files or in host memory, by way of the staging
buffers.

Each tensor is cut along its first axis into chunks of equal size, chunks are packed into transfers of one
buffer, and on the device each is written where it belongs. A parameter is allocated once, so stacking layers
and joining projections takes no second copy, and a model has a handful of chunk shapes to compile for.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from jinfer.placement import Placement
from jinfer.progress import progress_bar
from jinfer.weights.staging import stream
from jinfer.weights.tensor_source import STREAMED_DTYPES, HostTensor, TensorSource

BUFFER_BYTES = 16 * 2**20
ALIGNMENT = 64  # of chunks in a buffer


@dataclass(frozen=True)
class TensorSlice:
    """The slice parameter[start[0]:, start[1]:, ...] that a tensor fills, which `is_transposed` turns around
    first."""

    source: TensorSource
    path: str
    start: tuple[int, ...]
    is_transposed: bool = False

    @property
    def row_bytes(self) -> int:
        return math.prod(self.source.shape[1:]) * self.source.dtype.itemsize


def host_slices(path: str, array: np.ndarray, dtype: np.dtype) -> list[TensorSlice]:
    """A whole parameter of `dtype` from host memory: one slice for each matrix of a stack.

    Dtypes that checkpoints do not have are converted to `dtype` on the host.
    """
    read_as = array.dtype if array.dtype in STREAMED_DTYPES else dtype
    return [
        TensorSlice(HostTensor(array[index], read_as), path, (*index, *(0,) * (array.ndim - len(index))))
        for index in np.ndindex(array.shape[:-2])
    ]


@dataclass(frozen=True)
class Chunk:
    """Rows of a tensor, and where they are in a staging buffer."""

    slice: TensorSlice
    first_row: int
    num_rows: int
    offset: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_rows, *self.slice.source.shape[1:])

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.slice.row_bytes

    @property
    def start(self) -> tuple[int, ...]:
        """The first index of the chunk in the parameter. Rows of a transposed tensor go along the last
        axis."""
        start = list(self.slice.start)
        axis = -1 if self.slice.is_transposed else -len(self.slice.source.shape)
        start[axis] += self.first_row
        return tuple(start)


@dataclass(frozen=True)
class Transfer:
    """The chunks that go to the device in one staging buffer."""

    chunks: tuple[Chunk, ...]

    @property
    def num_bytes(self) -> int:
        return sum(chunk.num_bytes for chunk in self.chunks)

    def read_into(self, buffer: np.ndarray) -> None:
        """Fills the bytes of a buffer."""
        for chunk in self.chunks:
            out = buffer[chunk.offset : chunk.offset + chunk.num_bytes]
            chunk.slice.source.read_rows(chunk.first_row, out)


def fill_params(
    abstract: Mapping[str, jax.ShapeDtypeStruct],
    slices: Sequence[TensorSlice],
    placement: Placement,
    *,
    progress: bool,
) -> dict[str, Array]:
    """Parameters by path, zero but for `slices`, which are converted to the parameter's dtype. `abstract`
    says how each is laid out.

    Host memory in use: the buffers of `staging.stream`, 24 times 16 MiB at most (or 24 rows of the first
    axis, if a row is larger), and as much on the device until all is loaded. Raises what reading a tensor
    raises.
    """
    params = _zeros(abstract, placement)
    buffer_bytes = _buffer_bytes(slices)
    transfers = list(_pack((chunk for each in slices for chunk in _cut(each, buffer_bytes)), buffer_bytes))
    reads = [transfer.read_into for transfer in transfers]
    total = sum(transfer.num_bytes for transfer in transfers)
    with progress_bar("loading weights", total=total, unit="B", unit_scale=True, enabled=progress) as bar:
        for transfer, staged in zip(transfers, stream(reads, buffer_bytes, placement), strict=True):
            for chunk in transfer.chunks:
                params[chunk.slice.path] = _write_chunk(params[chunk.slice.path], staged, chunk, placement)
            paths = {chunk.slice.path for chunk in transfer.chunks}
            jax.block_until_ready([params[path] for path in paths])  # because the buffer is filled again
            bar.update(transfer.num_bytes)
    return params


def _zeros(abstract: Mapping[str, jax.ShapeDtypeStruct], placement: Placement) -> dict[str, Array]:
    """All parameters in one program, for each has a shape of its own."""
    shapes = {path: (x.shape, x.dtype) for path, x in abstract.items()}
    shardings = {path: x.sharding for path, x in abstract.items()}
    make = jax.jit(
        lambda: {path: jnp.zeros(*shape) for path, shape in shapes.items()}, out_shardings=shardings
    )
    return dict(placement.call(make))


def _buffer_bytes(slices: Sequence[TensorSlice]) -> int:
    """No more than the largest tensor needs, and no less than a row of any tensor."""
    largest_row = max((each.row_bytes for each in slices), default=0)
    largest_tensor = max((each.row_bytes * each.source.shape[0] for each in slices), default=0)
    return max(min(BUFFER_BYTES, largest_tensor), largest_row)


def _cut(each: TensorSlice, buffer_bytes: int) -> Iterator[Chunk]:
    """Chunks of as many rows each, so that they have one shape; the last begins within the one before it, if
    it must.

    10 rows, of which 4 fit: rows 0 to 3, 4 to 7 and 6 to 9.
    """
    num_rows = each.source.shape[0]
    num_chunks = -(-num_rows // (buffer_bytes // each.row_bytes))
    rows_each = -(-num_rows // num_chunks)
    for i in range(num_chunks):
        yield Chunk(each, min(i * rows_each, num_rows - rows_each), rows_each)


def _pack(chunks: Iterable[Chunk], buffer_bytes: int) -> Iterator[Transfer]:
    """Chunks side by side in buffers, in their order."""
    packed: list[Chunk] = []
    used = 0
    for chunk in chunks:
        if used + chunk.num_bytes > buffer_bytes:
            yield Transfer(tuple(packed))
            packed = []
            used = 0
        packed.append(replace(chunk, offset=used))
        used += -(-chunk.num_bytes // ALIGNMENT) * ALIGNMENT
    if packed:
        yield Transfer(tuple(packed))


def _write_chunk(target: Array, staged: UInt8[Array, " bytes"], chunk: Chunk, placement: Placement) -> Array:
    indices = np.array((chunk.offset, *chunk.start), np.int32)
    static = (chunk.shape, chunk.slice.source.dtype, chunk.slice.is_transposed)
    return placement.call(_write, target, staged, indices, static=static)


@jax.jit(donate_argnums=0, static_argnums=(3, 4, 5))
def _write(
    target: Array,
    staged: UInt8[Array, " bytes"],
    indices: Array,
    shape: tuple[int, ...],
    dtype: np.dtype,
    is_transposed: bool,
) -> Array:
    """Puts the chunk at offset indices[0] of the buffer into target[indices[1]:, ...]; axes that it does not
    have are of size one."""
    num_bytes = math.prod(shape) * dtype.itemsize
    raw = jax.lax.dynamic_slice(staged, (indices[0],), (num_bytes,))
    values = jax.lax.bitcast_convert_type(raw.reshape(*shape, dtype.itemsize), dtype).reshape(shape)
    values = (values.T if is_transposed else values).astype(target.dtype)
    values = values.reshape((1,) * (target.ndim - values.ndim) + values.shape)
    return jax.lax.dynamic_update_slice(target, values, tuple(indices[1:]))
