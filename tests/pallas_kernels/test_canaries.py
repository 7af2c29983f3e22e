"""Nothing but its outputs is written by a kernel: canaries lie on both sides of each output.

An array is allocated between two canaries and given back, so that the allocator puts an output of its size
there. The caches that kernels write in place have their canaries in the tests of those kernels: NaN in all
that no token has.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import paged_attention, sampling
from pallas_kernels.experts import experts
from pallas_kernels.grouped_matmul import group_rows, grouped_matmul
from pallas_kernels.layer_norm import layer_norm
from pallas_kernels.matmul import matmul
from pallas_kernels.paged_attention.shapes import AttentionShape
from pallas_kernels.rms_norm import add_rms_norm, rms_norm
from pallas_kernels.rope_cache_write import rope_cache_write
from pallas_kernels.router import RouterOptions, route
from pallas_kernels.silu_and_multiply import silu_and_multiply
from pallas_kernels.softmax import softmax
from tests.pallas_kernels.paged_cases import in_8_bits, make_case

pytestmark = pytest.mark.gpu

CANARY_BYTES = 4096
MAX_ATTEMPTS = 16  # to have an output where canaries are around it
SENTINEL = 0xA5
ROWS, FEATURES = 7, 1000  # neither fills a block
SHAPE = AttentionShape(6, 2, 80)
RNG = np.random.default_rng(5)


def normal(*shape: int, dtype=jnp.bfloat16) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), dtype)


def paged(query_lengths: list[int] | None, lengths: list[int], quantized=None):
    case = make_case(RNG, SHAPE, lengths, 16, query_lengths)
    return (case if quantized is None else in_8_bits(case, quantized)).arguments(jnp.bfloat16)


def attention(operation: Callable, query_lengths: list[int] | None, lengths: list[int], quantized=None):
    return functools.partial(operation, implementation="pallas"), paged(query_lengths, lengths, quantized)


def append_case(quantized=None):
    _, kv_pages, table, lengths = paged(None, [1, 17, 33, 200, 3], quantized)
    heads = normal(5, SHAPE.num_heads + 2 * SHAPE.num_kv_heads, SHAPE.head_dim)
    angles = normal(5, SHAPE.head_dim // 2, dtype=jnp.float32)
    call = functools.partial(paged_attention.append_and_decode, implementation="pallas")
    return call, [heads, kv_pages, table, lengths, angles, angles]


def rope_case(quantized=None):
    _, kv_pages, _, _ = paged(None, [40], quantized)
    heads = normal(ROWS, SHAPE.num_heads + 2 * SHAPE.num_kv_heads, SHAPE.head_dim)
    angles = normal(ROWS, SHAPE.head_dim // 2, dtype=jnp.float32)
    pages, offsets = jnp.ones(ROWS, jnp.int32), jnp.arange(ROWS, dtype=jnp.int32)
    return functools.partial(rope_cache_write, implementation="pallas"), [
        heads,
        kv_pages,
        angles,
        angles,
        pages,
        offsets,
    ]


def sampling_case():
    one, zero = jnp.ones(ROWS), jnp.zeros(ROWS, jnp.int32)

    def call(logits):
        return sampling.sample(
            logits,
            temperature=one,
            top_p=one * 0.9,
            min_p=one * 0,
            top_k=zero + 20,
            seeds=jnp.ones((ROWS, 2), jnp.uint32),
            positions=zero,
            min_lengths=zero,
            blocked_ids=jnp.full((ROWS, 2), -1, jnp.int32),
            implementation="pallas",
        )

    return call, [normal(ROWS, 5003, dtype=jnp.float32)]


def grouped_case():
    """The groups are an output too."""

    def call(x, w, ids):
        groups = group_rows(ids, 5, block_rows=16, implementation="pallas")
        return groups, grouped_matmul(x, w, groups, layer=0, implementation="pallas")

    ids = jnp.asarray(RNG.integers(-1, 6, 3 * ROWS), jnp.int32)
    return call, [normal(ROWS, 200), normal(1, 5, 200, 72), ids]


def experts_case():
    ids = jnp.asarray(RNG.integers(0, 5, (ROWS, 2)), jnp.int32)
    call = functools.partial(experts, layer=0, implementation="triton")
    weights = normal(ROWS, 2, dtype=jnp.float32)
    return call, [normal(ROWS, 200), weights, ids, normal(1, 5, 200, 144), normal(1, 5, 72, 200)]


def row_wise(operation: Callable, *operands: jax.Array, **options: Any):
    return functools.partial(operation, implementation="pallas", **options), list(operands)


CASES: dict[str, Callable] = {
    "decode": lambda: attention(paged_attention.decode, None, [1, 0, 33, 200, 1023]),
    "append_and_decode": append_case,
    "extend": lambda: attention(paged_attention.extend, [1, 5, 17, 130], [9, 5, 40, 200]),
    "rope_cache_write": rope_case,
    "decode-int8": lambda: attention(paged_attention.decode, None, [1, 0, 33, 200, 1023], jnp.int8),
    "append_and_decode-int8": lambda: append_case(jnp.int8),
    "extend-fp8": lambda: attention(
        paged_attention.extend, [1, 5, 17, 130], [9, 5, 40, 200], jnp.float8_e4m3fn
    ),
    "rope_cache_write-fp8": lambda: rope_case(jnp.float8_e4m3fn),
    "rms_norm": lambda: row_wise(rms_norm, normal(ROWS, FEATURES), normal(FEATURES), epsilon=1e-6),
    "add_rms_norm": lambda: row_wise(
        add_rms_norm, normal(ROWS, FEATURES), normal(ROWS, FEATURES), normal(FEATURES), epsilon=1e-6
    ),
    "layer_norm": lambda: row_wise(
        layer_norm, normal(ROWS, FEATURES), normal(FEATURES), normal(FEATURES), epsilon=1e-6
    ),
    "softmax": lambda: row_wise(softmax, normal(ROWS, FEATURES, dtype=jnp.float32)),
    "silu_and_multiply": lambda: row_wise(silu_and_multiply, normal(ROWS, 2 * FEATURES)),
    "matmul": lambda: row_wise(matmul, normal(ROWS, FEATURES), normal(FEATURES, 520)),
    "sampling": sampling_case,
    "route": lambda: row_wise(
        route, normal(ROWS, 60, dtype=jnp.float32), options=RouterOptions(4, renormalize=True)
    ),
    "experts": experts_case,
    "grouped_matmul": grouped_case,
}


def canary() -> jax.Array:
    return jax.device_put(np.full(CANARY_BYTES, SENTINEL, np.uint8)).block_until_ready()


def address(array: jax.Array) -> int:
    return array.unsafe_buffer_pointer()


@pytest.mark.parametrize("name", CASES)
def test_what_lies_around_the_outputs_is_left_alone(name):
    call, operands = CASES[name]()
    compiled = jax.jit(call).lower(*operands).compile()
    sizes = [math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(compiled.out_info)]
    compiled(*operands)  # whatever is allocated at a first call
    # All free places into which an output would fit, so that none but ours is left.
    fillers = [jax.device_put(np.zeros(size, np.uint8)) for size in sizes for _ in range(16)]
    for _ in range(MAX_ATTEMPTS):
        canaries, holes = [canary()], []
        for size in sizes:
            holes.append(jax.device_put(np.zeros(size, np.uint8)).block_until_ready())
            canaries.append(canary())
        free = {address(hole) for hole in holes}
        for hole in holes:
            hole.delete()
        outputs = jax.block_until_ready(jax.tree.leaves(compiled(*operands)))
        if free & {address(output) for output in outputs}:
            break
        fillers += outputs  # the allocator had other places, which are taken now
    else:
        pytest.fail("no output lies between canaries: the test shows nothing")
    assert len(fillers) >= 16 * len(sizes)  # they are still there
    for place, kept in enumerate(canaries):
        changed = np.flatnonzero(np.asarray(kept) != SENTINEL)
        assert changed.size == 0, f"canary {place} was written, first at byte {changed[0]}"
