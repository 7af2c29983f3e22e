"""Tensors are cut, packed and put where they belong, whatever the size of the buffers."""

import ml_dtypes
import numpy as np
import pytest
from jax import ShapeDtypeStruct

from jinfer.placement import default_placement
from jinfer.weights import staging, streaming
from jinfer.weights.streaming import TensorSlice, fill_params, host_slices
from jinfer.weights.tensor_source import HostTensor
from tests.weights.test_staging import KINDS

PLACEMENT = default_placement()
BFLOAT16, FLOAT32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)


def values(*shape: int, dtype: np.dtype = FLOAT32) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype(dtype)


def filled(abstract: dict, slices: list[TensorSlice]) -> dict[str, np.ndarray]:
    shapes = {
        path: ShapeDtypeStruct(*shape, sharding=PLACEMENT.sharding()) for path, shape in abstract.items()
    }
    return {path: np.asarray(x) for path, x in fill_params(shapes, slices, PLACEMENT, progress=False).items()}


def stored(array: np.ndarray) -> HostTensor:
    return HostTensor(array, array.dtype)


@pytest.mark.parametrize("buffer", KINDS)
@pytest.mark.parametrize("buffer_bytes", [1, 100, 333, 1000, 10**6])
def test_slices_are_filled_however_they_are_cut(monkeypatch, buffer, buffer_bytes):
    """A buffer for each row, up to one for all: two layers of two joined matrices each, a table, a vector."""
    monkeypatch.setattr(streaming, "BUFFER_BYTES", buffer_bytes)
    monkeypatch.setattr(staging, "_new_buffer", lambda placement: buffer)
    left, right, table, vector = (
        [values(13, 7) for _ in "12"],
        [values(6, 7) for _ in "12"],
        values(40, 5),
        values(9),
    )
    slices = [
        *[TensorSlice(stored(x), "joined", (layer, 0, 0), True) for layer, x in enumerate(left)],
        TensorSlice(stored(vector), "vector", (0, 0)),
        *[TensorSlice(stored(x), "joined", (layer, 0, 13), True) for layer, x in enumerate(right)],
        TensorSlice(stored(table.astype(BFLOAT16)), "table", (0, 0)),
    ]
    params = filled(
        {"joined": ((2, 7, 19), FLOAT32), "table": ((40, 5), BFLOAT16), "vector": ((1, 9), FLOAT32)}, slices
    )

    joined = np.stack([np.concatenate([a.T, b.T], axis=1) for a, b in zip(left, right, strict=True)])
    np.testing.assert_array_equal(params["joined"], joined)
    np.testing.assert_array_equal(params["table"], table.astype(BFLOAT16))
    np.testing.assert_array_equal(params["vector"], vector[None])


@pytest.mark.parametrize("stored_dtype", [np.float16, BFLOAT16, FLOAT32], ids=lambda x: np.dtype(x).name)
@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT32], ids=str)
def test_the_device_converts_as_numpy_does(stored_dtype, dtype):
    array = values(11, 3, dtype=np.dtype(stored_dtype))

    params = filled({"x": ((11, 3), dtype)}, [TensorSlice(stored(array), "x", (0, 0))])
    np.testing.assert_array_equal(params["x"], array.astype(dtype))


def test_what_no_slice_fills_is_zero():
    params = filled(
        {"x": ((4, 3), FLOAT32), "y": ((2,), BFLOAT16)}, [TensorSlice(stored(values(2, 3)), "x", (1, 0))]
    )

    np.testing.assert_array_equal(params["x"], [[0] * 3, *values(2, 3), [0] * 3])
    np.testing.assert_array_equal(params["y"], [0, 0])


def test_parameters_of_one_shape_have_memory_of_their_own():
    shapes = {path: ShapeDtypeStruct((300, 7), FLOAT32, sharding=PLACEMENT.sharding()) for path in "xyz"}
    params = fill_params(shapes, [], PLACEMENT, progress=False)

    assert len({x.unsafe_buffer_pointer() for x in params.values()}) == 3


@pytest.mark.parametrize("array", [values(8, 6)[::2, ::-1], values(6, 4).T, values(4, 6).astype(np.float64)])
def test_host_arrays_may_be_strided_and_of_any_dtype(array):
    params = filled({"x": ((4, 6), FLOAT32)}, [TensorSlice(HostTensor(array, FLOAT32), "x", (0, 0))])

    np.testing.assert_array_equal(params["x"], array.astype(np.float32))


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT32], ids=str)
@pytest.mark.parametrize(
    "array",
    [
        values(9),
        values(3, 5),
        values(3, 4, 5),
        values(2, 3, 4, 5).astype(np.float16),
        np.arange(12).reshape(2, 2, 3),
    ],
    ids=lambda x: f"{x.dtype}-{x.ndim}d",
)
def test_a_whole_parameter_comes_from_host_memory(monkeypatch, array, dtype):
    monkeypatch.setattr(streaming, "BUFFER_BYTES", 40)
    params = filled({"x": (array.shape, dtype)}, host_slices("x", array, dtype))

    np.testing.assert_array_equal(params["x"], array.astype(dtype))


def test_chunks_of_a_tensor_have_one_shape_and_hold_every_row():
    chunks = list(streaming._cut(TensorSlice(stored(values(10, 2)), "x", (0, 0)), 4 * 8))

    assert [(chunk.first_row, chunk.num_rows) for chunk in chunks] == [(0, 4), (4, 4), (6, 4)]


def test_chunks_share_a_buffer_while_they_fit_and_are_aligned():
    slices = [TensorSlice(stored(values(rows)), "x", (0,)) for rows in (10, 20, 16, 1)]
    transfers = list(streaming._pack([chunk for each in slices for chunk in streaming._cut(each, 240)], 240))

    assert [[(chunk.offset, chunk.num_bytes) for chunk in transfer.chunks] for transfer in transfers] == [
        [(0, 40), (64, 80)],
        [(0, 64), (64, 4)],
    ]


def test_a_buffer_is_asked_for_when_all_that_reads_the_one_before_is_done(monkeypatch):
    """It is filled anew then."""
    array, written, was_ready = values(1500, 1500), [], []
    write, real_stream = streaming._write, streaming.stream

    def noted_write(*args):
        written.append(write(*args))
        return written[-1]

    def noted_stream(*args):
        for on_device in real_stream(*args):
            yield on_device
            was_ready.extend(x.is_ready() for x in written if not x.is_deleted())

    monkeypatch.setattr(streaming, "_write", noted_write)
    monkeypatch.setattr(streaming, "stream", noted_stream)
    shapes = dict.fromkeys("xyz", (array.shape, FLOAT32))
    filled(shapes, [TensorSlice(stored(array), path, (0, 0), True) for path in "xyz"])

    assert len(was_ready) == 1 + 2 + 3
    assert all(was_ready)
