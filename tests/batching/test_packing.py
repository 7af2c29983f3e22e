"""What is packed into one vector comes out of it again, on the host and on the device."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jinfer.batching.batch import pack, size_of, unpack

shapes = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)
layouts = st.dictionaries(st.sampled_from("abcdef"), shapes, min_size=1)


def whole(fields):
    """Fields that need no padding."""
    return {name: (field, 99) for name, field in fields.items()}


def fields_of(layout, seed=0):
    rng = np.random.default_rng(seed)
    limit = np.iinfo(np.int32)
    return {n: rng.integers(limit.min, limit.max, s, np.int32, endpoint=True) for n, s in layout.items()}


@given(layout=layouts, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None, print_blob=True)
def test_roundtrip(layout, seed):
    fields = fields_of(layout, seed)
    packed = pack(layout, whole(fields))
    assert packed.dtype == np.int32
    assert packed.shape == (size_of(layout),) == (sum(math.prod(shape) for shape in layout.values()),)
    unpacked = unpack(layout, jnp.asarray(packed))
    assert list(unpacked) == list(layout)
    for name, field in fields.items():
        np.testing.assert_array_equal(np.asarray(unpacked[name]), field, strict=True)


def test_roundtrip_on_the_device():
    layout = {"one": (1,), "matrix": (2, 3), "nothing": (0,), "vector": (4,)}
    fields = fields_of(layout)
    unpacked = jax.jit(lambda packed: unpack(layout, packed))(pack(layout, whole(fields)))
    for name, field in fields.items():
        assert unpacked[name].dtype == jnp.int32
        np.testing.assert_array_equal(unpacked[name], field)


def test_the_layout_decides_the_order():
    layout, fields = {"a": (1,), "b": (2,)}, {"b": np.array([2, 3], np.int32), "a": np.array([1], np.int32)}
    assert pack(layout, whole(fields)).tolist() == [1, 2, 3]


def test_a_short_field_is_padded_along_its_first_axis():
    layout = {"vector": (3,), "matrix": (3, 2), "nothing": (2,)}
    fields = {"vector": ([5], 7), "matrix": ([np.array([1, 2], np.int32)], 0), "nothing": ([], -1)}
    assert pack(layout, fields).tolist() == [5, 7, 7, 1, 2, 0, 0, 0, 0, -1, -1]


@pytest.mark.parametrize("values", [[1, 2, 3], np.zeros((2, 2), np.int32), np.zeros(2, np.float32)])
def test_a_field_that_is_too_long_or_of_another_shape_or_dtype_is_refused(values):
    with pytest.raises((ValueError, TypeError)):
        pack({"a": (2,)}, {"a": (values, 0)})


def test_a_missing_field_is_refused():
    with pytest.raises(KeyError):
        pack({"a": (2,), "b": (1,)}, {"a": ([0, 0], 0)})
