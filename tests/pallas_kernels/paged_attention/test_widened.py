"""Pages in 8 bits that become pages in 16 bits."""

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.core.kv_pages import QuantizedKVPages
from pallas_kernels.paged_attention.extend.mosaic.widened import Slots, num_slots, widen

NUM_PAGES = 12


def quantized_pages(rng, dtype, page_size: int, num_kv_heads: int, head_dim: int) -> QuantizedKVPages:
    shape = 2, NUM_PAGES, page_size, num_kv_heads, head_dim
    values = (
        rng.integers(-127, 128, shape)
        if dtype == jnp.int8
        else np.clip(100 * rng.normal(size=shape), -448, 448)
    )
    scales = rng.random((2, NUM_PAGES, num_kv_heads, page_size))
    return QuantizedKVPages(
        jnp.asarray(values).astype(dtype), jnp.asarray(scales, jnp.float32), jnp.dtype(jnp.bfloat16)
    )


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.float8_e4m3fn])
@pytest.mark.parametrize("sizes", [(8, 3, 64), (16, 8, 128), (256, 5, 64)])
def test_every_vector_is_its_values_times_its_scale(rng, dtype, sizes):
    pages = quantized_pages(rng, dtype, *sizes)
    sources = jnp.asarray([3, 11, 0, 5, 7], jnp.int32)
    widened = widen(pages, sources, jnp.int32(4), interpret=True)
    assert widened.array.dtype == jnp.bfloat16
    wanted = pages.gathered(sources[:4]).astype(jnp.bfloat16)
    np.testing.assert_array_equal(widened.array[:, :4], wanted)


def test_rows_with_new_tokens_get_slots_side_by_side():
    table = jnp.asarray([[9, 2, 4, 0], [1, 1, 1, 1], [5, 3, 8, 7]], jnp.int32)
    slots = Slots.of(table, jnp.asarray([0, 3, 3, 7]), jnp.asarray([17, 30, 32]), page_size=8, num_slots=12)
    assert slots.used == 7, "17 positions have 3 pages, and 32 have 4; the row in between gets no tokens"
    assert slots.sources[:7].tolist() == [9, 2, 4, 5, 3, 8, 7]
    assert slots.page_table[0, :3].tolist() == [0, 1, 2]
    assert slots.page_table[2].tolist() == [3, 4, 5, 6]
    assert slots.page_table.max() < 12


def test_more_pages_than_slots_are_counted():
    table = jnp.arange(8, dtype=jnp.int32).reshape(2, 4)
    slots = Slots.of(table, jnp.asarray([0, 1, 2]), jnp.asarray([32, 32]), page_size=8, num_slots=5)
    assert slots.used == 8
    assert slots.sources.tolist() == [0, 1, 2, 3, 4]
    assert slots.page_table.max() < 5


def test_slots_are_bounded(rng):
    pages = quantized_pages(rng, jnp.int8, 16, 1, 64)
    assert num_slots(pages, jnp.zeros((4, 8), jnp.int32)) == 32
    assert num_slots(pages, jnp.zeros((256, 2560), jnp.int32)) == 65_536 // 16
